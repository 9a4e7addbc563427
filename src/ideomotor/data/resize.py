"""From a camera's picture to the square a pretrained network reads: what OpenVLA does with an image, step by step.

A picture *arrives* (`arrive`: as it is, or as TensorFlow made it for training or evaluation), is *fitted* (`fit`: the three strategies
of the image processor, by Pillow), and is *scaled* (`scaled`: mean and standard deviation). uint8 in, uint8 out, but for the last.

Surprises: Pillow >= 13 runs the vertical pass first for some shapes and then gives other pixels; two calls keep the old order. TensorFlow
rounds once, after both passes, Pillow after each: on noise they differ by up to 41 levels. TensorFlow goes from floats
to uint8 by cutting off after the product with 255.5.

H, W = height and width [px]; S = side of the square [px].
"""

import io
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import assert_never

import numpy as np
import simplejpeg
from jaxtyping import Float32, UInt8
from PIL import Image

from ideomotor.core.errors import UserError
from ideomotor.data.images import MAX_PIXELS

# --------------------------------------------------------------------------- arriving


@dataclass(frozen=True)
class Direct:
    """Nothing before the processor: what a user of the Hugging Face model runs."""


@dataclass(frozen=True)
class Trained:
    """The whole frame by Lanczos-3 to a square, its aspect lost: what OpenVLA's training saw."""

    size: int = 224  # [px]


@dataclass(frozen=True)
class Evaluation:
    """OpenVLA's and OFT's evaluation: through JPEG, then as in training, then the centre that random crops leave on average."""

    size: int = 224  # [px]
    crop_area: float | None = (
        0.9  # [fraction] for models trained with random crops of that area; None: no crop (Bridge)
    )
    jpeg: bool = True  # the training data were stored as JPEG


Arrival = Direct | Trained | Evaluation


def arrive(image: UInt8[np.ndarray, "H W 3"], how: Arrival) -> UInt8[np.ndarray, "height width 3"]:
    """Return the picture that the processor is given. Turning a camera the right way up belongs to the embodiment."""
    match how:
        case Direct():
            return image
        case Trained(size):
            return lanczos3(image, size)
        case Evaluation(size, crop_area, jpeg):
            square = lanczos3(jpeg_round_trip(image) if jpeg else image, size)
            return square if crop_area is None else centre_crop(square, crop_area)
        case _:
            assert_never(how)


# --------------------------------------------------------------------------- fitting (the image processor)


@dataclass(frozen=True)
class Naive:
    """`resize-naive`: to the square at once, the aspect is lost."""


@dataclass(frozen=True)
class Letterbox:
    """`letterbox`: pad to a square on both sides, then `resize-crop`."""

    fill: tuple[int, int, int]  # RGB; int(255 * mean) of the *last* tower for all towers, as in the reference


@dataclass(frozen=True)
class ResizeCrop:
    """`resize-crop`: the short side to the size, then the centre."""


Fit = Naive | Letterbox | ResizeCrop


def fit(image: UInt8[np.ndarray, "H W 3"], how: Fit, size: int) -> UInt8[np.ndarray, "S S 3"]:
    """Return the square picture [size, size] by antialiased bicubic interpolation.

    Source: openvla/openvla at c8f03f4, prismatic/extern/hf/processing_prismatic.py.
    """
    match how:
        case Naive():
            return bicubic(image, size, size)
        case Letterbox(fill):
            return _short_side_and_centre(_padded(image, fill), size)
        case ResizeCrop():
            return _short_side_and_centre(image, size)
        case _:
            assert_never(how)


