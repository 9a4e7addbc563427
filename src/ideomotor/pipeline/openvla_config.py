"""What OpenVLA's pipeline is made of, as frozen dataclasses; saved as pipeline.json."""

from dataclasses import dataclass, field
from typing import assert_never

from ideomotor.core.spec import ChunkLength
from ideomotor.data.norm_stats import Kind
from ideomotor.data.resize import Arrival, Direct, Evaluation, Letterbox, Naive, ResizeCrop, Trained
from ideomotor.tokenize.prompt import OpenVLA, Vicuna


@dataclass(frozen=True)
class OneByOne:
    """The network gives the ids of one action, one after the other: OpenVLA."""


@dataclass(frozen=True)
class SlotIds:
    """The network gives the ids of a chunk at once: OpenVLA-OFT without a head."""


@dataclass(frozen=True)
class SlotNumbers:
    """The network gives the numbers of a chunk at once: the heads of OpenVLA-OFT."""


Output = OneByOne | SlotIds | SlotNumbers


@dataclass(frozen=True)
class NetworkShape:
    """What a network's configuration says to its pipeline."""

    image_size: int  # [px] square
    cameras: int = 1
    output: OneByOne | SlotIds | SlotNumbers = OneByOne()
    horizon: int = 1  # actions in a chunk
    action_width: int | None = None  # None: any, one by one
    state_width: int | None = None  # None: the state is not read
    actions_end: int = 32000  # the action ids are the `bins` ids below it
    bins: int = 256


@dataclass(frozen=True)
class OpenVLAPipelineConfig:
    """How a network wants its input, and what its output means."""

    cameras: tuple[str, ...]  # roles, in the network's order
    image_size: int  # [px] square
    statistics: str  # key of the dataset whose actions come out
    output: OneByOne | SlotIds | SlotNumbers = OneByOne()
    chunk: ChunkLength = field(default_factory=lambda: ChunkLength(1, 1))
    normalization: Kind = "bounds_q99"
    state: Kind | None = None  # how the state is scaled; None: it is not read
    widening: float = 0.0  # added to ranges on the way back: 1e-8 in OpenVLA-OFT
    fit: Naive | Letterbox | ResizeCrop = field(default_factory=Naive)
    arrival: Direct | Trained | Evaluation = field(default_factory=Direct)
    prompt: OpenVLA | Vicuna = field(default_factory=OpenVLA)
    tasks: tuple[str, ...] = ()  # names of the tasks that the policy was trained on, where known


def as_trained(arrival: Arrival) -> Arrival:
    """Return how pictures arrive in training where they arrive like this when acting.

    The JPEG and the centre crop of evaluation stand for the stored frames and the random crops of training.
    """
    match arrival:
        case Evaluation(size):
            return Trained(size)
        case Trained() | Direct():
            return arrival
        case _:
            assert_never(arrival)
