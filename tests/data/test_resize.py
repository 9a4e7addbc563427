"""Image paths of OpenVLA: Pillow's strategies against the reference processor, the rest against TensorFlow's results."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ideomotor.core.errors import UserError
from ideomotor.data.resize import (
    Direct,
    Evaluation,
    Fit,
    Letterbox,
    Naive,
    ResizeCrop,
    Trained,
    arrive,
    bicubic,
    centre_crop,
    crop_and_resize,
    fit,
    jpeg_round_trip,
    lanczos3,
    lanczos3_blocks,
    scaled,
    to_levels,
    to_unit,
)

sys.path.insert(0, str(Path(__file__).parent))

from golden_pictures import load

STRATEGIES: dict[str, Fit] = {
    "resize-naive": Naive(),
    "letterbox": Letterbox((127, 127, 127)),  # int(255 * 0.5), SigLIP's mean
    "resize-crop": ResizeCrop(),
}


@pytest.fixture(scope="module")
def tensorflow():
    return load()


def levels_apart(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    assert ours.dtype == theirs.dtype == np.uint8
    assert ours.shape == theirs.shape
    return np.abs(ours.astype(int) - theirs.astype(int))


# --------------------------------------------------------------------------- the image processor


def source(folder: Path, name: str) -> np.ndarray:
    if name == "portrait":
        return np.load(folder / "preprocess.npz")["portrait.source_uint8"]
    return np.array(Image.open(folder / "inputs" / f"image_{name}.png").convert("RGB"))


def both_towers(folder: Path, image: np.ndarray, numbers: str) -> np.ndarray:
    """Scale with the two towers' mean and standard deviation: `published` as rounded in the file, `exact` as meant."""
    config = json.loads((folder / "checkpoint" / "preprocessor_config.json").read_text(encoding="utf-8"))
    if numbers == "published":
        sets = [(tower["mean"], tower["std"]) for tower in config["tvf_normalize_params"]]
    else:
        sets = list(zip(config["means"], config["stds"], strict=True))
    return np.concatenate([scaled(image, tuple(mean), tuple(std)) for mean, std in sets])


def test_every_strategy_gives_the_values_of_the_reference_processor(fixtures: Path):
    folder = fixtures / "openvla-parity-a"
    golden = np.load(folder / "preprocess.npz")
    compared = set()
    for key in golden:
        name, strategy, *rest = key.split(".")
        if strategy == "source_uint8":
            continue
        image = fit(source(folder, name), STRATEGIES[strategy], 224 if "224" in rest else 56)
        if rest[-1] == "uint8":
            np.testing.assert_array_equal(image, golden[key], err_msg=key)
        else:
            step = 4 if rest[-1] == "every4th" else 1
            numbers = "exact" if "exact" in rest else "published"
            pixels = both_towers(folder, image, numbers)[:, ::step, ::step]
            np.testing.assert_allclose(pixels, golden[key], rtol=0, atol=1e-6, err_msg=key)
        compared.add((strategy, *rest))
    assert len(compared) == 6  # three strategies, the exact numbers, 224 px twice


def test_the_six_inputs_become_the_reference_pixel_values(fixtures: Path):
    folder = fixtures / "openvla-parity-a"
    golden = np.load(folder / "expected.npz")
    for i in range(6):
        pixels = both_towers(folder, fit(source(folder, str(i)), Naive(), 56), "published")
        np.testing.assert_allclose(pixels, golden[f"{i}.pixel_values"], rtol=0, atol=1e-6)


def test_scaling_is_subtraction_and_division_per_channel():
    image = np.zeros((2, 3, 3), np.uint8)
    image[..., 0], image[..., 1] = 255, 51
    pixels = scaled(image, (0.5, 0.0, 0.25), (0.5, 2.0, 0.125))
    assert pixels.shape == (3, 2, 3)
    np.testing.assert_allclose(pixels[:, 0, 0], [1.0, 0.1, -2.0], rtol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(60, 120), (120, 60), (61, 120)])
def test_a_letterbox_fills_both_sides_evenly_and_keeps_the_middle(height: int, width: int):
    image = np.full((height, width, 3), (10, 200, 30), np.uint8)
    square = fit(image, Letterbox((1, 2, 3)), 40)
    assert square.shape == (40, 40, 3)
    along = square if height < width else square.transpose(1, 0, 2)
    assert (along[[0, 39]] == (1, 2, 3)).all()
    assert (along[15:25] == (10, 200, 30)).all()


@pytest.mark.parametrize("landscape", [True, False])
def test_resize_crop_keeps_the_centre_and_the_aspect(landscape: bool):
    image = np.zeros((60, 180, 3), np.uint8)
    image[:, 60:120] = 255
    cropped = fit(image if landscape else image.transpose(1, 0, 2).copy(), ResizeCrop(), 30)
    assert cropped.shape == (30, 30, 3)
    assert (cropped[2:-2, 2:-2] == 255).all()


