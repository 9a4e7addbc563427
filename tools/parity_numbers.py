"""The numbers that stand in `expected.json` and `oft/expected.json` beside the arrays: losses, metrics, gradient norms, margins.

They are counted apart from the arrays. Their tolerances are those of the arrays that they summarise.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from parity_cases import LESSON, Cases
from parity_fixture import Fixture, Row, Tolerance, compare
from parity_openvla import OneAfterTheOther

SHARE = Tolerance("atol", 1e-6)  # shares and means over bins, float32 in the reference
EXACT = Tolerance("exact")
LOSS_FILE = "expected.npz"

Number = tuple[str, Tolerance | None, Callable[[], Any], Any]  # name, tolerance, ours, theirs


def rows(fixture: Fixture, cases: Cases) -> Iterator[Row]:
    """Yield a row for each number."""
    yield from _texts(fixture, cases)
    file = "expected.json"
    whole = fixture.json(file)
    for variant, part in [(None, whole), *_variants(fixture, whole)]:
        start = f"{part['name']}." if variant else ""
        for number in _openvla(fixture, cases, variant, part):
            yield _row(file, start, number)
    for case, values in fixture.json("oft/expected.json").get(LESSON, {}).items():
        if isinstance(values, dict):
            for number in _losses(fixture, cases, case, values):
                yield _row("oft/expected.json", f"{LESSON}.{case}.", number)


def _texts(fixture: Fixture, cases: Cases) -> Iterator[Row]:
    """Yield how many prompts, and action ids written as characters, are other texts than the reference's."""
    prompts = {i: sample["prompt"] for i, sample in fixture.samples.items() if "prompt" in sample}

    def other_prompts() -> int:
        return sum(cases.subject(None).text(i) != text for i, text in prompts.items())

    yield compare("inputs/inputs.json", "prompt", EXACT, other_prompts, 0)
    texts = fixture.json("action_tokenizer_text.json").get("batch_text")
    if texts is not None:
        rows = fixture.arrays("action_tokenizer.npz")["batch.ids"]

        def other_texts() -> int:
            tokenizer = cases.subject(None).pipeline().tokenizer
            return sum(tokenizer.decode(row.tolist()) != text for row, text in zip(rows, texts, strict=True))

        yield compare("action_tokenizer_text.json", "batch_text", EXACT, other_texts, 0)


def _row(file: str, start: str, number: Number) -> Row:
    name, tolerance, ours, theirs = number
    if tolerance is None:
        return Row(file, start + name, None, note="no rule says how far it may be off")
    return compare(file, start + name, tolerance, ours, theirs)


def _variants(fixture: Fixture, whole: Any) -> Iterator[tuple[str, Any]]:
    """Yield the other configurations; a minus in a file's name is written out in the JSON."""
    for path in sorted(fixture.checkpoint.glob("config_*.json")):
        variant = path.stem.removeprefix("config_")
        name = variant.replace("-", "_minus_")
        if name in whole:
            yield variant, {**whole[name], "name": name}


def _openvla(fixture: Fixture, cases: Cases, variant: str | None, part: Any) -> Iterator[Number]:
    def ask() -> OneAfterTheOther:
        return cases.one_after_the_other(variant)

    loss, logits = (fixture.tolerance(LOSS_FILE, key) for key in ("batch.loss", "0.logits_last_prompt"))
    twice = None if logits is None else Tolerance(logits.kind, 2 * logits.limit)  # a difference of two logits
    for sample in part.get("samples", []):
        i, margins = str(sample["index"]), np.array(sample.get("generation_margins", []))
        yield f"samples.{i}.loss", loss, lambda i=i: ask().loss((i,)), sample["loss"]
        ids = np.array(sample["generated_ids"])
        yield f"samples.{i}.generated_ids", EXACT, lambda i=i, ids=ids: ask().ids(i, len(ids)), ids
        lengths = {"num_prompt_tokens_with_bos": lambda i=i: len(ask().subject.question(i))}
        lengths["sequence_length"] = lambda i=i: ask().states(i).shape[1]
        for name in lengths.keys() & sample.keys():
            yield f"samples.{i}.{name}", EXACT, lengths[name], sample[name]
        if len(margins):
            yield f"samples.{i}.generation_margins", twice, lambda i=i, m=margins: ask().margins(i, len(m)), margins
    batch = part.get("batch", {})
    simple: dict[str, tuple[Tolerance | None, Callable[[], Any]]] = {
        "loss": (loss, lambda: ask().loss(ask().everybody)),
        "action_accuracy": (SHARE, lambda: ask().accuracy_and_l1[0]),
        "action_l1": (SHARE, lambda: ask().accuracy_and_l1[1]),
        "supervised_tokens": (EXACT, lambda: len(ask().supervised(ask().everybody)[1])),
        "shape": (EXACT, lambda: ask().lesson(ask().everybody).ids.shape),
    }
    for name, (tolerance, ours) in simple.items():
        if name in batch:
            yield f"batch.{name}", tolerance, ours, batch[name]
    yield from _gradients(fixture, ask, batch)


def _gradients(fixture: Fixture, ask: Callable[[], OneAfterTheOther], batch: Any) -> Iterator[Number]:
    for name, norm in batch.get("grad_l2", {}).items():
        if norm is not None:  # those without are in the list below
            rule = fixture.tolerance(LOSS_FILE, f"batch.grad.{name}")
            yield f"batch.grad_l2.{name}", rule, lambda name=name: np.linalg.norm(ask().gradients[name]), norm
    if "parameters_without_gradient" in batch:
        theirs = set(batch["parameters_without_gradient"])

        def differing() -> int:
            return len(theirs ^ {name for name, gradient in ask().gradients.items() if gradient is None})

        yield "batch.parameters_without_gradient", EXACT, differing, 0


def _losses(fixture: Fixture, cases: Cases, case: str, values: Any) -> Iterator[Number]:
    rule = fixture.tolerance(f"oft/expected_{LESSON}.npz", f"{case}.loss")
    for name, value in values.items():
        of_ids = "accuracy" in name or (name != "loss" and "accuracy" in " ".join(values))
        yield name, SHARE if of_ids else rule, lambda name=name: cases.training.losses(case)[name], value
