"""Scaling as OpenVLA does it, and its inverses."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ideomotor.core.errors import UserError
from ideomotor.data.normalize import Bounds, Normal, gripper_from_sign, gripper_to_sign, normalize, unnormalize

# Statistics of `bridge_orig` in openvla-7b (arXiv 2406.09246), and what its action tokens decode to.
Q01 = [
    -0.02872725307941437,
    -0.04170349963009357,
    -0.026093858778476715,
    -0.08092105075716972,
    -0.09288699507713317,
    -0.20718276381492615,
    0.0,
]
Q99 = [
    0.028309678435325586,
    0.040855254605412394,
    0.040161586627364146,
    0.08192047759890528,
    0.07792850524187081,
    0.20382574498653397,
    1.0,
]


@dataclass(frozen=True)
class Statistics:
    min: np.ndarray
    max: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    q01: np.ndarray
    q10: np.ndarray
    q50: np.ndarray
    q90: np.ndarray
    q99: np.ndarray


def statistics_of(rows):
    quantiles = [np.quantile(rows.astype(float), q, axis=0) for q in (0.01, 0.1, 0.5, 0.9, 0.99)]
    return Statistics(rows.min(0), rows.max(0), rows.mean(0), rows.std(0), *quantiles)


@pytest.fixture
def bridge():
    low, high = np.array(Q01), np.array(Q99)
    mask = np.array([True] * 6 + [False])
    return Bounds(low, high, mask, np.full(7, np.nan))


def bin_centre(token_id):
    """Centre of the bin of an OpenVLA action token, by its published formula: 256 edges over [-1, 1], ids from 31999 down."""
    edges = np.linspace(-1, 1, 256)
    return ((edges[:-1] + edges[1:]) / 2)[np.clip(32000 - token_id - 1, 0, 254)]


@pytest.mark.parametrize(
    ("token_id", "expected"),
    [
        (31872, [-0.000208787, -0.000424123, 0.007033864, 0.000499713, -0.007479245, -0.001678509, 0.0]),
        (31999, [-0.028615416, -0.041541620, -0.025963946, -0.080601754, -0.092552063, -0.206376865, -0.996078431]),
        (31744, [0.028197841, 0.040693375, 0.040031674, 0.081601180, 0.077593573, 0.203019846, 0.996078431]),
    ],
)
def test_unnormalize_gives_the_published_actions_of_openvla(bridge, token_id, expected):
    np.testing.assert_allclose(unnormalize(np.full(7, bin_centre(token_id)), bridge), expected, atol=1e-8)


def test_normalize_gives_the_published_tokens_of_openvla(bridge):
    action = np.array([0.01, -0.02, 0, 0.05, 0, 0.1, 1])
    tokens = 32000 - np.digitize(normalize(action, bridge), np.linspace(-1, 1, 256))
    assert tokens.tolist() == [31826, 31932, 31899, 31794, 31861, 31809, 31744]


def test_bounds_clip_and_q99_uses_the_quantiles():
    rows = np.arange(101, dtype=np.float64)[:, None]  # q01 = 1, q99 = 99 by linear interpolation
    extremes, quantiles = Bounds.extremes(statistics_of(rows)), Bounds.quantiles(statistics_of(rows))
    x = np.array([[-10.0], [0.0], [1.0], [50.0], [99.0], [100.0], [200.0]])
    np.testing.assert_allclose(normalize(x, extremes)[:, 0], [-1, -1, -0.98, 0, 0.98, 1, 1], atol=1e-9)
    np.testing.assert_allclose(normalize(x, quantiles)[:, 0], [-1, -1, -1, 0, 1, 1, 1], atol=1e-9)


def test_normal_has_mean_zero_and_deviation_one():
    rows = np.random.default_rng(0).normal([3.0, -1.0], [2.0, 1e-3], (1000, 2))
    scaled = normalize(rows, Normal.moments(statistics_of(rows)))
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(scaled.std(0), 1, atol=2e-5)  # 1e-8 / 1e-3 off, OpenVLA's epsilon


KINDS = [Bounds.extremes, Bounds.quantiles, Normal.moments]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [True, False])
def test_a_constant_column_becomes_zero_and_comes_back_as_its_constant(kind, masked):
    rows = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    rows[:, 1] = 0.3
    scale = kind(statistics_of(rows), np.array([True, masked, True]))
    scaled = normalize(rows, scale)
    assert (scaled[:, 1] == 0).all()
    network_output = scaled.copy()
    network_output[:, 1] = 0.7  # whatever the network says
    assert (unnormalize(network_output, scale)[:, 1] == np.float32(0.3)).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(KINDS))
def test_unnormalize_undoes_normalize_inside_of_the_bounds(seed, kind):
    rng = np.random.default_rng(seed)
    rows = rng.normal(rng.normal(size=4) * 10, rng.uniform(0.01, 10, 4), (200, 4))
    scale = kind(statistics_of(rows), rng.random(4) < 0.7)
    low, high = np.quantile(rows, [0.01, 0.99], axis=0)
    inside = rng.uniform(low, high, (5, 4))
    np.testing.assert_allclose(unnormalize(normalize(inside, scale), scale), inside, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_out_channels_pass_and_the_argument_is_untouched(kind):
    rows = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    scale = kind(statistics_of(rows), np.array([True, False]))
    before = rows.copy()
    scaled = normalize(rows, scale)
    assert (scaled[:, 1] == rows[:, 1]).all()
    assert scaled.dtype == np.float32
    assert (rows == before).all()


@pytest.mark.parametrize(
    ("rest", "event", "events"),
    [
        (1.0, 0.0, 5),  # closed in 0.5 % of 1000 frames: q01 = q99 = 1
        (1.0, 0.0, 10),  # in 1 %: q01 = 0.99, between the two values
        (0.0, 1.0, 11),
        (0.0, -1.0, 90),
        (0.04, 0.0, 3),
        (0.0, 255.0, 1),
    ],
)
def test_rare_events_are_not_scaled_away(rest, event, events):
    rows = np.full((1000, 1), rest, np.float32)
    rows[100 : 100 + events] = event
    scale = Bounds.quantiles(statistics_of(rows))
    assert (float(scale.low[0]), float(scale.high[0])) == (np.float32(min(rest, event)), np.float32(max(rest, event)))
    scaled = normalize(rows, scale)
    assert set(np.round(scaled[:, 0], 5).tolist()) == {-1.0, 1.0}
    np.testing.assert_allclose(unnormalize(scaled, scale), rows, atol=1e-6 * abs(event - rest))


def test_events_on_one_side_leave_the_other_side_to_its_quantile():
    rows = np.concatenate([np.zeros(700), np.linspace(0.01, 1.0, 295), np.full(5, -2.0)])[:, None]  # rests in 70 %
    found = statistics_of(rows)
    scale = Bounds.quantiles(found)
    assert scale.low[0] == -2.0
    assert scale.high[0] == found.q99[0] < 1.0


def test_a_gripper_that_moves_all_the_time_is_whole_where_it_is_said():
    rows = np.random.default_rng(0).beta(0.5, 0.5, (500, 2))
    rows[0] = (-3.0, -3.0)
    found = statistics_of(rows)
    scale = Bounds.quantiles(found, whole=np.array([False, True]))
    assert scale.low.tolist() == [found.q01[0], -3.0]
    assert scale.high.tolist() == [found.q99[0], found.max[1]]
    back = unnormalize(normalize(rows, scale), scale)
    np.testing.assert_allclose(back[:, 1], rows[:, 1], atol=1e-6)
    assert np.abs(back[:, 0] - rows[:, 0]).max() > 1  # the outlier of the other channel was cut off


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.floats(0.0, 0.09),
    st.sampled_from([(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (0.08, 0.0), (0.0, -0.5)]),
    st.booleans(),
)
def test_no_value_of_a_channel_at_rest_is_lost(seed, share, values, continuous):
    """A value that stands still, and events of any size in up to 9 % of the frames: all of them survive both directions."""
    rng = np.random.default_rng(seed)
    rest, event = values
    rows = np.full((rng.integers(20, 3000), 1), rest, np.float32)
    chosen = rng.random(len(rows)) < share
    rows[chosen, 0] = rest + (event - rest) * (rng.random(chosen.sum()) if continuous else 1.0)
    scale = Bounds.quantiles(statistics_of(rows))
    np.testing.assert_allclose(unnormalize(normalize(rows, scale), scale), rows, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_channels_without_events_are_scaled_by_their_quantiles_as_before(seed):
    rng = np.random.default_rng(seed)
    found = statistics_of(rng.normal(size=(300, 3)) * rng.uniform(0.01, 10, 3))
    scale = Bounds.quantiles(found)
    assert (scale.low == found.q01).all()
    assert (scale.high == found.q99).all()


def test_a_gripper_maps_by_its_specification():
    values = np.array([0.0, 0.5, 1.0], np.float32)
    assert gripper_to_sign(values, closed=0.0, open_=1.0).tolist() == [-1, 0, 1]
    assert gripper_to_sign(values, closed=1.0, open_=0.0).tolist() == [1, 0, -1]
    for closed, open_ in ((0.0, 1.0), (1.0, -1.0), (0.08, 0.0)):
        back = gripper_from_sign(gripper_to_sign(values, closed, open_), closed, open_)
        np.testing.assert_allclose(back, values, atol=1e-6)


def test_values_of_another_width_are_refused(bridge):
    with pytest.raises(UserError, match="width 6 meet statistics of width 7"):
        normalize(np.zeros(6), bridge)
