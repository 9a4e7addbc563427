import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ideomotor.core.errors import UserError
from ideomotor.core.rotation import (
    Layout,
    Order,
    euler_to_matrix,
    log_of_one,
    matrix_to_euler,
    matrix_to_quaternion,
    matrix_to_rot6d,
    matrix_to_rotation_vector,
    quaternion_to_matrix,
    quaternion_to_rotation_vector,
    rot6d_to_matrix,
    rotation_vector_to_matrix,
    rotation_vector_to_quaternion,
)

Form = Callable[[np.ndarray], np.ndarray]
law = settings(max_examples=60, deadline=None, database=None)

TRAP_ANGLES = (0.0, 1e-300, 1e-17, 1e-9, 1e-6, math.pi / 2, math.pi - 1e-6, math.pi - 1e-9, math.pi - 1e-12, math.pi)
AXES = ("xyz", "xzy", "yxz", "yzx", "zxy", "zyx", "xyx", "xzx", "yxy", "yzy", "zxz", "zyz")
ORDERS = AXES + tuple(axes.upper() for axes in AXES)

_number = st.floats(-1, 1, allow_nan=False)
_axis = st.tuples(_number, _number, _number).filter(lambda v: math.hypot(*v) > 0.01)
_angle = st.one_of(st.floats(0, math.pi), st.sampled_from(TRAP_ANGLES))


def _vector(axis: tuple[float, float, float], angle: float) -> np.ndarray:
    return np.array(axis) / math.hypot(*axis) * angle


rotation_vectors = st.builds(_vector, _axis, _angle)
rotations = rotation_vectors.map(lambda v: Rotation.from_rotvec(v).as_matrix())  # by scipy, not by the code under test
quaternions = st.tuples(_number, _number, _number, _number).filter(lambda q: math.hypot(*q) > 0.01).map(np.array)


def close(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-12) -> bool:
    return bool(np.abs(a - b).max() < tolerance)


# axioms


@law
@given(rotation_vectors, quaternions, st.sampled_from(ORDERS), st.tuples(_angle, _angle, _angle))
def test_every_form_gives_an_orthonormal_matrix_of_determinant_one(
    vector: np.ndarray, q: np.ndarray, letters: str, angles: tuple[float, float, float]
) -> None:
    for matrix in (
        rotation_vector_to_matrix(vector),
        quaternion_to_matrix(q, "wxyz"),
        euler_to_matrix(np.array(angles), letters),
        rot6d_to_matrix(np.concatenate([q[:3] + [2, 0, 0], q[1:] + [0, 2, 0]]), "columns"),
    ):
        assert close(matrix @ matrix.T, np.eye(3))
        assert abs(np.linalg.det(matrix) - 1) < 1e-12


@law
@given(rotation_vectors, rotation_vectors)
def test_the_inverse_rotation_is_the_negative_vector_and_turns_about_one_axis_commute(
    vector: np.ndarray, other: np.ndarray
) -> None:
    assert close(rotation_vector_to_matrix(-vector), rotation_vector_to_matrix(vector).T)
    parallel = rotation_vector_to_matrix(vector) @ rotation_vector_to_matrix(0.3 * vector)
    assert close(parallel, rotation_vector_to_matrix(1.3 * vector))
    similar = rotation_vector_to_matrix(other) @ rotation_vector_to_matrix(vector) @ rotation_vector_to_matrix(other).T
    assert close(similar, rotation_vector_to_matrix(rotation_vector_to_matrix(other) @ vector))


# against scipy


@law
@given(rotation_vectors)
def test_rotation_vectors_agree_with_scipy(vector: np.ndarray) -> None:
    expected = Rotation.from_rotvec(vector)
    assert close(rotation_vector_to_matrix(vector), expected.as_matrix())
    assert close(rotation_vector_to_quaternion(vector, "xyzw"), expected.as_quat(canonical=False))


@law
@given(quaternions)
def test_quaternions_agree_with_scipy(q: np.ndarray) -> None:
    expected = Rotation.from_quat(q)  # xyzw
    assert close(quaternion_to_matrix(q, "xyzw"), expected.as_matrix())
    assert close(quaternion_to_rotation_vector(q, "xyzw"), expected.as_rotvec(), 1e-9)
    wxyz = q[[3, 0, 1, 2]]
    assert close(quaternion_to_matrix(wxyz, "wxyz"), expected.as_matrix())


@law
@given(st.lists(st.tuples(_angle, _angle, _angle), min_size=1, max_size=4), st.sampled_from(ORDERS))
def test_euler_matrices_agree_with_scipy(angles: list[tuple[float, float, float]], letters: str) -> None:
    expected = Rotation.from_euler(letters, np.array(angles)).as_matrix()
    assert close(euler_to_matrix(np.array(angles), letters), expected)


