"""Four short episodes of an arm with two cameras, as functions of numbers: the same in every format (tools/tfds_tabletop.py, test_formats.py)."""

import numpy as np

LENGTHS = (9, 7, 8, 6)
CAMERAS = ("cam_high", "cam_left_wrist")
SIZE = 96


def state(episode: int) -> np.ndarray:
    """Six joints and a gripper, float32 [T, 7]."""
    t = np.arange(LENGTHS[episode])[:, None]
    joints = np.sin(0.3 * t + np.arange(6) + episode)
    return np.concatenate([joints, (t > 3).astype(float)], axis=1).astype(np.float32)


def action(episode: int) -> np.ndarray:
    """Where the joints should be next, and the gripper, float32 [T, 7]."""
    t = np.arange(LENGTHS[episode])[:, None] + 1
    joints = np.sin(0.3 * t + np.arange(6) + episode)
    return np.concatenate([joints, (t > 3).astype(float)], axis=1).astype(np.float32)


def image(episode: int, frame: int, camera: int) -> np.ndarray:
    """A square on a slope of grey, uint8 [96, 96, 3]."""
    y, x = np.mgrid[:SIZE, :SIZE]
    picture = np.stack([x, y, np.full_like(x, 20 * episode + 40 * camera)], axis=-1).astype(np.uint8)
    row, column = 8 + 7 * frame % 70, 10 + 9 * episode + 20 * camera
    picture[row : row + 12, column : column + 12] = (230, 40, 30)
    return picture
