"""Rotations in every form that datasets use, each with its inverse; vectorized over leading axes.

A matrix R is `target_from_source`: its columns are the source's axes seen from the target.

**Surprises.** Each of these cost published policies success without any error message:

* Quaternions come as wxyz (MuJoCo, Isaac) and xyzw (scipy, ROS, robosuite); q and -q are the same rotation.
* robosuite turns a quaternion with w < 0 into a rotation vector of angle up to 2 pi ("continuous"), others into at most pi.
* The six numbers of rot6d are the first two columns, written row by row ("rows", CALVIN) or column by column ("columns").
* Euler letters in lower case are extrinsic (turns about fixed axes, as scipy writes them), in upper case intrinsic.
"""

import math
from typing import Literal

import numpy as np
from jaxtyping import Float

from ideomotor.core.errors import UserError

Order = Literal["wxyz", "xyzw"]
Sign = Literal["canonical", "continuous"]
Layout = Literal["rows", "columns"]

# Quaternions: q = (w, x, y, z) = (cos(angle / 2), axis sin(angle / 2)).


def quaternion_to_matrix(q: Float[np.ndarray, "*batch 4"], order: Order) -> Float[np.ndarray, "*batch 3 3"]:
    """Return the rotation of a quaternion of any length but zero and of either sign.

    Raises:
        UserError: a quaternion is zero or not finite.
    """
    w, x, y, z = np.moveaxis(_unit(_wxyz(q, order)), -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_quaternion(
    matrix: Float[np.ndarray, "*batch 3 3"], order: Order, sign: Sign = "canonical"
) -> Float[np.ndarray, "*batch 4"]:
    """Undo `quaternion_to_matrix`.

    Args:
        matrix: rotations.
        order: where w stands.
        sign: "canonical": w >= 0 (where w = 0, the first other component is positive). "continuous": axis -2 of the
            result is time, and each quaternion has the sign that is nearer to its predecessor; the first is canonical.
    """
    m = np.asarray(matrix, float)
    products = np.empty(
        (*m.shape[:-2], 4, 4)
    )  # 4 q q^T: the row with the largest diagonal is the safe one (Shepperd 1978)
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    for i, diagonal in enumerate((1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz)):
        products[..., i, i] = diagonal
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        products[..., 0, i + 1] = products[..., i + 1, 0] = m[..., k, j] - m[..., j, k]
        products[..., j + 1, k + 1] = products[..., k + 1, j + 1] = m[..., k, j] + m[..., j, k]
    largest = np.argmax(np.diagonal(products, axis1=-2, axis2=-1), axis=-1)
    q = _unit(np.take_along_axis(products, largest[..., None, None], axis=-2)[..., 0, :])
    q = _canonical(q)
    if sign == "continuous":
        q = _continuous(q)
    return q if order == "wxyz" else np.roll(q, -1, axis=-1)


# Rotation vectors: axis times angle [rad].


def rotation_vector_to_matrix(vector: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """Return the turn about the vector by its length [rad] (Rodrigues' formula, exact near 0)."""
    x, y, z = np.moveaxis(np.asarray(vector, float), -1, 0)
    angle = np.sqrt(x * x + y * y + z * z)
    sine = np.sinc(angle / np.pi)  # sin(angle) / angle
    versine = 0.5 * np.sinc(angle / (2 * np.pi)) ** 2  # (1 - cos(angle)) / angle^2
    rows = (
        (1 - versine * (y * y + z * z), versine * x * y - sine * z, versine * x * z + sine * y),
        (versine * x * y + sine * z, 1 - versine * (x * x + z * z), versine * y * z - sine * x),
        (versine * x * z - sine * y, versine * y * z + sine * x, 1 - versine * (x * x + y * y)),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_rotation_vector(matrix: Float[np.ndarray, "*batch 3 3"]) -> Float[np.ndarray, "*batch 3"]:
    """Undo `rotation_vector_to_matrix`; the length is at most pi. Exact near 0 and near pi, as it goes through a quaternion."""
    return quaternion_to_rotation_vector(matrix_to_quaternion(matrix, "wxyz"), "wxyz")


def quaternion_to_rotation_vector(
    q: Float[np.ndarray, "*batch 4"], order: Order, sign: Sign = "canonical"
) -> Float[np.ndarray, "*batch 3"]:
    """Return axis times angle [rad].

    Args:
        q: quaternions of any length but zero.
        order: where w stands.
        sign: "canonical": q and -q give the same vector, of length at most pi. "continuous": the sign of q is kept, so that
            w < 0 gives a length between pi and 2 pi, as robosuite's `quat2axisangle` and LIBERO data have it.
    """
    unit = _unit(_wxyz(q, order))
    if sign == "canonical":
        unit = _canonical(unit)
    w, xyz = unit[..., :1], unit[..., 1:]
    sine = np.linalg.norm(xyz, axis=-1, keepdims=True)
    small = sine < 1e-12  # atan2(s, w) / s = 1 / w there, to the last bit
    scale = np.where(small, np.where(w < 0, 0.0, 2.0), 2 * np.arctan2(sine, w) / np.where(small, 1.0, sine))
    return scale * xyz


def rotation_vector_to_quaternion(vector: Float[np.ndarray, "*batch 3"], order: Order) -> Float[np.ndarray, "*batch 4"]:
    """Undo `quaternion_to_rotation_vector`: lengths up to pi give w >= 0, lengths between pi and 2 pi give w < 0."""
    vector = np.asarray(vector, float)
    half = 0.5 * np.linalg.norm(vector, axis=-1, keepdims=True)
    q = np.concatenate([np.cos(half), 0.5 * np.sinc(half / np.pi) * vector], axis=-1)
    return q if order == "wxyz" else np.roll(q, -1, axis=-1)


# rot6d: the first two columns of the matrix.


def matrix_to_rot6d(matrix: Float[np.ndarray, "*batch 3 3"], layout: Layout) -> Float[np.ndarray, "*batch 6"]:
    """Return the first two columns, "rows": r00 r01 r10 r11 r20 r21, or "columns": r00 r10 r20 r01 r11 r21."""
    pair = np.asarray(matrix, float)[..., :2]
    if layout == "columns":
        pair = np.swapaxes(pair, -1, -2)
    return pair.reshape(*pair.shape[:-2], 6)


def rot6d_to_matrix(six: Float[np.ndarray, "*batch 6"], layout: Layout) -> Float[np.ndarray, "*batch 3 3"]:
    """Undo `matrix_to_rot6d`; six numbers that are no two orthonormal columns are made so (Gram-Schmidt, first column first).

    Source: Zhou et al. 2019, On the Continuity of Rotation Representations, arXiv 1812.07035, eq. 15.

    Raises:
        UserError: a column is zero or not finite, or both are parallel.
    """
    six = np.asarray(six, float)
    pair = (
        six.reshape(*six.shape[:-1], 3, 2)
        if layout == "rows"
        else np.swapaxes(six.reshape(*six.shape[:-1], 2, 3), -1, -2)
    )
    x = _unit(pair[..., 0])
    second = pair[..., 1]
    y = _unit(second - np.sum(x * second, axis=-1, keepdims=True) * x)
    return np.stack([x, y, np.cross(x, y)], axis=-1)


# Euler angles [rad], in the order of their letters.


def euler_to_matrix(angles: Float[np.ndarray, "*batch 3"], letters: str) -> Float[np.ndarray, "*batch 3 3"]:
    """Return the product of three turns: "xyz" (extrinsic) is Rz Ry Rx, "XYZ" (intrinsic) is Rx Ry Rz.

    Raises:
        UserError: `letters` is no order of axes.
    """
    axes, extrinsic = _axes(letters)
    first, second, third = (_turn(axis, np.asarray(angles, float)[..., n]) for n, axis in enumerate(axes))
    return third @ second @ first if extrinsic else first @ second @ third


def matrix_to_euler(matrix: Float[np.ndarray, "*batch 3 3"], letters: str) -> Float[np.ndarray, "*batch 3"]:
    """Undo `euler_to_matrix`: the middle angle lies in +-pi/2 (three axes) or 0..pi (first axis = last), the others in +-pi.

    Where the middle angle locks the gimbal, the outer two are not unique: the turn that stands leftmost in the product is 0.

    Raises:
        UserError: `letters` is no order of axes.
    """
    axes, extrinsic = _axes(letters)
    i, j, last = axes[::-1] if extrinsic else axes  # extrinsic abc is intrinsic CBA, read backwards
    k = 3 - i - j
    even = 1.0 if (j - i) % 3 == 1 else -1.0
    m = np.asarray(matrix, float)
    if last == i:
        a_sine, a_cosine = m[..., j, i], -even * m[..., k, i]
        b = np.arctan2(np.hypot(a_sine, a_cosine), m[..., i, i])
    else:
        a_sine, a_cosine = -even * m[..., j, k], m[..., k, k]
        b = np.arctan2(even * m[..., i, k], np.hypot(a_sine, a_cosine))
    locked = np.hypot(a_sine, a_cosine) < 1e-9  # only rounding is left in both
    a = np.where(locked, 0.0, np.arctan2(a_sine, a_cosine))
    row = (
        np.cos(a)[..., None] * m[..., j, :] + even * np.sin(a)[..., None] * m[..., k, :]
    )  # row j of the last turn alone
    c_sine = -even * row[..., k] if last == i else even * row[..., i]
    c = np.arctan2(c_sine, row[..., j])
    return np.stack([c, b, a] if extrinsic else [a, b, c], axis=-1)


def log_of_one(matrix: Float[np.ndarray, "3 3"]) -> tuple[float, float, float]:
    """Return the rotation vector of one matrix: `matrix_to_rotation_vector` for inner loops, 2 us instead of 60."""
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    trace = a + e + i
    if trace > max(a, e, i):
        w, x, y, z = 1 + trace, h - f, c - g, d - b
    elif a >= e and a >= i:
        w, x, y, z = h - f, 1 + a - e - i, b + d, c + g
    elif e >= i:
        w, x, y, z = c - g, b + d, 1 - a + e - i, f + h
    else:
        w, x, y, z = d - b, c + g, f + h, 1 - a - e + i
    sine = math.sqrt(x * x + y * y + z * z)
    if sine == 0.0:
        return 0.0, 0.0, 0.0
    scale = 2 * math.atan2(sine, abs(w)) / (sine if w >= 0 else -sine)
    return scale * x, scale * y, scale * z


def _wxyz(q: Float[np.ndarray, "*batch 4"], order: Order) -> Float[np.ndarray, "*batch 4"]:
    q = np.asarray(q, float)
    return q if order == "wxyz" else np.roll(q, 1, axis=-1)


def _unit(vector: Float[np.ndarray, "*batch n"]) -> Float[np.ndarray, "*batch n"]:
    length = np.linalg.norm(vector, axis=-1, keepdims=True)
    bad = ~(np.isfinite(length) & (length > 1e-9))  # no direction is left below
    if bad.any():
        index = np.argwhere(bad[..., 0])[0].tolist()
        raise UserError(
            f"no rotation: the vector at index {index} is zero, not finite, or parallel to its neighbour; "
            "quaternions and rot6d columns need a direction. Check that the right channels are read as the rotation"
        )
    return vector / length


def _canonical(q: Float[np.ndarray, "*batch 4"]) -> Float[np.ndarray, "*batch 4"]:
    first = np.argmax(q != 0, axis=-1)
    return q * np.where(np.take_along_axis(q, first[..., None], axis=-1) < 0, -1.0, 1.0)


def _continuous(q: Float[np.ndarray, "*batch time 4"]) -> Float[np.ndarray, "*batch time 4"]:
    flips = np.where(np.sum(q[..., 1:, :] * q[..., :-1, :], axis=-1, keepdims=True) < 0, -1.0, 1.0)
    return np.concatenate([q[..., :1, :], q[..., 1:, :] * np.cumprod(flips, axis=-2)], axis=-2)


def _axes(letters: str) -> tuple[tuple[int, int, int], bool]:
    axes = ["xyz".find(letter) for letter in letters.lower()]
    one_case = letters in (letters.lower(), letters.upper())
    if len(axes) != 3 or -1 in axes or axes[0] == axes[1] or axes[1] == axes[2] or not one_case:  # three turns
        raise UserError(
            f"'{letters}' is no order of Euler angles; give three of x, y, z, no two equal ones in a row: "
            "lower case for extrinsic ('xyz'), upper case for intrinsic ('XYZ')"
        )
    return (axes[0], axes[1], axes[2]), letters == letters.lower()


def _turn(axis: int, angle: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch 3 3"]:
    j, k = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.zeros((*angle.shape, 3, 3))
    matrix[..., axis, axis] = 1.0
    matrix[..., j, j] = matrix[..., k, k] = np.cos(angle)
    matrix[..., k, j] = np.sin(angle)
    matrix[..., j, k] = -np.sin(angle)
    return matrix
