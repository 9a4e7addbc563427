"""Decoding, size and jitter of images."""

import io

import numpy as np
import pytest
from PIL import Image

from ideomotor.core.errors import UserError
from ideomotor.data.images import Jitter, decode, jitter, lookup_tables, resize
from ideomotor.data.png import encode_png


@pytest.fixture
def picture():
    y, x = np.mgrid[:48, :64]
    return np.stack([4 * x, 5 * y, 2 * (x + y)], axis=-1).astype(np.uint8)


def test_png_round_trip_is_lossless(picture):
    assert (decode(encode_png(picture)) == picture).all()


def test_jpeg_is_read_as_rgb_and_close_to_the_original(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=95, subsampling=0)
    assert np.abs(decode(buffer.getvalue()).astype(int) - picture).mean() < 2


def test_a_grey_png_has_three_equal_channels():
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(buffer, "PNG")
    assert (decode(buffer.getvalue()) == np.arange(64).reshape(8, 8, 1)).all()


@pytest.mark.parametrize("cut", [2, 20, 100])
def test_damaged_files_are_refused(picture, cut):
    for name in ("PNG", "JPEG"):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, name)
        with pytest.raises(UserError, match=r"damaged|begins with"):
            decode(buffer.getvalue()[:cut])


def test_other_formats_are_refused_by_name():
    with pytest.raises(UserError, match="JPEG .* and PNG"):
        decode(b"GIF89a......")


def test_resize_keeps_constant_colour_and_orientation(picture):
    flat = np.full((64, 64, 3), (10, 200, 30), np.uint8)
    assert (resize(flat, (96, 80)) == (10, 200, 30)).all()
    assert resize(flat, (96, 80)).shape == (96, 80, 3)
    small = resize(picture, (24, 32)).astype(int)
    assert (np.diff(small[:, :, 0], axis=1) >= 0).all()  # red grows to the right, green downwards, as before
    assert (np.diff(small[:, :, 1], axis=0) >= 0).all()


def test_resize_to_its_own_size_changes_nothing(picture):
    assert (resize(picture, (48, 64)) == picture).all()


def test_jitter_without_range_changes_nothing(picture):
    images = np.stack([picture, picture])[:, None]
    assert (jitter(images, Jitter(0.0, 0.0), seed=1, numbers=np.arange(2)) == images).all()


def test_jitter_depends_on_seed_and_sample_number_alone(picture):
    images = np.broadcast_to(picture, (4, 2, *picture.shape)).copy()
    numbers = np.array([7, 8, 2**40, 7])
    whole = jitter(images, Jitter(), 3, numbers)
    assert (whole[0] == whole[3]).all()
    assert (whole[0] != whole[1]).any()
    assert (whole[0, 0] != whole[0, 1]).any()  # each camera on its own
    for b in range(4):
        assert (jitter(images[b : b + 1], Jitter(), 3, numbers[b : b + 1])[0] == whole[b]).all()
    assert (jitter(images[:1], Jitter(), 4, numbers[:1])[0] != whole[0]).any()
    assert (images == picture).all()  # the argument is untouched


def test_lookup_tables_are_affine_around_mid_grey_and_stay_in_range():
    how = Jitter(brightness=0.1, contrast=0.3)
    tables = np.concatenate([lookup_tables(how, 0, number, 2) for number in range(500)]).astype(float)
    inner = slice(90, 166)  # never clipped: 127.5 +- 37.5 * 1.3 +- 25.5 stays inside of [0, 255]
    slope = (tables[:, inner][:, -1] - tables[:, inner][:, 0]) / 75
    shift = tables[:, 127:129].mean(axis=1) - 127.5
    assert 0.68 < slope.min() < 0.72
    assert 1.28 < slope.max() < 1.32
    assert -26.1 < shift.min() < -24
    assert 24 < shift.max() < 26.1
    assert abs(slope.mean() - 1) < 0.02
    assert abs(np.corrcoef(slope, shift)[0, 1]) < 0.15
