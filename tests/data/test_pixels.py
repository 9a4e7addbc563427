"""Pictures as TensorFlow decodes them. Expected values: TensorFlow 2.20 on CPU, printed by `tf.image.decode_image` for the same files."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ideomotor.core.errors import UserError
from ideomotor.data.rlds.pixels import decode_colours, decode_pixels


def png(pixels, mode=None):
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, "PNG")
    return buffer.getvalue()


def deep_png(pixels):
    """A 16-bit PNG by the words of its specification."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_kept(channels):
    pixels = np.random.default_rng(0).integers(0, 65536, (5, 7, channels)).astype(np.uint16)
    assert (decode_pixels(deep_png(pixels), "uint16", channels) == pixels).all()
    assert (decode_pixels(deep_png(pixels), "uint16", -1) == pixels).all()


def test_other_depths_are_converted_as_tensorflow_does():
    grey = (np.arange(35, dtype=np.uint8) * 7).reshape(5, 7)
    assert decode_pixels(png(grey), "uint16", 1)[0, :, 0].tolist() == [0, 1799, 3598, 5397, 7196, 8995, 10794]
    deep = np.random.default_rng(0).integers(0, 65536, (5, 7, 1)).astype(np.uint16)
    assert decode_pixels(deep_png(deep), "uint8", 1)[0, :, 0].tolist() == [217, 163, 130, 69, 78, 10, 19]


def test_floats_are_the_bytes_of_a_coloured_picture():
    metres = np.array([[0.5, -1.25], [1e-9, np.inf]], np.float32)
    assert decode_pixels(png(metres.view(np.uint8).reshape(2, 2, 4)), "float32", 1)[..., 0].tolist() == metres.tolist()


@pytest.mark.parametrize(
    "read", [lambda file: decode_colours(memoryview(file)), lambda f: decode_pixels(f, "uint16", 1)]
)
@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"no picture at all"])
def test_what_is_no_picture_is_refused(read, content):
    with pytest.raises(UserError, match="damaged|begins with"):
        read(content)


def test_a_picture_that_claims_to_be_enormous_is_refused():
    for size in ((1 << 14, 1 << 13), (1 << 16, 1 << 16)):
        header = struct.pack(">IIBBBBB", *size, 16, 0, 0, 0, 0)
        file = (
            b"\x89PNG\r\n\x1a\n"
            + struct.pack(">I", 13)
            + b"IHDR"
            + header
            + struct.pack(">I", zlib.crc32(b"IHDR" + header))
        )
        with pytest.raises(UserError):
            decode_pixels(file, "uint16", 1)
