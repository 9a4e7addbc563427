"""Images: decoding, size, and the jitter of brightness and contrast. uint8, height x width x 3, RGB.

B = images of a batch, C = cameras, H, W = height and width [px].
"""

import io
from dataclasses import dataclass

import numpy as np
import simplejpeg
from jaxtyping import Float, Int64, UInt8
from PIL import Image

from ideomotor.core.errors import UserError

JPEG_MAGIC = b"\xff\xd8"
PNG_MAGIC = b"\x89PNG"
MAX_PIXELS = 1 << 26  # datasets come from strangers: an image of 64 megapixels is refused


def decode(encoded: bytes | memoryview) -> UInt8[np.ndarray, "H W 3"]:
    """Return the pixels of a JPEG or PNG file, told apart by their first bytes.

    Raises:
        UserError: neither of the two, or damaged.
    """
    magic = bytes(encoded[:4])
    try:
        if magic.startswith(JPEG_MAGIC):
            height, width, *_ = simplejpeg.decode_jpeg_header(encoded)
            _check_pixels(int(height), int(width))
            return simplejpeg.decode_jpeg(encoded, colorspace="RGB")
        if magic.startswith(PNG_MAGIC):
            with Image.open(io.BytesIO(encoded), formats=["PNG"]) as image:
                _check_pixels(image.height, image.width)
                return np.array(image.convert("RGB"))
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"an image of {len(encoded)} bytes is damaged: {error}") from error
    raise UserError(f"an image begins with {magic!r}; JPEG (ff d8) and PNG (89 50 4e 47) are read")


def resize(image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """Return the image at `size` (height, width) [px] by antialiased bicubic interpolation; the aspect is not kept.

    The same function serves the cache of training and the robot. An image of that size already is returned as it is.
    """
    if image.shape[:2] == size:
        return image
    height, width = size
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class Jitter:
    """How far brightness and contrast vary, each image on its own."""

    brightness: float = 0.15  # [fraction of the full range] largest shift, either way
    contrast: float = 0.2  # [fraction] largest change of the slope around mid-grey


def jitter(
    images: UInt8[np.ndarray, "B C H W 3"], how: Jitter, seed: int, numbers: Int64[np.ndarray, " B"]
) -> UInt8[np.ndarray, "B C H W 3"]:
    """Return the images with brightness and contrast changed, by a function of seed and global sample number alone."""
    changed = np.empty_like(images)
    tables = [lookup_tables(how, seed, number, images.shape[1]) for number in numbers.tolist()]
    for b, tables_C256 in enumerate(tables):
        for c, table in enumerate(tables_C256):
            np.take(table, images[b, c], out=changed[b, c], mode="clip")  # clip: the mode without a buffer
    return changed


def lookup_tables(how: Jitter, seed: int, number: int, num_cameras: int) -> UInt8[np.ndarray, "C 256"]:
    """Return the new value of each of the 256 grey values, one row a camera, for the sample of this number."""
    uniform_C2 = _uniform(seed, number, 2 * num_cameras).reshape(-1, 2)
    shift_C1 = 255.0 * how.brightness * uniform_C2[:, :1]
    slope_C1 = 1.0 + how.contrast * uniform_C2[:, 1:]
    values_C256 = (np.arange(256.0) - 127.5) * slope_C1 + 127.5 + shift_C1
    return np.clip(np.rint(values_C256), 0, 255).astype(np.uint8)


def _uniform(seed: int, number: int, count: int) -> Float[np.ndarray, " N"]:
    """Return numbers in [-1, 1) from Philox; the sample number is the upper part of its counter, so samples never overlap."""
    bits = np.random.Philox(key=seed, counter=number << 64).random_raw(count)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0


def _check_pixels(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise UserError(f"an image states {height} x {width} pixels; at most {MAX_PIXELS} are read")
