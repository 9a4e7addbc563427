import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ideomotor.core.errors import UserError
from ideomotor.core.types import BatchPolicy, Observation
from ideomotor.policy.options import PolicyOptions
from ideomotor.policy.process import PolicyDied, ProcessPolicy

CHILD = (sys.executable, str(Path(__file__).with_name("child.py")))


def observe(x):
    image = np.full((4, 6, 3), 7, np.uint8)
    return Observation(time=x, images={"front": image}, state=np.array([x, -x]))


@pytest.fixture(scope="module")
def policy():
    with ProcessPolicy("echo", program=CHILD, timeout_s=10.0) as policy:
        yield policy


def test_policy_in_a_child_keeps_the_protocol(policy):
    assert policy.policy_id == "echo"
    assert policy.tasks == ("echo", "")
    assert policy.embodiment.name == "point"
    assert policy.embodiment.chunk.executed == 2
    assert isinstance(policy, BatchPolicy)


def test_batch_comes_back_in_order(policy):
    chunks = policy.act_batch(["a", "bb"], [observe(1.0), observe(2.0)])
    np.testing.assert_array_equal(chunks[0].actions, [[1.0, -1.0], [2.0, 0.0]])
    np.testing.assert_array_equal(chunks[1].actions, [[2.0, -2.0], [4.0, 0.0]])
    assert chunks[0].t0 == 1.0


def test_reset_gives_the_instruction_of_single_calls(policy):
    policy.reset("four")
    np.testing.assert_array_equal(policy.act(observe(1.0)).actions, [[1.0, -1.0], [5.0, 3.0]])


def test_options_reach_the_child():
    with ProcessPolicy("echo", PolicyOptions(statistics="bridge"), program=CHILD) as policy:
        assert policy.tasks == ("echo", "bridge")


def test_illegal_ids_are_counted_on_this_side(policy):
    before = policy.illegal_ids
    policy.act_batch(["illegal", "illegal"], [observe(1.0), observe(2.0)])
    assert policy.illegal_ids == before + 6
    policy.act_batch(["go"], [observe(1.0)])
    assert policy.illegal_ids == before + 6


def test_failure_in_the_child_is_told_and_does_not_end_it(policy):
    with pytest.raises(UserError, match="ZeroDivisionError: one by nothing"):
        policy.act_batch(["raise"], [observe(1.0)])
    assert len(policy.act_batch(["go"], [observe(1.0)])) == 1


def test_nan_in_a_chunk_is_refused(policy):
    with pytest.raises(UserError, match="NaN or Inf"):
        policy.act_batch(["nan"], [observe(1.0)])


def test_killed_child_is_a_clear_error_and_can_be_restarted():
    with ProcessPolicy("echo", program=CHILD) as policy:
        os.kill(policy.pid, signal.SIGKILL)
        with pytest.raises(PolicyDied, match="killed by SIGKILL"):
            policy.act_batch(["go"], [observe(1.0)])
        with pytest.raises(PolicyDied, match=r"restart\(\)"):
            policy.act_batch(["go"], [observe(1.0)])
        policy.restart()
        assert len(policy.act_batch(["go"], [observe(1.0)])) == 1
        with pytest.raises(PolicyDied, match="killed by SIGKILL"):
            policy.act_batch(["die"], [observe(1.0)])  # in the middle of an inference


def test_exit_status_and_last_words_of_the_child_are_told():
    with (
        ProcessPolicy("echo", program=CHILD) as policy,
        pytest.raises(PolicyDied, match=r"(?s)exit status 3.*out of luck"),
    ):
        policy.act_batch(["exit"], [observe(1.0)])


def test_silent_child_is_ended_after_the_time_allowed():
    with ProcessPolicy("echo", program=CHILD, timeout_s=0.3) as policy:
        pid, start = policy.pid, time.monotonic()
        with pytest.raises(PolicyDied, match=r"did not answer within 0\.3 s"):
            policy.act_batch(["sleep"], [observe(1.0)])
        assert time.monotonic() - start < 2.0
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_policy_that_cannot_be_loaded_says_why():
    with pytest.raises(UserError, match="no policy folder 'missing'"):
        ProcessPolicy("missing", program=CHILD)


def test_slow_start_is_ended():
    with pytest.raises(PolicyDied, match=r"did not answer within 0\.3 s"):
        ProcessPolicy("slow", program=CHILD, start_timeout_s=0.3)


def test_child_leaves_with_its_parent():
    policy = ProcessPolicy("echo", program=CHILD)
    pid = policy.pid
    policy.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    policy.close()
