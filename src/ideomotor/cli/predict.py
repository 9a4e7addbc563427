"""`ideomotor predict`: ask a policy once, and see what it says, in which units, from which tokens, and how fast."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

from ideomotor.core.errors import UsageError, UserError
from ideomotor.policy.options import GUESS, PolicyOptions

if TYPE_CHECKING:
    import numpy as np

    from ideomotor.core.spec import Embodiment
    from ideomotor.policy.local import LocalPolicy, OpenVLAPolicy, Prediction

T = TypeVar("T")
ACROSS = 8  # rows of a chunk side by side in a table
QUICK = 5.0  # [s] a first answer that took longer is not asked for again


@dataclass(frozen=True)
class PredictConfig:
    """Ask a policy once: for the action that belongs to pictures and an instruction, or for an answer in words."""

    policy: str = "shipped"
    """'shipped', or the folder of a policy, of a finished run, or of an OpenVLA checkpoint."""
    image: tuple[Path, ...] = ()
    """PNG or JPEG files of any size, one for each camera of the policy, in its order."""
    instruction: str = ""
    """What the robot is to do."""
    state: tuple[float, ...] = ()
    """What the robot measures on itself, for a policy that reads it."""
    question: str = ""
    """Ask for words instead of an action (OpenVLA)."""
    words: int = 64
    """The answer to a question has at most so many tokens."""
    json: bool = False
    """Print JSON, and nothing else."""
    write_embodiment: Path | None = None
    """Write what the policy's numbers mean, or the guess, into this new file, and do nothing else."""
    openvla: PolicyOptions = field(default_factory=PolicyOptions)
    """For OpenVLA checkpoints; a policy of our own knows these things."""


def main(arguments: list[str]) -> None:
    """Parse the command line, and ask."""
    config = tyro.cli(PredictConfig, prog="ideomotor predict", args=arguments, config=(tyro.conf.OmitArgPrefixes,))
    if config.write_embodiment is not None:
        write_embodiment(config, config.write_embodiment)
    elif config.question:
        print(answered(config))
    else:
        report = predicted(config)
        print(json.dumps(report, indent=2, ensure_ascii=False) if config.json else text(report))


def write_embodiment(config: PredictConfig, path: Path) -> None:
    """Write the embodiment as a file to be edited: without hash, and without what belongs to the policy."""
    from ideomotor.data.meaning import described
    from ideomotor.pipeline.openvla import OpenVLAPipeline
    from ideomotor.policy.local import open_pipeline

    pipeline = open_pipeline(config.policy, config.openvla)
    described.write_embodiment(pipeline.embodiment, path)
    if isinstance(pipeline, OpenVLAPipeline) and pipeline.guess is not None:
        print(f"{path}: a guess.\n{pipeline.guess}\nCorrect the file, then give it as --embodiment {path}")
    else:
        print(f"{path}: the embodiment of '{config.policy}'")


def answered(config: PredictConfig) -> str:
    """Return the answer to a question."""
    from ideomotor.policy.local import OpenVLAPolicy

    if config.instruction:
        raise UsageError("--instruction asks for an action and --question for words; give one of them")
    images = read_images(config.image)
    policy = _load(config)
    if not isinstance(policy, OpenVLAPolicy):
        raise UsageError(f"policy '{config.policy}' gives actions only; --question needs an OpenVLA checkpoint")
    roles = policy.pipeline.config.cameras
    return policy.answer(_by_role(roles, images), config.question, config.words)


