"""Self-contained HTML pages from typed parts. Every text is foreign: it is escaped here, and only here."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

from ideomotor.core.files import write_bytes

STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #5b6474; --paper: #ffffff; --card: #f4f6f9; --line: #d9dee6;
  --a: #2563a8; --b: #c2571a; --good: #1e7d46; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa4b5; --paper: #14171d; --card: #1e232c;
  --line: #343c49; --a: #6aa9ea; --b: #f0955a; --good: #5cc48a; --bad: #f07c74; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 46rem; }
p.note { color: var(--soft); font-size: .92rem; }
p.warning { border-left: 4px solid var(--bad); background: var(--card); padding: .6rem .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .75rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem 1.1rem .35rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
td { min-width: 4.5rem; }
td:nth-child(n+2) { max-width: 30rem; }
td { min-width: 4.5rem; } td:nth-child(n+2) { max-width: 30rem; }
th { color: var(--soft); font-weight: 600; font-size: .9rem; white-space: nowrap; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(16.5rem, 1fr)); gap: 1rem; margin: .75rem 0; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; overflow: hidden; }
figure.wide { display: inline-block; max-width: 100%; margin: .75rem 0; }
figure.plot { padding: .75rem 1rem; width: fit-content; max-width: 100%; margin: .75rem 0; }
figure video, figure img { display: block; width: 100%; height: auto; image-rendering: pixelated; }
figure.wide img { image-rendering: auto; width: auto; max-width: 100%; }
figcaption { padding: .55rem .75rem .65rem; font-size: .92rem; line-height: 1.4; }
figcaption .detail { display: block; color: var(--soft); font-size: .85rem; }
.tag { font-weight: 600; } .tag.success { color: var(--good); } .tag.failure { color: var(--bad); } .tag.none { color: var(--soft); }
svg { display: block; max-width: 100%; height: auto; } svg text { fill: var(--ink); font: 13px system-ui, sans-serif; }
svg .soft { fill: var(--soft); font-size: 12px; } svg .grid-line { stroke: var(--line); } svg .axis { stroke: var(--soft); }
svg .a { fill: var(--a); stroke: var(--a); } svg .b { fill: var(--b); stroke: var(--b); }
"""


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; a `note` is printed small, a `warning` stands out."""

    text: str
    kind: Literal["text", "note", "warning"] = "text"


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Plot:
    """A drawing made by `evaluate.plots`, whose texts are escaped there."""

    svg: str


@dataclass(frozen=True)
class Picture:
    """A PNG; a `wide` one stands alone, the others share a grid with their neighbours."""

    png: bytes
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Clip:
    """An MP4 with the instruction as caption."""

    mp4: bytes
    caption: str
    tag: Literal["success", "failure", "none"] = "none"
    detail: str = ""


Part = Paragraph | Table | Plot | Picture | Clip


@dataclass(frozen=True)
class Section:
    """A headline and what stands below it."""

    title: str
    parts: tuple[Part, ...]


def render(title: str, sections: Sequence[Section]) -> str:
    """Return the whole page as HTML; nothing is loaded from elsewhere."""
    body = "\n".join(_section(section) for section in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n"
        "</body>\n</html>\n"
    )


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Replace `path` by the page, in one step."""
    write_bytes(path, render(title, sections).encode("utf-8", errors="replace"))


def escape(text: str) -> str:
    """Return `text` so that HTML shows it and does nothing else.

    >>> escape("<b>'red'</b>")
    '&lt;b&gt;&#x27;red&#x27;&lt;/b&gt;'
    """
    return html.escape(text, quote=True)


def _section(section: Section) -> str:
    """Put neighbouring clips and small pictures into one grid."""
    lines = [f"<section>\n<h2>{escape(section.title)}</h2>" if section.title else "<section>"]
    in_grid = False
    for part in section.parts:
        tile = isinstance(part, Clip) or (isinstance(part, Picture) and not part.wide)
        if tile != in_grid:
            lines.append('<div class="grid">' if tile else "</div>")
            in_grid = tile
        lines.append(_part(part))
    return "\n".join([*lines, "</div>" if in_grid else "", "</section>"])


def _part(part: Part) -> str:
    match part:
        case Paragraph(text, kind):
            return f'<p class="{kind}">{escape(text)}</p>'
        case Table(columns, rows):
            head = "".join(f"<th>{escape(cell)}</th>" for cell in columns)
            body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
            return f'<div class="scroll"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'
        case Plot(svg):
            return f'<figure class="plot">{svg}</figure>'
        case Picture(png, caption, wide):
            size = ' class="wide"' if wide else ""
            return (
                f'<figure{size}><img alt="{escape(caption)}" src="{_data("image/png", png)}">'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
        case Clip(mp4, caption, tag, detail):
            mark = "" if tag == "none" else f'<span class="tag {tag}">{tag}</span> · '
            return (
                f'<figure><video controls muted loop autoplay playsinline src="{_data("video/mp4", mp4)}"></video>'
                f'<figcaption>{escape(caption)}<span class="detail">{mark}{escape(detail)}</span></figcaption></figure>'
            )
        case _:
            assert_never(part)


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
