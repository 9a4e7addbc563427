"""Frames to mp4, each of them within a stated bound of its original; and parts of an mp4 to another one, packet by packet.

H.264 at a constant rate without B-frames, a key frame every second frame (other tools read frames at random), first pts 0, the index at the
front. The encoder works in one thread and without looking ahead (which reads memory that nobody wrote, of small frames), so that equal
frames give equal bytes. Quality: each file is decoded again; if a
frame is further from its original than `BOUND`, the file is encoded once more with the next of `LADDER`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from jaxtyping import UInt8

from ideomotor.core import files
from ideomotor.core.errors import UserError

BOUND = 35.0  # [dB] smallest PSNR of a frame, over its three colours; at 40 differences can hardly be seen
GOP = 2  # [frames] from one key frame to the next, lerobot's default

Frames = Callable[[int], UInt8[np.ndarray, "height width 3"]]


@dataclass(frozen=True)
class Quality:
    """How closely a video follows its frames."""

    pixels: str  # format of the pixels; "yuv420p" keeps a quarter of the colours, and sides must be even
    crf: int  # x264's rate factor, 0 is the best


LADDER = (Quality("yuv420p", 18), Quality("yuv420p", 8), Quality("yuv444p", 8), Quality("yuv444p", 0))


def encode_video(frames: Frames, count: int, fps: float, path: Path) -> float:
    """Write frames 0 to count - 1 to `path` in one step, and return the smallest PSNR of a frame [dB].

    Raises:
        UserError: even the best quality of the ladder misses `BOUND`.
    """
    height, width, _ = frames(0).shape
    odd = bool(height % 2 or width % 2)
    with files.atomic_path(path) as temporary:
        worst = 0.0
        for quality in LADDER:
            if odd and quality.pixels == "yuv420p":
                continue
            _encode(frames, count, fps, temporary, quality)
            worst = smallest_psnr(frames, count, temporary)
            if worst >= BOUND:
                return worst
        raise UserError(
            f"{path}: a frame lies {worst:.1f} dB from its original in the best quality, below {BOUND:g} dB; convert without"
            " --video, which keeps the images as they are"
        )


def smallest_psnr(frames: Frames, count: int, path: Path) -> float:
    """Decode a video and return the smallest PSNR of its frames [dB], infinite where all are equal.

    Raises:
        UserError: the video holds another number of frames.
    """
    worst, found = float("inf"), 0
    for number, decoded in enumerate(_decoded(path)):
        found += 1
        if number < count:
            worst = min(worst, psnr(decoded, frames(number)))
    if found != count:
        raise UserError(f"{path} has {found} frames instead of {count}; this is a fault of Ideomotor, please report it")
    return worst


def psnr(left: UInt8[np.ndarray, "height width 3"], right: UInt8[np.ndarray, "height width 3"]) -> float:
    """Return the peak signal-to-noise ratio of two images [dB]: 20 log10 255 - 10 log10 of the mean squared difference.

    >>> round(psnr(np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)), 3)
    0.0
    """
    error = float(np.square(left.astype(np.float32) - right).mean())
    return float("inf") if error == 0 else float(20 * np.log10(255.0) - 10 * np.log10(error))


def copy_packets(source: Path, fps: float, first: int, count: int, path: Path) -> bool:
    """Write frames `first` to `first + count - 1` of an mp4 to another one without decoding them; False where this cannot be.

    It can where the first frame is a key frame, and the others follow it without gaps and without being reordered.

    Raises:
        UserError: the source is missing or damaged.
    """
    if not source.is_file():
        raise UserError(f"{source} is missing, though the dataset refers to it; restore it from a copy of the dataset")
    try:
        with av.open(str(source)) as container:
            stream = container.streams.video[0]
            packets = _span(container, stream, fps, first, count)
            if packets is None:
                return False
            with files.atomic_path(path) as temporary:
                _mux(stream, packets, temporary)
            return True
    except (FFmpegError, IndexError) as error:
        raise UserError(f"{source} cannot be read as video ({error}); restore it from a copy of the dataset") from error


def describe_video(path: Path, fps: float) -> dict[str, Any]:
    """Return the `info` of a video feature, in lerobot's words."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        name = {"libdav1d": "av1", "libaom-av1": "av1"}.get(context.name, context.name)
        return {
            "video.height": context.height,
            "video.width": context.width,
            "video.codec": name,
            "video.pix_fmt": context.pix_fmt,
            "video.is_depth_map": False,
            "video.fps": int(fps) if float(fps).is_integer() else fps,
            "video.channels": 1 if (context.pix_fmt or "").startswith("gray") else 3,
            "has_audio": bool(container.streams.audio),
        }


def rate(fps: float) -> Fraction:
    """Return frames a second as a fraction of whole numbers."""
    return Fraction(fps).limit_denominator(1001)


def _encode(frames: Frames, count: int, fps: float, path: Path, quality: Quality) -> None:
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        options = {"crf": str(quality.crf), "g": str(GOP), "bf": "0", "preset": "veryfast", "threads": "1"}
        options["x264-params"] = "mbtree=0:rc-lookahead=0:scenecut=0"
        stream: Any = container.add_stream("libx264", rate=rate(fps), options=options)
        stream.codec_context.thread_count = 1
        height, width, _ = frames(0).shape
        stream.height, stream.width, stream.pix_fmt = height, width, quality.pixels
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frames(number)), format="rgb24")
            frame = _padded(_padded(frame).reformat(format=quality.pixels))
            frame.pts, frame.time_base = number, 1 / rate(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _padded(frame: av.VideoFrame) -> av.VideoFrame:
    """Write zeros behind the end of each row: scaler and encoder read there, and what they find decides about bits."""
    for plane in frame.planes:
        size = plane.width * (3 if frame.format.name == "rgb24" else 1)
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size).copy()
        rows[:, size:] = 0
        plane.update(rows.tobytes())
    return frame


def _decoded(path: Path) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.video[0]):
            yield frame.to_ndarray(format="rgb24")


def _span(container: Any, stream: Any, fps: float, first: int, count: int) -> list[Any] | None:
    """Return the packets of these frames if they stand for themselves: a key frame, then all others in order of time."""
    origin, ticks = stream.start_time or 0, 1 / rate(fps) / stream.time_base

    def number(packet: Any) -> Fraction:
        return (packet.pts - origin) / ticks

    container.seek(origin + round(first * ticks), stream=stream)
    chosen: list[Any] = []
    for packet in container.demux(stream):
        if packet.pts is None or number(packet) < first - Fraction(1, 2):
            if chosen and packet.pts is not None:
                return None  # a frame from before the first is needed
            continue
        if len(chosen) == count:
            return None if number(packet) < first + count - Fraction(1, 2) else chosen
        if abs(number(packet) - (first + len(chosen))) >= Fraction(1, 2) or not (chosen or packet.is_keyframe):
            return None
        chosen.append(packet)
    return chosen if len(chosen) == count else None


def _mux(template: Any, packets: list[Any], path: Path) -> None:
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as output:
        stream: Any = output.add_stream_from_template(template)
        stream.time_base = template.time_base
        start, shift = packets[0].pts, packets[0].dts
        for packet in packets:
            packet.pts, packet.dts = packet.pts - start, packet.dts - shift
            packet.stream = stream
            output.mux(packet)