def predicted(config: PredictConfig) -> dict[str, Any]:
    """Return the action and what there is to say about it, as JSON values."""
    import numpy as np

    from ideomotor.core.types import Observation
    from ideomotor.policy.local import OpenVLAPolicy

    if not config.instruction:
        raise UsageError("--instruction is missing: say what the robot is to do, or ask with --question")
    images = read_images(config.image)
    policy, load_s = _timed(lambda: _load(config))
    if isinstance(policy, OpenVLAPolicy):
        roles, seen, reads = policy.pipeline.config.cameras, _seen(policy), policy.pipeline.config.state is not None
        pictures = _by_role(roles, images)
    else:
        pictures, seen = _resized(policy, images)
        reads = True
    state = np.array(_state(config, policy.embodiment) if reads else _no_state(config), np.float64)
    observation = Observation(0.0, pictures, state)
    (said,), first_s = _timed(lambda: policy.predict([config.instruction], [observation]))
    again_s = None
    if first_s <= QUICK:
        _, again_s = _timed(lambda: policy.predict([config.instruction], [observation]))
    return {
        "policy": config.policy,
        "policy_id": policy.policy_id,
        "network": f"{str(policy.dtype).removeprefix('torch.')} on {policy.device}",
        **_meaning(config, policy),
        "instruction": config.instruction,
        "images": {
            role: f"{path}, {image.shape[1]} x {image.shape[0]} px, {seen}"
            for role, path, image in zip(pictures, config.image, images, strict=True)
        },
        **_numbers(said, policy.embodiment),
        "seconds": {"load": load_s, "first": first_s, "again": again_s},
    }


def text(report: Mapping[str, Any]) -> str:
    """Return a report in lines."""
    known = "" if report["confirmed"] else " (guess, not confirmed)"
    lines = [
        f"policy       {report['policy']} ({report['policy_id']})",
        f"network      {report['network']}",
        *([f"statistics   {report['statistics']}"] if report["statistics"] else []),
        f"embodiment   {report['embodiment']}{known}, {1 / report['dt']:g} Hz",
        *(f"             {sentence}" for sentence in report["evidence"]),
        *(f"{role:<12} {image}" for role, image in report["images"].items()),
        f"instruction  {report['instruction']}",
    ]
    for start in range(0, len(report["actions"]), ACROSS):
        rows = range(start, min(start + ACROSS, len(report["actions"])))
        lines += ["", *_table(report, rows, known)]
    if report["ids"] is not None:
        bad = sum(map(sum, report["illegal"]))
        lines += [
            "",
            f"{bad} of the ids {'is' if bad == 1 else 'are'} no action ids (!); they stand for an end of the range"
            if bad
            else "all ids are action ids",
        ]
    took = [f"{name} {seconds:.3g} s" for name, seconds in report["seconds"].items() if seconds is not None]
    return "\n".join([*lines, "", f"time: {', '.join(took)}"])


def _table(report: Mapping[str, Any], rows: range, known: str) -> list[str]:
    """Return the channels, one a line, with the value and the id of each row of the chunk."""
    width = 21 if report["ids"] else 14
    offsets = [f"+{row * report['dt']:.3g} s" for row in rows]
    lines = [f"{'channel' + known:<40}{'unit':<10}" + "".join(f"{offset:>14}".ljust(width) for offset in offsets)]
    for channel, (name, unit) in enumerate(report["channels"]):
        cells = [f"{report['actions'][row][channel]:>14.6f}" + _id(report, row, channel) for row in rows]
        lines.append(f"{name:<40}{unit:<10}{''.join(cells)}")
    return [line.rstrip() for line in lines]


def _id(report: Mapping[str, Any], row: int, channel: int) -> str:
    if not report["ids"]:
        return ""
    return f" {report['ids'][row][channel]:>5}{'!' if report['illegal'][row][channel] else ' '}"


# ------------------------------------------------------------------------------------------------------------ parts


def read_images(paths: tuple[Path, ...]) -> "list[np.ndarray]":
    """Return the pixels of image files.

    Raises:
        UserError: a file is not there, or is no image.
        UsageError: none is given.
    """
    from ideomotor.data.images import decode

    if not paths:
        raise UsageError("--image is missing: give a PNG or JPEG file for each camera of the policy")
    images: list[np.ndarray] = []
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"--image {path} cannot be read: {error.strerror}") from error
        try:
            images.append(decode(content))
        except UserError as error:
            raise UserError(f"--image {path}: {error}") from error
    return images


