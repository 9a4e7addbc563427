"""Action tokens against the published table of OpenVLA, outputs of its reference code, and numpy."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ideomotor.core.errors import UserError
from ideomotor.data.normalize import Bounds, normalize, unnormalize
from ideomotor.tokenize.bins import QuantileBins, UniformBins

# arXiv 2406.09246: value, id, decoded
TABLE = [
    (-1.0, 31999, -0.996078),
    (-1.5, 31999, -0.996078),
    (-0.999, 31999, -0.996078),
    (-0.5, 31936, -0.501961),
    (-0.0039215, 31872, 0.0),
    (0.0, 31872, 0.0),
    (0.99, 31746, 0.988235),
    (0.0039216, 31871, 0.007843),
    (0.25, 31840, 0.250980),
    (0.5, 31808, 0.501961),
    (0.9999, 31745, 0.996078),
    (1.0, 31744, 0.996078),
    (1.5, 31744, 0.996078),
]


def reference_ids(x: np.ndarray, vocabulary: int = 32000):
    """The reference's two lines (prismatic/vla/action_tokenizer.py)."""
    return vocabulary - np.digitize(np.clip(x, -1, 1), np.linspace(-1, 1, 256))


@pytest.mark.parametrize(("value", "token_id", "decoded"), TABLE)
def test_the_published_table_holds(value: float, token_id: int, decoded: float):
    ids = UniformBins().encode(np.array([value]))
    assert ids.tolist() == [token_id]
    assert UniformBins().decode(ids)[0] == pytest.approx(decoded, abs=5e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_edge_and_its_neighbours_take_the_bin_that_digitize_gives(dtype: type[np.floating]):
    edges = np.linspace(-1, 1, 256).astype(dtype)
    around = [edges]
    for limit in (-9, 9):
        x = edges
        for _ in range(3):
            x = np.nextafter(x, dtype(limit))
            around.append(x)
    x = np.concatenate(around)
    np.testing.assert_array_equal(UniformBins().encode(x), reference_ids(x))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_ten_thousand_values_take_the_bin_that_digitize_gives(dtype: type[np.floating]):
    x = np.random.default_rng(0).uniform(-1.2, 1.2, (5, 2000)).astype(dtype)
    np.testing.assert_array_equal(UniformBins().encode(x), reference_ids(x))


def test_more_values_than_a_block_keep_their_order_and_shape():
    x = np.random.default_rng(1).uniform(-1, 1, (3, 7, 5000))[:, ::2]
    np.testing.assert_array_equal(UniformBins(512).encode(x), reference_ids(x, 512))
    assert UniformBins().encode(np.zeros((0, 7))).shape == (0, 7)


@pytest.mark.parametrize("kind", ["float64", "float32"])
def test_the_reference_code_gives_the_same_ids_and_centres(fixtures: Path, kind: str):
    golden = np.load(fixtures / "openvla-parity-a" / "action_tokenizer.npz")
    values = golden[f"{kind}.values"]  # edges, neighbours, centres, -0, denormals, in float64 infinities
    ids = UniformBins().encode_unchecked(values)
    finite = np.isfinite(values)
    np.testing.assert_array_equal(UniformBins().encode(values[finite]), golden[f"{kind}.ids"][finite])
    np.testing.assert_array_equal(ids, golden[f"{kind}.ids"])
    np.testing.assert_allclose(UniformBins().decode(ids), golden[f"{kind}.decoded"], rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_reference_takes_nan_for_the_highest_action_and_so_does_the_unchecked_encoder(fixtures: Path, dtype: type):
    golden = np.load(fixtures / "openvla-parity-a" / "action_tokenizer.npz")
    x = np.array([np.nan, 0.0, np.inf, -np.inf, np.nan], dtype)
    ids = UniformBins().encode_unchecked(x)
    np.testing.assert_array_equal(ids, reference_ids(x))
    np.testing.assert_array_equal(ids[:1], golden["nan.ids"])
    assert np.isnan(x[0])  # the argument is untouched


def test_edges_centres_and_border_are_the_reference_ones(fixtures: Path):
    golden = np.load(fixtures / "openvla-parity-a" / "action_tokenizer.npz")
    bins = UniformBins()
    np.testing.assert_allclose(bins.edges, golden["bin_edges"], rtol=0, atol=1e-15)
    np.testing.assert_allclose(bins.decode(31999 - np.arange(255)), golden["bin_centers"], rtol=0, atol=1e-15)
    assert bins.border == golden["action_token_begin_idx"]
    assert bins.encode(np.array([1.0])) == bins.border + 1


def test_ids_that_are_no_actions_decode_as_in_the_reference(fixtures: Path):
    golden = np.load(fixtures / "openvla-parity-a" / "action_tokenizer.npz")
    decoded = UniformBins().decode(golden["decode_any.ids"])
    np.testing.assert_allclose(decoded, golden["decode_any.values"], rtol=0, atol=1e-15)
    np.testing.assert_allclose(UniformBins().decode(np.array([2, 29871, 31744])), 0.996078, atol=5e-7)
    np.testing.assert_allclose(UniformBins().decode(np.array([32000, 32063])), -0.996078, atol=5e-7)


def test_a_batch_through_text_gives_the_same_ids(fixtures: Path):
    """The reference writes ids as characters and tokenizes these again; the file holds what that gave."""
    folder = fixtures / "openvla-parity-a"
    golden = np.load(folder / "action_tokenizer.npz")
    texts = json.loads((folder / "action_tokenizer_text.json").read_text(encoding="utf-8"))["batch_text"]
    ids = UniformBins().encode(golden["batch.values"])
    np.testing.assert_array_equal(ids, golden["batch.ids"])
    assert [len(text) for text in texts] == [ids.shape[1]] * len(ids)  # one character an action number


def test_nothing_decodes_further_than_half_a_bin_away():
    x = np.random.default_rng(2).uniform(-1, 1, 10_000)
    assert np.abs(UniformBins().decode(UniformBins().encode(x)) - x).max() <= 1 / 255 + 1e-12


Q01 = (
    -0.02872725307941437,
    -0.04170349963009357,
    -0.026093858778476715,
    -0.08092105075716972,
    -0.09288699507713317,
    -0.20718276381492615,
    0.0,
)
Q99 = (
    0.028309678435325586,
    0.040855254605412394,
    0.040161586627364146,
    0.08192047759890528,
    0.07792850524187081,
    0.20382574498653397,
    1.0,
)
BRIDGE = Bounds(np.array(Q01), np.array(Q99), np.array([True] * 6 + [False]), np.full(7, np.nan))


def test_scaling_and_bins_give_the_published_row_of_bridge():
    x = np.array([0.01, -0.02, 0, 0.05, 0, 0.1, 1])
    ids = UniformBins().encode(normalize(x, BRIDGE))
    assert ids.tolist() == [31826, 31932, 31899, 31794, 31861, 31809, 31744]
    expected = [0.01008023, -0.01984971, 0.00001858, 0.05031006, -0.00011073, 0.09986477, 0.99607843]
    np.testing.assert_allclose(unnormalize(UniformBins().decode(ids), BRIDGE), expected, atol=5e-9)


@pytest.mark.parametrize(
    ("token_id", "expected"),
    [
        (31872, [-0.000208787, -0.000424123, 0.007033864, 0.000499713, -0.007479245, -0.001678509, 0.0]),
        (31999, [-0.028615416, -0.041541620, -0.025963946, -0.080601754, -0.092552063, -0.206376865, -0.996078431]),
        (31744, [0.028197841, 0.040693375, 0.040031674, 0.081601180, 0.077593573, 0.203019846, 0.996078431]),
    ],
)
def test_equal_ids_give_the_published_actions_of_bridge(token_id: int, expected: list[float]):
    np.testing.assert_allclose(unnormalize(UniformBins().decode(np.full(7, token_id)), BRIDGE), expected, atol=5e-9)


@pytest.mark.parametrize("bins", [UniformBins(), QuantileBins((-1.0, 0.0, 1.0))])
@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_a_value_that_is_no_number_is_refused_with_its_place(bins: UniformBins | QuantileBins, value: float, name: str):
    x = np.zeros((2, 3))
    x[1, 2] = value
    with pytest.raises(UserError, match=rf"\(1, 2\) is {name}.*ideomotor data check"):
        bins.encode(x)
    assert bins.encode(x[:0]).shape == (0, 3)


def test_quantile_bins_by_hand():
    bins = QuantileBins.fit(np.array([0.0, 1.0, 2.0, 4.0, 100.0]), bins=2, vocabulary=10)
    assert bins.edges == (0.0, 2.0, 100.0)  # the median splits them
    assert bins.encode(np.array([-5.0, 0.0, 1.99, 2.0, 50.0, 1e9])).tolist() == [9, 9, 9, 8, 8, 8]
    assert bins.decode(np.array([9, 8])).tolist() == [1.0, 51.0]
    assert bins.decode(np.array([11, 0])).tolist() == [1.0, 51.0]  # ids beyond the range take the end bins


def test_quantile_edges_are_the_quantiles_of_numpy():
    values = np.random.default_rng(3).standard_normal(5000).astype(np.float32)
    edges = QuantileBins.fit(values, bins=16).edges
    np.testing.assert_allclose(edges, np.quantile(values.astype(float), np.arange(17) / 16), rtol=0, atol=1e-12)


def test_quantile_bins_hold_equally_many_training_values():
    values = np.random.default_rng(4).standard_cauchy(25_600)
    ids = QuantileBins.fit(values).encode(values)
    counts = np.bincount(32000 - 1 - ids)
    assert len(counts) == 256
    assert counts.min() >= 99
    assert counts.max() <= 101


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_a_quantile_bin_holds_what_it_decodes_to(seed: int):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=300) ** 3
    bins = QuantileBins.fit(values, bins=32)
    ids = bins.encode(values)
    np.testing.assert_array_equal(bins.encode(bins.decode(ids)), ids)
    width = np.diff(bins.edges)[32000 - 1 - ids]
    assert (np.abs(bins.decode(ids) - values) <= width / 2 + 1e-12).all()


def test_values_that_repeat_join_their_bins():
    bins = QuantileBins.fit(np.array([0.0] * 90 + [1.0] * 10), bins=4)
    assert list(bins.edges) == sorted(set(bins.edges))
    assert bins.edges[0] == 0.0
    assert bins.edges[-1] == 1.0


def test_a_constant_channel_and_infinities_have_no_quantile_bins():
    with pytest.raises(UserError, match="constant"):
        QuantileBins.fit(np.full(10, 0.3))
    for wrong in (np.nan, np.inf):
        with pytest.raises(UserError, match="finite"):
            QuantileBins.fit(np.array([0.0, 1.0, wrong]))
