"""Parity would not hide a mistake: one thing is broken on purpose, and the comparison with the reference fails by far.

`python tools/parity_mistakes.py DIR` prints the table.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
NAMES = (
    "last block added",
    "final norm",
    "towers swapped",
    "tanh GELU",
    "other eps of the towers",
    "interleaved RoPE",
    "image after the text",
    "image before BOS",
    "29871 dropped",
    "other eps of the language model",
    "mean and std not rounded",
    "statistics with 1e-8",
    "causal instead of bidirectional",
    "placeholders not zeroed",
    "no EOS behind the slots",
    "slots read one too late",
    "state before the images",
    "FiLM without EOS",
    "LoRA scale 1",
    "no LoRA of the patches",
)


@pytest.fixture(scope="module")
def fixture(fixtures: Path) -> Path:
    return fixtures / "openvla-parity-a"


@pytest.fixture(scope="module")
def tools() -> Any:
    """The tool's modules."""
    sys.path.insert(0, str(TOOLS))
    try:
        return importlib.import_module("parity_mistakes")
    finally:
        sys.path.remove(str(TOOLS))


@pytest.mark.parametrize("name", NAMES)
def test_a_mistake_is_seen_and_costs_what_it_costs_the_reference(name: str, fixture: Path, tools: Any) -> None:
    (mistake,) = [mistake for mistake in tools.MISTAKES if mistake.name == name]
    costs = tools.costs(tools.Fixture(fixture), mistake)
    assert {cost.row.verdict for cost in costs} == {"FAIL"}, [str(cost.row) for cost in costs]
    assert max(cost.tolerances for cost in costs) >= 10
    stated = [(cost.row.error, cost.stated) for cost in costs if cost.stated is not None]
    assert bool(stated) == bool(mistake.readme)
    for error, reference in stated:  # the README gives two digits
        assert error == pytest.approx(reference, rel=0.05)


def test_every_mistake_of_the_fixtures_readme_is_made(fixture: Path, tools: Any) -> None:
    assert [mistake.name for mistake in tools.MISTAKES] == list(NAMES)
    stated = tools.readme_table(tools.Fixture(fixture))
    assert len(stated) == 19
    assert stated.keys() == {mistake.readme for mistake in tools.MISTAKES} - {""}


def test_nothing_stays_broken(fixture: Path, tools: Any) -> None:
    """The same outputs are right before and after the mistakes that reach into modules."""
    nothing = [
        tools.Mistake("nothing", file, keys, lambda _cases, _stack: None)
        for file, keys in {(mistake.file, mistake.keys) for mistake in tools.MISTAKES}
    ]
    for mistake in tools.MISTAKES:
        if mistake.name in {
            "interleaved RoPE",
            "tanh GELU",
            "29871 dropped",
            "causal instead of bidirectional",
            "LoRA scale 1",
        }:
            tools.costs(tools.Fixture(fixture), mistake)
    for mistake in nothing:
        assert {cost.row.verdict for cost in tools.costs(tools.Fixture(fixture), mistake)} == {"ok"}
