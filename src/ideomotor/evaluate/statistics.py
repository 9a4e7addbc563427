"""Exact statistics of success counts: intervals, paired differences, paired tests.

Source of the test values: Brown, Cai and DasGupta 2001 (intervals), Bonett and Price 2012 (paired difference), McNemar 1947.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from scipy import stats

LEVEL = 0.95  # two-sided confidence level of every printed interval


class Interval(NamedTuple):
    """Two ends of a confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """A difference of two success rates on the same seeds."""

    difference: float  # rate of the first arm minus rate of the second
    interval: Interval
    first_only: int  # pairs in which the first arm alone succeeded
    second_only: int
    pairs: int
    p_value: float  # exact McNemar, two-sided


def clopper_pearson(successes: int, trials: int, level: float = LEVEL) -> Interval:
    """Return the exact binomial interval: it covers the true rate in at least `level` of all experiments.

    >>> [round(end, 4) for end in clopper_pearson(8, 10)]
    [0.4439, 0.9748]
    """
    _check_count(successes, trials)
    tail = (1.0 - level) / 2.0
    low = 0.0 if successes == 0 else float(_beta().ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(_beta().ppf(1.0 - tail, successes + 1, trials - successes))
    return Interval(low, high)


def bonett_price(first_only: int, second_only: int, pairs: int, level: float = LEVEL) -> Interval:
    """Return the interval of p1 - p2 from the discordant pairs.

    With p = (b + 1) / (n + 2), q = (c + 1) / (n + 2): p - q ± z √((p + q - (p - q)²) / (n + 2)).

    >>> [round(end, 3) for end in bonett_price(12, 3, 50)]
    [0.025, 0.321]
    """
    _check_count(first_only + second_only, pairs)
    z = float(stats.norm.ppf(1.0 - (1.0 - level) / 2.0))
    p, q = (first_only + 1) / (pairs + 2), (second_only + 1) / (pairs + 2)
    half = z * ((p + q - (p - q) ** 2) / (pairs + 2)) ** 0.5
    return Interval(max(p - q - half, -1.0), min(p - q + half, 1.0))


def mcnemar_exact(first_only: int, second_only: int) -> float:
    """Return the two-sided p-value of "both arms succeed equally often": min(1, 2 P[Bin(b + c, ½) <= min(b, c)]).

    >>> round(mcnemar_exact(3, 12), 6)
    0.035156
    """
    return min(1.0, 2.0 * float(stats.binom.cdf(min(first_only, second_only), first_only + second_only, 0.5)))


def paired_difference(first: list[bool], second: list[bool], level: float = LEVEL) -> PairedDifference:
    """Compare two arms that ran on the same seeds, given in the same order."""
    assert len(first) == len(second), "pairs need two arms of one length"
    first_only = sum(a and not b for a, b in zip(first, second, strict=True))
    second_only = sum(b and not a for a, b in zip(first, second, strict=True))
    pairs = len(first)
    return PairedDifference(
        difference=(first_only - second_only) / pairs if pairs else 0.0,
        interval=bonett_price(first_only, second_only, pairs, level),
        first_only=first_only,
        second_only=second_only,
        pairs=pairs,
        p_value=mcnemar_exact(first_only, second_only),
    )


def _beta() -> Any:
    return stats.beta


def _check_count(count: int, trials: int) -> None:
    if not 0 <= count <= trials:
        raise ValueError(f"{count} of {trials} is no count; it should lie between 0 and the number of trials")
