"""Skills of the scripted expert: pure functions from the true state to one action, without memory.

Each skill decides what to do from where things are now, so it recovers from anything: an object that was dropped, moved or knocked
over, a closed gripper, a wrong object between the fingers, an arm low among objects. Without memory, running ahead from a saved
state gives the very actions that the expert would have executed.

An action is added to the commanded pose. Heights are those of the tool centre point (TCP) unless a name says otherwise.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ideomotor.sim.scene import X_RANGE, Y_RANGE, separation
from ideomotor.sim.view import View

STEP = 0.05  # [m] longest move of one action
TURN = 0.3  # [rad] largest turn of one action
MAX_YAW = 1.8  # [rad] the tool's yaw stays within, so that the last joint stays in its limits
CLEAR = 0.115  # [m] fingers pass above every standing object
HOVER = 0.075  # [m] above the grasp height: where the tool waits until it is aligned
LOWEST = 0.018  # [m] fingertips stay above the table
OPENED = 0.85  # [fraction] measured opening that counts as open
NEAR = 0.008  # [m] alignment needed to descend
YAW_NEAR = 0.12  # [rad]
AT_HEIGHT = 0.010  # [m]
AROUND_LONG, AROUND_WIDE = 0.014, 0.010  # [m] offsets along and across the fingers at which closing is safe
LIFT_HEIGHT = 0.16  # [m] of the object's centre when picked up
CARRY_BOTTOM = 0.080  # [m] bottom of a carried object, above every standing one
RELEASE_GAP = 0.004  # [m] between the bottom of the object and what it is put on
PLACED = 0.012  # [m] horizontal precision of putting down
CORRECTED = 0.045  # [m] horizontal error that is corrected without rising again
UPRIGHT_ENOUGH = 0.8  # cosine of the tilt below which an axis counts as vertical
FINGER_OUT = 0.047  # [m] from the TCP to the middle of an open finger
FINGER_GAP = 0.014  # [m] between the middle of a finger and another object
BLOCK_RANGE = 0.13  # [m] objects further away than this cannot be in the way of a finger
OPEN, CLOSED = 1.0, 0.0


@dataclass(frozen=True)
class Grip:
    """How to take hold of an object as it lies now."""

    yaw: float  # [rad] of the tool
    period: float  # [rad] the same grip again after this turn; 0: any yaw
    height: float  # [m]
    bottom: float  # [m] half height as it lies


def grip_of(view: View, index: int) -> Grip:
    """Return the grip across the narrower horizontal side, whichever side the object lies on."""
    shape, rotation = view.kinds[index].shape, view.rotation[index]
    centre_z = float(view.position[index, 2])
    vertical = int(np.abs(rotation[2]).argmax())
    if shape.geometry == "cylinder":
        radius, half_height = shape.size
        if vertical == 2 or abs(rotation[2, 2]) > UPRIGHT_ENOUGH:  # its axis is upright
            return Grip(0.0, 0.0, max(LOWEST, centre_z), half_height)
        along = math.atan2(rotation[1, 2], rotation[0, 2])
        return Grip(along, math.pi, max(LOWEST, centre_z), radius)
    first, second = (k for k in range(3) if k != vertical)
    narrow, wide = (first, second) if shape.size[first] <= shape.size[second] else (second, first)
    along = math.atan2(rotation[1, wide], rotation[0, wide])  # the tool's x; fingers close along the narrow side
    square = math.isclose(shape.size[narrow], shape.size[wide])
    height = max(LOWEST, centre_z + max(0.0, shape.size[vertical] - 0.03))  # a bar on end is taken near its top
    return Grip(along, math.pi / 2 if square else math.pi, height, shape.size[vertical])


def grasp(view: View, index: int) -> Float[np.ndarray, " A"]:
    """Come from above with an open gripper, descend when aligned, close when around the object."""
    grip = grip_of(view, index)
    yaw = _nearest_yaw(view, index, grip)
    if _around(view, index, grip, yaw):
        return _move(view, _at(view.position[index], grip.height), yaw, CLOSED)
    if (stuck := _free_fingers(view, index)) is not None:
        return stuck
    return _approach(view, index, grip, yaw)


def _approach(view: View, index: int, grip: Grip, yaw: float) -> Float[np.ndarray, " A"]:
    centre = view.position[index]
    across = _distance(view.tcp, centre)
    turn = abs(yaw - view.tcp_yaw)
    aligned = across < NEAR and turn < YAW_NEAR and view.opening > OPENED
    above = centre[2] + grip.bottom + 0.012  # fingertips of an unaligned gripper stay above this
    if aligned or _between(view, index, grip, yaw):
        return _move(view, _at(centre, grip.height), yaw, OPEN)
    if across > 2 * STEP and view.tcp[2] < CLEAR - 0.02:
        return _rise(view, OPEN)
    if view.tcp[2] < above:
        return _rise(view, OPEN)
    near = across < 2 * STEP and turn < 2 * TURN and view.opening > 0.5
    height = grip.height + HOVER if near else max(CLEAR, grip.height + HOVER)
    return _move(view, _at(centre, height), yaw, OPEN)


def lift(view: View, index: int) -> Float[np.ndarray, " A"]:
    """Raise what is held, straight up."""
    target = view.commanded + (0.0, 0.0, LIFT_HEIGHT - view.position[index, 2])
    return _move(view, target, view.commanded_yaw, CLOSED)


def carry(view: View, index: int, place: Float[np.ndarray, " 3"], top: float) -> Float[np.ndarray, " A"]:
    """Bring the held object over `place`, lower it onto the surface at height `top` [m], and open the gripper there."""
    centre = view.position[index]
    bottom = centre[2] - half_height(view, index)
    shift = np.array([place[0] - centre[0], place[1] - centre[1], 0.0])
    across = math.hypot(shift[0], shift[1])
    if across < PLACED:
        if bottom - top < RELEASE_GAP + 0.004:
            return _move(view, view.commanded, view.commanded_yaw, OPEN)
        shift[2] = top + RELEASE_GAP - bottom
    elif across < CORRECTED:
        shift[2] = max(0.0, top + 0.02 - bottom)
    else:
        shift[2] = CARRY_BOTTOM - bottom
        if bottom < CARRY_BOTTOM - 0.03:
            shift[:2] = 0.0
    return _move(view, view.commanded + shift, view.commanded_yaw, CLOSED)


def leave(view: View, index: int) -> Float[np.ndarray, " A"]:
    """Let go of an object that is where it should be, and rise."""
    away = _distance(view.tcp, view.position[index]) > 0.08 or view.tcp[2] > view.position[index, 2] + 0.06
    if away or view.opening > OPENED:
        height = max(CLEAR, view.tcp[2])
        return _move(view, np.array([*view.commanded[:2], height]), view.commanded_yaw, OPEN)
    return _move(view, view.commanded, view.commanded_yaw, OPEN)


def relocate(view: View, index: int) -> Float[np.ndarray, " A"]:
    """Put an object that is in the way on a free place of the table."""
    if view.held(index):
        return carry(view, index, _free_place(view, index), 0.0)
    return grasp(view, index)


def half_height(view: View, index: int) -> float:
    """Return the vertical half extent [m] of an object as it lies or hangs now."""
    shape, up = view.kinds[index].shape, np.abs(view.rotation[index][2])
    if shape.geometry == "cylinder":
        radius, half = shape.size
        return float(up[2] * half + math.sqrt(max(0.0, 1.0 - up[2] ** 2)) * radius)
    return float(up @ np.array(shape.size))


def _free_fingers(view: View, index: int) -> Float[np.ndarray, " A"] | None:
    """Return the action that frees the fingers of what they hold or touch, None if they are free."""
    for other, kind in enumerate(view.kinds):
        if other != index and kind.shape.graspable and view.held(other):
            return carry(view, other, _free_place(view, other), 0.0)
    if view.touched.any() and view.opening < OPENED:
        return _move(view, view.commanded, view.commanded_yaw, OPEN)
    return None


def _free_place(view: View, index: int) -> Float[np.ndarray, " 3"]:
    """Return the place nearest to the object where it stands apart from all others: its own place, if that is free."""
    here = view.position[index, :2]
    others = [i for i in range(len(view.kinds)) if i != index]
    x, y = np.meshgrid(np.linspace(*X_RANGE, 6), np.linspace(*Y_RANGE, 9), indexing="ij")
    places_P2 = np.stack([np.append(here[0], x), np.append(here[1], y)], axis=1)
    least_O = np.array([separation(view.kinds[index], view.kinds[other]) for other in others])
    gaps_PO = np.linalg.norm(places_P2[:, None] - view.position[others][None, :, :2], axis=2) - least_O
    room_P = gaps_PO.min(axis=1)
    on_table_P = (
        (places_P2[:, 0] >= X_RANGE[0]) & (places_P2[:, 0] <= X_RANGE[1]) & (np.abs(places_P2[:, 1]) <= Y_RANGE[1])
    )
    cost_P = np.linalg.norm(places_P2 - here, axis=1) + 100.0 * np.maximum(0.0, -room_P) + 100.0 * ~on_table_P
    return np.array([*places_P2[int(cost_P.argmin())], 0.0])


def _in_tool(view: View, index: int) -> tuple[float, float]:
    """Return the object's horizontal offset from the TCP, along the tool's x and along its fingers [m]."""
    dx, dy = (view.position[index, :2] - view.tcp[:2]).tolist()
    cos, sin = math.cos(view.tcp_yaw), math.sin(view.tcp_yaw)
    return cos * dx + sin * dy, -sin * dx + cos * dy


def _around(view: View, index: int, grip: Grip, yaw: float) -> bool:
    """Tell whether closing now takes hold of the object."""
    along, wide = _in_tool(view, index)
    placed = abs(along) < AROUND_LONG and abs(wide) < AROUND_WIDE and abs(view.tcp[2] - grip.height) < AT_HEIGHT
    return bool(placed and abs(yaw - view.tcp_yaw) < 2 * YAW_NEAR)


def _between(view: View, index: int, grip: Grip, yaw: float) -> bool:
    """Tell whether the object is between open fingers, so that the way down is free without perfect alignment."""
    along, wide = _in_tool(view, index)
    low = view.tcp[2] < grip.height + 0.03
    centred = abs(along) < 0.02 and abs(wide) < 0.012 and abs(yaw - view.tcp_yaw) < 0.3
    return bool(low and centred and view.opening > OPENED)


def _nearest_yaw(view: View, index: int, grip: Grip) -> float:
    """Return the tool's yaw for the grip that needs the shortest turn, other objects permitting."""
    if grip.period == 0.0:
        now = min(max(view.tcp_yaw, -MAX_YAW), MAX_YAW)
        candidates = [now, *np.linspace(-MAX_YAW, MAX_YAW, 13).tolist()]
        keep = candidates[0]
    else:
        turns = range(-4, 5)
        candidates = [y for k in turns if abs(y := _wrap(grip.yaw) + k * grip.period) <= MAX_YAW]
        keep = None
    free = [y for y in candidates if not _blocked(view, index, y)]
    if keep is not None and (keep in free or not free):
        return keep
    return min(free or candidates, key=lambda y: abs(y - view.tcp_yaw))


