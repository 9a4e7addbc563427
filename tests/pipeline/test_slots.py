"""Raw observations to network input and network output to raw actions."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Camera, Channel, ChunkLength, Embodiment, Gripper, Normalization
from ideomotor.core.types import Observation
from ideomotor.data.statistics import Statistics, summarize
from ideomotor.data.windows import Window
from ideomotor.pipeline.protocol import PolicyPipeline
from ideomotor.pipeline.slots import FILES, LOCATION, Pipeline, PipelineConfig
from ideomotor.tokenize.prompt import OpenVLA
from ideomotor.tokenize.text import TextTokenizer

SIZE, T = 8, 2
BODY = Embodiment(
    name="body",
    robot="arm",
    rate_hz=10.0,
    action=(
        Channel("dx", "m", mode="delta", low=-0.05, high=0.05),
        Channel("dy", "m", mode="delta"),
        Channel("rz", "rad", mode="delta", low=-0.3, high=0.3),  # constant in the data
        Channel("gripper", "fraction", low=0.0, high=1.0),
    ),
    state=(Channel("x", "m"), Channel("y", "m"), Channel("fixed", "1")),
    cameras=(Camera("front", SIZE, SIZE), Camera("wrist", SIZE, SIZE)),
    gripper=Gripper("gripper", open=1.0, closed=0.0, threshold=0.5),
)
CONFIG = PipelineConfig(
    cameras=("wrist", "front"),
    image_size=SIZE,
    text_length=8,
    state_width=5,
    action_width=6,
    chunk=ChunkLength(T, 1),
    answers=(LOCATION,),
    tasks=("pick",),
)


def action_rows(count: int = 400):
    rng = np.random.default_rng(0)
    rows = rng.normal(0, [0.02, 0.5, 0.0, 0.0], (count, 4))
    rows[:, 0] = np.clip(rows[:, 0], -0.05, 0.05)
    rows[:, 2] = 0.125
    rows[:, 3] = rng.random(count) < 0.9  # 90 % open
    return rows


def state_rows(count: int = 400):
    rows = np.random.default_rng(1).uniform([-1, 2, 7], [1, 4, 7], (count, 3))
    rows[0], rows[1] = (-1, 2, 7), (1, 4, 7)  # exact extremes
    return rows


STATISTICS = Statistics({"action": summarize(action_rows()), "observation.state": summarize(state_rows())})


def build(config: PipelineConfig = CONFIG, body: Embodiment = BODY, statistics: Statistics = STATISTICS):
    return Pipeline(config, body, statistics, TextTokenizer.shipped())


def images(seed: int = 0):
    rng = np.random.default_rng(seed)
    return {role: rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for role in ("front", "wrist", "third")}


def observation(state: tuple[float, ...] = (0.0, 3.0, 7.0), pictures: dict[str, np.ndarray] | None = None):
    return Observation(1.0, images() if pictures is None else pictures, np.array(state, float))


def window(
    actions: np.ndarray | None = None,
    labels: dict[str, np.ndarray] | None = None,
    pad: tuple[bool, ...] = (False, False),
    **changes: Any,
):
    actions = action_rows()[:T] if actions is None else actions
    labels = {} if labels is None else labels
    base = Window(
        images(),
        np.array([0, 3, 7], np.float32),
        "Pick up the red cube",
        actions.astype(np.float32),
        np.array(pad),
        labels,
    )
    return replace(base, **changes)


def test_it_keeps_the_protocol():
    assert isinstance(build(), PolicyPipeline)
    assert build().tasks == ("pick",)


def test_actions_come_back_per_channel_and_constants_as_their_constant():
    pipeline = build()
    low, high = np.quantile(action_rows()[:, :2], [0.01, 0.99], axis=0)
    raw = np.zeros((50, T, 4))
    raw[..., :2] = np.random.default_rng(2).uniform(low, high, (50, T, 2))
    raw[..., 2] = 0.125
    raw[..., 3] = np.random.default_rng(3).integers(0, 2, (50, T))
    coordinates = pipeline.actions_to_network(raw)
    assert coordinates.dtype == np.float32
    assert coordinates.shape == (50, T, 6)
    assert np.abs(coordinates).max() <= 1
    assert (coordinates[..., 2] == 0).all()
    assert (coordinates[..., 4:] == 0).all()
    np.testing.assert_allclose(pipeline.decode(coordinates), raw, rtol=0, atol=1e-6)
    coordinates[..., 2] = 0.9  # whatever the network says of a constant channel
    np.testing.assert_allclose(pipeline.decode(coordinates)[..., 2], 0.125, rtol=0, atol=1e-12)


def test_scaling_is_affine_between_the_quantiles_of_numpy():
    low, high = np.quantile(action_rows(), [0.01, 0.99], axis=0)
    x = np.array([[low[0], (low[1] + high[1]) / 2, 0.125, 1.0], [high[0], high[1] + 1, 0.125, 0.0]])
    scaled = build().actions_to_network(x)
    np.testing.assert_allclose(scaled[0, :4], [-1, 0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(scaled[1, :4], [1, 1, 0, -1], atol=1e-6)


def test_a_gripper_passes_by_its_specification_and_not_by_quantiles():
    """90 % open: its 1 % and 99 % quantiles are 0 and 1 here, and 1 and 1 in data of open grippers; neither matters."""
    pipeline = build()
    coordinates = pipeline.actions_to_network(np.array([[0.0, 0.0, 0.125, g] for g in (0.0, 0.25, 1.0)]))
    np.testing.assert_allclose(coordinates[:, 3], [-1, -0.5, 1])
    rows = action_rows()
    rows[:, 3] = 1.0
    always_open = Statistics({**STATISTICS.columns, "action": summarize(rows)})
    np.testing.assert_allclose(
        build(statistics=always_open).actions_to_network(np.array([[0.0, 0.0, 0.125, g] for g in (0.0, 1.0)]))[:, 3],
        [-1, 1],
    )


def test_a_gripper_of_flipped_polarity_means_the_same_to_the_network():
    """This one opens at -1 and closes at 1."""
    channels = (*BODY.action[:3], Channel("gripper", "fraction", low=-1.0, high=1.0))
    flipped = replace(BODY, action=channels, gripper=Gripper("gripper", open=-1.0, closed=1.0, threshold=0.0))
    pipeline = build(body=flipped)
    raw = np.array([[0.01, 0.1, 0.125, -1.0], [0.01, 0.1, 0.125, 1.0]])
    coordinates = pipeline.actions_to_network(raw)
    np.testing.assert_allclose(coordinates[:, 3], [1, -1])  # open is 1 in every body
    np.testing.assert_allclose(pipeline.decode(coordinates), raw, atol=1e-6)


def test_decoded_actions_stay_in_the_ranges_of_their_channels():
    wide = action_rows()
    wide[:, 0] *= 3
    pipeline = build(statistics=Statistics({**STATISTICS.columns, "action": summarize(wide)}))
    raw = pipeline.decode(np.array([[5.0, 1.0, 0.0, 3.0, 0, 0], [-5.0, 1.0, 0.0, -3.0, 0, 0]]))
    assert raw[:, 0].tolist() == [0.05, -0.05]
    assert raw[:, 3].tolist() == [1.0, 0.0]
    assert raw[0, 1] == pytest.approx(np.quantile(wide[:, 1], 0.99))  # no range stated: not clipped


@pytest.mark.parametrize("kind", ["bounds", "bounds_q99", "normal"])
def test_every_normalization_has_its_inverse(kind: Literal["bounds", "bounds_q99", "normal"]):
    pipeline = build(replace(CONFIG, normalization=kind))
    raw = np.array([[0.01, 0.2, 0.125, 1.0]])
    np.testing.assert_allclose(pipeline.decode(pipeline.actions_to_network(raw)), raw, atol=1e-6)
    assert pipeline.embodiment.normalization == Normalization(kind, STATISTICS.hash)


def test_a_state_is_scaled_by_its_extremes_and_padded():
    arrays = build().encode_observations([observation((-1, 3, 7)), observation((0.5, 4, 7))], ["lift", "take"])
    np.testing.assert_allclose(arrays["state"], [[-1, 0, 0, 0, 0], [0.5, 1, 0, 0, 0]], atol=1e-6)
    assert arrays["state_mask"].tolist() == [[True] * 3 + [False] * 2] * 2
    assert arrays["state"].dtype == np.float32


def test_images_stand_in_the_networks_order():
    pictures = images()
    arrays = build().encode_observations([observation(pictures=pictures)], ["lift"])
    assert arrays["images"].shape == (1, 2, SIZE, SIZE, 3)
    np.testing.assert_array_equal(arrays["images"][0, 0], pictures["wrist"])
    np.testing.assert_array_equal(arrays["images"][0, 1], pictures["front"])


def test_text_goes_through_the_prompt():
    text = TextTokenizer.shipped()
    arrays = build().encode_observations([observation()], [" LIFT  the bar "])
    np.testing.assert_array_equal(arrays["text"][0], text.encode(["lift the bar"], 8)[0][0])
    long = build(replace(CONFIG, prompt=OpenVLA(), text_length=64))
    ids = long.encode_observations([observation()], ["Lift"])
    shown = text.decode(ids["text"][0][ids["text_mask"][0]].tolist())
    assert shown == "In: What action should the robot take to lift?\nOut:"


def test_training_and_the_robot_see_the_same_input():
    pipeline = build()
    train = pipeline.encode([window()])
    robot = pipeline.encode_observations([observation()], ["Pick up the red cube"])
    assert set(robot) == {"images", "state", "state_mask", "text", "text_mask"}
    for name, array in robot.items():
        np.testing.assert_array_equal(array, train[name])
        assert array.dtype == train[name].dtype


def test_padding_and_channels_that_never_change_are_not_learned():
    arrays = build().encode([window(), window(pad=(False, True))])
    varying = [True, True, False, True, False, False]
    assert arrays["actions_mask"].tolist() == [[varying, varying], [varying, [False] * 6]]
    np.testing.assert_array_equal(
        arrays["actions"][0], build().actions_to_network(action_rows()[:T].astype(np.float32))
    )


def test_answers_are_mapped_linearly_and_masked():
    labels = {
        "label.location": np.array([0.25, 0.35, 0.5, 0.0, 1.0, -0.5], np.float32),
        "label.location_valid": np.array([1, 1, 0, 0, 1, 1], np.float32),
        "label.front.class": np.arange(4),
    }
    arrays = build().encode([window(labels=labels)])
    # x: [0.25, 0.75] -> [-1, 1], y: [-0.35, 0.35] -> [-1, 1], cos and sin as they are
    np.testing.assert_allclose(arrays["answers.location"], [[-1, 1, 0, 0, 1, -0.5]], atol=1e-6)
    assert arrays["answers_mask.location"].tolist() == [[True, True, False, False, True, True]]
    assert arrays["label.front.class"].tolist() == [[0, 1, 2, 3]]
    far = {**labels, "label.location": np.full(6, 9.0, np.float32)}
    np.testing.assert_allclose(build().encode([window(labels=far)])["answers.location"], np.ones((1, 6)))
    assert not any(name.startswith("answers") for name in build().encode([window()]))


def test_a_batch_without_images_is_for_stored_features():
    assert "images" not in build().encode([window(images={})])


def test_saved_and_loaded_it_does_the_same_in_the_same_bytes(tmp_path: Path):
    pipeline = build()
    pipeline.save(tmp_path / "first")
    loaded = Pipeline.load(tmp_path / "first")
    assert loaded.config == CONFIG
    assert loaded.embodiment == pipeline.embodiment
    assert loaded.embodiment.chunk == ChunkLength(T, 1)
    assert loaded.embodiment.normalization == Normalization("bounds_q99", STATISTICS.hash)
    for name, array in pipeline.encode([window()]).items():
        np.testing.assert_array_equal(loaded.encode([window()])[name], array)
    chunk = np.random.default_rng(5).uniform(-1, 1, (3, T, 6))
    np.testing.assert_array_equal(loaded.decode(chunk), pipeline.decode(chunk))
    loaded.save(tmp_path / "second")
    assert sorted(FILES) == sorted(path.name for path in (tmp_path / "first").iterdir())
    for name in FILES:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", FILES)
def test_a_folder_without_one_of_its_files_does_not_load(tmp_path: Path, name: str):
    build().save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"lacks {name}; weights without their pipeline mean nothing"):
        Pipeline.load(tmp_path)


@pytest.mark.parametrize("content", [b"{", bytes(range(255, 100, -1))])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes):
    build().save(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        Pipeline.load(tmp_path)


def test_another_format_or_an_unknown_field_is_refused(tmp_path: Path):
    build().save(tmp_path)
    path = tmp_path / "pipeline.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "format": 2}))
    with pytest.raises(UserError, match="format 1"):
        Pipeline.load(tmp_path)
    path.write_text(json.dumps({**value, "crop": 3}))
    with pytest.raises(UserError, match=r"unknown fields \['crop'\]"):
        Pipeline.load(tmp_path)


def test_changed_statistics_are_refused(tmp_path: Path):
    build().save(tmp_path)
    path = tmp_path / "statistics.json"
    value = json.loads(path.read_text())
    value["action"]["q99"][0] *= 2
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"statistics\.json is not what embodiment\.json names"):
        Pipeline.load(tmp_path)


def test_statistics_of_another_body_are_refused():
    other = Statistics({**STATISTICS.columns, "action": summarize(action_rows()[:, :3])})
    with pytest.raises(UserError, match=r"'action' describe 3 numbers, the body has 4"):
        build(statistics=other)
    with pytest.raises(UserError, match="statistics of column"):
        build(statistics=Statistics({"action": STATISTICS["action"]}))


def test_a_camera_that_the_body_does_not_have_is_refused():
    with pytest.raises(UserError, match=r"unknown camera of body 'rear'; known: front, wrist"):
        build(replace(CONFIG, cameras=("front", "rear")))


@pytest.mark.parametrize("field", ["state_width", "action_width"])
def test_a_body_too_wide_for_the_network_is_refused(field: str):
    with pytest.raises(UserError, match=r"the network takes 2; choose a wider preset"):
        build(replace(CONFIG, **{field: 2}))


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ({"front": np.zeros((SIZE, SIZE, 3), np.uint8)}, r"unknown camera in this observation 'wrist'; known: front"),
        ({}, r"unknown camera in this observation 'wrist'; known: none"),
        (
            {"wrist": np.zeros((SIZE, 9, 3), np.uint8)},
            r"camera 'wrist' gives \(8, 9, 3\); the policy wants \(8, 8, 3\)",
        ),
    ],
)
def test_a_missing_camera_and_a_wrong_size_are_refused(pictures: dict[str, np.ndarray] | None, message: str):
    with pytest.raises(UserError, match=message):
        build().encode_observations([observation(pictures=pictures)], ["lift"])


def test_pixels_of_another_type_are_refused():
    wrong = {"wrist": np.zeros((SIZE, SIZE, 3), np.float32), "front": np.zeros((SIZE, SIZE, 3), np.uint8)}
    unchecked = object.__new__(Observation)  # the shape checker of the tests would stop it before
    for name, value in {"time": 0.0, "images": wrong, "state": np.array([0.0, 3.0, 7.0])}.items():
        object.__setattr__(unchecked, name, value)
    with pytest.raises(UserError, match=r"camera 'wrist' gives float32; the policy wants uint8"):
        build().encode_observations([unchecked], ["lift"])


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_both_ways(wrong: float):
    pipeline = build()
    with pytest.raises(UserError, match=r"state \(0, 1\) is (nan|inf), not a finite number"):
        pipeline.encode_observations([observation((0.0, wrong, 7.0))], ["lift"])
    actions = action_rows()[:T]
    actions[1, 3] = wrong
    with pytest.raises(UserError, match=r"action \(0, 1, 3\) is (nan|inf)"):
        pipeline.encode([window(actions=actions)])
    with pytest.raises(UserError, match=r"network output \(0, 2\) is (nan|inf)"):
        pipeline.decode(np.array([[0.0, 0.0, wrong, 0.0, 0.0, 0.0]]))


def test_other_widths_are_refused():
    pipeline = build()
    with pytest.raises(UserError, match=r"an action has 3 numbers; this policy's has 4"):
        pipeline.actions_to_network(np.zeros((T, 3)))
    with pytest.raises(UserError, match="network output has 4 numbers; this policy's has 6"):
        pipeline.decode(np.zeros((T, 4)))
    with pytest.raises(UserError, match="width 2 meet statistics of width 3"):
        pipeline.encode_observations([observation((0.0, 3.0))], ["lift"])


def test_labels_without_their_validity_are_refused():
    labels = {"label.location": np.zeros(6, np.float32)}
    with pytest.raises(UserError, match=r"unknown label column 'label\.location_valid'"):
        build().encode([window(labels=labels)])


def test_an_instruction_too_long_is_refused():
    with pytest.raises(UserError, match="this network reads 8; say it shorter"):
        build().encode_observations([observation()], ["pick up the red cube and put it on the blue plate"])
