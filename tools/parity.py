"""Hold our OpenVLA to a folder of reference numbers, array by array.

python tools/parity.py DIR [--json]

DIR has the layout of a parity fixture (its `tolerances.json` says what each array is for and how far an answer may be off). A line for
each output array: file, key, error, tolerance, and `ok`, `FAIL`, or `unvisited` where nothing was compared; then the numbers of the JSON
files; then `N compared, M failed, U unvisited`, which counts the arrays. The exit code is 1 when one fails or is unvisited.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from parity_cases import Cases
from parity_fixture import Answers, Fixture, Row, answer, compare
from parity_numbers import rows as number_rows

from ideomotor.core.errors import UserError


def array_rows(fixture: Fixture, cases: Cases) -> Iterator[Row]:
    """Yield a row for each output array."""
    for file in fixture.files:
        answers: Answers = {}
        reason = ""
        try:
            answers = cases.answers(file)
        except Exception as error:  # noqa: BLE001 (a part that cannot be built must not hide the others)
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        for key, golden in fixture.arrays(file).items():
            rule = fixture.rule(file, key)
            if rule is None:
                yield Row(file, key, None, note="tolerances.json has no rule for it")
            elif rule.tolerance is not None and reason:
                yield Row(file, key, rule.tolerance, note=reason)
            elif rule.tolerance is not None:
                yield compare(file, key, rule.tolerance, lambda answers=answers, key=key: answer(answers, key), golden)


def count(rows: list[Row]) -> dict[str, int]:
    """Return how many were compared, failed, and were not visited."""
    verdicts = [row.verdict for row in rows]
    unvisited = verdicts.count("unvisited")
    return {"compared": len(rows) - unvisited, "failed": verdicts.count("FAIL"), "unvisited": unvisited}


def in_words(counted: dict[str, int]) -> str:
    """Return the counts as a line."""
    return ", ".join(f"{number} {name}" for name, number in counted.items())


def main(arguments: list[str] | None = None) -> int:
    """Compare, print, and return the exit code; the arguments are those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        fixture = Fixture(options.folder)
        fixture.rules  # noqa: B018 (read them before the work begins)
    except (UserError, json.JSONDecodeError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="parity-") as scratch:
        cases = Cases(fixture, Path(scratch))
        arrays, numbers = _run(array_rows(fixture, cases), options.json), []
        if not options.json:
            print("\nnumbers of the JSON files, not counted below:")
        numbers = _run(number_rows(fixture, cases), options.json)
    counted, beside = count(arrays), count(numbers)
    if options.json:
        shown = {"rows": [row.to_json() for row in arrays], "numbers": [row.to_json() for row in numbers]}
        print(json.dumps({**shown, **counted, "counts_of_numbers": beside}, indent=1))
    else:
        print(f"numbers: {in_words(beside)}\n\n{in_words(counted)}")
    return int(any(c["failed"] or c["unvisited"] for c in (counted, beside)))


def _run(rows: Iterator[Row], quiet: bool) -> list[Row]:  # noqa: FBT001
    """Return the rows; print each as soon as it is there."""
    done: list[Row] = []
    for row in rows:
        done.append(row)
        if not quiet:
            print(row, flush=True)
    return done


if __name__ == "__main__":
    sys.exit(main())
