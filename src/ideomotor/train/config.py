"""What one training run is: one frozen dataclass, and the union of its stages."""

from dataclasses import dataclass
from typing import Literal

from ideomotor.core.cores import usable_cores


@dataclass(frozen=True)
class Vision:
    """Train the vision tower alone, on the labels of its patches (`label.<camera>.*` columns).

    The shares of the four losses are those of the measured recipe (docs/shipped-policy.md).
    """

    none_weight: float = 0.2  # weight of patches without an object in the class loss
    offset_weight: float = 1.0  # L1 of the object's centre inside its patch
    yaw_weight: float = 0.5  # L1 of cos and sin of the object's yaw
    held_weight: float = 0.3  # binary loss of "this object is held"


@dataclass(frozen=True)
class FrozenTower:
    """Train everything behind the vision tower, on tower features that are computed once per frame."""

    location_weight: float = 0.3  # share of the auxiliary location answers in the loss


@dataclass(frozen=True)
class Everything:
    """Train all weights together, from the pixels on."""

    location_weight: float = 0.3  # share of the auxiliary location answers in the loss
    tower_rate: float = 1.0  # the tower's learning rate as a share of `learning_rate`


@dataclass(frozen=True)
class Lora:
    """Fine-tune an OpenVLA with LoRA (`--lora`); the defaults are those of OpenVLA's own script (vla-scripts/finetune.py)."""

    rank: int = 32  # of the adapters
    alpha: int | None = None  # an adapter counts alpha / rank times; None: min(rank, 16)
    dropout: float = 0.0  # share of an adapter's inputs that are left out
    targets: str = ""  # last parts of module names, separated by commas; empty: all linear layers, patch projections
    cameras: str = ""  # roles, separated by commas, primary first; empty: those of the checkpoint, else the first ones
    augment: Literal["openvla", "none"] = "openvla"  # crop of 90 %, brightness, contrast, saturation and hue at random
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: a GPU where there is one
    merged: Literal["auto", "stored", "fp32"] = (
        "auto"  # trained weights: as the base's, or fp32; auto: fp32 if trained in it
    )


SlotStage = Vision | FrozenTower | Everything  # of networks with learned output slots
Stage = SlotStage | Lora


@dataclass(frozen=True)
class TrainConfig:
    """Train a policy on demonstrations."""

    data: str  # folders of datasets, separated by commas; or a mixture: its name, or a JSON file {dataset: weight}
    out: str  # folder of this run; the policy ends up in its folder `final`
    weights: str = ""  # shares of the datasets, separated by commas; empty: in proportion to their frames
    data_root: str = ""  # folder that holds the datasets of a mixture; empty: that of its file
    embodiment: str = ""  # file that says what the numbers of the data mean, where they do not (`ideomotor data guess`)
    rate: float = 0.0  # [1/s] chunks of datasets of another rate are resampled to it; 0: every dataset keeps its own
    salvage: bool = False  # of a damaged TFRecord shard, learn from the records before the damage
    colour: Literal["", "rgb", "bgr"] = ""  # order of the colours in ALOHA's images
    preset: str = "small"  # the network's size, for a start from scratch
    language: str = ""  # start the language model from this GGUF file or Hugging Face folder (Llama architecture), its tokenizer with it; the preset gives the rest
    init: str = ""  # start from these weights: "shipped" or a policy's folder; empty: from scratch
    tasks: str = ""  # names of the tasks that the policy learns, separated by commas; with `init` its own are kept and these added
    stage: Vision | FrozenTower | Everything | Lora = Everything()  # which weights learn, from what
    steps: int = 2000  # optimizer steps
    max_minutes: float = 0.0  # largest duration; the number of steps is fitted to it. 0: no limit
    batch: int = 128  # samples a step, all processes together
    learning_rate: float = 1e-3  # at its peak
    warm_up: int = 200  # steps until the peak (at most a fifth of all steps)
    final_share: float = 0.01  # learning rate at the end of the cosine, as a share of the peak
    weight_decay: float = 0.05  # of matrices; vectors (biases, norms) do not decay
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    clip: float = 1.0  # largest norm of the gradient; 0: any
    seed: int = 0  # decides first weights, order of the samples and augmentation
    checkpoint_every: int = 500  # steps between checkpoints
    keep: int = 2  # how many checkpoints stay on disk
    eval_every: int = 500  # steps between evaluations on validation episodes
    validation_share: float = 0.05  # share of the episodes that are kept for validation
    validation_windows: int = 1024  # at most so many windows are evaluated
    processes: int = 0  # ranks that share a batch, one thread each; 0: one per core, at most 2
    workers: int = 0  # loader processes per rank; 0: the rank loads its own batches
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: the faster one, measured at the start
    word_noise: float = (
        0.0  # share of the samples in which one token is replaced by up to three random ones, as in an unknown word
    )
    word_dropout: float = 0.0  # share of the tokens left out of the instructions of half of the samples
    brightness: float = 0.15  # largest random shift, as a share of the full range (not with stored features)
    contrast: float = 0.2  # largest random change of the slope around mid-grey (not with stored features)
    resume: bool = False  # continue the run in `out` from its newest complete checkpoint


# Fields that may differ between a run and its continuation: they change no weight.
FREE_ON_RESUME = frozenset(
    {"data", "out", "resume", "checkpoint_every", "keep", "eval_every", "validation_windows", "workers", "init"}
    | {"language", "data_root"}
)


def number_of_processes(wanted: int) -> int:
    """Return how many ranks to start: `wanted`, or one per usable core and at most two for 0."""
    return wanted if wanted > 0 else min(2, usable_cores())