def _blocked(view: View, index: int, yaw: float) -> bool:
    """Tell whether a finger of the open gripper would come down on another standing object."""
    centre = view.position[index, :2]
    fingers_F2 = centre + FINGER_OUT * np.array([[-math.sin(yaw), math.cos(yaw)], [math.sin(yaw), -math.cos(yaw)]])
    for other, kind in enumerate(view.kinds):
        offset = view.position[other, :2] - centre
        if other == index or not kind.shape.graspable or offset @ offset > BLOCK_RANGE**2:
            continue
        local_F2 = (fingers_F2 - view.position[other, :2]) @ view.rotation[other][:2, :2]
        if kind.shape.geometry == "cylinder":
            gap_F = np.linalg.norm(local_F2, axis=1) - kind.shape.radius
        else:
            gap_F = (np.abs(local_F2) - np.array(kind.shape.size[:2])).max(axis=1)
        if gap_F.min() < FINGER_GAP:
            return True
    return False


def _rise(view: View, gripper: float) -> Float[np.ndarray, " A"]:
    return _move(view, view.commanded + (0.0, 0.0, STEP), view.commanded_yaw, gripper)


def _move(view: View, target: Float[np.ndarray, " 3"], yaw: float, gripper: float) -> Float[np.ndarray, " A"]:
    """Return the action towards a commanded position and yaw, at most `STEP` and `TURN` long."""
    shift = target - view.commanded
    length = math.sqrt(shift @ shift)
    if length > STEP:
        shift *= STEP / length
    turn = min(max(yaw - view.commanded_yaw, -TURN), TURN)
    return np.array([shift[0], shift[1], shift[2], 0.0, 0.0, turn, gripper])


def _at(centre: Float[np.ndarray, " 3"], height: float) -> Float[np.ndarray, " 3"]:
    return np.array([centre[0], centre[1], height])


def _distance(first: Float[np.ndarray, " 3"], second: Float[np.ndarray, " 3"]) -> float:
    """Return the horizontal distance [m]."""
    return math.hypot(first[0] - second[0], first[1] - second[1])


def _wrap(angle: float) -> float:
    """Return the same angle [rad] in [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi
