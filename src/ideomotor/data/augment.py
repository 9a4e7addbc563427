"""OpenVLA's augmentation for fine-tuning: a random crop, then brightness, contrast, saturation and hue, by TensorFlow's definitions.

Each operation is a pure function of its parameter on float32 planes in [0, 1], held to TensorFlow's own by tests; `augment` draws the
parameters. B = images of a batch, C = cameras, H, W = height and width [px].

Source: openvla/openvla at c8f03f4, prismatic/vla/datasets/datasets.py (numbers and order), and arXiv 2406.09246.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from ideomotor.core.errors import UsageError
from ideomotor.data.resize import crop_and_resize, to_levels, to_unit


@dataclass(frozen=True)
class Augment:
    """How far each property varies; every camera of every sample on its own. The defaults are OpenVLA's."""

    crop_area: float = 0.9  # [fraction] of the picture; its place varies
    brightness: float = 0.2  # [fraction of the full range] largest shift, either way
    contrast: tuple[float, float] = (0.8, 1.2)  # factor about each channel's mean
    saturation: tuple[float, float] = (0.8, 1.2)  # factor
    hue: float = 0.05  # [turns] largest shift, either way

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            UsageError: a number without a meaning.
        """
        if not 0.0 < self.crop_area <= 1.0:
            raise UsageError(f"augmentation: crop_area is a share in (0, 1], not {self.crop_area}; OpenVLA's is 0.9")
        for name, (low, high) in (("contrast", self.contrast), ("saturation", self.saturation)):
            if not 0.0 <= low <= high:
                raise UsageError(f"augmentation: {name} is a range 0 <= low <= high, not ({low}, {high})")
        if not (0.0 <= self.brightness <= 1.0 and 0.0 <= self.hue <= 0.5):
            raise UsageError("augmentation: brightness lies in [0, 1] and hue in [0, 0.5] (half a turn is every hue)")


@dataclass(frozen=True)
class Draw:
    """The parameters of one picture."""

    offset: float  # [fraction] of the crop from the top *and* from the left
    brightness: float
    contrast: float
    saturation: float
    hue: float  # [turns]


def augment(
    images: UInt8[np.ndarray, "B C H W 3"], how: Augment, seed: int, numbers: Int64[np.ndarray, " B"]
) -> UInt8[np.ndarray, "B C H W 3"]:
    """Return the images augmented, by a function of seed and global sample number alone."""
    changed = np.empty_like(images)
    side = np.sqrt(np.float32(how.crop_area))
    for b, number in enumerate(numbers.tolist()):
        for c, draw in enumerate(draws(how, seed, number, images.shape[1])):
            changed[b, c] = augmented(images[b, c], draw, side)
    return changed


def draws(how: Augment, seed: int, number: int, num_cameras: int) -> list[Draw]:
    """Return one draw a camera for the sample of this number, all uniform.

    The reference takes the vertical and the horizontal offset of the crop from one seed, so both are equal and every crop lies on the
    main diagonal. A model is fine-tuned on what its training saw: kept.
    """
    random = np.random.Generator(np.random.Philox(key=[seed, 0xA6], counter=[0, 0, 0, number])).random((num_cameras, 5))
    free = 1.0 - how.crop_area**0.5
    low = np.array([0.0, -how.brightness, how.contrast[0], how.saturation[0], -how.hue])
    high = np.array([free, how.brightness, how.contrast[1], how.saturation[1], how.hue])
    return [Draw(*row) for row in (low + random * (high - low)).tolist()]


def augmented(image: UInt8[np.ndarray, "H W 3"], draw: Draw, side: np.float32) -> UInt8[np.ndarray, "H W 3"]:
    """Return one picture augmented: five operations in OpenVLA's order, values clipped to [0, 1] after each."""
    offset = np.float32(draw.offset)
    planes = crop_and_resize(to_unit(image), offset, offset, side)
    for adjust, amount in (
        (adjust_brightness, draw.brightness),
        (adjust_contrast, draw.contrast),
        (adjust_saturation, draw.saturation),
        (adjust_hue, draw.hue),
    ):
        planes = adjust(np.clip(planes, 0, 1, out=planes), amount)
    return to_levels(planes)


def adjust_brightness(planes: Float32[np.ndarray, "3 H W"], delta: float) -> Float32[np.ndarray, "3 H W"]:
    """Add `delta` to every value."""
    return planes + np.float32(delta)


def adjust_contrast(planes: Float32[np.ndarray, "3 H W"], factor: float) -> Float32[np.ndarray, "3 H W"]:
    """Multiply the distance from each channel's mean."""
    mean = planes.mean(axis=(1, 2), keepdims=True)
    return (planes - mean) * np.float32(factor) + mean


def adjust_saturation(planes: Float32[np.ndarray, "3 H W"], factor: float) -> Float32[np.ndarray, "3 H W"]:
    """Multiply the saturation of HSV, at most to 1; value V and hue stay.

    In HSV a channel is V - (V - c), where V = max and the distances V - c are proportional to the saturation (V - min) / V: the factor
    goes to the distances, and the largest it may be is the one at which the smallest channel reaches 0, V / (V - min).
    """
    top = planes.max(axis=0)
    span = top - planes.min(axis=0)
    if factor > 1.0:
        most = np.divide(top, span, out=np.full_like(top, factor), where=span > 0)
        return top - (top - planes) * np.minimum(most, np.float32(factor))
    return top - (top - planes) * np.float32(factor)


def adjust_hue(planes: Float32[np.ndarray, "3 H W"], delta: float) -> Float32[np.ndarray, "3 H W"]:
    """Turn the hue by `delta` [turns]; the largest and the smallest channel of a pixel keep their values.

    With the hue h in sixths of a turn (red 0, green 2, blue 4) a channel that is purest at p is V - (V - min) t, where t grows from 0 to 1
    between one and two sixths away from p.
    """
    red, green, blue = planes
    top = planes.max(axis=0)
    span = top - planes.min(axis=0)
    divisor = span + (span == 0)  # grey has no hue: t is multiplied by zero
    is_red, is_green = top == red, top == green  # products with masks: `np.where` takes ten times as long
    is_green &= ~is_red
    hue = ((green - blue) * is_red + (blue - red) * is_green + (red - green) * ~(is_red | is_green)) / divisor
    hue += 4 - 4 * is_red.astype(np.float32) - 2 * is_green.astype(np.float32)
    turned = np.empty_like(planes)
    for channel, purest in enumerate((0.0, 2.0, 4.0)):
        away = hue + np.float32(6 * delta - purest)
        away -= 6 * np.rint(away * np.float32(1 / 6))  # the short way round the circle
        np.subtract(np.abs(away), 1, out=away)
        np.clip(away, 0, 1, out=away)
        away *= span
        np.subtract(top, away, out=turned[channel])
    return turned