def _load(config: PredictConfig) -> "LocalPolicy":
    """Load the policy; here a guess is shown as one, and not refused."""
    from ideomotor.policy.local import load_policy

    return load_policy(config.policy, config.openvla, on_guess=lambda _name, _pipeline: None)


def _by_role(roles: tuple[str, ...], images: "Sequence[np.ndarray]") -> "dict[str, np.ndarray]":
    if len(images) != len(roles):
        raise UsageError(
            f"this policy sees {len(roles)} camera{'s' if len(roles) > 1 else ''}, {', '.join(roles)}; --image names {len(images)}:"
            " give one picture for each, in this order"
        )
    return dict(zip(roles, images, strict=True))


def _resized(policy: Any, images: "Sequence[np.ndarray]") -> "tuple[dict[str, np.ndarray], str]":
    """Return the pictures at the size that a network of our own wants, and words for it."""
    from ideomotor.data.images import resize

    config = policy.pipeline.config
    size = config.image_size
    pictures = {role: resize(image, (size, size)) for role, image in _by_role(config.cameras, images).items()}
    return pictures, f"resized to {size} x {size} px (bicubic, the aspect is lost)"


def _seen(policy: "OpenVLAPolicy") -> str:
    """Return in words how pictures reach the network."""
    from ideomotor.data.resize import Direct, Evaluation, Letterbox, Naive, ResizeCrop, Trained

    config = policy.pipeline.config
    match config.arrival:
        case Direct():
            arrives = "as it is"
        case Trained(size):
            arrives = f"Lanczos-3 to {size} px as in training"
        case Evaluation(size, crop_area, jpeg):
            crop = f", centre crop of {crop_area:g} of the area" if crop_area is not None else ""
            arrives = f"{'JPEG, ' if jpeg else ''}Lanczos-3 to {size} px{crop} as in evaluation"
    match config.fit:
        case Naive():
            fits = "resize-naive"
        case Letterbox():
            fits = "letterbox"
        case ResizeCrop():
            fits = "resize-crop"
    return f"{arrives}, then {fits} to {config.image_size} px"


def _state(config: PredictConfig, embodiment: "Embodiment") -> tuple[float, ...]:
    names = ", ".join(f"{channel.name} [{channel.unit}]" for channel in embodiment.state)
    if not config.state:
        raise UsageError(f"this policy reads the state; give --state with {len(embodiment.state)} numbers: {names}")
    if len(config.state) != len(embodiment.state):
        raise UsageError(f"--state has {len(config.state)} numbers; this policy reads {len(embodiment.state)}: {names}")
    return config.state


def _no_state(config: PredictConfig) -> tuple[float, ...]:
    if config.state:
        raise UsageError("this policy does not read the state; leave out --state")
    return ()


def _meaning(config: PredictConfig, policy: "LocalPolicy") -> dict[str, Any]:
    from ideomotor.policy.local import OpenVLAPolicy

    guess = policy.pipeline.guess if isinstance(policy, OpenVLAPolicy) else None
    return {
        "statistics": policy.pipeline.config.statistics if isinstance(policy, OpenVLAPolicy) else None,
        "embodiment": policy.embodiment.name,
        "confirmed": guess is None or config.openvla.embodiment == GUESS,
        "evidence": list(guess.evidence) if guess is not None else [],
        "dt": 1.0 / policy.embodiment.rate_hz,
    }


def _numbers(said: "Prediction", embodiment: "Embodiment") -> dict[str, Any]:
    return {
        "channels": [[channel.name, channel.unit] for channel in embodiment.action],
        "actions": said.actions.tolist(),
        "ids": None if said.ids is None else said.ids.tolist(),
        "illegal": None if said.illegal is None else said.illegal.tolist(),
    }


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    done = work()
    return done, time.perf_counter() - start
