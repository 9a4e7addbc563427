"""Several bodies, one network: a pipeline for each body that a network was trained on, with one batch over all of them.

They share everything that the network is (cameras, widths, chunk, text) and differ in what their numbers mean and how these are
scaled. In a folder the files of the first body stand where those of a single one do; each body has `bodies/NAME` beside them, and
`Pipeline.load(folder, NAME)` takes it.

Letters: B = batch, T = horizon, A = padded action width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from ideomotor.core.errors import UserError
from ideomotor.core.files import write_bytes, write_json
from ideomotor.core.spec import Embodiment
from ideomotor.core.types import Observation
from ideomotor.data.windows import Window
from ideomotor.pipeline.openvla import IGNORED
from ideomotor.pipeline.protocol import BODIES, Arrays
from ideomotor.pipeline.slots import Pipeline, PipelineConfig
from ideomotor.tokenize.llama import PAD
from ideomotor.tokenize.text import TextTokenizer

PADDING = {"ids": PAD, "labels": IGNORED}  # of token sequences; everything else is padded by 0 and False


class BodiesPipeline:
    """See the module."""

    def __init__(self, parts: Mapping[str, Pipeline]) -> None:
        """Join the pipelines of several bodies, by name; the first stands for all where one is asked for.

        Raises:
            UserError: they are made for different networks, or a name is no name of a folder.
        """
        self.parts = dict(parts)
        self.names = tuple(self.parts)
        self.first = self.parts[self.names[0]]
        for name, part in self.parts.items():
            if part.config != self.first.config:
                raise UserError(f"the pipelines of '{name}' and '{self.names[0]}' are made for different networks")
            if Path(name).name != name or name.startswith("."):
                raise UserError(f"'{name}' cannot name a body: it would be a folder; use letters, digits, - and _")

    @property
    def embodiment(self) -> Embodiment:
        """Of the first body."""
        return self.first.embodiment

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that the policy was trained on; empty where not known."""
        return self.first.tasks

    @property
    def config(self) -> PipelineConfig:
        """What the network wants of each."""
        return self.first.config

    def part(self, body: str) -> Pipeline | None:
        """Return the pipeline of a body, None where it is unknown."""
        return self.parts.get(body)

    @property
    def text(self) -> TextTokenizer:
        """The tokenizer of all."""
        return self.first.text

    def encode(self, windows: Sequence[Window]) -> Arrays:
        """Return the arrays of a training batch, rows in the order of the windows; `body` [B] numbers the bodies.

        Raises:
            UserError: a window of a body that is not among them.
        """
        body = np.array([self.names.index(window.body) for window in windows])
        return encode_by_body(windows, [part.encode for part in self.parts.values()], body) | {"body": body}

    def encode_observations(self, observations: Sequence[Observation], instructions: Sequence[str]) -> Arrays:
        """Return the arrays of a batch without targets, all of the first body."""
        return self.first.encode_observations(observations, instructions)

    def decode(self, chunk: Float[np.ndarray, "*batch A"], /) -> Float[np.ndarray, "*batch a"]:
        """Return raw actions of the first body."""
        return self.first.decode(chunk)

    def by_body(self, arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[Pipeline, Int64[np.ndarray, " b"]]]:
        """Yield each body with its rows of a batch, perhaps none: processes that share a batch name the same measures."""
        for number, part in enumerate(self.parts.values()):
            yield part, np.flatnonzero(arrays["body"] == number)

    def save(self, folder: Path) -> None:
        """Write the files of the first body, and what differs of each."""
        self.first.save(folder)
        for name, part in self.parts.items():
            write_bytes(folder / BODIES / name / "embodiment.json", part.embodiment.to_text().encode())
            write_json(folder / BODIES / name / "statistics.json", part.statistics.to_json())

    @classmethod
    def load(cls, folder: Path) -> "BodiesPipeline":
        """Undo `save`.

        Raises:
            UserError: a file is missing or damaged.
        """
        names = bodies_of(folder)
        if not names:
            raise UserError(
                f"{folder} holds one body alone; this run trains several: start from scratch, or from its like"
            )
        return cls({name: Pipeline.load(folder, name) for name in names})


def encode_by_body(
    windows: Sequence[Window], encoders: Sequence[Callable[[list[Window]], Arrays]], body: Int64[np.ndarray, " B"]
) -> Arrays:
    """Return one batch of windows that are encoded body by body; where their arrays differ in axis 1 they are padded at its end.

    Args:
        windows: of several bodies.
        encoders: one for each body.
        body: number of each window's body.
    """
    rows = {int(number): np.flatnonzero(body == number) for number in np.unique(body)}
    parts = {number: encoders[number]([windows[row] for row in mine.tolist()]) for number, mine in rows.items()}
    batch: Arrays = {}
    for name in dict.fromkeys(name for part in parts.values() for name in part):  # what some lack is masked for them
        arrays = {number: part[name] for number, part in parts.items() if name in part}
        first = next(iter(arrays.values()))
        shape = list(first.shape)
        if first.ndim > 1:
            shape[1] = max(array.shape[1] for array in arrays.values())
        batch[name] = np.full((len(windows), *shape[1:]), PADDING.get(name, 0), first.dtype)
        for number, array in arrays.items():
            if array.ndim == 1:
                batch[name][rows[number]] = array
            else:
                batch[name][rows[number], : array.shape[1]] = array
    return batch


def bodies_of(folder: Path) -> tuple[str, ...]:
    """Return the names of the bodies of a policy, the first one first; none where it has one body alone."""
    if not (folder / BODIES).is_dir():
        return ()
    first = Embodiment.from_text((folder / "embodiment.json").read_text(encoding="utf-8"), str(folder)).name
    names = sorted(path.name for path in (folder / BODIES).glob("*") if (path / "embodiment.json").is_file())
    return tuple(sorted(names, key=lambda name: (name != first, name)))
