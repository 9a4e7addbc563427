"""From end-effector actions to joint commands: inverse kinematics, and the control that integrates commanded poses.

J = joints, K = commands of the robot's own rate in one control period. Poses are base_from_tcp, 4 x 4.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ideomotor.core.errors import UserError
from ideomotor.core.rotation import log_of_one, rotation_vector_to_matrix
from ideomotor.robot.arm import Arm, Vector3
from ideomotor.robot.kinematics import chain, forward, pose_and_jacobian

ITERATIONS = 3
DAMPING = 1e-4  # lambda of damped least squares at the target; 1e-3 works too
ERROR_DAMPING = 2.5  # times the squared error: added to lambda, see `InverseKinematics`
TURN_WEIGHT = 0.1  # [m/rad] worth of rotation against position where both cannot be had: the position then comes first
HOME_PULL = 0.05  # share of the way home that the null space takes in an iteration
TURN_STEP = 0.4  # [rad] largest rotation error per axis that an iteration looks at
REACH = 2.0  # [m] no arm reaches further: keeps any finite target from overflowing
JOINT_STEP = 0.3  # [rad] largest change of a joint in an iteration

LEASH = 0.15  # [m] largest distance of the commanded TCP from the one that the joints reach
TURN_LEASH = (
    0.5  # [rad] the same for the rotation: wrists at their speed limit lag 0.37, and pi would flip the way back
)


class InverseKinematics:
    """Damped least squares from a warm start, within joint and velocity limits.

    Three iterations of dq = J^T (J J^T + lambda I)^-1 e, pulled towards home in the null space when there are more than six
    joints. lambda grows with the squared error (Sugihara 2011, Solvability-Unconcerned Inverse Kinematics by the
    Levenberg-Marquardt Method): a constant one tracks as well, but out of reach the joints then jump to and fro at their
    velocity limits (measured: 5 to 8 times as many reversals) and can tangle so that the arm does not come back.
    """

    def __init__(self, arm: Arm) -> None:
        """Prepare the constants of `arm`."""
        self._chain = chain(arm)
        self._home = np.array(arm.home)
        self._q_min, self._q_max = np.array(arm.q_min), np.array(arm.q_max)
        self._dq_max = np.array(arm.dq_max)
        self._weights = np.array([1.0] * 3 + [TURN_WEIGHT] * 3)
        self._redundant = arm.num_joints > 6  # a pose has six dimensions

    def solve(
        self, q_J: Float[np.ndarray, " J"], base_from_target: Float[np.ndarray, "4 4"], dt: float
    ) -> Float[np.ndarray, " J"]:
        """Return joint positions [rad] nearer to the target, or at it, that can be reached from `q_J` within `dt` [s].

        The result is finite and within the position limits; it moves no joint by more than its velocity limit times `dt`,
        unless `q_J` itself lies outside the position limits.

        Raises:
            UserError: a number is not finite.
        """
        if not (np.isfinite(base_from_target).all() and np.isfinite(q_J).all()):
            raise UserError(f"inverse kinematics from joints {q_J.tolist()} to {base_from_target.tolist()}: not finite")
        start = q_J
        for _ in range(ITERATIONS):
            base_from_tcp, jacobian = pose_and_jacobian(self._chain, q_J)
            error = self._weights * pose_error(base_from_tcp, base_from_target)
            jacobian *= self._weights[:, None]
            square = jacobian @ jacobian.T
            square.flat[::7] += DAMPING + ERROR_DAMPING * (error @ error)  # the diagonal of 6 x 6
            if self._redundant:  # A e + (I - A J) pull = A (e - J pull) + pull, where A = J^T (J J^T + lambda I)^-1
                pull = HOME_PULL * (self._home - q_J)
                step = np.linalg.solve(square, error - jacobian @ pull) @ jacobian + pull
            else:
                step = np.linalg.solve(square, error) @ jacobian
            q_J = _clip(q_J + _clip(step, -JOINT_STEP, JOINT_STEP), self._q_min, self._q_max)
        reach = self._dq_max * dt
        return _clip(_clip(q_J, start - reach, start + reach), self._q_min, self._q_max)


def pose_error(
    base_from_tcp: Float[np.ndarray, "4 4"], base_from_target: Float[np.ndarray, "4 4"]
) -> Float[np.ndarray, " 6"]:
    """Return the way from TCP to target, position [m] and rotation vector [rad] in the base frame, both clipped."""
    error = np.empty(6)
    error[:3] = base_from_target[:3, 3] - base_from_tcp[:3, 3]
    error[3:] = log_of_one(base_from_target[:3, :3] @ base_from_tcp[:3, :3].T)
    return _clip(error, -_ERROR_BOUND, _ERROR_BOUND)


_ERROR_BOUND = np.array([REACH] * 3 + [TURN_STEP] * 3)


@dataclass(frozen=True)
class Workspace:
    """Where the commanded TCP may go, and how far one action may move it. Values of the reference tabletop."""

    low: Vector3 = (0.20, -0.40, 0.01)  # [m]
    high: Vector3 = (0.75, 0.40, 0.60)  # [m]
    step: float = 0.05  # [m] per axis
    turn: float = 0.3  # [rad] per component of the rotation vector


class Ramp(NamedTuple):
    """Commands for one control period."""

    q: Float[np.ndarray, "K J"]  # [rad]
    opening: Float[np.ndarray, " K"]  # [fraction] 1 = open


class EndEffectorControl:
    """Turn 7-D actions into joint commands.

    An action is a shift [m] and a rotation vector [rad], both in the base frame, and the gripper's opening [fraction]. Shift
    and turn are applied to the *commanded* pose, so that what the arm lags behind does not add up: target position + shift,
    exp(turn) target rotation. The joints then go in a straight line from the last joint target to the new one.
    """

    def __init__(self, arm: Arm, rate_hz: float, robot_hz: float, workspace: Workspace | None = None) -> None:
        """Set up for `rate_hz` actions a second and a robot that takes `robot_hz` commands a second.

        Raises:
            UserError: the robot's rate is no multiple of the actions'.
        """
        commands = round(robot_hz / rate_hz)
        if commands < 1 or not math.isclose(commands * rate_hz, robot_hz):
            raise UserError(
                f"{arm.name} takes {robot_hz:g} commands a second, which is no multiple of {rate_hz:g} actions a second; "
                "choose rates that divide"
            )
        self._arm = arm
        self._dt = 1.0 / rate_hz
        self._solver = InverseKinematics(arm)
        self._workspace = workspace or Workspace()
        self._ramp_K = np.arange(1, commands + 1) / commands
        self.reset(np.array(arm.home), 1.0)

    def reset(self, q: Float[np.ndarray, " J"], opening: float) -> None:
        """Command what is: joint positions `q` [rad], their pose, and `opening` [fraction]."""
        self._q = q.astype(float)
        self._target = forward(self._arm, self._q)
        self._opening = float(opening)
        self._unreachable = False

    @property
    def target(self) -> Float[np.ndarray, "4 4"]:
        """The commanded pose base_from_tcp."""
        return self._target.copy()

    @property
    def q(self) -> Float[np.ndarray, " J"]:
        """The joint target [rad]: the end of the last ramp."""
        return self._q.copy()

    @property
    def opening(self) -> float:
        """The commanded opening [fraction]."""
        return self._opening

    @property
    def unreachable(self) -> bool:
        """Whether the last action asked for more than the arm can follow; the commanded pose then waits within a leash."""
        return self._unreachable

    def command(self, action: Float[np.ndarray, " 7"]) -> Ramp:
        """Return the commands of one period for `action`; what exceeds the workspace or its steps is clipped.

        Raises:
            UserError: a number is not finite.
        """
        if not np.isfinite(action).all():
            raise UserError(f"the action {action.tolist()} is not finite; check the policy's output and statistics")
        space = self._workspace
        target = np.eye(4)
        shifted = self._target[:3, 3] + _clip(action[:3], -space.step, space.step)
        target[:3, 3] = _clip(shifted, np.array(space.low), np.array(space.high))
        turn = rotation_vector_to_matrix(_clip(action[3:6], -space.turn, space.turn))
        target[:3, :3] = _orthonormal(turn @ self._target[:3, :3])
        q = self._solver.solve(self._q, target, self._dt)
        ramp = Ramp(
            q=self._q + self._ramp_K[:, None] * (q - self._q),
            opening=np.full(len(self._ramp_K), min(max(float(action[6]), 0.0), 1.0)),
        )
        self._target, self._unreachable = leash(forward(self._arm, q), target, self._target)
        self._q, self._opening = q, float(ramp.opening[-1])
        return ramp

    def get_state(self) -> Float[np.ndarray, " S"]:
        """Return all that changes, as J + 14 numbers: joint target, commanded pose (three rows), opening, unreachable."""
        return np.concatenate([self._q, self._target[:3].ravel(), [self._opening, float(self._unreachable)]])

    def set_state(self, state: Float[np.ndarray, " S"]) -> None:
        """Undo `get_state`."""
        joints = self._arm.num_joints
        assert len(state) == joints + 14, "a state of another arm"
        self._q = state[:joints].astype(float)
        self._target = np.eye(4)
        self._target[:3] = state[joints : joints + 12].reshape(3, 4)
        self._opening, self._unreachable = float(state[-2]), bool(state[-1])


def leash(
    base_from_tcp: Float[np.ndarray, "4 4"],
    base_from_target: Float[np.ndarray, "4 4"],
    before: Float[np.ndarray, "4 4"],
) -> tuple[Float[np.ndarray, "4 4"], bool]:
    """Return the target held within the leash of the TCP, and whether it had to be held.

    A position is drawn towards the TCP. A rotation is not, as that would tilt the commanded hand by turns that no action has
    asked for: it stays what it was `before`, unless the new one is nearer to the TCP.
    """
    way = base_from_target[:3, 3] - base_from_tcp[:3, 3]
    distance, angle = math.sqrt(way @ way), _angle(base_from_tcp, base_from_target)
    if distance <= LEASH and angle <= TURN_LEASH:
        return base_from_target, False
    held = base_from_target.copy()
    if distance > LEASH:
        held[:3, 3] = base_from_tcp[:3, 3] + (LEASH / distance) * way
    if angle > TURN_LEASH and angle > _angle(base_from_tcp, before):
        held[:3, :3] = before[:3, :3]
    return held, True


def _angle(base_from_a: Float[np.ndarray, "4 4"], base_from_b: Float[np.ndarray, "4 4"]) -> float:
    return math.hypot(*log_of_one(base_from_b[:3, :3] @ base_from_a[:3, :3].T))


def _orthonormal(matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """Return the nearest rotation of a nearly orthonormal matrix (one Newton step), so that products do not drift."""
    return matrix @ (1.5 * np.eye(3) - 0.5 * matrix.T @ matrix)


def _clip(
    values: Float[np.ndarray, " n"], low: Float[np.ndarray, " n"] | float, high: Float[np.ndarray, " n"] | float
) -> Float[np.ndarray, " n"]:
    return np.minimum(np.maximum(values, low), high)  # a third of the time of np.clip
