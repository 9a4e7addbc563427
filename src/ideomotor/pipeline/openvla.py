"""The pipeline of OpenVLA and OpenVLA-OFT: pictures and a sentence to ids, ids or numbers to raw actions (arXiv 2406.09246 and arXiv 2502.19645).

```
one by one   prompt ... 29871 | action ids  EOS            the ids behind the bar in training only
slots        prompt ... 29871 | slots       EOS            T A slots: true ids in training, placeholders when acting
```

It is saved with the weights: pipeline.json, embodiment.json (absent while nobody has said what the numbers mean), statistics.json (OpenVLA's
own form, every dataset), text.json, and the licence texts that came with the tokenizer.

Letters: B = batch, C = cameras, S = side of the picture [px], L = ids, T = horizon, A = action width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Integer, UInt8

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError, unknown
from ideomotor.core.files import read_json, read_text, write_bytes, write_json
from ideomotor.core.spec import ChunkLength, Embodiment, Normalization
from ideomotor.core.types import Observation
from ideomotor.data.dataset import ACTION
from ideomotor.data.norm_stats import OFT_WIDENING, Kind, NormStatistics, entry_of, scaled_numbers
from ideomotor.data.normalize import Bounds, normalize, unnormalize
from ideomotor.data.resize import Arrival, Direct, Evaluation, arrive, fit
from ideomotor.data.statistics import Statistics
from ideomotor.data.windows import Window
from ideomotor.pipeline.foreign import read_fit, read_notices, read_prompt, read_tokenizer
from ideomotor.pipeline.guess import Guess, Sizes, camera_roles, guess_embodiment
from ideomotor.pipeline.openvla_config import NetworkShape, OneByOne, OpenVLAPipelineConfig, as_trained
from ideomotor.pipeline.protocol import BODIES, Arrays, refuse_not_finite
from ideomotor.tokenize.bins import NUM_EDGES, UniformBins
from ideomotor.tokenize.llama import LlamaTokenizer, pad_rows, training_ids
from ideomotor.tokenize.prompt import prompt_text

FORMAT = 1
CONFIG, EMBODIMENT, STATISTICS, TEXT = "pipeline.json", "embodiment.json", "statistics.json", "text.json"
PLACEHOLDER = 1  # id that stands in a slot, where no embedding is read
IGNORED = -100  # label of an id that is not learned
TWO_ARMS = 14  # numbers of ALOHA's actions, the one platform of OFT that scales by extremes (arXiv 2502.19645)


class OpenVLAPipeline:
    """See the module."""

    def __init__(
        self,
        config: OpenVLAPipelineConfig,
        embodiment: Embodiment | None,
        statistics: NormStatistics,
        tokenizer: LlamaTokenizer,
        notices: Mapping[str, bytes] | None = None,
        others: Mapping[str, Embodiment] | None = None,
    ) -> None:
        """Build it.

        Args:
            config: what the network wants.
            embodiment: what the numbers mean; None: unknown, a guess stands in and `guess` says why. `chunk` and `normalization` are
                filled in here.
            statistics: of all datasets of the checkpoint.
            tokenizer: Llama-2's.
            notices: licence texts that go with it, by file name.
            others: what the numbers of other datasets mean that it was trained on, by their key.

        Raises:
            UserError: embodiment, statistics and network do not fit together.
        """
        self.config, self.statistics, self.tokenizer = config, statistics, tokenizer
        self.others = dict(others or {})
        self.notices = dict(notices or {})
        key = statistics.choose(config.statistics)
        action = statistics.column(key, "action")
        self._action = action.scales(config.normalization, config.widening)
        self._state = None
        state_width = None
        if config.state is not None:
            proprio = statistics.column(key, "proprio").unmasked()
            self._state, state_width = proprio.scales(config.state).there, proprio.width
        self.guess: Guess | None = None
        if embodiment is None:
            self.guess = guess_embodiment(key, action, Sizes(config.cameras, config.image_size, state_width))
            embodiment = self.guess.embodiment
        _check_fits(embodiment, config, key, action.width, state_width)
        self.embodiment = replace(
            embodiment, chunk=config.chunk, normalization=Normalization(config.normalization, statistics.hash(key))
        )
        self._bins = UniformBins()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that the policy was trained on; empty where not known."""
        return self.config.tasks

    @property
    def action_width(self) -> int:
        """A."""
        return len(self.embodiment.action)

    @property
    def num_ids(self) -> int:
        """How many ids an answer has."""
        return self.config.chunk.predicted * self.action_width

    # ------------------------------------------------------------------------------------------------ towards the network

    def encode(self, windows: Sequence[Window]) -> Arrays:
        """Return the arrays of a training batch; their names are the fields of `model.batch.TokenBatch`.

        Rows beyond the end of an episode are no labels; a head of numbers has no such mask and wants whole chunks only, as in OFT.
        """
        actions = self.actions_to_network(np.stack([window.actions for window in windows]))
        arrays = self.lesson([window.instruction for window in windows], actions)
        arrays["labels"] = _without_padding(arrays["labels"], np.stack([w.actions_pad for w in windows]))
        if windows[0].images:  # the loader leaves them out where features are stored
            arrays["images"] = np.stack([self._images(w.images, as_trained(self.config.arrival)) for w in windows])
        if self._state is not None:
            arrays["state"] = self.state_to_network(np.stack([window.state for window in windows]))
        return arrays

    def lesson(self, instructions: Sequence[str], actions: Float[np.ndarray, "B T A"]) -> Arrays:
        """Return ids, mask, labels and actions of training sequences; the actions are in network coordinates."""
        prompts = [self.prompt_ids(instruction) for instruction in instructions]
        targets = self._bins.encode(actions).reshape(len(actions), -1)
        rows = [training_ids(prompt, target.tolist()) for prompt, target in zip(prompts, targets, strict=True)]
        ids, mask = pad_rows(rows)
        first = np.array([len(prompt) for prompt in prompts])
        learned = mask & (np.arange(ids.shape[1]) >= first[:, None])
        return {
            "ids": ids,
            "mask": mask,
            "labels": np.where(learned, ids, IGNORED),
            "actions": actions.astype(np.float32),
        }

    def encode_observations(self, observations: Sequence[Observation], instructions: Sequence[str]) -> Arrays:
        """Return the arrays of a batch without targets."""
        rows = [self.prompt_ids(instruction) for instruction in instructions]
        if not isinstance(self.config.output, OneByOne):
            rows = [training_ids(row, [PLACEHOLDER] * self.num_ids) for row in rows]
        ids, mask = pad_rows(rows)
        images = [self._images(observation.images, self.config.arrival) for observation in observations]
        arrays: Arrays = {"ids": ids, "mask": mask, "images": np.stack(images)}
        if self._state is not None:
            arrays["state"] = self.state_to_network(np.stack([o.state for o in observations]))
        return arrays

    def encode_question(self, images: Mapping[str, np.ndarray], question: str) -> Arrays:
        """Return the arrays of a question that is answered in words: OpenVLA's form without the robot, nothing behind `Out:`."""
        ids, mask = pad_rows([self.tokenizer.encode(f"In: {question}\nOut:")])
        return {"ids": ids, "mask": mask, "images": self._images(images, self.config.arrival)[None]}

    def prompt_ids(self, instruction: str) -> list[int]:
        """Return what the network reads before the first action id: BOS, the question, 29871."""
        return self.tokenizer.prompt_ids(prompt_text(self.config.prompt, instruction))

    def state_to_network(self, state: Float[np.ndarray, "B s"]) -> Float32[np.ndarray, "B s"]:
        """Return states in network coordinates: clipped to [-1, 1], no mask; what is constant in the data is 0, as in training."""
        assert self._state is not None, "this network does not read the state"
        if state.shape[-1] != len(self._state.low):
            raise UserError(f"the state has {state.shape[-1]} numbers; this policy reads {len(self._state.low)}")
        refuse_not_finite(state, "state")
        return normalize(state.astype(np.float64), self._state).astype(np.float32)

    def actions_to_network(self, actions: Float[np.ndarray, "*batch A"]) -> Float32[np.ndarray, "*batch A"]:
        """Return raw actions in network coordinates; numbers outside of the mask pass through.

        Raises:
            UserError: another width than the embodiment's, or a value that is not finite.
        """
        if actions.shape[-1] != self.action_width:
            raise UserError(f"an action has {actions.shape[-1]} numbers; this policy's has {self.action_width}")
        refuse_not_finite(actions, "action")
        return normalize(actions.astype(np.float64), self._action.there).astype(np.float32)

    def _images(self, images: Mapping[str, np.ndarray], arrival: Arrival) -> UInt8[np.ndarray, "C S S 3"]:
        chosen: list[np.ndarray] = []
        for role in self.config.cameras:
            if role not in images:
                raise unknown("camera in this observation", role, images)
            image = images[role]
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise UserError(
                    f"camera '{role}' gives {image.dtype} {image.shape}; the policy wants uint8 RGB, (height, width, 3)"
                )
            chosen.append(fit(arrive(image, arrival), self.config.fit, self.config.image_size))
        return np.stack(chosen)

    # ------------------------------------------------------------------------------------------------ from the network

    def decode(self, output: np.ndarray) -> Float[np.ndarray, "B T A"]:
        """Return raw actions; nothing is clipped.

        Args:
            output: ids [B, T A], or numbers in network coordinates [B, T, A].

        Raises:
            UserError: another number of them, or one that is not finite.
        """
        if output[0].size != self.num_ids:
            raise UserError(f"the network gave {output[0].size} numbers; an answer of this policy has {self.num_ids}")
        if np.issubdtype(output.dtype, np.integer):
            output = self._bins.decode(output)
        refuse_not_finite(output, "network output")
        coordinates = output.astype(np.float64).reshape(len(output), self.config.chunk.predicted, self.action_width)
        return unnormalize(coordinates, self._action.back)

    def illegal(self, ids: Integer[np.ndarray, "*batch"]) -> Bool[np.ndarray, "*batch"]:
        """Tell which ids are no action ids; they decode to an end of the range, as in the reference."""
        return (ids >= self._bins.vocabulary) | (ids < self._bins.vocabulary - NUM_EDGES)

    # ------------------------------------------------------------------------------------------------ variants

    def using(
        self, statistics: str = "", embodiment: Embodiment | None = None, arrival: Arrival | None = None
    ) -> "OpenVLAPipeline":
        """Return the pipeline with another dataset's statistics, another embodiment, or pictures that arrive another way.

        Raises:
            UserError: they do not fit the network, or each other.
        """
        key = self.statistics.choose(statistics or self.config.statistics)
        here = self.guess is None and key == self.config.statistics
        stated = self.embodiment if here else self.others.get(key)
        cameras = self.config.cameras
        if embodiment is not None:
            cameras = _cameras_of(embodiment, self.config)
        config = replace(self.config, statistics=key, cameras=cameras, arrival=arrival or self.config.arrival)
        return OpenVLAPipeline(config, embodiment or stated, self.statistics, self.tokenizer, self.notices, self.others)

    def for_training(
        self, embodiment: Embodiment, key: str, entry: Mapping[str, Any], tasks: Sequence[str] = ()
    ) -> "OpenVLAPipeline":
        """Return the pipeline for a dataset of the user's: its statistics (`dataset_entry`) under its own key, beside the others."""
        config = replace(
            self.config,
            statistics=key,
            cameras=_cameras_of(embodiment, self.config),
            arrival=Evaluation(self.config.image_size),
            tasks=tuple(tasks),
        )
        statistics = self.statistics.with_dataset(key, entry)
        others = {**self.others, key: embodiment}
        return OpenVLAPipeline(config, embodiment, statistics, self.tokenizer, self.notices, others)

    def dataset_entry(
        self, embodiment: Embodiment, statistics: Statistics, transitions: int, trajectories: int
    ) -> dict[str, Any]:
        """Return a dataset's statistics in OpenVLA's form: every number of an action is scaled but an absolute gripper in [-1, 1].

        Where a channel rests most of the time its extremes stand for the quantiles, so that no value is cut off.
        """
        mask, bounds = scaled_numbers(embodiment, statistics), Bounds.quantiles(statistics[ACTION])
        action = replace(statistics[ACTION], q01=bounds.low, q99=bounds.high)
        statistics = Statistics({**statistics.columns, ACTION: action})
        return entry_of(statistics, mask, transitions, trajectories, state=self.config.state is not None)

    # ------------------------------------------------------------------------------------------------ disk

    def save(self, folder: Path) -> None:
        """Write the files into a folder; a guess is not written."""
        write_json(folder / CONFIG, {"format": FORMAT, **jsonable.to_json(self.config)})
        if self.guess is None:
            write_bytes(folder / EMBODIMENT, self.embodiment.to_text().encode())
        write_json(folder / STATISTICS, self.statistics.to_json())
        write_bytes(folder / TEXT, self.tokenizer.json_text.encode())
        for name, text in self.notices.items():
            write_bytes(folder / name, text)
        for key, other in self.others.items():
            if key != self.config.statistics:
                write_bytes(folder / BODIES / key / EMBODIMENT, other.to_text().encode())

    @classmethod
    def load(cls, folder: Path) -> "OpenVLAPipeline":
        """Undo `save`.

        Raises:
            UserError: a file is missing or damaged, or the statistics are not those that the embodiment names.
        """
        missing = [name for name in (CONFIG, STATISTICS, TEXT) if not (folder / name).is_file()]
        if missing:
            raise UserError(
                f"{folder} lacks {', '.join(missing)}; weights without their pipeline mean nothing and are not loaded."
                " Give the folder of a policy, as `ideomotor train` or `ideomotor weights convert` writes it."
            )
        value = read_json(folder / CONFIG)
        if value.pop("format", None) != FORMAT:
            raise UserError(f"{folder / CONFIG} is not of format {FORMAT}; write the policy with this version")
        config = jsonable.from_json(OpenVLAPipelineConfig, value, str(folder / CONFIG))
        stated: Embodiment | None = None
        if (folder / EMBODIMENT).is_file():
            stated = Embodiment.from_text(read_text(folder / EMBODIMENT), str(folder / EMBODIMENT))
        statistics = NormStatistics.from_json(read_json(folder / STATISTICS), str(folder / STATISTICS))
        tokenizer = LlamaTokenizer.from_json(read_text(folder / TEXT), str(folder / TEXT))
        files = {key: folder / BODIES / key / EMBODIMENT for key in statistics.datasets if Path(key).name == key}
        others = {key: Embodiment.from_text(read_text(f), str(f)) for key, f in files.items() if f.is_file()}
        pipeline = cls(config, stated, statistics, tokenizer, read_notices(folder), others)
        if stated is not None and pipeline.embodiment != stated:
            raise UserError(
                f"{folder}: statistics.json is not what embodiment.json names; take both from one checkpoint"
            )
        return pipeline

    @classmethod
    def from_checkpoint(
        cls,
        folder: Path,
        shape: NetworkShape,
        statistics: str = "",
        embodiment: Embodiment | None = None,
    ) -> "OpenVLAPipeline":
        """Read the files of an OpenVLA or OpenVLA-OFT checkpoint: statistics, tokenizer, image strategy, prompt, licences.

        Args:
            folder: with them.
            shape: what the network's configuration says.
            statistics: key of a dataset; may be left out where there is one only.
            embodiment: what the numbers mean; None: a guess stands in.

        Raises:
            UserError: files are missing or damaged, or do not fit the network.
        """
        found = NormStatistics.of_checkpoint(folder)
        key = found.choose(statistics)
        slots = not isinstance(shape.output, OneByOne)
        kind: Kind = "bounds" if slots and shape.action_width == TWO_ARMS else "bounds_q99"
        config = OpenVLAPipelineConfig(
            cameras=camera_roles(key, shape.cameras),
            image_size=shape.image_size,
            statistics=key,
            output=shape.output,
            chunk=ChunkLength(shape.horizon, shape.horizon),
            normalization=kind,
            state=None if shape.state_width is None else kind,
            widening=OFT_WIDENING if slots else 0.0,
            fit=read_fit(folder),
            arrival=Evaluation(shape.image_size) if slots else Direct(),
            prompt=read_prompt(folder),
        )
        if embodiment is not None:
            config = replace(config, cameras=_cameras_of(embodiment, config))
        pipeline = cls(config, embodiment, found, read_tokenizer(folder), read_notices(folder))
        pipeline.check_network(shape, folder)
        return pipeline

    def check_network(self, shape: NetworkShape, where: Path) -> None:
        """Compare with what a network's configuration says.

        Raises:
            UserError: names every number that differs, with both sides.
        """
        state_width = None if self._state is None else len(self._state.low)
        pairs = {
            "action ids end": (shape.actions_end, self._bins.vocabulary),
            "bins": (shape.bins, NUM_EDGES),
            "output": (type(shape.output).__name__, type(self.config.output).__name__),
            "images": (shape.cameras, len(self.config.cameras)),
            "image size": (shape.image_size, self.config.image_size),
            "chunk": (shape.horizon, self.config.chunk.predicted),
            "action width": (shape.action_width or self.action_width, self.action_width),
            "state width": (shape.state_width, state_width),
        }
        wrong = [f"{name}: the network has {a}, the pipeline {b}" for name, (a, b) in pairs.items() if a != b]
        if wrong:
            raise UserError(
                f"{where}: the network does not fit the statistics '{self.config.statistics}' ({'; '.join(wrong)}); choose others of"
                f" {', '.join(sorted(self.statistics.datasets))} with --statistics, or take all files from one checkpoint"
            )


