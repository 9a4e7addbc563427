"""The joint filter exactly at its limits, on both sides: what is legal to the last digit, and what is not any more."""

from typing import Any

import numpy as np
import pytest

from ideomotor.core.errors import UserError
from ideomotor.robot.joint_filter import JointFilter, JointGate
from ideomotor.robot.limits import Limits
from ideomotor.robot.reasons import Reason

DT = 0.1


def limits(low: float = -1.0, high: float = 1.0) -> Limits:
    """One joint: 2 rad/s, 10 rad/s^2, so 1 rad/s more or less in a tick."""
    return Limits((low,), (high,), (2.0,), (10.0,), (1e3,), (10.0,), None, 1.0, 10.0, 3.0, ("made for this test",))


def reasons(q: float, v: float, wanted: float, low: float = -1.0, high: float = 1.0) -> set[Reason]:
    """Return why the wanted speed is not legal, seen from both sides: the mirrored case has to have the same reasons."""
    found = [
        set(
            JointFilter(limits(a, b), DT).reasons(
                np.array([s * q]), np.array([s * v]), np.array([s * (q + wanted * DT)])
            )
        )
        for s, a, b in ((1.0, low, high), (-1.0, -high, -low))
    ]
    assert found[0] == found[1]
    return found[0]


def test_at_a_limit_a_proposal_is_legal_and_a_millionth_beyond_it_is_not() -> None:
    assert reasons(0.0, 1.5, 2.0) == set()
    assert reasons(0.0, 1.5, 2.0 + 2e-6) == {Reason.JOINT_VELOCITY}
    assert reasons(0.0, 0.0, 1.0) == set()
    assert reasons(0.0, 0.0, 1.0 + 1e-6) == {Reason.ACCELERATION}
    assert reasons(0.0, 1.5, 0.5) == set()
    assert reasons(0.0, 1.5, 0.5 - 1e-6) == {Reason.ACCELERATION}
    # a gap of 0.1 rad is one unit (a dt^2), from which 1 rad/s stops; 0.3 rad are three, 2 rad/s
    assert reasons(0.9, 0.5, 1.0 - 2e-9) == set()
    assert reasons(0.9, 0.5, 1.0 + 1e-6) == {Reason.JOINT_POSITION}
    assert reasons(0.7, 1.5, 2.0 - 4e-9) == set()
    assert reasons(0.7, 1.5, 2.0 + 1e-6) == {Reason.JOINT_POSITION, Reason.JOINT_VELOCITY}


def test_the_two_limits_of_a_range_are_told_apart() -> None:
    """The range is not symmetric: from 0 it is 0.1 rad down and 5 rad up."""
    assert reasons(0.0, 0.5, 1.4, low=-0.1, high=5.0) == set()
    assert reasons(0.0, -0.5, -1.4, low=-0.1, high=5.0) == {Reason.JOINT_POSITION}
    assert reasons(4.9, 0.5, 1.4, low=-0.1, high=5.0) == {Reason.JOINT_POSITION}
    assert reasons(4.9, -0.5, -1.4, low=-0.1, high=5.0) == set()


def test_the_gate_says_why_also_where_it_changes_very_little() -> None:
    for beyond in (5e-9, -5e-9):
        gate = JointGate(JointFilter(limits(), DT), np.array([0.0]))
        step = gate.step(np.array([np.sign(beyond) * 0.1 + beyond]))
        assert step.reasons == (Reason.ACCELERATION,)
        assert abs(step.q[0]) == pytest.approx(0.1, abs=1e-12)
    gate = JointGate(JointFilter(limits(), DT), np.array([0.0]))
    assert gate.step(np.array([0.1])).reasons == ()


@pytest.mark.parametrize("value", [1000.0, -1000.0])
def test_a_measurement_of_a_thousand_is_the_largest_that_is_believed(value: float) -> None:
    rule = JointFilter(limits(), DT)
    JointGate(rule, np.array([value]))
    JointGate(rule, np.array([0.0]), np.array([value]))
    for q, v in ((1.0005 * value, 0.0), (0.0, 1.0005 * value)):
        with pytest.raises(UserError, match="at most 1000"):
            JointGate(rule, np.array([q]), np.array([v]))


def test_a_command_of_which_any_number_is_none_is_not_given(monkeypatch: Any) -> None:
    """Of positions or of speeds, one is enough; the arm brakes from the last command instead, and latches."""
    for field in ("q", "v"):
        gate = JointGate(JointFilter(limits(), DT), np.array([0.0]), np.array([1.5]))
        good: Any = JointFilter.towards

        def bad(*given: Any, field: str = field, good: Any = good) -> Any:
            return good(*given)._replace(**{field: np.array([np.nan])})

        with monkeypatch.context() as patch:
            patch.setattr(JointFilter, "towards", bad)
            first = gate.step(np.array([0.1]))
            second = gate.step(np.array([0.1]))
            third = gate.step(np.array([0.1]))
        assert first.latched
        assert first.reasons == (Reason.INTERNAL, Reason.LATCHED)
        assert [float(s.v[0]) for s in (first, second, third)] == pytest.approx([0.5, 0.0, 0.0])
        assert [float(s.q[0]) for s in (first, second, third)] == pytest.approx([0.05, 0.05, 0.05])
        assert gate.step(np.array([0.0])).latched
