"""The pipeline of networks with learned output slots: one object in training, evaluation and on the robot.

It is saved with the weights (pipeline.json, embodiment.json, statistics.json, text.json); a checkpoint without it does not load.

Letters: B = batch, C = cameras, T = horizon, A / S = padded action / state width, L = text tokens, K = slots of an answer group.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64, UInt8

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError, unknown
from ideomotor.core.files import read_json, read_text, write_bytes, write_json
from ideomotor.core.spec import ChunkLength, Embodiment, Normalization
from ideomotor.core.types import Observation
from ideomotor.data.dataset import ACTION, STATE
from ideomotor.data.meaning.specification import grippers
from ideomotor.data.normalize import (
    Bounds,
    Normal,
    Scale,
    gripper_from_sign,
    gripper_to_sign,
    normalize,
    unnormalize,
)
from ideomotor.data.statistics import Statistics, Summary
from ideomotor.data.windows import Window
from ideomotor.pipeline.protocol import BODIES, Arrays, refuse_not_finite
from ideomotor.tokenize.prompt import Bare, OpenVLA, prompt_text
from ideomotor.tokenize.text import TextTokenizer

FORMAT = 1
FILES = ("pipeline.json", "embodiment.json", "statistics.json", "text.json")


@dataclass(frozen=True)
class Answer:
    """An auxiliary target: a label column with fixed ranges, mapped to [-1, 1]."""

    name: str  # of the network's slot group
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def column(self) -> str:
        """The label column that holds it; `column + "_valid"` tells which entries mean something."""
        return f"label.{self.name}"


# x, y of the target, x, y of the destination [m, base frame]; cos and sin of the target's yaw times its symmetry order
LOCATION = Answer("location", (0.25, -0.35, 0.25, -0.35, -1.0, -1.0), (0.75, 0.35, 0.75, 0.35, 1.0, 1.0))


@dataclass(frozen=True)
class PipelineConfig:
    """How a network wants its input."""

    cameras: tuple[str, ...]  # roles, in the network's order
    image_size: int  # [px] square
    text_length: int
    state_width: int
    action_width: int
    chunk: ChunkLength
    normalization: Literal["bounds", "bounds_q99", "normal"] = "bounds_q99"  # of actions; states use bounds
    prompt: Bare | OpenVLA = field(default_factory=Bare)
    answers: tuple[Answer, ...] = ()
    tasks: tuple[str, ...] = ()  # names of the tasks that the policy was trained on, where known
    partial_views: bool = False  # whether a body may lack some of the cameras: their images are black and masked


class Pipeline:
    """See the module."""

    def __init__(
        self, config: PipelineConfig, embodiment: Embodiment, statistics: Statistics, text: TextTokenizer
    ) -> None:
        """Build it.

        Args:
            config: what the network wants.
            embodiment: of the data; `chunk` and `normalization` are filled in here.
            statistics: of the training split, columns `action` and `observation.state`.
            text: the tokenizer.

        Raises:
            UserError: a camera that the embodiment does not have, a body too wide for the network, or missing statistics.
        """
        self.views = tuple(role for role in config.cameras if role in embodiment.cameras_by_role)
        if not self.views or (self.views != config.cameras and not config.partial_views):
            lacking = next(role for role in config.cameras if role not in self.views)
            raise unknown(f"camera of {embodiment.name}", lacking, embodiment.cameras_by_role)
        _check_fits("actions", len(embodiment.action), config.action_width)
        _check_fits("state numbers", len(embodiment.state), config.state_width)
        _check_described(ACTION, len(embodiment.action), statistics)
        _check_described(STATE, len(embodiment.state), statistics)
        self.config = config
        self.statistics = statistics
        self.text = text
        self.embodiment = dataclasses.replace(
            embodiment, chunk=config.chunk, normalization=Normalization(config.normalization, statistics.hash)
        )
        self._action_scale = _scale(config.normalization, statistics[ACTION], grippers(embodiment))
        self._state_scale = Bounds.extremes(statistics[STATE])
        names = [channel.name for channel in embodiment.action]
        self._gripper = names.index(embodiment.gripper.channel) if embodiment.gripper else None
        self._low = np.array([-np.inf if c.low is None else c.low for c in embodiment.action])
        self._high = np.array([np.inf if c.high is None else c.high for c in embodiment.action])
        varies = np.isnan(self._action_scale.constant)
        if self._gripper is not None:
            varies[self._gripper] = True
        self._learned_A = np.zeros(config.action_width, bool)
        self._learned_A[: len(varies)] = varies

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that the policy was trained on; empty where not known."""
        return self.config.tasks

    # ------------------------------------------------------------------------------------------------ towards the network

    def encode(self, windows: Sequence[Window]) -> Arrays:
        """Return the arrays of a training batch; their names are the fields of `model.batch.Batch`."""
        arrays = self._inputs(
            np.stack([window.state for window in windows]), [window.instruction for window in windows]
        )
        if windows[0].images:  # the loader leaves them out where the tower's features are stored
            arrays |= self._views([window.images for window in windows])
        actions = self.actions_to_network(np.stack([window.actions for window in windows]))
        pad = np.stack([window.actions_pad for window in windows])
        arrays["actions"] = actions
        arrays["actions_mask"] = ~pad[..., None] & self._learned_A
        labels = {name: np.stack([w.labels[name] for w in windows]) for name in windows[0].labels}
        for answer in self.config.answers:
            if answer.column in labels:
                arrays[f"answers.{answer.name}"], arrays[f"answers_mask.{answer.name}"] = _answer(answer, labels)
        return arrays | labels

    def encode_observations(self, observations: Sequence[Observation], instructions: Sequence[str]) -> Arrays:
        """Return the arrays of a batch without targets."""
        states = np.stack([np.asarray(observation.state, np.float32) for observation in observations])
        return {**self._inputs(states, instructions), **self._views([o.images for o in observations])}

    def _inputs(self, state: Float32[np.ndarray, "B s"], instructions: Sequence[str]) -> Arrays:
        text, text_mask = self.text.encode(
            [prompt_text(self.config.prompt, instruction) for instruction in instructions], self.config.text_length
        )
        refuse_not_finite(state, "state")
        state_BS = np.zeros((len(state), self.config.state_width), np.float32)
        state_BS[:, : state.shape[1]] = normalize(state, self._state_scale)
        state_mask = np.zeros(state_BS.shape, bool)
        state_mask[:, : state.shape[1]] = True
        return {"text": text, "text_mask": text_mask, "state": state_BS, "state_mask": state_mask}

    def _views(self, observed: Sequence[Mapping[str, np.ndarray]]) -> Arrays:
        """Return the images of a batch, and a mask where a body may lack cameras."""
        arrays: Arrays = {"images": np.stack([self._images(images) for images in observed])}
        if self.config.partial_views:
            seen = np.array([role in self.views for role in self.config.cameras])
            arrays["images_mask"] = np.repeat(seen[None], len(observed), axis=0)
        return arrays

    def _images(self, images: Mapping[str, np.ndarray]) -> UInt8[np.ndarray, "C H W 3"]:
        size = self.config.image_size
        chosen: list[np.ndarray] = []
        for role in self.config.cameras:
            if role not in self.views:
                chosen.append(np.zeros((size, size, 3), np.uint8))
                continue
            if role not in images:
                raise unknown("camera in this observation", role, images)
            if images[role].shape != (size, size, 3):
                raise UserError(
                    f"camera '{role}' gives {images[role].shape}; the policy wants ({size}, {size}, 3): resize it before"
                )
            if images[role].dtype != np.uint8:
                raise UserError(f"camera '{role}' gives {images[role].dtype}; the policy wants uint8 RGB, 0 to 255")
            chosen.append(images[role])
        return np.stack(chosen)

    # ------------------------------------------------------------------------------------------------ actions, both ways

    def actions_to_network(self, actions: Float[np.ndarray, "*batch a"]) -> Float32[np.ndarray, "*batch A"]:
        """Return raw actions in network coordinates, padded with zeros.

        Raises:
            UserError: another width than the embodiment's, or a value that is not finite.
        """
        _check_width(actions, len(self.embodiment.action), "an action")
        refuse_not_finite(actions, "action")
        scaled = normalize(actions, self._action_scale)
        if self._gripper is not None:
            assert self.embodiment.gripper is not None
            grip = self.embodiment.gripper
            scaled[..., self._gripper] = gripper_to_sign(actions[..., self._gripper], grip.closed, grip.open)
        padded = np.zeros((*actions.shape[:-1], self.config.action_width), np.float32)
        padded[..., : actions.shape[-1]] = np.clip(scaled, -1.0, 1.0)
        return padded

    def decode(self, chunk: Float[np.ndarray, "*batch A"]) -> Float[np.ndarray, "*batch a"]:
        """Undo `actions_to_network`: return raw actions, clipped to the channels' ranges.

        Raises:
            UserError: the network gave a value that is not finite.
        """
        _check_width(chunk, self.config.action_width, "a network output")
        refuse_not_finite(chunk, "network output")
        scaled = np.asarray(chunk, np.float64)[..., : len(self.embodiment.action)]
        raw = unnormalize(scaled, self._action_scale)
        if self._gripper is not None:
            assert self.embodiment.gripper is not None
            grip = self.embodiment.gripper
            raw[..., self._gripper] = gripper_from_sign(scaled[..., self._gripper], grip.closed, grip.open)
        return np.clip(raw, self._low, self._high)

    @property
    def first(self) -> "Pipeline":
        """Itself, as of the one body."""
        return self

    def part(self, body: str) -> "Pipeline | None":
        """Return itself: whose numbers it is for is compared elsewhere, by more than a name."""
        assert body, "a body has a name"
        return self

    def by_body(self, arrays: Mapping[str, np.ndarray]) -> Iterator[tuple["Pipeline", Int64[np.ndarray, " b"]]]:
        """Yield the one body with all rows of a batch."""
        yield self, np.arange(len(arrays["text"]))

    # ------------------------------------------------------------------------------------------------ disk

    def save(self, folder: Path) -> None:
        """Write the four files into a folder."""
        write_json(folder / "pipeline.json", {"format": FORMAT, **jsonable.to_json(self.config)})
        write_bytes(folder / "embodiment.json", self.embodiment.to_text().encode())
        write_json(folder / "statistics.json", self.statistics.to_json())
        write_bytes(folder / "text.json", self.text.json_text.encode())

    @classmethod
    def load(cls, folder: Path, body: str = "") -> "Pipeline":
        """Undo `save`; of a policy that was trained on several bodies, take the one that `body` names, by default the first.

        Raises:
            UserError: a file is missing or damaged, or the statistics are not those that the embodiment names.
            UsageError: there is no such body.
        """
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise UserError(
                f"{folder} lacks {', '.join(missing)}; weights without their pipeline mean nothing and are not loaded."
                " Give the folder of a policy, as `ideomotor train` writes it."
            )
        config = read_json(folder / "pipeline.json")
        if config.pop("format", None) != FORMAT:
            raise UserError(f"{folder / 'pipeline.json'} is not of format {FORMAT}; write the policy with this version")
        own = folder
        if body:
            known = sorted(path.name for path in (folder / BODIES).glob("*") if (path / "embodiment.json").is_file())
            if body not in known:
                raise unknown(f"body of the policy in {folder}", body, known)
            own = folder / BODIES / body
        embodiment = Embodiment.from_text(read_text(own / "embodiment.json"), str(own / "embodiment.json"))
        statistics = Statistics.from_json(read_json(own / "statistics.json"), str(own / "statistics.json"))
        text = TextTokenizer(read_text(folder / "text.json"), str(folder / "text.json"))
        pipeline = cls(
            jsonable.from_json(PipelineConfig, config, str(folder / "pipeline.json")), embodiment, statistics, text
        )
        if pipeline.embodiment != embodiment:
            raise UserError(f"{own}: statistics.json is not what embodiment.json names; take both from one checkpoint")
        return pipeline


