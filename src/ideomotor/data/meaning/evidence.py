"""What the numbers of a dataset show about their own meaning: how the state answers to the action, what grips, how rotations are written.

Every finding is a number that can be checked; what is concluded from it is said in data/meaning/guess.py.

F = frames of an episode, N = frames of all, A = action channels, S = state channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from ideomotor.core.errors import UserError
from ideomotor.data.dataset import ACTION, STATE, Dataset, training_episodes
from ideomotor.data.statistics import check_finite

EPISODES = 64  # that are looked at, evenly spaced
FRAMES = 100_000  # that are looked at, at most
STEPS = 5  # [frames] over which actions are summed to see how far one of them goes
NEAR = 0.05  # of a range: as near to one of two values
SHORTEST = 8  # frames, below which nothing is concluded


@dataclass(frozen=True)
class Sample:
    """Some episodes of a dataset; without a state, S is 0."""

    actions: tuple[Float64[np.ndarray, "_ A"], ...]
    states: tuple[Float64[np.ndarray, "_ S"], ...]

    @property
    def action(self) -> Float64[np.ndarray, "N A"]:
        """All actions."""
        return np.concatenate(self.actions)

    @property
    def state(self) -> Float64[np.ndarray, "N S"]:
        """All states."""
        return np.concatenate(self.states)


def take_sample(dataset: Dataset) -> Sample:
    """Read up to 64 episodes of the training split.

    Raises:
        UserError: there is no action, no frame, or a value that is not finite.
    """
    if ACTION not in dataset.features:
        raise UserError(
            f"{dataset.path} has no column '{ACTION}', so that nothing can be learned from it; it has {', '.join(dataset.features)}"
        )
    episodes = [e for e in training_episodes(dataset) if dataset.length(e)]
    if not episodes:
        raise UserError(f"{dataset.path} holds no frames; record some")
    chosen = np.unique(np.linspace(0, len(episodes) - 1, min(EPISODES, len(episodes))).round().astype(int))
    actions: list[np.ndarray] = []
    states: list[np.ndarray] = []
    for episode in (episodes[i] for i in chosen.tolist()):
        actions.append(_column(dataset, episode, ACTION))
        states.append(
            _column(dataset, episode, STATE) if STATE in dataset.features else np.zeros((len(actions[-1]), 0))
        )
        if sum(map(len, actions)) > FRAMES:
            break
    return Sample(tuple(actions), tuple(states))


def _column(dataset: Dataset, episode: int, name: str) -> Float64[np.ndarray, "F D"]:
    values = dataset.column(episode, name)
    if values.dtype.kind not in "fiub":
        raise UserError(f"{dataset.path}: the column '{name}' holds {values.dtype} and no numbers; choose another")
    check_finite(values.reshape(len(values), -1), f"{dataset.path}, column '{name}', episode {episode}")
    return values.reshape(len(values), int(np.prod(values.shape[1:]))).astype(np.float64)


# ---------------------------------------------------------------------------------------------- how the state answers


@dataclass(frozen=True)
class Answer:
    """How a run of state channels answers to a run of equally many action channels: shares of a variance, explained linearly."""

    first: int  # state channel
    next: float  # of the state's next difference
    last: float  # of the difference that came before
    absolute: float  # of the next state itself
    slope: float  # change of the state per unit of action, over some frames

    @property
    def delta(self) -> float:
        """Of the difference that the action explains better."""
        return max(self.next, self.last)


def best_answer(sample: Sample, channels: range, free: Sequence[bool] = ()) -> Answer | None:
    """Return the run of state channels that answers best to these action channels.

    Args:
        sample: episodes.
        channels: of the action.
        free: which state channels can answer; default all.

    Returns:
        None without enough state channels, or with too few frames.
    """
    can = list(free) or [True] * sample.states[0].shape[1]
    firsts = [f for f in range(len(can) - len(channels) + 1) if all(can[f : f + len(channels)])]
    if not firsts or sum(map(len, sample.actions)) < SHORTEST:
        return None
    answers = [answer_of(sample, channels, first) for first in firsts]
    return max(answers, key=lambda answer: max(answer.delta, answer.absolute))


def answer_of(sample: Sample, channels: range, first: int) -> Answer:
    """Return how the state channels from `first` on answer; differences beyond half a turn are turns that wrapped, and left out."""
    to = range(first, first + len(channels))
    pairs = [(a[:, channels], s[:, to]) for a, s in zip(sample.actions, sample.states, strict=True) if len(a) > 1]
    if not pairs:
        return Answer(first, 0.0, 0.0, 0.0, 0.0)
    change = np.concatenate([np.diff(s, axis=0) for _, s in pairs])
    kept = (np.abs(change) < np.pi).all(1)
    before, after = (np.concatenate([a[cut] for a, _ in pairs]) for cut in (slice(None, -1), slice(1, None)))
    next_share, last_share = (explained(cause[kept], change[kept]) for cause in (before, after))
    absolute = explained(before, np.concatenate([s[1:] for _, s in pairs]))
    return Answer(first, next_share, last_share, absolute, _slope(pairs, shift=int(last_share > next_share)))


def explained(cause: Float64[np.ndarray, "N D"], effect: Float64[np.ndarray, "N D"]) -> float:
    """Return the share of the effects' variance that the causes explain, each effect by its own cause, linearly.

    Channels are weighted by their variances: a share of 0 where nothing varies.
    """
    if len(cause) < SHORTEST:
        return 0.0
    x, y = cause - cause.mean(0), effect - effect.mean(0)
    xx, yy, xy = (x * x).sum(0), (y * y).sum(0), (x * y).sum(0)
    scale = np.abs(cause).max(0) ** 2 * len(cause)
    varies = xx > 1e-12 * np.maximum(scale, 1e-30)
    if yy.sum() <= 0:
        return 0.0
    return float(np.where(varies, xy**2 / np.where(varies, xx, 1.0), 0.0).sum() / yy.sum())


def _slope(pairs: Sequence[tuple[np.ndarray, np.ndarray]], shift: int) -> float:
    """Return the regression, through 0, of the state's change over some frames on the sum of their actions.

    Args:
        pairs: actions and states.
        shift: 0: an action changes the next state; 1: its own.
    """
    sums: list[np.ndarray] = []
    changes: list[np.ndarray] = []
    for actions, states in pairs:
        steps = min(STEPS, len(states) - 1)
        totals = np.concatenate([np.zeros((1, actions.shape[1])), np.cumsum(actions, axis=0)])
        change = states[steps:] - states[:-steps]
        kept = (np.abs(change) < np.pi).all(1)
        first = np.arange(len(change)) + shift
        sums.append((totals[first + steps] - totals[first])[kept])
        changes.append(change[kept])
    cause, effect = np.concatenate(sums), np.concatenate(changes)
    power = float((cause * cause).sum())
    return float((cause * effect).sum()) / power if power > 0 else 0.0


# ------------------------------------------------------------------------------------------------------------ grippers


@dataclass(frozen=True)
class TwoValued:
    """A channel that stands at one of two values, mostly."""

    low: float
    high: float
    exact: bool  # at no other value, in no frame
    changes: int  # how often it goes from one side of the middle to the other


def two_valued(runs: Sequence[np.ndarray]) -> TwoValued | None:
    """Return what a channel stands at, one array for each episode; None where it moves, or never leaves a value.

    At most a tenth of the frames may lie between the two, and at most one frame in four may change sides.
    """
    values = np.concatenate(runs)
    low, high = float(values.min()), float(values.max())
    if low == high or len(values) < SHORTEST:
        return None
    place = (values - low) / (high - low)
    between = float(((place > NEAR) & (place < 1 - NEAR)).mean())
    changes = sum(int(np.count_nonzero(np.diff((run - low) / (high - low) > 0.5))) for run in runs)
    if between > 0.1 or changes > len(values) / 4:
        return None
    return TwoValued(low, high, bool(np.isin(values, (low, high)).all()), changes)


def levels(sample: Sample, channel: int, value: TwoValued, state: int) -> tuple[float, float]:
    """Return the median size of a state channel a few frames after a gripper was told its lower and its higher value."""
    middle = (value.low + value.high) / 2
    told: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for actions, states in zip(sample.actions, sample.states, strict=True):
        late = np.abs(states[STEPS:, state])
        steady = np.array(
            [np.ptp(actions[t : t + STEPS, channel]) <= NEAR * (value.high - value.low) for t in range(len(late))], bool
        )
        high = actions[: len(late), channel] > middle
        told[0].append(late[steady & ~high])
        told[1].append(late[steady & high])
    low, high = (np.concatenate(parts) for parts in told)
    return (float(np.median(low)) if len(low) else np.nan, float(np.median(high)) if len(high) else np.nan)


# ----------------------------------------------------------------------------------------------------------- rotations


def unit_quaternion(values: Float64[np.ndarray, "N 4"]) -> bool:
    """Tell whether four numbers have length 1 in every frame, and turn."""
    return bool((np.abs(np.linalg.norm(values, axis=1) - 1) < 0.01).all() and np.ptp(values, axis=0).max() > 1e-3)


def rot6d_layout(values: Float64[np.ndarray, "N 6"]) -> str:
    """Return how six numbers hold two orthonormal columns, "rows" or "columns"; "" where they do not."""
    if not np.ptp(values, axis=0).max() > 1e-3:
        return ""
    for layout, x, y in (
        ("rows", values[:, 0::2], values[:, 1::2]),
        ("columns", values[:, :3], values[:, 3:]),
    ):
        lengths = np.stack([np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1)])
        if (np.abs(lengths - 1) < 0.01).all() and (np.abs((x * y).sum(1)) < 0.01).all():
            return layout
    return ""


def largest_norm(values: Float64[np.ndarray, "N D"]) -> float:
    """Return the largest length of the rows."""
    return float(np.linalg.norm(values, axis=1).max())


def wraps(runs: Sequence[np.ndarray]) -> int:
    """Return how often one angle alone jumps by about a whole turn from a frame to the next, as Euler angles do."""
    count = 0
    for run in runs:
        jumps = np.abs(np.diff(run, axis=0))
        count += int(((jumps > 5.5).sum(1) == 1)[(np.sort(jumps, axis=1)[:, -2] < 1.0)].sum()) if len(run) > 1 else 0
    return count
