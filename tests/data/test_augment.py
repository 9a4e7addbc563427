"""OpenVLA's augmentation: each operation against TensorFlow's, and the draws."""

import sys
from pathlib import Path

import numpy as np
import pytest

from ideomotor.core.errors import UsageError
from ideomotor.data.augment import (
    Augment,
    Draw,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    augment,
    augmented,
    draws,
)
from ideomotor.data.resize import crop_and_resize, to_unit

sys.path.insert(0, str(Path(__file__).parent))

from golden_pictures import load, tool

SIDE = np.sqrt(np.float32(0.9))


@pytest.fixture(scope="module")
def tensorflow():
    return load()


def crop(planes: np.ndarray, offset: float) -> np.ndarray:
    return crop_and_resize(planes, np.float32(offset), np.float32(offset), SIDE)


@pytest.mark.parametrize(
    ("name", "operation", "count"),
    [
        ("crop", crop, 6),
        ("brightness", adjust_brightness, 4),
        ("contrast", adjust_contrast, 4),
        ("saturation", adjust_saturation, 4),
        ("hue", adjust_hue, 4),
    ],
)
def test_each_operation_is_tensorflows(tensorflow, name: str, operation, count: int):
    pictures, golden = tensorflow
    keys = [key for key in golden if key.split(".")[1] == name]
    assert len(keys) == count
    for key in keys:
        picture, _, amount = key.split(".", 2)
        ours = np.clip(operation(to_unit(pictures[picture]), float(amount)), 0, 1)[:, ::3, ::3]
        np.testing.assert_allclose(ours.transpose(1, 2, 0), golden[key], rtol=0, atol=2e-6, err_msg=key)


def test_the_five_in_a_row_are_within_one_level_of_tensorflow(tensorflow):
    pictures, golden = tensorflow
    numbers = tool()
    for picture in ("noise_48", "surfaces_48"):
        for i in (0, 1):
            draw = Draw(
                numbers.OFFSETS[i + 1],
                numbers.BRIGHTNESS[i],
                numbers.CONTRAST[i],
                numbers.SATURATION[i],
                numbers.HUE[i],
            )
            apart = augmented(pictures[picture], draw, SIDE).astype(int) - golden[f"{picture}.chain.{i}"].astype(int)
            assert np.abs(apart).max() <= 1
            assert (apart != 0).mean() < 0.01


def test_hue_turns_red_into_the_other_pure_colours():
    red = np.zeros((3, 1, 1), np.float32)
    red[0] = 1
    for sixths, colour in enumerate([(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0)]):
        np.testing.assert_allclose(adjust_hue(red, sixths / 6)[:, 0, 0], colour, atol=2e-6)
    np.testing.assert_allclose(adjust_hue(red, -1 / 6)[:, 0, 0], (1, 0, 1), atol=2e-6)


def test_grey_has_no_hue_and_no_saturation():
    grey = np.broadcast_to(np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 3, 4), (3, 3, 4)).copy()
    np.testing.assert_allclose(adjust_hue(grey, 0.4), grey, atol=1e-7)
    np.testing.assert_allclose(adjust_saturation(grey, 5.0), grey, atol=1e-7)
    colour = np.array([0.2, 0.6, 0.4], np.float32).reshape(3, 1, 1)
    np.testing.assert_allclose(adjust_saturation(colour, 0.0), 0.6)  # V of HSV stays
    np.testing.assert_allclose(adjust_saturation(colour, 9.0)[:, 0, 0], [0, 0.6, 0.3], atol=1e-7)


def test_neutral_parameters_change_nothing():
    noise = np.random.default_rng(0).integers(0, 256, (2, 1, 20, 30, 3), dtype=np.uint8)
    neutral = Augment(crop_area=1.0, brightness=0.0, contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue=0.0)
    apart = augment(noise, neutral, 0, np.arange(2)).astype(int) - noise
    assert np.abs(apart).max() <= 1  # values are cut off, and one in the last bit below its level falls
    assert (apart != 0).mean() < 0.35


def test_the_result_depends_on_seed_and_sample_number_alone():
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    images = np.broadcast_to(noise, (4, 2, 24, 24, 3)).copy()
    numbers = np.array([7, 8, 2**40, 7])
    whole = augment(images, Augment(), 3, numbers)
    assert (whole[0] == whole[3]).all()
    assert (whole[0] != whole[1]).any()
    assert (whole[0, 0] != whole[0, 1]).any()  # each camera on its own
    for b in range(4):
        assert (augment(images[b : b + 1], Augment(), 3, numbers[b : b + 1])[0] == whole[b]).all()
    assert (augment(images[:1], Augment(), 4, numbers[:1])[0] != whole[0]).any()
    assert (images == noise).all()  # the argument is untouched


def test_draws_fill_their_ranges_evenly_and_independently():
    drawn = [draw for number in range(3000) for draw in draws(Augment(), 0, number, 1)]
    rows = np.array([[d.offset, d.brightness, d.contrast, d.saturation, d.hue] for d in drawn])
    low, high = np.array([[0, -0.2, 0.8, 0.8, -0.05], [1 - np.sqrt(0.9), 0.2, 1.2, 1.2, 0.05]])
    assert (rows >= low).all()
    assert (rows <= high).all()
    unit = (rows - low) / (high - low)
    np.testing.assert_allclose(unit.mean(axis=0), 0.5, atol=0.03)
    np.testing.assert_allclose(unit.std(axis=0), 12**-0.5, atol=0.02)
    assert np.abs(np.corrcoef(unit.T) - np.eye(5)).max() < 0.08


def test_every_crop_lies_on_the_main_diagonal():
    """The reference's quirk: one seed for both offsets."""
    y, x = np.mgrid[:40, :40]
    position = np.stack([6 * y, 6 * x, np.zeros_like(x)], -1).astype(np.uint8)
    only_crop = Augment(brightness=0.0, contrast=(1.0, 1.0), saturation=(1.0, 1.0), hue=0.0)
    tops = []
    for number in range(20):
        corner = augment(position[None, None], only_crop, 0, np.array([number]))[0, 0, 0, 0].astype(int)
        assert abs(corner[0] - corner[1]) <= 1
        tops.append(corner[0])
    assert max(tops) > 6  # up to 5 % of 234
    assert min(tops) < 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_area": 0.0}, r"share in \(0, 1\]"),
        ({"contrast": (1.2, 0.8)}, "contrast is a range"),
        ({"saturation": (-0.1, 1.0)}, "saturation is a range"),
        ({"brightness": float("nan")}, "brightness lies in"),
        ({"hue": 0.6}, "hue in"),
    ],
)
def test_numbers_without_a_meaning_are_refused(change, message: str):
    with pytest.raises(UsageError, match=message):
        Augment(**change)