def _scale(kind: str, summary: Summary, grippers: Bool[np.ndarray, " a"]) -> Scale:
    match kind:
        case "bounds":
            return Bounds.extremes(summary)
        case "bounds_q99":
            return Bounds.quantiles(summary, whole=grippers)
        case _:
            return Normal.moments(summary)


def _answer(
    answer: Answer, labels: Mapping[str, np.ndarray]
) -> tuple[Float32[np.ndarray, "B K"], Bool[np.ndarray, "B K"]]:
    low, high = np.array(answer.low), np.array(answer.high)
    if f"{answer.column}_valid" not in labels:
        raise unknown("label column", f"{answer.column}_valid", labels)
    values = 2.0 * (labels[answer.column] - low) / (high - low) - 1.0
    valid = labels[f"{answer.column}_valid"] > 0
    return np.clip(values, -1.0, 1.0).astype(np.float32), valid


def _check_fits(what: str, count: int, width: int) -> None:
    if count > width:
        raise UserError(f"this body has {count} {what}, the network takes {width}; choose a wider preset")


def _check_described(column: str, width: int, statistics: Statistics) -> None:
    if (described := len(statistics[column].min)) != width:
        raise UserError(
            f"the statistics of '{column}' describe {described} numbers, the body has {width}; take both from one dataset"
        )


def _check_width(x: np.ndarray, width: int, what: str) -> None:
    if x.shape[-1] != width:
        raise UserError(f"{what} has {x.shape[-1]} numbers; this policy's has {width}")
