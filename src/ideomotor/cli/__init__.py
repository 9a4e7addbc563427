"""The command line: one file per command that parses, composes and calls; the name tables live here."""