@pytest.mark.parametrize("letters", ORDERS)
def test_euler_angles_agree_with_scipy_away_from_the_lock(letters: str) -> None:
    matrices = Rotation.random(200, np.random.default_rng(1)).as_matrix()
    assert close(matrix_to_euler(matrices, letters), Rotation.from_matrix(matrices).as_euler(letters), 1e-9)


# round trips


@law
@given(rotations, st.sampled_from(["wxyz", "xyzw"]))
def test_matrix_to_quaternion_and_back(matrix: np.ndarray, order: Order) -> None:
    q = matrix_to_quaternion(matrix, order)
    assert close(quaternion_to_matrix(q, order), matrix)
    assert q[0 if order == "wxyz" else 3] >= 0


@law
@given(rotations)
def test_matrix_to_rotation_vector_and_back(matrix: np.ndarray) -> None:
    vector = matrix_to_rotation_vector(matrix)
    assert np.linalg.norm(vector) <= math.pi + 1e-15
    assert close(rotation_vector_to_matrix(vector), matrix)


@law
@given(_axis, st.one_of(st.floats(0, math.pi - 1e-3), st.sampled_from(TRAP_ANGLES[:6])))
def test_rotation_vector_to_matrix_and_back_keeps_small_angles_to_the_last_digits(
    axis: tuple[float, float, float], angle: float
) -> None:
    vector = _vector(axis, angle)
    back = matrix_to_rotation_vector(rotation_vector_to_matrix(vector))
    assert np.abs(back - vector).max() <= 1e-12 * angle + 1e-300


@law
@given(_axis, st.sampled_from([math.pi - 1e-6, math.pi - 1e-9, math.pi - 1e-12, math.pi]))
def test_rotation_vector_to_matrix_and_back_near_pi_is_the_same_turn(
    axis: tuple[float, float, float], angle: float
) -> None:
    vector = _vector(axis, angle)
    back = matrix_to_rotation_vector(rotation_vector_to_matrix(vector))
    assert min(np.abs(back - vector).max(), np.abs(back + vector).max() + (angle < math.pi - 1e-8)) < 1e-8


@law
@given(rotations, st.sampled_from(["rows", "columns"]))
def test_matrix_to_rot6d_and_back(matrix: np.ndarray, layout: Layout) -> None:
    assert close(rot6d_to_matrix(matrix_to_rot6d(matrix, layout), layout), matrix)


@law
@given(st.tuples(_angle, _angle, _angle), st.sampled_from(ORDERS))
def test_euler_to_matrix_to_euler_is_the_same_rotation(angles: tuple[float, float, float], letters: str) -> None:
    matrix = Rotation.from_euler(letters, angles).as_matrix()
    assert close(Rotation.from_euler(letters, matrix_to_euler(matrix, letters)).as_matrix(), matrix, 1e-9)


@law
@given(rotation_vectors)
def test_the_scalar_logarithm_equals_the_vectorized_one(vector: np.ndarray) -> None:
    matrix = rotation_vector_to_matrix(vector)
    scalar = np.array(log_of_one(matrix))
    vectorized = matrix_to_rotation_vector(matrix)
    assert close(scalar, vectorized) or (np.linalg.norm(scalar) > math.pi - 1e-12 and close(scalar, -vectorized))


# traps


def test_a_quaternion_and_its_negative_are_one_rotation_in_canonical_form() -> None:
    q = np.array([-0.5, 0.5, -0.5, 0.5])  # w < 0
    assert close(quaternion_to_matrix(q, "wxyz"), quaternion_to_matrix(-q, "wxyz"))
    assert close(quaternion_to_rotation_vector(q, "wxyz"), quaternion_to_rotation_vector(-q, "wxyz"))
    assert close(matrix_to_quaternion(quaternion_to_matrix(q, "wxyz"), "wxyz"), -q)


def test_the_continuous_rotation_vector_of_negative_w_is_longer_than_pi_as_in_robosuite() -> None:
    # robosuite quat2axisangle: angle = 2 acos(w), axis = xyz / sqrt(1 - w^2), without a look at the sign of w
    q = np.array([0.6, 0.0, 0.0, -0.8])  # xyzw
    expected = np.array([2 * math.acos(-0.8), 0.0, 0.0])
    assert close(quaternion_to_rotation_vector(q, "xyzw", "continuous"), expected)
    assert close(quaternion_to_rotation_vector(q, "xyzw", "canonical"), expected - [2 * math.pi, 0, 0])
    assert close(rotation_vector_to_quaternion(expected, "xyzw"), q)


def test_the_order_of_a_quaternion_matters() -> None:
    q = np.array([1.0, 0.0, 0.0, 0.0])
    assert close(quaternion_to_matrix(q, "wxyz"), np.eye(3))
    assert close(quaternion_to_matrix(q, "xyzw"), np.diag([1.0, -1.0, -1.0]))