def test_bicubic_runs_the_width_before_the_height():
    noise = np.random.default_rng(0).integers(0, 256, (90, 40, 3), dtype=np.uint8)
    first = np.array(Image.fromarray(noise).resize((20, 90), Image.Resampling.BICUBIC))
    expected = np.array(Image.fromarray(first).resize((20, 30), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(bicubic(noise, 30, 20), expected)
    assert bicubic(noise, 90, 40) is noise


def test_a_thread_like_image_is_refused_instead_of_becoming_gigabytes():
    with pytest.raises(UserError, match=r"1 x 400000 px would become 224 x 89600000"):
        fit(np.zeros((1, 400_000, 3), np.uint8), ResizeCrop(), 224)


# --------------------------------------------------------------------------- TensorFlow


def test_lanczos3_is_within_one_level_of_tensorflow_up_and_down(tensorflow):
    pictures, golden = tensorflow
    compared = 0
    for key, expected in golden.items():
        name, operation, *size = key.split(".")
        if operation == "lanczos3":
            step = {"56": 1, "224": 4}[size[0]]
            apart = levels_apart(lanczos3(pictures[name], int(size[0]))[::step, ::step], expected)
            assert apart.max() <= 1, key
            if name.startswith("noise"):  # even gradients end on a half more often, where the last bit decides
                assert (apart > 0).mean() < 1e-3, key
            compared += 1
    assert compared == 10


def test_lanczos3_leaves_an_even_colour_and_its_own_size_alone():
    flat = np.full((37, 91, 3), (0, 131, 255), np.uint8)
    assert (lanczos3(flat, 50) == (0, 131, 255)).all()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    np.testing.assert_array_equal(lanczos3(noise, 40), noise)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (1, 300), (500, 33)])
def test_lanczos3_reads_any_shape(shape: tuple[int, int]):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    square = lanczos3(noise, 45)
    assert square.shape == (45, 45, 3)
    mirrored = lanczos3(noise[:, ::-1].copy(), 45)[:, ::-1]
    assert levels_apart(square, np.ascontiguousarray(mirrored)).max() <= 1


@pytest.mark.parametrize(("inner", "outer"), [(480, 224), (224, 224), (96, 224), (7, 300), (3000, 56)])
def test_blocks_hold_the_whole_matrix_of_the_formula(inner: int, outer: int):
    """W[i, j] ∝ L((j - c) / k), written out densely with sin."""
    k = max(inner / outer, 1)
    matrix = np.zeros((outer, inner))
    for i in range(outer):
        x = (np.arange(inner) - ((i + 0.5) * inner / outer - 0.5)) / k
        with np.errstate(all="ignore"):
            window = 3 * np.sin(np.pi * x) * np.sin(np.pi * x / 3) / (np.pi * x) ** 2
        matrix[i] = np.where(x == 0, 1, np.where(np.abs(x) < 3, window, 0))
    matrix /= matrix.sum(axis=1, keepdims=True)
    ours = np.zeros((outer, inner))
    for out, seen, weights in lanczos3_blocks(inner, outer):
        ours[out, seen] += weights
    np.testing.assert_allclose(ours, matrix, rtol=0, atol=1e-7)


def test_a_jpeg_round_trip_is_tensorflows_bit_for_bit(tensorflow):
    pictures, golden = tensorflow
    keys = [key for key in golden if key.endswith(".jpeg")]
    assert len(keys) == 4
    for key in keys:
        name = key.split(".")[0]
        ours = jpeg_round_trip(pictures[name])[:: 2 if "256" in name else 1]
        np.testing.assert_array_equal(ours, golden[key], err_msg=key)


def test_the_centre_crop_is_tensorflows(tensorflow):
    pictures, golden = tensorflow
    keys = [key for key in golden if key.endswith(".centre_crop")]
    assert len(keys) == 3
    for key in keys:
        apart = levels_apart(centre_crop(pictures[key.split(".")[0]]), golden[key])
        assert apart.max() <= 1, key
        assert (apart > 0).mean() < 1e-3, key


def test_the_whole_evaluation_path_is_within_one_level_of_tensorflow(tensorflow):
    pictures, golden = tensorflow
    keys = [key for key in golden if key.endswith(".evaluation")]
    assert len(keys) == 3
    for key in keys:
        ours = arrive(pictures[key.split(".")[0]], Evaluation())[::4, ::4]
        assert levels_apart(np.ascontiguousarray(ours), golden[key]).max() <= 1, key


def test_arrivals_are_the_steps_they_name():
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    assert arrive(noise, Direct()) is noise
    trained = arrive(noise, Trained(32))
    assert trained.shape == (32, 32, 3)
    np.testing.assert_array_equal(arrive(noise, Evaluation(32, crop_area=None, jpeg=False)), trained)
    np.testing.assert_array_equal(arrive(noise, Evaluation(32, jpeg=False)), centre_crop(trained))
    through_jpeg = arrive(noise, Evaluation(32, crop_area=None))
    np.testing.assert_array_equal(through_jpeg, lanczos3(jpeg_round_trip(noise), 32))
    assert (through_jpeg != trained).any()


def test_floats_and_levels_are_each_others_inverse():
    levels = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
    np.testing.assert_array_equal(to_levels(to_unit(levels)), levels)
    beyond = np.full((3, 1, 2), 0.5, np.float32)
    beyond[0], beyond[1] = -1, 2
    assert to_levels(beyond).tolist() == [[[0, 255, 127]] * 2]  # 127.75 is cut off


def test_a_crop_of_everything_is_the_picture_and_a_gradient_stays_one():
    noise = np.random.default_rng(0).integers(0, 256, (21, 33, 3), dtype=np.uint8)
    np.testing.assert_array_equal(centre_crop(noise, 1.0), noise)
    x = np.broadcast_to(np.linspace(0, 1, 41, dtype=np.float32), (3, 5, 41)).copy()
    cropped = crop_and_resize(x, np.float32(0), np.float32(0.25), np.float32(0.5))
    np.testing.assert_allclose(cropped[1, 2], np.linspace(0.25, 0.75, 41), atol=1e-6)
    dot = np.zeros((3, 1, 1), np.float32)
    assert crop_and_resize(dot, np.float32(0.1), np.float32(0.1), np.float32(0.8)).shape == (3, 1, 1)


@pytest.mark.parametrize("area", [0.0, -1.0, 1.01])
def test_a_crop_outside_of_the_picture_is_refused(area: float):
    with pytest.raises(UserError, match=r"in \(0, 1\].*0\.9"):
        centre_crop(np.zeros((4, 4, 3), np.uint8), area)