def _without_padding(labels: np.ndarray, pad: Bool[np.ndarray, "B T"]) -> np.ndarray:
    """Return the labels without those of actions beyond the end of an episode."""
    labels = labels.copy()
    for row, pad_T in zip(labels, pad, strict=True):
        places = np.flatnonzero(row != IGNORED)[:-1].reshape(len(pad_T), -1)  # the last one is EOS
        row[places[pad_T]] = IGNORED
    return labels


def _cameras_of(embodiment: Embodiment, config: OpenVLAPipelineConfig) -> tuple[str, ...]:
    """Return the roles of an embodiment's cameras that the network sees: its own where they are there, else the first ones."""
    roles = tuple(embodiment.cameras_by_role)
    if set(config.cameras) <= set(roles):
        return config.cameras
    if len(roles) < len(config.cameras):
        raise UserError(
            f"{embodiment.name} has the cameras {', '.join(roles) or 'none'}; this network sees {len(config.cameras)} at once"
        )
    return roles[: len(config.cameras)]


def _check_fits(
    embodiment: Embodiment, config: OpenVLAPipelineConfig, key: str, action_width: int, state_width: int | None
) -> None:
    for role in config.cameras:
        if role not in embodiment.cameras_by_role:
            raise unknown(f"camera of {embodiment.name}", role, embodiment.cameras_by_role)
    for what, described, has in (
        ("actions", action_width, len(embodiment.action)),
        ("states", state_width, len(embodiment.state)),
    ):
        if described is not None and described != has:
            raise UserError(
                f"the statistics '{key}' describe {what} of {described} numbers, {embodiment.name} has {has}; choose those of its data"
                " with --statistics"
            )
