"""Errors made for the user: each says what, where, what is allowed, and the remedy."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Something the user gave, or a file of theirs, cannot be used. The command line prints it and exits with 1."""


class UsageError(UserError):
    """The command itself was wrong: an unknown name, a forbidden combination. The command line exits with 2."""


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UsageError:
    """Return the error for an unknown name, with the known ones and the nearest of them.

    >>> print(unknown("task", "pikc", ["pick", "place_on"]))
    unknown task 'pikc'; known: pick, place_on. Did you mean 'pick'?
    """
    names = sorted(allowed)
    near = get_close_matches(name, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return UsageError(f"unknown {kind} '{name}'; known: {', '.join(names) or 'none'}.{hint}")
