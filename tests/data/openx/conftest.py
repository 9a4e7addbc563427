"""Fixtures: a copy of the raw datasets, as an index is written beside what is opened."""

import shutil
from pathlib import Path

import pytest

FILES = Path(__file__).parents[1] / "files" / "openx"


@pytest.fixture(scope="session")
def raw_root(tmp_path_factory):
    """The folder of all raw datasets, as TFDS wrote them."""
    return Path(shutil.copytree(FILES, tmp_path_factory.mktemp("openx") / "raw"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nothing of a test lands in the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