def bicubic(image: UInt8[np.ndarray, "H W 3"], height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """Return the picture at another size as Pillow < 13 gives it, whatever Pillow runs: width first, rounded, then height.

    Raises:
        UserError: more pixels than an image may have (an extremely long one, its short side resized).
    """
    if image.shape[:2] == (height, width):
        return image
    if height * width > MAX_PIXELS:
        raise UserError(
            f"an image of {image.shape[0]} x {image.shape[1]} px would become {height} x {width}; at most {MAX_PIXELS} pixels are made"
        )
    narrow = Image.fromarray(image).resize((width, image.shape[0]), Image.Resampling.BICUBIC)
    return np.array(narrow.resize((width, height), Image.Resampling.BICUBIC))


def _short_side_and_centre(image: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "S S 3"]:
    height, width = image.shape[:2]
    short = min(height, width)
    resized = bicubic(image, int(size * height / short), int(size * width / short))
    top, left = (round((side - size) / 2) for side in resized.shape[:2])
    return resized[top : top + size, left : left + size]


def _padded(image: UInt8[np.ndarray, "H W 3"], fill: tuple[int, int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """Pad the short side by half of the difference, rounded down, at both ends: an odd one leaves the square a pixel short."""
    height, width = image.shape[:2]
    top, left = (max(height, width) - height) // 2, (max(height, width) - width) // 2
    square = np.empty((height + 2 * top, width + 2 * left, 3), np.uint8)
    square[:] = fill
    square[top : top + height, left : left + width] = image
    return square


def scaled(
    image: UInt8[np.ndarray, "H W 3"], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Float32[np.ndarray, "3 H W"]:
    """Return (image / 255 - mean) / std, channels first, in float32 step by step as torchvision rounds it."""
    unit = np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)
    unit -= np.array(mean, np.float32)[:, None, None]
    unit /= np.array(std, np.float32)[:, None, None]
    return unit


# --------------------------------------------------------------------------- what TensorFlow does

TAPS = 3  # Lanczos-3: zeros of the window on either side
BLOCK = 12  # output rows computed together: wide enough for BLAS, narrow enough that few inputs are multiplied by zero
KEPT = (
    1 << 24
)  # [bytes] of room that a thread keeps between pictures; asking the system for it costs more than the products


def lanczos3(image: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "S S 3"]:
    """Return the picture at [size, size] by Lanczos-3 with antialiasing, rounded and clipped once, within a level of TensorFlow.

    Y = A X Bᵀ with the matrices of `lanczos3_blocks`: heights first, blocks of output rows against the band of inputs they see. Both
    products leave what they resized in front of the next axis, so nothing is transposed but the result.
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    picture_HX, rows_XS, square_SY = _room.arrays((height, width * 3), (width * 3, size), (size, 3 * size))
    np.copyto(picture_HX, image.reshape(height, -1))
    for out, seen, weights in lanczos3_blocks(height, size):
        np.matmul(picture_HX[seen].T, weights.T, out=rows_XS[:, out])
    rows_WY = rows_XS.reshape(width, -1)
    for out, seen, weights in lanczos3_blocks(width, size):
        np.matmul(weights, rows_WY[seen], out=square_SY[out])
    np.rint(square_SY, out=square_SY)
    np.clip(square_SY, 0, 255, out=square_SY)
    return _channels_last(square_SY.astype(np.uint8).reshape(size, 3, size).transpose(1, 2, 0))


class _Room(threading.local):
    """Memory for the steps in between, one block for each thread."""

    def __init__(self) -> None:
        self._block = np.empty(0, np.float32)

    def arrays(self, *shapes: tuple[int, int]) -> list[np.ndarray]:
        """Return arrays that stay valid until the next call in this thread; what they hold is undefined."""
        counts = [rows * columns for rows, columns in shapes]
        block = self._block if len(self._block) >= sum(counts) else np.empty(sum(counts), np.float32)
        if block.nbytes <= KEPT:
            self._block = block
        ends = np.cumsum(counts).tolist()
        return [block[e - n : e].reshape(shape) for e, n, shape in zip(ends, counts, shapes, strict=True)]


_room = _Room()


@lru_cache(maxsize=64)  # a dataset has few sizes; 480 -> 224 takes 80 KB
def lanczos3_blocks(inner: int, outer: int) -> tuple[tuple[slice, slice, Float32[np.ndarray, "_ _"]], ...]:
    """Return the matrix [outer, inner] of the antialiased Lanczos-3 as blocks: output rows, the inputs they see, weights.

    W[i, j] ∝ L((j - c) / k), c = (i + 1/2) inner / outer - 1/2, k = max(inner / outer, 1), L(x) = sinc(x) sinc(x / 3) for |x| < 3, and
    0 elsewhere; what lies outside of the picture is dropped, and each row adds up to 1.
    """
    stretch = max(inner / outer, 1.0)
    centre = (np.arange(outer) + 0.5) * inner / outer - 0.5
    first = np.clip(np.ceil(centre - TAPS * stretch), 0, inner - 1).astype(int)
    last = np.clip(np.floor(centre + TAPS * stretch), 0, inner - 1).astype(int)
    blocks: list[tuple[slice, slice, np.ndarray]] = []
    for start in range(0, outer, BLOCK):
        out = slice(start, min(start + BLOCK, outer))
        seen = slice(int(first[start]), int(last[out.stop - 1]) + 1)
        x = (np.arange(seen.start, seen.stop) - centre[out, None]) / stretch
        weights = np.where(np.abs(x) < TAPS, np.sinc(x) * np.sinc(x / TAPS), 0.0)
        blocks.append((out, seen, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)))
    return tuple(blocks)


def jpeg_round_trip(image: UInt8[np.ndarray, "H W 3"], quality: int = 95) -> UInt8[np.ndarray, "H W 3"]:
    """Return the picture as JPEG leaves it: bit for bit what TensorFlow's `encode_jpeg` and `decode_image` give.

    Halved colours (4:2:0), the accurate transform on the way in, the fast one and smooth colours on the way out. Pillow writes the same
    bytes as TensorFlow but for the header's density; simplejpeg encodes by another path, up to 14 levels away on noise.
    """
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=quality, subsampling="4:2:0")
    return simplejpeg.decode_jpeg(encoded.getbuffer(), colorspace="RGB", fastdct=True, fastupsample=False)


def centre_crop(image: UInt8[np.ndarray, "H W 3"], area: float = 0.9) -> UInt8[np.ndarray, "H W 3"]:
    """Return the centre of this share of the area (side sqrt(area)), by bilinear interpolation at the picture's own size.

    Source: moojink/openvla-oft at 213c5ff, experiments/robot/openvla_utils.py.

    Raises:
        UserError: the area is not in (0, 1].
    """
    if not 0.0 < area <= 1.0:
        raise UserError(
            f"a centre crop keeps a share of the area in (0, 1], not {area}; OpenVLA's evaluation keeps 0.9"
        )
    side = np.sqrt(np.float32(area))
    offset = (1 - side) / 2
    return to_levels(crop_and_resize(to_unit(image), offset, offset, side))


def to_unit(image: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "3 H W"]:
    """Return the values in [0, 1], channels first."""
    planes = np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32)
    planes *= np.float32(1 / 255)
    return planes


def to_levels(planes: Float32[np.ndarray, "3 H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Undo `to_unit`: multiply by 255.5 and cut off, which gives whole levels back; values beyond [0, 1] take the ends."""
    levels = planes * np.float32(255.5)
    np.clip(levels, 0, 255, out=levels)
    return _channels_last(levels.astype(np.uint8))


def _channels_last(planes: UInt8[np.ndarray, "3 H W"]) -> UInt8[np.ndarray, "H W 3"]:
    image = np.empty((*planes.shape[1:], 3), np.uint8)
    for channel, plane in enumerate(
        planes
    ):  # three strided copies; numpy's own transposition takes three times as long
        image[:, :, channel] = plane
    return image


def crop_and_resize(
    planes: Float32[np.ndarray, "3 H W"], top: np.float32, left: np.float32, side: np.float32
) -> Float32[np.ndarray, "3 H W"]:
    """Return a crop at the picture's own size, bilinear, without antialiasing: TensorFlow's operation of this name.

    Args:
        planes: the picture, channels first.
        top: [fraction of height - 1] where the crop begins.
        left: [fraction of width - 1] the same.
        side: [fraction] its height and width.
    """
    x0, x1, x = _samples(planes.shape[2], left, side)
    across = np.take(planes, x1, axis=2)
    start = np.take(planes, x0, axis=2)
    across -= start
    across *= x
    across += start
    y0, y1, y = _samples(planes.shape[1], top, side)
    cropped = np.take(across, y1, axis=1)
    start = np.take(across, y0, axis=1)
    cropped -= start
    cropped *= y[:, None]
    cropped += start
    return cropped


def _samples(count: int, start: np.float32, side: np.float32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the neighbours of `count` evenly spaced samples and the weight of the second, in float32 as TensorFlow does it."""
    inner = np.float32(count - 1)
    if count == 1:
        at = np.float32(0.5) * (start + (start + side)) * inner * np.ones(1, np.float32)
    else:
        at = start * inner + np.arange(count, dtype=np.float32) * (((start + side) - start) * inner / inner)
    at = np.clip(at, 0, inner)
    low = np.floor(at)
    return low.astype(np.intp), np.ceil(at).astype(np.intp), at - low
