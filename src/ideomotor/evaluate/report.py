"""Evaluations as pages: sections of one result, of two results on the same scenes, and of what led to them."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from einops import repeat
from jaxtyping import UInt8
from PIL import Image

from ideomotor.core.errors import UserError
from ideomotor.evaluate.page import Clip, Paragraph, Part, Picture, Section, Table, write_report
from ideomotor.evaluate.plots import Rate, bar_plot, histogram, rate_plot
from ideomotor.evaluate.result import STOPS, Result
from ideomotor.evaluate.statistics import Interval, PairedDifference, paired_difference
from ideomotor.evaluate.suites import MAX_CRASHES, paired_from_json
from ideomotor.evaluate.video import side_by_side

Clips = Mapping[str, Sequence[Clip]]  # by task


def save_evaluation(folder: Path, result: Result, clips: Clips) -> None:
    """Write `result.json` and `report.html`."""
    result.save(folder / "result.json")
    write_report(folder / "report.html", f"{result.policy} on {result.suite}", result_sections(result, clips))


def summary(result: Result) -> list[str]:
    """Return one line a task for the terminal.

    A rate stands only beside its interval; where more than 1 % of the episodes crashed there is none.
    """
    lines = [f"{task}: {rate_text(counts)}{_extra_text(counts)}" for task, counts in result.tasks.items()]
    shielded = {task: counts["shield"] for task, counts in result.tasks.items() if "shield" in counts}
    lines += [f"{task}, shield: {shield_text(shield)}" for task, shield in shielded.items()]
    return [*lines, violations_text(result.violations)] if shielded else lines


def rate_text(counts: Mapping[str, Any]) -> str:
    """Return a success rate with its interval in words, or why there is none.

    >>> rate_text({"successes": 8, "episodes": 10, "crashes": 0, "interval": [0.4439, 0.9748]})
    '80.0 % (8 of 10, 95 % interval 44.4 to 97.5 %)'
    """
    crashes = f", {counts['crashes']} crashed" if counts["crashes"] else ""
    if counts["interval"] is None:
        return f"no rate: {counts['crashes']} of {counts['episodes']} episodes crashed (at most {MAX_CRASHES:.0%} may)"
    low, high = counts["interval"]
    valid = counts["episodes"] - counts["crashes"]
    rate = counts["successes"] / valid
    return f"{_percent(rate)} ({counts['successes']} of {valid}{crashes}, 95 % interval {100 * low:.1f} to {_percent(high)})"


def shield_text(shield: Mapping[str, Any]) -> str:
    """Return in words what a shield did: shares of its ticks, and the mean of an episode by reason."""
    ticks, episodes = max(shield["ticks"], 1), shield["episodes"]
    text = f"{_percent(shield['altered'] / ticks)} of the ticks altered, {_percent(shield['stopped'] / ticks)} stopped"
    reasons = ", ".join(f"{reason} {counts['ticks'] / episodes:.2f}" for reason, counts in _by_ticks(shield["reasons"]))
    text += f"; ticks an episode by reason: {reasons}" if reasons else ""
    held = ", ".join(f"{count} ({reason})" for reason, count in shield["latched"].items())
    return text + (f"; episodes in which the arm was held until the end: {held}" if held else "")


def violations_text(violations: Mapping[str, int]) -> str:
    """Return what the independent checker found in the commands, in words."""
    if not violations:
        return "checker: no violation in any command that the arm got"
    found = ", ".join(f"{kind} {count}" for kind, count in violations.items())
    return f"VIOLATIONS: the arm broke what the shield promises ({found}); please report this"


# ---------------------------------------------------------------------------------------------------- one result


def result_sections(result: Result, clips: Clips) -> list[Section]:
    """Return the sections of one evaluation: rates, lengths, where failures stopped, videos, and how it was measured."""
    sections = [
        Section("", (Paragraph(f"{result.label}.", "note"),)),
        Section("Success", tuple(_success_parts(result))),
        Section("Length of episodes", tuple(_length_parts(result))),
        Section("Where failures stopped", tuple(_stop_parts(result))),
        *([Section("Shield", tuple(_shield_parts(result)))] if result.shield is not None else []),
        *(Section(f"Videos: {task}", tuple(_video_parts(shown))) for task, shown in clips.items()),
        Section("How it was measured", (_method(result),)),
    ]
    crashes = [episode for episode in result.episodes if episode["outcome"] == "crash"]
    if crashes:
        rows = tuple((e["task"], str(e["seed"]), str(e["message"])[-600:]) for e in crashes[:20])
        sections.insert(2, Section("Crashes", (Table(("task", "scene", "message"), rows),)))
    return sections


def _success_parts(result: Result) -> Iterable[Part]:
    trusted = {task: counts for task, counts in result.tasks.items() if counts["interval"] is not None}
    for task in result.tasks.keys() - trusted.keys():
        yield Paragraph(f"{task}: {rate_text(result.tasks[task])}.", "warning")
    if trusted:
        yield rate_plot(
            [_rate(task, counts) for task, counts in trusted.items()], "success rate by task, with intervals"
        )
    yield Table(
        ("task", "success", "episodes", "crashes", "median steps of a success"),
        tuple(
            (t, rate_text(c), str(c["episodes"]), str(c["crashes"]), _median_steps(result, t))
            for t, c in result.tasks.items()
        ),
    )
    for task, counts in result.tasks.items():
        for line in _extra_lines(counts):
            yield Paragraph(f"{task}: {line}.")
    yield Paragraph("Intervals are exact (Clopper-Pearson, 95 %) and speak of new scenes of the same kind.", "note")


def _length_parts(result: Result) -> Iterable[Part]:
    groups = [
        (name, [e["steps"] for e in _measured(result) if e["outcome"] == name]) for name in ("success", "failure")
    ]
    yield histogram(groups, "steps", "distribution of episode lengths by outcome")


def _stop_parts(result: Result) -> Iterable[Part]:
    failures = [e for e in _measured(result) if e["outcome"] == "failure"]
    if not failures:
        yield Paragraph("No episode failed.")
        return
    for task in result.tasks:
        counts = [(stop, sum(e["stopped"] == stop and e["task"] == task for e in failures)) for stop in STOPS]
        if any(number for _, number in counts):
            yield Paragraph(f"{task}: {sum(number for _, number in counts)} failures")
            yield bar_plot(counts, f"where failures of {task} stopped", "b")


def _shield_parts(result: Result) -> Iterable[Part]:
    shielded = {task: counts["shield"] for task, counts in result.tasks.items() if "shield" in counts}
    yield Paragraph(f"{violations_text(result.violations)}.", "warning" if result.violations else "text")
    for example in [line for e in result.episodes for line in e.get("shield", {}).get("examples", ())][:10]:
        yield Paragraph(example, "warning")
    yield Table(
        ("task", "success", "ticks altered", "ticks stopped", "held until the end", "seconds a step"),
        tuple(
            (
                task,
                rate_text(result.tasks[task]),
                _percent(shield["altered"] / max(shield["ticks"], 1)),
                _percent(shield["stopped"] / max(shield["ticks"], 1)),
                ", ".join(f"{reason}: {count}" for reason, count in shield["latched"].items()) or "no episode",
                f"{shield['seconds_per_step']:.2f}",
            )
            for task, shield in shielded.items()
        ),
    )
    rows = tuple(
        (task, reason, f"{counts['ticks'] / shield['episodes']:.2f}", f"{counts['episodes']} of {shield['episodes']}")
        for task, shield in shielded.items()
        for reason, counts in _by_ticks(shield["reasons"])
    )
    if rows:
        yield Table(("task", "reason of interventions", "ticks an episode", "episodes with one"), rows)
    yield Paragraph(
        "The shield is a second layer. It is no safety-rated system, and this is a simulation. A tick is 0.01 s; it is altered when "
        "the arm got something else than what the control proposed. The checker shares no code with the shield and looked at every "
        "command. Fingers may touch table and objects; objects are no obstacles.",
        "note",
    )


def _video_parts(clips: Sequence[Clip]) -> Iterable[Part]:
    if not clips:
        yield Paragraph("No videos.")
        return
    yield Paragraph(
        "Front and wrist camera at the policy's resolution, each pixel enlarged; replayed from the recorded actions.",
        "note",
    )
    yield from clips


def _method(result: Result) -> Table:
    latency = result.latency_ms
    seeds = [episode["seed"] for episode in result.episodes]
    scenes = f"seeds {min(seeds)} to {max(seeds)}, the same for every task and condition" if seeds else "none"
    time = "none"
    if latency.get("calls"):
        shown = ", ".join(f"{key} {latency[key]:.1f} ms" for key in ("p50", "p95", "p99"))
        time = f"{shown} ({latency['calls']} calls with {latency['batch']} rows each)"
    shield = () if result.shield is None else (("shield", _shield_settings(result.shield)),)
    rows = (
        ("policy", f"{result.policy} ({result.policy_id})"),
        ("suite", result.suite),
        ("arm", result.arm),
        ("scenes", scenes),
        ("embodiment", result.embodiment_hash),
        ("renderer", result.renderer),
        *shield,
        ("time of one inference", time),
        ("time in all", f"{result.seconds:.0f} s"),
        ("versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())),
    )
    return Table(("what", "value"), rows)


# ---------------------------------------------------------------------------------------------------- two results


def comparison_section(before: Result, after: Result, names: tuple[str, str] = ("before", "after")) -> Section:
    """Compare two evaluations on the same scenes, task by task, with paired differences (second minus first).

    Raises:
        UserError: they did not run the same suite on the same scenes.
    """
    parts: list[Part] = []
    rates: list[Rate] = []
    rows: list[tuple[str, ...]] = []
    for task in before.tasks:
        paired = _paired(before, after, task)
        for name, result, colour in zip(names, (before, after), "ab", strict=True):
            counts = result.tasks[task]
            if counts["interval"] is not None:
                rates.append(_rate(f"{task}, {name}", counts, colour))
        first, second = rate_text(before.tasks[task]), rate_text(after.tasks[task])
        trusted = all(side.tasks[task]["interval"] is not None for side in (before, after))
        rows.append((task, first, second, paired_text(paired) if trusted else "none: too many crashes"))
    if rates:
        parts.append(rate_plot(rates, "success rate by task before and after, with intervals"))
    parts.append(Table(("task", names[0], names[1], "difference, paired by scene"), tuple(rows)))
    parts.append(Paragraph("Both ran on the same scenes; a difference whose interval holds 0 may be chance.", "note"))
    return Section("Comparison", tuple(parts))


def paired_text(paired: PairedDifference) -> str:
    """Return a paired difference in words."""
    low, high = paired.interval
    return (
        f"{100 * paired.difference:+.1f} points (95 % interval {100 * low:+.1f} to {100 * high:+.1f}; {paired.pairs} pairs, "
        f"{paired.first_only} to {paired.second_only} discordant, McNemar p = {paired.p_value:.2g})"
    )


def _paired(before: Result, after: Result, task: str) -> PairedDifference:
    sides = [{e["seed"]: e for e in _measured(result) if e["task"] == task} for result in (before, after)]
    if before.suite != after.suite or sides[0].keys() != sides[1].keys():
        raise UserError(
            f"the two evaluations differ in their scenes ({before.suite} with {len(sides[0])} of {task}, {after.suite} with "
            f"{len(sides[1])}); run both with the same --suite, --seed, --episodes and --tasks"
        )
    valid = [seed for seed in sides[0] if all(side[seed]["outcome"] != "crash" for side in sides)]
    first, second = ([side[seed]["outcome"] == "success" for seed in valid] for side in sides)
    return paired_difference(second, first)


# ---------------------------------------------------------------------------------------------------- what led to a result


def picture_section(title: str, frames: Sequence[tuple[Mapping[str, UInt8[np.ndarray, "_ _ 3"]], str]]) -> Section:
    """Show instants of a dataset: the camera images side by side, each with its caption (such as the instruction)."""
    return Section(title, tuple(Picture(_png(side_by_side(images)), caption) for images, caption in frames))


def curve_section(title: str, picture: Path, caption: str) -> Section:
    """Show a picture of training curves.

    Raises:
        UserError: there is no such file.
    """
    if not picture.is_file():
        raise UserError(f"there is no picture {picture}; training writes curves.png into its --out")
    return Section(title, (Picture(picture.read_bytes(), caption, wide=True),))


def _png(image: UInt8[np.ndarray, "_ _ 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(repeat(image, "h w c -> (h y) (w x) c", y=2, x=2))).save(buffer, "PNG")
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------- words


def _measured(result: Result) -> list[Mapping[str, Any]]:
    """Return the episodes under the suite's first condition."""
    first = result.episodes[0]["condition"] if result.episodes else ""
    return [episode for episode in result.episodes if episode["condition"] == first]


