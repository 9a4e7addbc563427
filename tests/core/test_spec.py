import dataclasses
import hashlib
import json

import pytest

from ideomotor.core import jsonable
from ideomotor.core.errors import UserError
from ideomotor.core.spec import (
    Camera,
    Channel,
    ChunkLength,
    Embodiment,
    Gripper,
    Normalization,
    RotationForm,
    SpecMismatchError,
    check_same,
)


@pytest.fixture
def body() -> Embodiment:
    return Embodiment(
        name="two-axis",
        robot="toy",
        rate_hz=10.0,
        action=(Channel("x", "m", mode="delta", low=-0.1, high=0.1), Channel("grip", "fraction", "none")),
        state=(Channel("x", "m"),),
        cameras=(Camera("front", 96, 96),),
        action_rotation=RotationForm("none"),
        gripper=Gripper("grip", open=1.0, closed=0.0, threshold=0.5),
    )


def test_text_and_back_gives_the_same_specification(body: Embodiment):
    full = dataclasses.replace(body, chunk=ChunkLength(4, 2), normalization=Normalization("bounds_q99", "ab"))
    assert Embodiment.from_text(full.to_text(), "here") == full


def test_canonical_json_is_sorted_and_without_spaces():
    text = jsonable.canonical(ChunkLength(4, 2))
    assert text == '{"executed":2,"predicted":4,"type":"ChunkLength"}'
    assert jsonable.fingerprint(ChunkLength(4, 2)) == hashlib.sha256(text.encode()).hexdigest()


def test_every_field_of_an_action_changes_the_hash(body: Embodiment):
    variants = [
        dataclasses.replace(body.action[0], name="y"),
        dataclasses.replace(body.action[0], unit="rad"),
        dataclasses.replace(body.action[0], frame="tool"),
        dataclasses.replace(body.action[0], mode="absolute"),
        dataclasses.replace(body.action[0], low=-0.2),
    ]
    hashes = {dataclasses.replace(body, action=(v, body.action[1])).hash for v in variants} | {body.hash}
    assert len(hashes) == len(variants) + 1


def test_a_mismatch_names_the_field_and_both_sides(body: Embodiment):
    assert body.gripper is not None
    flipped = dataclasses.replace(body, gripper=dataclasses.replace(body.gripper, open=0.0, closed=1.0))
    with pytest.raises(SpecMismatchError) as error:
        check_same(body, flipped, "the policy", "the robot")
    assert "gripper.open: the policy has 1.0, the robot has 0.0" in str(error.value)
    assert "gripper.closed: the policy has 0.0, the robot has 1.0" in str(error.value)


def test_delta_against_absolute_is_refused(body: Embodiment):
    absolute = dataclasses.replace(body, action=(dataclasses.replace(body.action[0], mode="absolute"), body.action[1]))
    with pytest.raises(SpecMismatchError, match=r"action\[0\].mode"):
        check_same(body, absolute)


def test_a_missing_channel_is_refused(body: Embodiment):
    with pytest.raises(SpecMismatchError, match="action"):
        check_same(body, dataclasses.replace(body, action=body.action[:1]))


def test_a_dataset_that_states_no_chunk_agrees_with_a_policy_that_does(body: Embodiment):
    check_same(body, dataclasses.replace(body, chunk=ChunkLength(4, 2)))
    with pytest.raises(SpecMismatchError, match=r"chunk\.predicted"):
        check_same(
            dataclasses.replace(body, chunk=ChunkLength(8, 2)), dataclasses.replace(body, chunk=ChunkLength(4, 2))
        )


def test_text_changed_by_hand_is_refused(body: Embodiment):
    value = json.loads(body.to_text())
    value["rate_hz"] = 20.0
    with pytest.raises(UserError, match="changed by hand"):
        Embodiment.from_text(json.dumps(value), "meta/embodiment.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rate_hz": "fast"}, r"spec\.rate_hz should be a number; it is 'fast'"),
        ({"colour": 1}, "unknown fields"),
        ({"state_source": 3}, r"spec\.state_source"),
        ({"alignment": "sideways"}, "allowed: 'observation_before_action'"),
    ],
)
def test_a_wrong_field_is_refused_by_its_path(body: Embodiment, change: dict[str, object], words: str):
    value = json.loads(body.to_text()) | change
    del value["hash"]
    with pytest.raises(UserError, match=words):
        Embodiment.from_text(json.dumps(value), "spec")


def test_random_text_is_no_specification():
    with pytest.raises(UserError, match="is not JSON"):
        Embodiment.from_text("\x00\x01", "meta/embodiment.json")
    with pytest.raises(UserError, match="format 1"):
        Embodiment.from_text("[]", "meta/embodiment.json")
