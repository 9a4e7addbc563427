"""Frames to a small H.264 file that every browser plays, in memory."""

import io
from collections.abc import Mapping, Sequence

import av
import numpy as np
from einops import repeat
from jaxtyping import UInt8

SCALE = 3  # each pixel of a 96-px camera becomes 3 x 3, unblurred
GAP = 4  # [px] between two camera views, before scaling
QUALITY = "23"  # x264's constant rate factor


def side_by_side(images: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]) -> UInt8[np.ndarray, "_ _ 3"]:
    """Return the camera images of one instant next to each other, in their order, aligned at the top."""
    height = max(image.shape[0] for image in images.values())
    columns: list[np.ndarray] = []
    for image in images.values():
        if columns:
            columns.append(np.zeros((height, GAP, 3), np.uint8))
        columns.append(np.pad(image, ((0, height - image.shape[0]), (0, 0), (0, 0))))
    return np.concatenate(columns, axis=1)


def encode_mp4(frames: Sequence[UInt8[np.ndarray, "height width 3"]], fps: float) -> bytes:
    """Return the frames as H.264 in MP4 (yuv420p, `SCALE` times larger)."""
    assert frames, "a video needs a frame"
    large = [_even(repeat(frame, "h w c -> (h y) (w x) c", y=SCALE, x=SCALE)) for frame in frames]
    height, width = large[0].shape[:2]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=round(fps), options={"crf": QUALITY, "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for image in large:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _even(image: UInt8[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """Pad to even sizes, which yuv420p needs."""
    height, width = image.shape[:2]
    return np.ascontiguousarray(np.pad(image, ((0, height % 2), (0, width % 2), (0, 0))))
