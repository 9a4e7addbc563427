"""Pictures as TensorFlow decodes them: colours, and those that hold numbers (depth as 16-bit PNG, TFDS' float pictures as RGBA).

Surprises: TensorFlow decodes JPEG by the fast integer DCT, so networks trained through it saw that; on BridgeData nine of ten values differ from
those of the accurate DCT, by up to 17 levels, and none from what `decode_colours` returns. Pillow reads 16-bit PNG of one channel but reduces those of three to 8 bits; ffmpeg keeps them. An 8-bit file that is declared
as 16 bits is stretched (x 257), a 16-bit one declared as 8 bits keeps its upper byte: so TensorFlow does.
"""

import io

import av
import av.error
import numpy as np
import simplejpeg
from jaxtyping import Shaped, UInt8
from PIL import Image

from ideomotor.core.errors import UserError
from ideomotor.data.images import JPEG_MAGIC, MAX_PIXELS, decode

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's, by number of channels
_BITS = 24  # place of the bits a channel in a PNG (PNG specification, 11.2.1)


def decode_colours(encoded: memoryview) -> UInt8[np.ndarray, "H W 3"]:
    """Return the pixels of a JPEG or PNG file.

    Raises:
        UserError: neither of the two, or damaged.
    """
    if bytes(encoded[:2]) != JPEG_MAGIC:
        return decode(encoded)
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(encoded)
        _check(int(height), int(width))
        return simplejpeg.decode_jpeg(encoded, colorspace="RGB", fastdct=True)
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"an image of {len(encoded)} bytes is damaged: {error}") from error


def decode_pixels(encoded: bytes, dtype: str, channels: int) -> Shaped[np.ndarray, "H W C"]:
    """Return the numbers of a PNG or JPEG file.

    Args:
        encoded: the file.
        dtype: "uint8", "uint16", or "float32" (one channel, its bytes stored as RGBA).
        channels: how many the file is declared to have; below 1: as many as it has.

    Raises:
        UserError: it is damaged, too large, or of a form that is not read.
    """
    if dtype == "float32":
        return np.ascontiguousarray(_decode(encoded, 4)).view(np.float32)
    pixels_HWC = _decode(encoded, channels)
    if dtype == "uint16" and pixels_HWC.dtype == np.uint8:
        return pixels_HWC.astype(np.uint16) * 257
    return (pixels_HWC >> 8).astype(np.uint8) if dtype == "uint8" and pixels_HWC.dtype != np.uint8 else pixels_HWC


def _decode(encoded: bytes, channels: int) -> np.ndarray:
    """Return the pixels at the file's own depth."""
    if encoded.startswith(JPEG_MAGIC) and channels == 3:
        return decode_colours(memoryview(encoded))
    try:
        with Image.open(io.BytesIO(encoded), formats=["PNG", "JPEG"]) as image:
            _check(image.height, image.width)
            if image.format == "PNG" and encoded[_BITS] == 16:
                return _deep(encoded, channels)
            mode = _MODES.get(channels) or (image.mode if image.mode in _MODES.values() else "RGB")
            pixels = np.array(image.convert(mode))
    except (
        ValueError,
        OSError,
        SyntaxError,
        av.error.FFmpegError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"a picture of {len(encoded)} bytes is damaged: {error}") from error
    return pixels.reshape(*pixels.shape[:2], -1)


def _check(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise UserError(f"a picture states {height} x {width} pixels; at most {MAX_PIXELS} are read")


def _deep(encoded: bytes, channels: int) -> np.ndarray:
    decoder = av.CodecContext.create("png", "r")
    assert isinstance(decoder, av.VideoCodecContext)
    frames = decoder.decode(av.Packet(encoded))
    if len(frames) != 1:
        raise UserError(f"a picture of {len(encoded)} bytes is damaged")
    pixels = frames[0].to_ndarray()
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if channels > 0 and pixels.shape[2] != channels:
        raise UserError(f"a 16-bit picture has {pixels.shape[2]} channels, {channels} are declared")
    return pixels
