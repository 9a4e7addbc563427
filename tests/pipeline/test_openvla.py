"""OpenVLA's pipeline: sequences, pictures and states as the reference makes them, raw actions from what a network gives."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ideomotor.core.errors import UsageError, UserError
from ideomotor.core.spec import Camera, Channel, ChunkLength, Embodiment, Gripper, Normalization
from ideomotor.core.types import Observation
from ideomotor.data.norm_stats import NormStatistics
from ideomotor.data.resize import Direct, Evaluation, Letterbox, Naive, ResizeCrop, Trained, arrive
from ideomotor.data.statistics import Statistics, summarize
from ideomotor.data.windows import Window
from ideomotor.pipeline.foreign import read_fit, read_prompt
from ideomotor.pipeline.guess import DATASETS, Sizes, camera_roles, guess_embodiment
from ideomotor.pipeline.openvla import OpenVLAPipeline
from ideomotor.pipeline.openvla_config import NetworkShape, OneByOne, SlotIds, SlotNumbers, as_trained
from ideomotor.pipeline.protocol import PolicyPipeline
from ideomotor.tokenize.prompt import OpenVLA, Vicuna

SIZE = 56
ONE = NetworkShape(SIZE)
LIBERO = NetworkShape(SIZE, cameras=2, output=SlotNumbers(), horizon=8, action_width=7, state_width=8)
BODY = Embodiment(
    name="body",
    robot="arm",
    rate_hz=10.0,
    action=(*(Channel(f"d{i}", "m", mode="delta") for i in range(6)), Channel("grip", "fraction")),
    state=tuple(Channel(f"s{i}", "m") for i in range(8)),
    cameras=(Camera("front", 64, 64), Camera("wrist", 64, 64)),
    gripper=Gripper("grip", open=1.0, closed=0.0, threshold=0.5),
)


@pytest.fixture
def parity(fixtures: Path) -> Path:
    return fixtures / "openvla-parity-a"


@pytest.fixture
def checkpoint(parity: Path) -> Path:
    return parity / "checkpoint"


@pytest.fixture
def inputs(parity: Path) -> list[dict[str, Any]]:
    return json.loads((parity / "inputs" / "inputs.json").read_text())


@pytest.fixture
def one_by_one(checkpoint: Path) -> OpenVLAPipeline:
    return OpenVLAPipeline.from_checkpoint(checkpoint, ONE, "bridge_orig")


@pytest.fixture
def slots(checkpoint: Path) -> OpenVLAPipeline:
    return OpenVLAPipeline.from_checkpoint(checkpoint, LIBERO, "fixture_partial_mask")


def picture(seed: int = 0, height: int = 64, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def window(actions: np.ndarray, pad: tuple[bool, ...] = (False,), state: int = 8) -> Window:
    images = {"front": picture(0), "wrist": picture(1)}
    return Window(images, np.zeros(state, np.float32), "Pick up the cup", actions.astype(np.float32), np.array(pad), {})


def own_statistics(**changes: float) -> Statistics:
    rng = np.random.default_rng(0)
    actions = rng.normal(0, 0.02, (400, 7))
    actions[:, 6] = rng.random(400) < 0.5
    actions[0, 6] = changes.get("grip", 1.0)
    return Statistics({"action": summarize(actions), "observation.state": summarize(rng.normal(size=(400, 8)))})


# ------------------------------------------------------------------------------------------------ towards the network


def test_it_keeps_the_protocol(one_by_one: OpenVLAPipeline):
    assert isinstance(one_by_one, PolicyPipeline)


def test_prompts_are_the_references_ids(one_by_one: OpenVLAPipeline, parity: Path, inputs: list[dict[str, Any]]):
    expected = np.load(parity / "expected.npz")
    for i, sample in enumerate(inputs):
        observation = Observation(0.0, {"front": picture()}, np.zeros(0))
        arrays = one_by_one.encode_observations([observation], [sample["instruction"]])
        np.testing.assert_array_equal(arrays["ids"][0], expected[f"{i}.input_ids_29871"])
        assert set(arrays) == {"ids", "mask", "images"}
        assert arrays["mask"].all()


def test_training_sequences_are_the_references(one_by_one: OpenVLAPipeline, parity: Path, inputs: list[dict[str, Any]]):
    expected = np.load(parity / "expected.npz")
    actions = np.array([sample["action_label"] for sample in inputs], np.float32)
    instructions = [sample["instruction"] for sample in inputs]
    for i in range(len(inputs)):
        arrays = one_by_one.lesson(instructions[i : i + 1], actions[i : i + 1, None])
        np.testing.assert_array_equal(arrays["ids"][0], expected[f"{i}.train_input_ids"])
        np.testing.assert_array_equal(arrays["labels"][0], expected[f"{i}.train_labels"])
    arrays = one_by_one.lesson(instructions, actions[:, None])
    np.testing.assert_array_equal(arrays["ids"], expected["batch.input_ids"])
    np.testing.assert_array_equal(arrays["mask"], expected["batch.attention_mask"])
    np.testing.assert_array_equal(arrays["labels"], expected["batch.labels"])


def test_training_batches_of_slots_are_the_references(
    slots: OpenVLAPipeline, parity: Path, inputs: list[dict[str, Any]]
):
    expected = np.load(parity / "oft" / "expected_train_batch.npz")
    samples = json.loads((parity / "oft" / "expected.json").read_text())["samples"][:4]
    instructions = [sample["instruction"] for sample in inputs[:4]]
    arrays = slots.lesson(instructions, expected["batch.actions"])
    for name, theirs in {
        "ids": "input_ids",
        "mask": "attention_mask",
        "labels": "labels",
        "actions": "actions",
    }.items():
        np.testing.assert_array_equal(arrays[name], expected[f"batch.{theirs}"])
    state = slots.state_to_network(np.array([sample["state"] for sample in samples]))
    assert state.dtype == np.float32
    np.testing.assert_allclose(state, expected["batch.proprio"], rtol=0, atol=1e-7)


def test_slots_hold_placeholders_when_acting(slots: OpenVLAPipeline, parity: Path, inputs: list[dict[str, Any]]):
    expected = np.load(parity / "oft" / "expected_discrete.npz")
    images = {"front": picture(0), "wrist": picture(1)}
    observations = [Observation(0.0, images, np.zeros(8)) for _ in inputs]
    arrays = slots.encode_observations(observations, [sample["instruction"] for sample in inputs])
    for i, (row, mask) in enumerate(zip(arrays["ids"], arrays["mask"], strict=True)):
        np.testing.assert_array_equal(row[mask], expected[f"{i}.input_ids_full"])
        assert (row[~mask] == 32000).all()
    assert arrays["images"].shape == (6, 2, SIZE, SIZE, 3)
    assert arrays["state"].shape == (6, 8)


def test_pictures_of_any_size_reach_the_network_as_the_processor_makes_them(
    one_by_one: OpenVLAPipeline, parity: Path, inputs: list[dict[str, Any]]
):
    """Undo the published scaling: (x / 255 - mean) / std of the last tower, 0.5 and 0.5, hides no level."""
    expected = np.load(parity / "expected.npz")
    for i, sample in enumerate(inputs):
        image = np.asarray(Image.open(parity / "inputs" / sample["image"]).convert("RGB"))
        arrays = one_by_one.encode_observations([Observation(0.0, {"front": image}, np.zeros(0))], ["x"])
        levels = np.rint((expected[f"{i}.pixel_values"][3:] * 0.5 + 0.5) * 255).astype(np.uint8)
        np.testing.assert_array_equal(arrays["images"][0, 0], levels.transpose(1, 2, 0))


def test_a_window_becomes_a_training_sequence_in_network_coordinates(one_by_one: OpenVLAPipeline):
    """The published numbers of bridge_orig (arXiv 2406.09246)."""
    raw = np.array([[0.01, -0.02, 0, 0.05, 0, 0.1, 1]])
    arrays = one_by_one.encode([window(raw)])
    assert arrays["ids"][0, -8:].tolist() == [31826, 31932, 31899, 31794, 31861, 31809, 31744, 2]
    assert arrays["labels"][0, -9:].tolist() == [-100, 31826, 31932, 31899, 31794, 31861, 31809, 31744, 2]
    assert arrays["images"].shape == (1, 1, SIZE, SIZE, 3)
    assert "state" not in arrays
    assert "images" not in one_by_one.encode([replace(window(raw), images={})])


def test_actions_beyond_the_end_of_an_episode_are_no_labels(slots: OpenVLAPipeline):
    actions = np.zeros((8, 7))
    whole = slots.encode([window(actions, (False,) * 8)])["labels"][0]
    cut = slots.encode([window(actions, (False,) * 6 + (True,) * 2)])["labels"][0]
    learned = np.flatnonzero(whole != -100)
    assert len(learned) == 8 * 7 + 1
    np.testing.assert_array_equal(np.flatnonzero(cut != -100), [*learned[: 6 * 7], learned[-1]])


def test_training_sees_what_evaluation_stands_for(checkpoint: Path):
    """JPEG and centre crop of evaluation stand for stored frames and random crops."""
    pipeline = OpenVLAPipeline.from_checkpoint(checkpoint, ONE, "bridge_orig").using(arrival=Evaluation(SIZE))
    seen = pipeline.encode([window(np.zeros((1, 7)))])["images"][0, 0]
    np.testing.assert_array_equal(seen, arrive(picture(0), Trained(SIZE)))
    acting = pipeline.encode_observations([Observation(0.0, {"front": picture(0)}, np.zeros(0))], ["x"])["images"][0, 0]
    np.testing.assert_array_equal(acting, arrive(picture(0), Evaluation(SIZE)))
    assert (as_trained(Direct()), as_trained(Trained(9))) == (Direct(), Trained(9))


def test_a_question_has_no_robot_and_nothing_behind_out(one_by_one: OpenVLAPipeline):
    arrays = one_by_one.encode_question({"front": picture()}, "What is this?")
    assert one_by_one.tokenizer.decode(arrays["ids"][0].tolist()) == "In: What is this?\nOut:"
    assert arrays["ids"][0, -1] != 29871


# ------------------------------------------------------------------------------------------------ from the network


def test_ids_become_raw_actions_and_illegal_ones_an_end_of_the_range(one_by_one: OpenVLAPipeline, parity: Path):
    expected = np.load(parity / "expected.npz")
    for i in range(6):
        ids = expected[f"{i}.generated_ids"]
        raw = one_by_one.decode(ids[None])
        assert (raw.shape, raw.dtype) == ((1, 1, 7), np.float64)
        np.testing.assert_allclose(raw[0, 0], expected[f"{i}.action.bridge_orig"], rtol=0, atol=1e-12)
        np.testing.assert_array_equal(one_by_one.illegal(ids), (ids < 31744) | (ids > 31999))
    assert one_by_one.illegal(np.array([31743, 31744, 31999, 32000])).tolist() == [True, False, False, True]


def test_numbers_become_raw_actions_as_in_oft(slots: OpenVLAPipeline, parity: Path):
    expected = np.load(parity / "oft" / "expected_l1.npz")
    normalized = np.stack([expected[f"{i}.normalized_actions"] for i in range(6)])
    raw = np.stack([expected[f"{i}.actions.fixture_partial_mask"] for i in range(6)])
    np.testing.assert_allclose(slots.decode(normalized), raw, rtol=0, atol=1e-6)  # theirs begins in float32


def test_nothing_is_clipped(slots: OpenVLAPipeline):
    column = slots.statistics.column("fixture_partial_mask", "action")
    raw = slots.decode(np.full((1, 8, 7), 3.0))
    np.testing.assert_allclose(raw[0, 0, 0], 2 * column["q99"][0] - column["q01"][0], rtol=1e-7)
    assert raw[0, 0, 1] == 3.0  # outside of the mask


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (np.zeros((1, 6), np.int64), "gave 6 numbers; an answer of this policy has 7"),
        (np.full((1, 1, 7), np.nan), r"network output \(0, 0, 0\) is nan"),
    ],
)
def test_another_answer_is_refused(output: np.ndarray, message: str, one_by_one: OpenVLAPipeline):
    with pytest.raises(UserError, match=message):
        one_by_one.decode(output)


# ------------------------------------------------------------------------------------------------ what is known


def test_a_foreign_checkpoint_gets_a_guess_with_evidence(one_by_one: OpenVLAPipeline):
    guess, body = one_by_one.guess, one_by_one.embodiment
    assert guess is not None
    assert (body.robot, body.rate_hz, body.state) == ("widowx", 5.0, ())
    assert [c.name for c in body.action] == [
        *(f"ee_delta_{x}" for x in ("x", "y", "z", "roll", "pitch", "yaw")),
        "gripper",
    ]
    assert {c.unit for c in body.action[:6]} == {"unknown"}  # the mixture pools them
    assert body.gripper == Gripper("gripper", open=1.0, closed=0.0, threshold=0.5)
    assert body.chunk == ChunkLength(1, 1)
    assert body.normalization == Normalization("bounds_q99", one_by_one.statistics.hash("bridge_orig"))
    assert "'bridge_orig' is a dataset of that robot and rate" in str(guess)


def guess(key: str, width: int, mask: list[bool] | None = None, cameras: int = 1, state: int | None = None):
    column: dict[str, Any] = {"q01": [-1.0] * width, "q99": [1.0] * width}
    if mask is not None:
        column["mask"] = mask
    action = NormStatistics.from_json({key: {"action": column}}, "here").column(key, "action")
    return guess_embodiment(key, action, Sizes(camera_roles(key, cameras), 224, state))


def test_every_known_dataset_names_robot_and_rate():
    assert len(DATASETS) == 27 + 4  # Open X-Embodiment, LIBERO's four beside it
    for key in DATASETS:
        found = guess(key, 7, [True] * 6 + [False])
        assert (found.embodiment.robot, found.embodiment.rate_hz) == DATASETS[key]
    assert "never verified" in str(guess("cmu_stretch", 7, [True] * 6 + [False]))
    assert "never verified" not in str(guess("bridge_orig", 7, [True] * 6 + [False]))
    assert "180 degrees" in str(guess("libero_10_no_noops", 7, [True] * 6 + [False], cameras=2))
    assert guess("dobbe", 7, [True] * 6 + [False]).embodiment.cameras[0].role == "wrist"


@pytest.mark.parametrize(
    ("width", "mask", "first", "last"),
    [
        (7, [True] * 6 + [False], "ee_delta_x", "gripper"),
        (10, [True] * 9 + [False], "ee_delta_x", "gripper"),
        (14, None, "joint_0", "joint_13"),
        (7, None, "action_0", "action_6"),
        (7, [True, False, True, True, True, False, False], "action_0", "action_6"),
        (3, None, "action_0", "action_2"),
    ],
)
def test_an_unknown_dataset_is_guessed_by_width_and_mask(width: int, mask: list[bool] | None, first: str, last: str):
    body = guess("mine", width, mask, cameras=3, state=14).embodiment
    assert (body.action[0].name, body.action[-1].name) == (first, last)
    assert (body.robot, body.rate_hz) == ("unknown", 1.0)
    assert [camera.role for camera in body.cameras] == ["front", "left_wrist", "right_wrist"]
    assert len(body.state) == 14
    assert {channel.unit for channel in body.state} == {"unknown"}


def test_a_stated_embodiment_replaces_the_guess(checkpoint: Path):
    pipeline = OpenVLAPipeline.from_checkpoint(checkpoint, ONE, "bridge_orig", BODY)
    assert pipeline.guess is None
    assert pipeline.embodiment.name == "body"
    assert pipeline.config.cameras == ("front",)
    sideways = replace(BODY, cameras=(Camera("side", 64, 64), Camera("wrist", 64, 64)))
    assert OpenVLAPipeline.from_checkpoint(checkpoint, ONE, "bridge_orig", sideways).config.cameras == ("side",)


def test_another_key_is_another_body(one_by_one: OpenVLAPipeline, checkpoint: Path):
    stated = OpenVLAPipeline.from_checkpoint(checkpoint, ONE, "bridge_orig", BODY)
    assert stated.using(arrival=Trained(SIZE)).guess is None
    other = stated.using("fixture_ten_dims_no_mask")
    assert other.guess is not None
    assert (other.action_width, other.num_ids) == (10, 10)
    assert one_by_one.using(embodiment=BODY).guess is None
    with pytest.raises(UsageError, match="unknown statistics 'bridge'"):
        one_by_one.using("bridge")


def test_what_the_files_say_about_pictures_is_read(tmp_path: Path, checkpoint: Path):
    def told(name: str, **fields: Any) -> Path:
        (tmp_path / name).write_text(json.dumps(fields))
        return tmp_path

    assert read_fit(checkpoint) == Naive()
    assert read_fit(tmp_path) == Naive()
    assert read_fit(told("config.json", image_resize_strategy="resize-crop")) == ResizeCrop()
    folder = told(
        "preprocessor_config.json", image_resize_strategy="letterbox", means=[[0.485, 0.456, 0.406], [0.5, 0.5, 0.5]]
    )
    assert read_fit(folder) == Letterbox((127, 127, 127))  # of the last tower
    folder = told("preprocessor_config.json", image_resize_strategy="letterbox", tvf_letterbox_fill=[1, 2, 3])
    assert read_fit(folder) == Letterbox((1, 2, 3))
    with pytest.raises(UserError, match="letterbox needs tvf_letterbox_fill"):
        read_fit(told("preprocessor_config.json", image_resize_strategy="letterbox"))
    with pytest.raises(
        UserError, match="unknown image_resize_strategy 'zoom'; known: resize-naive, letterbox, resize-crop"
    ):
        read_fit(told("preprocessor_config.json", image_resize_strategy="zoom"))
    assert read_prompt(checkpoint) == OpenVLA()
    assert read_prompt(told("config.json", llm_backbone_id="vicuna-v15-7b")) == Vicuna()
    assert read_prompt(told("origin.json", config={"llm_backbone_id": "llama2-7b-pure"})) == OpenVLA()


def test_platforms_of_oft_differ_in_what_scales(
    tmp_path: Path, checkpoint: Path, slots: OpenVLAPipeline, one_by_one: OpenVLAPipeline
):
    assert (slots.config.normalization, slots.config.state, slots.config.widening) == ("bounds_q99", "bounds_q99", 1e-8)
    assert slots.config.arrival == Evaluation(SIZE)
    assert (one_by_one.config.state, one_by_one.config.widening, one_by_one.config.arrival) == (None, 0.0, Direct())
    assert one_by_one.config.output == OneByOne()
    two_arms = NormStatistics.from_json({"a": {"action": arms(), "proprio": arms()}}, "here")
    shape = NetworkShape(SIZE, 3, SlotIds(), 25, 14, 14)
    folder = write_foreign(tmp_path / "foreign", checkpoint, two_arms)
    assert OpenVLAPipeline.from_checkpoint(folder, shape).config.normalization == "bounds"


def arms() -> dict[str, list[float]]:
    return {name: [value] * 14 for name, value in {"min": -2.0, "max": 2.0, "q01": -1.0, "q99": 1.0}.items()}


def write_foreign(folder: Path, checkpoint: Path, statistics: NormStatistics) -> Path:
    folder.mkdir()
    (folder / "tokenizer.model").symlink_to(checkpoint / "tokenizer.model")
    (folder / "dataset_statistics.json").write_text(json.dumps(statistics.to_json()))
    return folder


# ------------------------------------------------------------------------------------------------ fine-tuning


def test_a_new_dataset_stands_beside_the_others_under_its_key(one_by_one: OpenVLAPipeline):
    entry = one_by_one.dataset_entry(BODY, own_statistics(), 400, 5)
    assert entry["action"]["mask"] == [True] * 6 + [False]  # the gripper passes, as OpenVLA does
    pipeline = one_by_one.for_training(BODY, "mine", entry, ["pick"])
    assert pipeline.guess is None
    assert pipeline.embodiment.normalization == Normalization("bounds_q99", pipeline.statistics.hash("mine"))
    assert (pipeline.config.statistics, pipeline.tasks) == ("mine", ("pick",))
    assert pipeline.config.arrival == Evaluation(SIZE)
    assert [*pipeline.statistics.datasets] == [*one_by_one.statistics.datasets, "mine"]
    raw = np.array([[0.01, -0.02, 0.0, 0.015, 0.0, 0.01, 1.0]])
    ids = pipeline.encode([window(raw)])["ids"][:, -8:-1]
    assert ids[0, 6] == 31744
    np.testing.assert_allclose(pipeline.decode(ids)[0, :, :6], raw[:, :6], atol=0.06 / 255)
    assert pipeline.decode(ids)[0, 0, 6] == 254 / 255  # the centre of the last bin


def test_only_an_absolute_gripper_within_one_passes(one_by_one: OpenVLAPipeline):
    wide = one_by_one.dataset_entry(BODY, own_statistics(grip=1.5), 400, 5)
    assert wide["action"]["mask"] == [True] * 7
    moving = replace(BODY, action=(*BODY.action[:6], Channel("grip", "fraction", mode="delta")))
    assert one_by_one.dataset_entry(moving, own_statistics(), 400, 5)["action"]["mask"] == [True] * 7
    without = replace(BODY, gripper=None)
    assert one_by_one.dataset_entry(without, own_statistics(), 400, 5)["action"]["mask"] == [True] * 7


# ------------------------------------------------------------------------------------------------ disk


def test_saved_and_loaded_it_does_the_same_in_the_same_bytes(tmp_path: Path, one_by_one: OpenVLAPipeline):
    pipeline = one_by_one.for_training(BODY, "mine", one_by_one.dataset_entry(BODY, own_statistics(), 400, 5))
    pipeline.save(tmp_path / "first")
    loaded = OpenVLAPipeline.load(tmp_path / "first")
    assert (loaded.config, loaded.embodiment) == (pipeline.config, pipeline.embodiment)
    raw = window(np.full((1, 7), 0.01))
    for name, array in pipeline.encode([raw]).items():
        np.testing.assert_array_equal(loaded.encode([raw])[name], array)
    loaded.save(tmp_path / "second")
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert names == [
        "LICENSE-LLAMA2.txt",
        "NOTICE",
        "embodiment.json",
        "pipeline.json",
        "statistics.json",
        "text.json",
    ]
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_guess_is_not_saved(tmp_path: Path, slots: OpenVLAPipeline):
    slots.save(tmp_path)
    assert not (tmp_path / "embodiment.json").exists()
    loaded = OpenVLAPipeline.load(tmp_path)
    assert loaded.guess is not None
    assert loaded.embodiment == slots.embodiment


@pytest.mark.parametrize("name", ["pipeline.json", "statistics.json", "text.json"])
def test_a_folder_without_one_of_its_files_does_not_load(tmp_path: Path, name: str, one_by_one: OpenVLAPipeline):
    one_by_one.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"lacks {name}; weights without their pipeline mean nothing"):
        OpenVLAPipeline.load(tmp_path)


def test_changed_statistics_are_refused(tmp_path: Path, checkpoint: Path):
    OpenVLAPipeline.from_checkpoint(checkpoint, ONE, "bridge_orig", BODY).save(tmp_path)
    path = tmp_path / "statistics.json"
    value = json.loads(path.read_text())
    value["bridge_orig"]["action"]["q99"][0] *= 2
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"statistics\.json is not what embodiment\.json names"):
        OpenVLAPipeline.load(tmp_path)


def test_another_format_is_refused(tmp_path: Path, one_by_one: OpenVLAPipeline):
    one_by_one.save(tmp_path)
    path = tmp_path / "pipeline.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(UserError, match="not of format 1"):
        OpenVLAPipeline.load(tmp_path)


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("shape", "key", "message"),
    [
        (replace(LIBERO, action_width=6), "fixture_partial_mask", "action width: the network has 6, the pipeline 7"),
        (LIBERO, "bridge_orig", "state width: the network has 8, the pipeline 7"),
        (replace(ONE, actions_end=31999), "bridge_orig", "action ids end: the network has 31999, the pipeline 32000"),
        (replace(ONE, bins=128), "bridge_orig", "bins: the network has 128"),
    ],
)
def test_statistics_of_another_network_are_refused(shape: NetworkShape, key: str, message: str, checkpoint: Path):
    with pytest.raises(UserError, match=rf"does not fit the statistics '{key}' \({message}.*--statistics"):
        OpenVLAPipeline.from_checkpoint(checkpoint, shape, key)


def test_an_embodiment_of_another_width_is_refused(checkpoint: Path):
    short = replace(BODY, action=BODY.action[:5], gripper=None)
    with pytest.raises(UserError, match="'bridge_orig' describe actions of 7 numbers, body has 5"):
        OpenVLAPipeline.from_checkpoint(checkpoint, ONE, "bridge_orig", short)
    with pytest.raises(UserError, match="body has the cameras wrist; this network sees 2 at once"):
        OpenVLAPipeline.from_checkpoint(
            checkpoint, LIBERO, "fixture_partial_mask", replace(BODY, cameras=BODY.cameras[1:])
        )


def test_a_checkpoint_without_tokenizer_is_refused(tmp_path: Path, checkpoint: Path):
    folder = write_foreign(tmp_path / "foreign", checkpoint, NormStatistics.of_checkpoint(checkpoint))
    (folder / "tokenizer.model").unlink()
    with pytest.raises(UserError, match=r"neither tokenizer\.json nor tokenizer\.model; copy one of them"):
        OpenVLAPipeline.from_checkpoint(folder, ONE, "bridge_orig")


def test_states_and_actions_of_another_width_or_without_value_are_refused(slots: OpenVLAPipeline):
    with pytest.raises(UserError, match="the state has 7 numbers; this policy reads 8"):
        slots.state_to_network(np.zeros((1, 7)))
    with pytest.raises(UserError, match=r"state \(0, 2\) is nan"):
        slots.state_to_network(np.array([[0, 0, np.nan, 0, 0, 0, 0, 0]]))
    with pytest.raises(UserError, match="an action has 6 numbers; this policy's has 7"):
        slots.actions_to_network(np.zeros((1, 6)))
    with pytest.raises(UserError, match=r"action \(0, 6\) is inf"):
        slots.actions_to_network(np.array([[0, 0, 0, 0, 0, 0, np.inf]]))


def test_a_missing_camera_and_other_pixels_are_refused(one_by_one: OpenVLAPipeline):
    def seen(images: dict[str, Any]) -> Any:
        observation = object.__new__(Observation)  # the shape checker of the tests would stop it before
        for name, value in {"time": 0.0, "images": images, "state": np.zeros(0)}.items():
            object.__setattr__(observation, name, value)
        return one_by_one.encode_observations([observation], ["x"])

    with pytest.raises(UsageError, match="unknown camera in this observation 'front'; known: side"):
        seen({"side": picture()})
    with pytest.raises(UserError, match=r"camera 'front' gives float64 \(4, 4, 3\); the policy wants uint8 RGB"):
        seen({"front": np.zeros((4, 4, 3))})
    with pytest.raises(UserError, match=r"camera 'front' gives uint8 \(4, 4\)"):
        seen({"front": np.zeros((4, 4), np.uint8)})