def test_quaternions_of_a_turn_beyond_pi_stay_continuous_in_time() -> None:
    angles = np.linspace(0, 3 * np.pi, 40)
    matrices = Rotation.from_rotvec(angles[:, None] * [0, 0, 1]).as_matrix()
    continuous = matrix_to_quaternion(matrices, "wxyz", "continuous")
    expected = np.stack([np.cos(angles / 2), 0 * angles, 0 * angles, np.sin(angles / 2)], axis=-1)
    assert close(continuous, expected)
    assert np.abs(np.diff(matrix_to_quaternion(matrices, "wxyz"), axis=0)).max() > 1  # the canonical ones jump


def test_rot6d_layouts_of_an_asymmetric_matrix_by_hand() -> None:
    matrix = np.array([[0.0, -1.0, 0.0], [0.6, 0.0, -0.8], [0.8, 0.0, 0.6]])
    rows = np.array([0.0, -1.0, 0.6, 0.0, 0.8, 0.0])
    columns = np.array([0.0, 0.6, 0.8, -1.0, 0.0, 0.0])
    assert close(matrix_to_rot6d(matrix, "rows"), rows)
    assert close(matrix_to_rot6d(matrix, "columns"), columns)
    assert close(rot6d_to_matrix(rows, "rows"), matrix)
    assert close(rot6d_to_matrix(columns, "columns"), matrix)
    assert not close(rot6d_to_matrix(rows, "columns"), matrix, 0.1)  # the trap shows itself


def test_six_numbers_that_are_not_orthonormal_are_made_so_first_column_first() -> None:
    six = np.array([2.0, 0.0, 0.0, 5.0, 3.0, 0.0])  # columns
    assert close(rot6d_to_matrix(six, "columns"), np.eye(3))


def test_extrinsic_and_intrinsic_orders_are_products_in_opposite_order() -> None:
    a, b, c = 0.3, -0.5, 0.7
    turn_x = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    turn_y = np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
    turn_z = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    angles = np.array([a, b, c])
    assert close(euler_to_matrix(angles, "xyz"), turn_z @ turn_y @ turn_x)
    assert close(euler_to_matrix(angles, "XYZ"), turn_x @ turn_y @ turn_z)


@pytest.mark.parametrize("letters", ORDERS)
def test_a_locked_gimbal_gives_the_same_rotation_with_the_leftmost_turn_zero(letters: str) -> None:
    proper = letters[0] == letters[2]
    for middle, near in itertools.product(
        (0.0, math.pi) if proper else (math.pi / 2, -math.pi / 2), (0.0, 1e-12, 1e-8)
    ):
        matrix = Rotation.from_euler(letters, [0.4, middle + near, -1.1]).as_matrix()
        angles = matrix_to_euler(matrix, letters)
        assert close(Rotation.from_euler(letters, angles).as_matrix(), matrix, 1e-9)
        if near < 1e-10:
            assert angles[2 if letters.islower() else 0] == 0.0


# shapes and refusals


def test_leading_axes_are_kept_and_equal_the_loop() -> None:
    matrices = Rotation.random(6, np.random.default_rng(2)).as_matrix().reshape(2, 3, 3, 3)
    forms: list[tuple[Form, Form]] = [
        (lambda m: matrix_to_quaternion(m, "xyzw"), lambda q: quaternion_to_matrix(q, "xyzw")),
        (matrix_to_rotation_vector, rotation_vector_to_matrix),
        (lambda m: matrix_to_rot6d(m, "rows"), lambda s: rot6d_to_matrix(s, "rows")),
        (lambda m: matrix_to_euler(m, "zyx"), lambda e: euler_to_matrix(e, "zyx")),
    ]
    for there, back in forms:
        numbers = there(matrices)
        assert numbers.shape[:2] == (2, 3)
        for i, j in np.ndindex(2, 3):
            assert close(numbers[i, j], there(matrices[i, j]))
            assert close(back(numbers)[i, j], back(numbers[i, j]))
        assert close(back(numbers), matrices)


@pytest.mark.parametrize("bad", [np.zeros(4), np.array([np.nan, 0, 0, 1]), np.array([np.inf, 0, 0, 1])])
def test_a_quaternion_without_direction_is_refused(bad: np.ndarray) -> None:
    pair = np.stack([np.array([1.0, 0, 0, 0]), bad])
    with pytest.raises(UserError, match=r"index \[1\] is zero, not finite"):
        quaternion_to_matrix(pair, "wxyz")


@pytest.mark.parametrize("bad", [[0, 0, 0, 0, 1, 0], [1, 0, 0, 2, 0, 0], [1, 0, 0, 0, 0, 0]])
def test_rot6d_columns_that_span_no_plane_are_refused(bad: list[float]) -> None:
    with pytest.raises(UserError, match="zero, not finite, or parallel"):
        rot6d_to_matrix(np.array(bad, float), "columns")


@pytest.mark.parametrize("letters", ["xy", "xxy", "xyy", "Xyz", "abc", "xyzx", ""])
def test_letters_that_name_no_order_are_refused_with_the_allowed_ones(letters: str) -> None:
    with pytest.raises(UserError, match="lower case for extrinsic"):
        euler_to_matrix(np.zeros(3), letters)
