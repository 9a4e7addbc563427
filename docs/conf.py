"""Sphinx configuration."""

project = "Ideomotor"
copyright = "The Ideomotor developers, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
html_theme = "furo"
autodoc_typehints = "signature"
exclude_patterns = ["_build"]
