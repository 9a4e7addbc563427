import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ideomotor.evaluate.statistics import bonett_price, clopper_pearson, mcnemar_exact, paired_difference


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # a published table of exact intervals
        (0, 10, 0.0000, 0.3085),
        (8, 10, 0.4439, 0.9748),
        (16, 20, 0.5634, 0.9427),
        (40, 50, 0.6628, 0.8997),
        (90, 100, 0.8238, 0.9510),
        (475, 500, 0.9271, 0.9674),
        (1900, 2000, 0.9395, 0.9591),
    ],
)
def test_exact_interval_has_the_published_ends(successes, trials, low, high):
    assert clopper_pearson(successes, trials) == pytest.approx((low, high), abs=5.1e-5)


@pytest.mark.parametrize(("trials", "bound"), [(29, 0.90), (59, 0.95), (299, 0.99)])
def test_zero_failures_needed_for_a_one_sided_bound(trials, bound):
    assert clopper_pearson(trials, trials, level=0.90).low >= bound  # one-sided 95 % is two-sided 90 %
    assert clopper_pearson(trials - 1, trials - 1, level=0.90).low < bound


@given(st.integers(1, 400), st.data())
def test_exact_interval_is_that_of_scipy_s_own_test(trials, data):
    successes = data.draw(st.integers(0, trials))
    reference = stats.binomtest(successes, trials).proportion_ci(0.95, "exact")
    assert clopper_pearson(successes, trials) == pytest.approx((reference.low, reference.high), abs=1e-9)


def test_exact_interval_covers_a_rate_of_95_percent_as_often_as_published():
    covered = [clopper_pearson(k, 20).low <= 0.95 <= clopper_pearson(k, 20).high for k in range(21)]
    coverage = sum(stats.binom.pmf(k, 20, 0.95) for k in range(21) if covered[k])
    assert coverage == pytest.approx(0.984, abs=5e-4)


def test_paired_interval_has_the_published_ends():
    assert bonett_price(12, 3, 50) == pytest.approx((0.025, 0.321), abs=5e-4)


@pytest.mark.parametrize(
    ("b", "c", "p"), [(3, 12, 0.035156), (1, 9, 0.021484), (0, 6, 0.03125), (0, 5, 0.0625), (5, 15, 0.041389)]
)
def test_mcnemar_has_the_published_p_values(b, c, p):
    assert mcnemar_exact(b, c) == pytest.approx(p, abs=5e-7)
    assert mcnemar_exact(c, b) == mcnemar_exact(b, c)


def test_no_discordant_pair_is_no_evidence():
    assert mcnemar_exact(0, 0) == 1.0


def test_paired_difference_counts_the_discordant_pairs():
    first = [True] * 12 + [False] * 3 + [True] * 20 + [False] * 15
    second = [False] * 12 + [True] * 3 + [True] * 20 + [False] * 15
    paired = paired_difference(first, second)
    assert (paired.first_only, paired.second_only, paired.pairs) == (12, 3, 50)
    assert paired.difference == pytest.approx(0.18)
    assert paired.interval == pytest.approx((0.025, 0.321), abs=5e-4)
    assert paired.p_value == pytest.approx(0.035156, abs=5e-7)


def test_more_successes_than_trials_are_refused():
    with pytest.raises(ValueError, match="11 of 10"):
        clopper_pearson(11, 10)
