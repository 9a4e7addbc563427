"""What a mistake costs: break one thing in our network, and see by how much parity fails.

python tools/parity_mistakes.py DIR

DIR is a parity fixture. Each line: mistake, output, error, tolerance, error / tolerance, and, where the fixture's README states the change
that the same mistake makes in the reference, that change and the quotient of the two. The exit code is 1 when a mistake would not be seen.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parity_broken import MISTAKES, Mistake
from parity_cases import Cases
from parity_fixture import Fixture, Row, answer, compare

SEEN = 10.0  # [tolerances] so far off an output must be for the mistake to show


@dataclass(frozen=True)
class Cost:
    """What one output says of a mistake."""

    mistake: Mistake
    row: Row
    stated: float | None  # the change that the fixture's README states for this output

    @property
    def tolerances(self) -> float:
        """Return how many tolerances the output is off."""
        assert self.row.error is not None, self.row.note
        assert self.row.tolerance is not None
        return self.row.error / self.row.tolerance.limit


def costs(fixture: Fixture, mistake: Mistake) -> list[Cost]:
    """Make a mistake, and return what its outputs say; the files of another case must be there."""
    arrays = fixture.arrays(mistake.file)
    stated = readme_table(fixture).get(mistake.readme)
    with tempfile.TemporaryDirectory(prefix="mistake-") as scratch, ExitStack() as stack:
        cases = Cases(fixture, Path(scratch))
        mistake.apply(cases, stack)
        answers = cases.answers(mistake.file)
        return [
            Cost(
                mistake,
                compare(
                    mistake.file,
                    key,
                    _tolerance(fixture, mistake.file, key),
                    lambda key=key: answer(answers, key),
                    arrays[key],
                ),
                stated if pattern == mistake.keys[0] else None,
            )
            for pattern in mistake.keys
            for key in _found(arrays, pattern)
        ]


def _tolerance(fixture: Fixture, file: str, key: str) -> Any:
    tolerance = fixture.tolerance(file, key)
    assert tolerance is not None, f"{file} {key} is no output"
    return tolerance


def _found(arrays: dict[str, np.ndarray], pattern: str) -> Iterator[str]:
    """Yield the keys of a pattern for the first sample: all towers, the first dataset."""
    first = next(key.split(".")[0] for key in arrays if key[0].isdigit())
    expression = re.escape(pattern).replace(r"\{i\}", first).replace(r"\{tower\}", "[a-z]+").replace(r"\{key\}", ".+")
    found = [key for key in arrays if re.fullmatch(expression, key)]
    yield from found if "{tower}" in pattern else found[:1]


def readme_table(fixture: Fixture) -> dict[str, float]:
    """Return the changes that the fixture's README states, by mistake."""
    path = fixture.folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    table = text.partition("| mistake | change |")[2]
    return {name: float(value) for name, value in re.findall(r"^\| ([^|]+) \| ([\d.e+-]+) \|$", table, re.MULTILINE)}


def main() -> int:
    """Print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    fixture = Fixture(parser.parse_args().folder)
    torch.set_num_threads(1)
    print(f"| {'mistake':32} | {'output':52} | error   | tolerance | error / tolerance | README  | ours / README |")
    print(f"|{'-' * 34}|{'-' * 54}|---------|-----------|-------------------|---------|---------------|")
    seen = True
    for mistake in MISTAKES:
        if not fixture.arrays(mistake.file):
            print(f"| {mistake.name:32} | {mistake.file} is not there")
            continue
        found = costs(fixture, mistake)
        seen &= max(cost.tolerances for cost in found) >= SEEN
        for cost in found:
            print(_line(cost))
    return int(not seen)


def _line(cost: Cost) -> str:
    row, stated = cost.row, cost.stated
    assert row.error is not None
    assert row.tolerance is not None
    reference = f"{stated:7.1e} | {row.error / stated:13.2f}" if stated else f"{'':7} | {'':13}"
    output = f"{row.file} {row.key}"
    return f"| {cost.mistake.name:32} | {output:52} | {row.error:7.1e} | {row.tolerance.limit:9.0e} | {cost.tolerances:17.2g} | {reference} |"


if __name__ == "__main__":
    sys.exit(main())
