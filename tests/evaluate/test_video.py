import io

import av
import numpy as np

from ideomotor.evaluate.video import GAP, SCALE, encode_mp4, side_by_side


def test_video_holds_every_frame_enlarged():
    levels = [20, 90, 160, 230]
    frames = [np.full((32, 41, 3), level, np.uint8) for level in levels]  # an odd width: one column is added
    with av.open(io.BytesIO(encode_mp4(frames, fps=10.0)), "r") as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 10
        decoded = [frame.to_ndarray(format="rgb24") for frame in video.decode(stream)]
    assert len(decoded) == len(frames)
    assert decoded[0].shape == (32 * SCALE, 41 * SCALE + 1, 3)
    for image, level in zip(decoded, levels, strict=True):
        assert abs(float(image[:, : 41 * SCALE].mean()) - level) < 4.0


def test_views_stand_side_by_side_in_their_order():
    front, wrist = np.full((6, 4, 3), 1, np.uint8), np.full((5, 3, 3), 2, np.uint8)
    both = side_by_side({"front": front, "wrist": wrist})
    assert both.shape == (6, 4 + GAP + 3, 3)
    assert (both[:, :4] == 1).all()
    assert (both[:5, 4 + GAP :] == 2).all()
    assert not both[:, 4 : 4 + GAP].any()
