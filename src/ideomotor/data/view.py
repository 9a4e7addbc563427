"""A page to look at a dataset: frames, state and action plots, instructions. One HTML file that needs nothing else.

Everything that comes from the dataset passes through `html.escape`: datasets come from strangers.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from ideomotor.core import files
from ideomotor.core.errors import UserError
from ideomotor.core.spec import Channel
from ideomotor.data.dataset import ACTION, STATE, Dataset
from ideomotor.data.info import describe

FRAMES = 10  # pictures of an episode, evenly spaced
HEIGHT = 96  # [px] of a picture
CHANNELS = 32  # plots of one column at most
WIDTH, TALL = 200, 56  # [px] of a plot
_STYLE = """
:root { color-scheme: light dark; --line: #2563eb; --soft: #8888; }
body { font: 14px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; margin-bottom: .2em } h2 { font-size: 1.1em; margin: 0 } h3 { font-size: .9em; margin: .8em 0 .2em }
table { border-collapse: collapse; margin: 1em 0 } td { padding: .1em 1em .1em 0; vertical-align: top }
td:first-child, .soft { color: #888 }
article { border-top: 1px solid var(--soft); padding: 1em 0 }
.strip { display: flex; gap: 2px; overflow-x: auto; margin-top: .4em } .strip img { height: 96px; image-rendering: pixelated }
.plots { display: flex; flex-wrap: wrap; gap: 10px 14px } figure { margin: 0 }
figcaption { font-size: 11px; display: flex; justify-content: space-between; gap: 1em; width: 200px }
figcaption span:last-child { color: #888; white-space: nowrap }
svg { background: #8881; display: block } polyline { fill: none; stroke: var(--line); stroke-width: 1.5 }
"""


def write_page(dataset: Dataset, path: Path, episodes: Sequence[int]) -> None:
    """Write the page of these episodes to `path`, in one step.

    Raises:
        UserError: an episode that the dataset does not have, or an image that cannot be decoded.
    """
    missing = [episode for episode in episodes if not 0 <= episode < len(dataset)]
    if missing:
        raise UserError(f"{dataset.path} has no episode {missing[0]}; it has {len(dataset)}, counted from 0")
    files.write_bytes(path, "\n".join(_page(dataset, episodes)).encode("utf-8", "replace"))


def _page(dataset: Dataset, episodes: Sequence[int]) -> Iterator[str]:
    title = escape(dataset.path.resolve().name)
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    yield f"<h1>{title}</h1>"
    yield _summary(dataset)
    for episode in episodes:
        yield from _episode(dataset, episode)
    yield "</html>"


def _summary(dataset: Dataset) -> str:
    about = describe(dataset)
    embodiment = dataset.embodiment
    cameras = ", ".join(f"{role} {c['width']} x {c['height']}" for role, c in about["cameras"].items())
    rows = {
        "Format": about["format"],
        "Episodes": f"{about['episodes']} ({', '.join(f'{n} {label}' for label, n in about['success'].items())})",
        "Frames": f"{about['frames']}" + (f" at {about['fps']:g} frames/s" if about["fps"] else ""),
        "Cameras": cameras or "none",
        "Embodiment": f"{embodiment.name} ({embodiment.robot})" if embodiment else "not stated",
        "Instructions": f"{len(about['instructions'])} different",
        "Constant": ", ".join(about["constant_columns"]) or "no column of state or action",
        "Size": f"{about['bytes'] / 1e6:.1f} MB",
    }
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows.items())
    return f"<table>{cells}</table>"


def _episode(dataset: Dataset, episode: int) -> Iterator[str]:
    length = dataset.length(episode)
    yield f'<article id="episode-{episode}"><h2>{escape(dataset.instruction(episode)) or "(no instruction)"}</h2>'
    seconds = f", {length / dataset.fps:.1f} s" if dataset.fps else ""
    yield f'<div class="soft">episode {episode}: {length} frames{seconds}, {escape(dataset.success(episode))}</div>'
    frames = np.unique(np.linspace(0, max(0, length - 1), FRAMES).round().astype(int)).tolist() if length else []
    for role in dataset.cameras:
        pictures = "".join(_picture(dataset, episode, frame, role) for frame in frames)
        yield f'<h3>{escape(role)}</h3><div class="strip">{pictures}</div>'
    embodiment = dataset.embodiment
    for name, channels in ((STATE, embodiment and embodiment.state), (ACTION, embodiment and embodiment.action)):
        if name in dataset.features and length:
            values = dataset.column(episode, name).reshape(length, -1).astype(np.float64)
            yield f'<h3>{escape(name)}</h3><div class="plots">{_plots(values, channels or (), dataset, name)}</div>'
    yield "</article>"


def _picture(dataset: Dataset, episode: int, frame: int, role: str) -> str:
    image = Image.fromarray(dataset.image(episode, frame, role))
    if image.height > HEIGHT:
        image = image.resize((max(1, image.width * HEIGHT // image.height), HEIGHT), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    text = escape(f"{role}, frame {frame}", quote=True)
    return (
        f'<img src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}" title="{text}" alt="{text}">'
    )


def _plots(values_TD: Float[np.ndarray, "T D"], channels: Sequence[Channel], dataset: Dataset, column: str) -> str:
    names = dataset.features[column].names or ()
    figures: list[str] = []
    for d in range(min(CHANNELS, values_TD.shape[1])):
        name = names[d] if d < len(names) else f"channel {d}"
        if d < len(channels):
            name = f"{channels[d].name} [{channels[d].unit}]"
        figures.append(_plot(values_TD[:, d], name))
    if values_TD.shape[1] > CHANNELS:
        figures.append(f'<span class="soft">and {values_TD.shape[1] - CHANNELS} more channels</span>')
    return "".join(figures)


def _plot(values_T: Float[np.ndarray, " T"], name: str) -> str:
    """Draw one channel over time, from its smallest to its largest value."""
    finite = values_T[np.isfinite(values_T)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    scaled_T = (values_T - low) / (high - low) if high > low else np.full_like(values_T, 0.5)
    x_T = np.linspace(2, WIDTH - 2, len(values_T)) if len(values_T) > 1 else np.array([WIDTH / 2])
    points = " ".join(
        f"{x:.1f},{TALL - 4 - y * (TALL - 8):.1f}" for x, y in zip(x_T, scaled_T, strict=True) if np.isfinite(y)
    )
    bounds = f"{low:.3g} to {high:.3g}" if high > low else f"{low:.3g}"
    return (
        f"<figure><figcaption><span>{escape(name)}</span><span>{bounds}</span></figcaption>"
        f'<svg width="{WIDTH}" height="{TALL}"><polyline points="{points}"/></svg></figure>'
    )
