"""Encoding within a bound, and copying packets."""

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import foreign_v2

from ideomotor.core.errors import UserError
from ideomotor.data.convert import video_writer
from ideomotor.data.convert.video_writer import BOUND, copy_packets, describe_video, encode_video, psnr, smallest_psnr
from ideomotor.data.video import Video


def smooth(number: int) -> np.ndarray:
    y, x = np.mgrid[:48, :64]
    return np.stack([x * 3, y * 4, np.full_like(x, 10 * number)], -1).astype(np.uint8)


def test_psnr_by_hand() -> None:
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert psnr(black, white) == 0.0
    assert psnr(black, black) == float("inf")
    one = black.copy()
    one[0, 0, 0] = 255  # a twelfth of the values
    assert psnr(black, one) == pytest.approx(10 * np.log10(12))


@pytest.mark.parametrize("fps", [10.0, 29.97, 30000 / 1001, 12.5])
def test_a_video_has_a_constant_rate_begins_at_zero_and_has_no_frames_out_of_order(tmp_path: Path, fps: float) -> None:
    path = tmp_path / "a.mp4"
    worst = encode_video(smooth, 9, fps, path)
    assert worst >= BOUND
    assert worst == smallest_psnr(smooth, 9, path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate or 0) == pytest.approx(fps, rel=1e-5)
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        assert [packet.is_keyframe for packet in packets] == [n % 2 == 0 for n in range(9)]
        assert all(packet.pts == packet.dts for packet in packets)
        times = [float((packet.pts or 0) * (stream.time_base or Fraction(1))) for packet in packets]
        assert times == pytest.approx([n / fps for n in range(9)], abs=1e-4)
    video = Video(path, fps)
    for number in (8, 0, 5):
        assert psnr(video.frame(number), smooth(number)) >= BOUND
    video.close()


def test_equal_frames_give_equal_bytes_whatever_was_in_memory(tmp_path: Path) -> None:
    def small(number: int) -> np.ndarray:
        return smooth(number)[:10, :22].copy()

    contents: set[bytes] = set()
    for seed in range(6):
        junk = [np.random.default_rng(seed).integers(0, 256, 1000 * n + 1, dtype=np.uint8) for n in range(40)]
        del junk
        encode_video(small, 5, 10.0, tmp_path / "a.mp4")
        contents.add((tmp_path / "a.mp4").read_bytes())
    assert len(contents) == 1


def test_a_bound_that_is_missed_costs_bytes_and_not_quality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def noise(number: int) -> np.ndarray:
        return np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)

    assert encode_video(noise, 3, 10.0, tmp_path / "a.mp4") >= BOUND
    assert describe_video(tmp_path / "a.mp4", 10.0)["video.pix_fmt"] == "yuv444p"  # 4:2:0 cannot hold it
    monkeypatch.setattr(video_writer, "BOUND", 99.0)
    with pytest.raises(UserError, match=r"below 99 dB; convert without --video"):
        encode_video(noise, 3, 10.0, tmp_path / "b.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4"]


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.pts is not None]


def test_parts_that_begin_with_a_key_frame_are_copied(tmp_path: Path) -> None:
    source, part = tmp_path / "a.mp4", tmp_path / "b.mp4"
    foreign_v2.write_video(source, [10 * n for n in range(12)], gop=3)
    whole = packets(source)
    for first, count in ((0, 12), (3, 6), (9, 3), (6, 1), (0, 4)):
        assert copy_packets(source, 10.0, first, count, part)
        assert packets(part) == whole[first : first + count]
        left, right = Video(source, 10.0), Video(part, 10.0)
        for number in range(count):
            assert (left.frame(first + number) == right.frame(number)).all()
        left.close()
        right.close()
    part.unlink()
    for first, count in ((1, 3), (4, 2), (9, 4), (12, 1), (100, 5)):
        assert not copy_packets(source, 10.0, first, count, part)
    assert not part.exists()


def test_frames_out_of_order_or_at_another_rate_are_not_copied(tmp_path: Path) -> None:
    source = tmp_path / "a.mp4"
    with av.open(str(source), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10, options={"bf": "3", "g": "12", "b-adapt": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(smooth(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert not copy_packets(source, 10.0, 0, 12, tmp_path / "b.mp4")
    foreign_v2.write_video(source, [0] * 6, fps=10)
    assert not copy_packets(source, 20.0, 0, 6, tmp_path / "b.mp4")


def test_damaged_and_missing_sources_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.mp4 is missing"):
        copy_packets(tmp_path / "a.mp4", 10.0, 0, 1, tmp_path / "b.mp4")
    (tmp_path / "a.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(UserError, match=r"a\.mp4 cannot be read as video"):
        copy_packets(tmp_path / "a.mp4", 10.0, 0, 1, tmp_path / "b.mp4")