def _rate(name: str, counts: Mapping[str, Any], colour: str = "a") -> Rate:
    return Rate(
        name, counts["successes"] / (counts["episodes"] - counts["crashes"]), Interval(*counts["interval"]), colour
    )


def _median_steps(result: Result, task: str) -> str:
    steps = [e["steps"] for e in _measured(result) if e["task"] == task and e["outcome"] == "success"]
    return f"{median(steps):.0f}" if steps else "none"


def _extra_text(counts: Mapping[str, Any]) -> str:
    return "".join(f"; {line}" for line in _extra_lines(counts))


def _extra_lines(counts: Mapping[str, Any]) -> list[str]:
    """Put into words what a suite added to the counts."""
    lines: list[str] = []
    if "paired" in counts:
        lines.append(f"trained wordings on the same scenes {rate_text(counts['trained_wordings'])}")
        lines.append(f"held-out minus trained {paired_text(paired_from_json(counts['paired']))}")
    for key, words in (
        ("named_first", "the first object touched was the named one in"),
        ("named_lifted_first", "the first object lifted was the named one in"),
        ("target_first", "the first object touched was the target in"),
    ):
        if key in counts:
            chance = counts[key].get("chance")
            lines.append(
                f"{words} {_share_text(counts[key])}" + ("" if chance is None else f", chance {_percent(chance)}")
            )
    return lines


def _by_ticks(reasons: Mapping[str, Mapping[str, int]]) -> list[tuple[str, Mapping[str, int]]]:
    return sorted(reasons.items(), key=lambda item: (-item[1]["ticks"], item[0]))


def _shield_settings(shield: Mapping[str, Any]) -> str:
    shares = ", ".join(f"{100 * share:g} % of the rated {name}" for name, share in shield["shares"].items())
    cap = "no cap of the tool's speed" if shield["tool_speed"] is None else f"tool at most {shield['tool_speed']:g} m/s"
    margins = ", ".join(f"{1e3 * margin:g} mm from the {name}" for name, margin in shield["margins"].items())
    return f"{shares}; {cap}; {margins}; a step waits up to {shield['wait']:g} s for the arm"


def _share_text(share: Mapping[str, Any]) -> str:
    if share["interval"] is None:
        return "no episode (none counts here)"
    low, high = share["interval"]
    return f"{_percent(share['share'])} ({share['count']} of {share['of']}, 95 % interval {100 * low:.1f} to {_percent(high)})"


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"
