"""Small drawings as SVG text: they follow the page's colours and need no plotting library."""

from collections.abc import Sequence
from dataclasses import dataclass

from ideomotor.evaluate.page import Plot, escape
from ideomotor.evaluate.statistics import Interval

WIDTH = 640  # [px] of every drawing
LABEL = 200  # [px] for the names on the left
RIGHT = 110  # [px] for the numbers on the right
ROW = 26  # [px] height of a line


@dataclass(frozen=True)
class Rate:
    """One line of a rate plot."""

    name: str
    rate: float
    interval: Interval
    colour: str = "a"  # "a" or "b"


def rate_plot(rates: Sequence[Rate], alt: str) -> Plot:
    """Draw rates between 0 and 100 % as points with their intervals."""
    height = ROW * len(rates) + 34
    span = WIDTH - LABEL - RIGHT
    lines = [
        f'<line class="grid-line" x1="{LABEL + span * p / 100:.1f}" x2="{LABEL + span * p / 100:.1f}" y1="4" y2="{height - 26}"/>'
        f'<text class="soft" text-anchor="middle" x="{LABEL + span * p / 100:.1f}" y="{height - 8}">{p} %</text>'
        for p in (0, 25, 50, 75, 100)
    ]
    for row, item in enumerate(rates):
        y = ROW * row + ROW / 2 + 6
        low, mid, high = (LABEL + span * x for x in (item.interval.low, item.rate, item.interval.high))
        lines += [
            f'<text text-anchor="end" x="{LABEL - 12}" y="{y + 4}">{_short(item.name)}</text>',
            f'<line class="{item.colour}" stroke-width="2" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>',
            *(
                f'<line class="{item.colour}" stroke-width="2" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 5}" y2="{y + 5}"/>'
                for x in (low, high)
            ),
            f'<circle class="{item.colour}" cx="{mid:.1f}" cy="{y}" r="4.5"/>',
            f'<text x="{LABEL + span + 14}" y="{y + 4}">{100 * item.rate:.1f} %</text>',
        ]
    return _svg(height, alt, lines)


def bar_plot(counts: Sequence[tuple[str, int]], alt: str, colour: str = "a") -> Plot:
    """Draw one horizontal bar for each named count."""
    height = ROW * len(counts) + 10
    largest = max((count for _, count in counts), default=0)
    span = WIDTH - LABEL - RIGHT
    lines: list[str] = []
    for row, (name, count) in enumerate(counts):
        y = ROW * row + 8
        length = span * count / largest if largest else 0.0
        lines += [
            f'<text text-anchor="end" x="{LABEL - 12}" y="{y + 14}">{_short(name)}</text>',
            f'<rect class="{colour}" x="{LABEL}" y="{y + 2}" width="{max(length, 1.0):.1f}" height="{ROW - 10}"/>',
            f'<text x="{LABEL + length + 8:.1f}" y="{y + 14}">{count}</text>',
        ]
    return _svg(height, alt, lines)


def histogram(groups: Sequence[tuple[str, Sequence[int]]], unit: str, alt: str) -> Plot:
    """Draw the distribution of one or two groups of whole numbers, in 20 bins from 0 to the largest."""
    values = [value for _, group in groups for value in group]
    top = max(values, default=1) or 1
    num_bins = 20
    counts = [[sum(_bin(v, top, num_bins) == i for v in group) for i in range(num_bins)] for _, group in groups]
    highest = max((count for group in counts for count in group), default=1) or 1
    left, floor, span, tall = 46, 132, WIDTH - 66, 112
    width = span / num_bins / max(len(groups), 1)
    lines = [
        f'<rect class="{"ab"[g]}" fill-opacity="0.85" x="{left + (i * len(groups) + g) * width + 0.5:.1f}" '
        f'y="{floor - tall * count / highest:.1f}" width="{width - 1:.1f}" height="{tall * count / highest:.1f}"/>'
        for g, group in enumerate(counts)
        for i, count in enumerate(group)
        if count
    ]
    lines.append(f'<line class="axis" x1="{left}" x2="{left + span}" y1="{floor}" y2="{floor}"/>')
    lines.append(f'<text class="soft" text-anchor="end" x="{left - 6}" y="{floor - tall + 10}">{highest}</text>')
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        label = f"{top * share:.0f}" + (f" {unit}" if share == 1.0 else "")
        anchor = "end" if share == 1.0 else "middle"
        lines.append(
            f'<text class="soft" text-anchor="{anchor}" x="{left + span * share:.1f}" y="{floor + 18}">{label}</text>'
        )
    for g, (name, group) in enumerate(groups):
        x = left + 200 * g
        lines.append(f'<rect class="{"ab"[g]}" x="{x}" y="{floor + 32}" width="11" height="11"/>')
        lines.append(f'<text x="{x + 18}" y="{floor + 42}">{_short(name)} ({len(group)})</text>')
    return _svg(floor + 52, alt, lines)


def _bin(value: int, top: int, num_bins: int) -> int:
    return min(int(num_bins * value / top), num_bins - 1)


def _short(name: str) -> str:
    """Shorten a name to the room on the left, and escape it."""
    limit = 30
    return escape(name if len(name) <= limit else name[: limit - 1] + "…")


def _svg(height: int, alt: str, lines: Sequence[str]) -> Plot:
    body = "\n".join(lines)
    return Plot(
        f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">\n{body}\n</svg>'
    )
