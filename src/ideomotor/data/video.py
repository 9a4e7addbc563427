"""Frames of an mp4 by number.

Surprises: several episodes share one mp4; the file may begin at a pts other than 0; seeking lands on the keyframe before.
Times are compared as whole ticks of the stream: float32 seconds, as other readers use, are off by a frame's tolerance above
1,024 s.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Protocol, runtime_checkable

import av
import numpy as np
from av.error import FFmpegError
from jaxtyping import UInt8

from ideomotor.core.errors import UserError


@runtime_checkable
class FrameReader(Protocol):
    """One open video."""

    def frame(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return a frame by its number, counted from 0."""
        ...

    def close(self) -> None:
        """Let the file go."""
        ...


Decoder = Callable[
    [Path, float], FrameReader
]  # told the file and its frames a second; must be picklable where there are workers
NEAR = 64  # [frames] this far ahead decoding on is cheaper than seeking


class Video:
    """One open mp4; reading frames in order decodes each of them once."""

    def __init__(self, path: Path, fps: float) -> None:
        if not path.is_file():
            raise UserError(
                f"{path} is missing, though the dataset refers to it; restore it from a copy of the dataset"
            )
        self.path = path
        self.fps = Fraction(fps).limit_denominator(1001)
        try:
            self._container = av.open(str(path))
            self._stream = self._container.streams.video[0]
        except (FFmpegError, IndexError) as error:
            raise self._damaged(error) from error
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._next: int | None = None  # number of the frame that the decoder gives next, None unknown

    def tick(self, number: int) -> int:
        """Return the pts of frame `number`, in ticks of the stream."""
        base = self._stream.time_base
        assert base is not None
        return (self._stream.start_time or 0) + round(Fraction(number) / self.fps / base)

    def frame(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return frame `number`, counted from 0 at `fps`.

        Raises:
            UserError: the video has no frame at that time, or is damaged.
        """
        try:
            if self._next is None or not 0 <= number - self._next <= NEAR:
                self._container.seek(self.tick(number), stream=self._stream)
                self._frames = self._container.decode(self._stream)
            return self._decode_to(number)
        except FFmpegError as error:
            raise self._damaged(error) from error

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _decode_to(self, number: int) -> UInt8[np.ndarray, "height width 3"]:
        half = (self.tick(1) - self.tick(0)) / 2
        self._next = None
        for frame in self._frames:
            late = (frame.pts or 0) - self.tick(number)
            if abs(late) < half:
                self._next = number + 1
                return frame.to_ndarray(format="rgb24")
            if late > 0:
                break
        raise UserError(
            f"{self.path} has no frame {number} (at {float(number / self.fps):.3f} s); the table has more rows than the video"
            " has frames. Run `ideomotor data check`, and encode the video again"
        )

    def _damaged(self, error: Exception) -> UserError:
        return UserError(f"{self.path} cannot be decoded ({error}): it is truncated or damaged; restore it from a copy")
