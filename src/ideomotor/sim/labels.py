"""What a picture shows, told by the simulator: labels for patches and for the place that an instruction names.

The image is cut into patches of 16 px. A patch that holds the projected centre of an object is labelled with it; of several the
one nearest to the camera. An object counts as seen if one of five rays from the camera, to its centre and around it, meets it
first; one that is hidden behind the arm or another object leaves no label.

Shapes: O objects of the scene, P patches in row-major order, N points.
"""

import math
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Bool, Float, Int

from ideomotor.sim.objects import OBJECTS
from ideomotor.sim.render import CUTOFF, VISIBLE_GROUPS
from ideomotor.sim.task import Goal
from ideomotor.sim.view import View

PATCH = 16  # [px] side of a patch
AROUND = 0.6  # share of the half sizes at which the four rays around the centre pass
ROW_OF = {kind: row for row, kind in enumerate(OBJECTS)}


@dataclass(frozen=True)
class Pinhole:
    """The geometry of a camera at one instant. It looks along its -z, its y is image up."""

    position: Float[np.ndarray, "3"]  # [m, world]
    world_from_cam: Float[np.ndarray, "3 3"]
    focal: float  # [px]
    size: int  # [px] height and width

    @classmethod
    def of(cls, model: mujoco.MjModel, data: mujoco.MjData, camera: str, size: int) -> "Pinhole":
        """Return the geometry of the named camera as it is now."""
        index = model.camera(camera).id
        focal = 0.5 * size / math.tan(math.radians(float(model.cam_fovy[index])) / 2)
        return cls(data.cam_xpos[index].copy(), data.cam_xmat[index].reshape(3, 3).copy(), focal, size)

    def project(self, point_N3: Float[np.ndarray, "N 3"]) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, " N"]]:
        """Return the pixel (right, down; the corner of the image is 0, 0) and the depth [m] of points in the world.

        A point behind the camera has a negative depth and a pixel without meaning.
        """
        cam_N3 = (point_N3 - self.position) @ self.world_from_cam
        depth_N = -cam_N3[:, 2]
        safe_N = np.where(depth_N == 0, 1e-12, depth_N)
        pixel_N2 = np.stack([cam_N3[:, 0] / safe_N, -cam_N3[:, 1] / safe_N], axis=1) * self.focal + self.size / 2
        return pixel_N2, depth_N

    def unproject(
        self, pixel_N2: Float[np.ndarray, "N 2"], depth_N: Float[np.ndarray, " N"]
    ) -> Float[np.ndarray, "N 3"]:
        """Undo `project`."""
        plane_N2 = (pixel_N2 - self.size / 2) / self.focal * depth_N[:, None]
        cam_N3 = np.stack([plane_N2[:, 0], -plane_N2[:, 1], -depth_N], axis=1)
        return self.position + cam_N3 @ self.world_from_cam.T


def seen(
    model: mujoco.MjModel, data: mujoco.MjData, camera: Pinhole, view: View, body_O: Int[np.ndarray, " O"]
) -> Bool[np.ndarray, " O"]:
    """Tell which objects, whose MuJoCo bodies are `body_O`, the camera sees: one of five rays to each meets it first."""
    half_O2 = AROUND * np.array([(min(kind.shape.size[:-1]), kind.shape.half_height) for kind in view.kinds])
    right_3, up_3 = camera.world_from_cam[:, 0], camera.world_from_cam[:, 1]
    aim_OK3 = np.repeat(view.position[:, None], 5, axis=1)
    for k, (a, b) in enumerate([(1, 0), (-1, 0), (0, 1), (0, -1)], start=1):
        aim_OK3[:, k] += a * half_O2[:, :1] * right_3 + b * half_O2[:, 1:] * up_3
    ray_OK3 = aim_OK3 - camera.position
    ray_OK3 /= np.linalg.norm(ray_OK3, axis=-1, keepdims=True)
    count = len(body_O) * 5
    geom_N, distance_N = np.empty(count, np.int32), np.empty(count)
    mujoco.mj_multiRay(
        model,
        data,
        camera.position,
        ray_OK3.reshape(-1),
        VISIBLE_GROUPS,
        1,
        -1,
        geom_N,
        distance_N,
        None,
        count,
        CUTOFF,
    )
    met_N = np.where(geom_N >= 0, model.geom_bodyid[geom_N], -1)
    return (met_N.reshape(-1, 5) == body_O[:, None]).any(1)


def patch_labels(
    view: View, seen_O: Bool[np.ndarray, " O"], camera: Pinhole, reference_yaw: float
) -> dict[str, np.ndarray]:
    """Return the labels of one image, flattened: class [P], offset [P * 2], yaw [P * 2], held [P].

    class: 0 for none, else 1 + row of `OBJECTS`. offset: (right, down) of the centre from the middle of the patch, in patches.
    yaw: cos and sin of (yaw - `reference_yaw`) * symmetry; `reference_yaw` [rad] is 0 for a fixed camera and the yaw of the
    hand for its own. held: 1 if both fingers touch it. All are 0 where there is no object, yaw also for round shapes.
    """
    side = camera.size // PATCH
    class_P = np.zeros(side * side, np.int64)
    offset_P2, yaw_P2 = np.zeros((side * side, 2), np.float32), np.zeros((side * side, 2), np.float32)
    held_P = np.zeros(side * side, np.float32)
    pixel_O2, depth_O = camera.project(view.position)
    place_O2 = pixel_O2 / PATCH
    inside_O = seen_O & (depth_O > 0) & ((place_O2 >= 0) & (place_O2 < side)).all(1)
    for i in sorted(np.flatnonzero(inside_O).tolist(), key=lambda i: -depth_O[i]):  # the nearest is written last
        column, row = np.floor(place_O2[i]).astype(int).tolist()
        patch = row * side + column
        class_P[patch] = 1 + ROW_OF[view.kinds[i]]
        offset_P2[patch] = place_O2[i] - (column + 0.5, row + 0.5)
        yaw_P2[patch] = _turn(view, i, reference_yaw)
        held_P[patch] = view.held(i)
    return {"class": class_P, "offset": offset_P2.reshape(-1), "yaw": yaw_P2.reshape(-1), "held": held_P}


def location_labels(view: View, goal: Goal) -> dict[str, np.ndarray]:
    """Return the places that an instruction names, by dataset column: `label.location` and `label.location_valid`, [6] each.

    Target x, y, destination x, y [m], cos and sin of the target's yaw * symmetry; the destination is invalid for a task without
    one, the yaw for round shapes.
    """
    has_destination = goal.destination is not None
    destination_2 = view.position[goal.destination, :2] if has_destination else np.zeros(2)
    has_yaw = view.kinds[goal.target].shape.yaw_symmetry > 0
    place = [*view.position[goal.target, :2], *destination_2, *_turn(view, goal.target, 0.0)]
    valid = [1, 1, has_destination, has_destination, has_yaw, has_yaw]
    return {"label.location": np.array(place, np.float32), "label.location_valid": np.array(valid, np.float32)}


def _turn(view: View, index: int, reference_yaw: float) -> tuple[float, float]:
    """Return cos and sin of an object's turn about the vertical, times its symmetry; zeros for a round one."""
    symmetry = view.kinds[index].shape.yaw_symmetry
    if symmetry == 0:
        return 0.0, 0.0
    base_from_object = view.rotation[index]
    yaw = math.atan2(base_from_object[1, 0], base_from_object[0, 0]) - reference_yaw
    return math.cos(yaw * symmetry), math.sin(yaw * symmetry)
