"""Many tabletop environments side by side: processes that step and draw, pictures through shared memory.

Each process hosts several slots, one environment each. What an episode does depends on its request and the actions it gets, not
on the slot or the number of processes. A process that dies is replaced; its episodes are reported as crashed.
"""

import contextlib
import multiprocessing as mp
import os
import signal
import traceback
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Literal, cast

import numpy as np
from jaxtyping import Float, UInt8

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Embodiment
from ideomotor.core.types import Observation
from ideomotor.sim.env import EnvConfig, TabletopEnv, tabletop_embodiment
from ideomotor.sim.shielded import ShieldRecord
from ideomotor.sim.task import Wording

CLOSE_SECONDS = 5.0  # a process that has not ended by itself after this long is killed
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")

Images = Mapping[str, UInt8[np.ndarray, "H W 3"]]  # by camera role


@dataclass(frozen=True)
class EpisodeRequest:
    """Which episode to begin."""

    seed: int
    task: str
    wording: Wording = "train"
    swap: bool = False  # name another object of the same scene


@dataclass(frozen=True)
class Begun:
    """A fresh episode."""

    observation: Observation
    instruction: str


@dataclass(frozen=True)
class Advance:
    """What came of some actions."""

    observation: Observation  # after the last of them
    done: bool  # the episode is over: success or horizon
    success: bool
    steps: int  # actions executed; fewer than given if the episode ended among them
    events: Mapping[str, int]  # see `TabletopEnv.events`
    frames: tuple[Images, ...] = ()  # after each action, where recorded
    shield: ShieldRecord | None = None  # of an episode that is over, if its arm is shielded


@dataclass(frozen=True)
class Crashed:
    """The environment of a slot broke; the slot is ready for another episode."""

    message: str


class _Slot:
    """An observation in memory that two processes share."""

    def __init__(self, memory: Any, embodiment: Embodiment) -> None:
        self._record = np.frombuffer(memory, _record_type(embodiment))[0]
        self._roles = tuple(camera.role for camera in embodiment.cameras)

    def write(self, observation: Observation) -> None:
        """Put an observation there."""
        self._record["time"] = observation.time
        self._record["state"][:] = observation.state
        for role in self._roles:
            self._record[f"image.{role}"][:] = observation.images[role]

    def read(self) -> Observation:
        """Undo `write`; the arrays are copies."""
        images = {role: self._record[f"image.{role}"].copy() for role in self._roles}
        return Observation(time=float(self._record["time"]), images=images, state=self._record["state"].copy())


def _record_type(embodiment: Embodiment) -> np.dtype[np.void]:
    cameras = [(f"image.{c.role}", np.uint8, (c.height, c.width, 3)) for c in embodiment.cameras]
    return np.dtype([("time", np.float64), ("state", np.float32, (len(embodiment.state),)), *cameras])


@dataclass(frozen=True)
class _Call:
    """A message to a process. `work` maps slots to requests or actions; an empty "close" ends the process."""

    kind: Literal["begin", "advance", "close"]
    work: Mapping[int, Any] = field(default_factory=dict[int, Any])
    record: bool = False


@dataclass(frozen=True)
class _Reply:
    """The answer for one slot, without the observation, which lies in shared memory."""

    instruction: str = ""
    done: bool = False
    success: bool = False
    steps: int = 0
    events: Mapping[str, int] = field(default_factory=dict[str, int])
    frames: tuple[Images, ...] = ()
    shield: ShieldRecord | None = None


class VectorEnv:
    """`workers` processes with `slots_per_worker` environments each; slots are numbered through. Use it in a `with` block."""

    def __init__(self, config: EnvConfig, workers: int, slots_per_worker: int = 1) -> None:
        """Start the processes.

        Raises:
            UserError: the environment cannot be made, e.g. a renderer's library is absent.
        """
        self.embodiment = tabletop_embodiment(config.arm, config.renderer)
        self.num_slots = workers * slots_per_worker
        self._workers: list[_Worker] = []
        try:
            slots = range(self.num_slots)
            for first in slots[::slots_per_worker]:
                self._workers.append(_Worker(config, self.embodiment, tuple(slots[first : first + slots_per_worker])))
            for worker in self._workers:
                worker.wait_until_ready()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "VectorEnv":  # noqa: PYI034 (the shape checker of the tests knows no Self)
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.ask_to_end()
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The processes, in the order of their slots."""
        return tuple(worker.pid for worker in self._workers)

    def begin(self, slot: int, request: EpisodeRequest) -> Begun | Crashed:
        """Begin an episode in a slot.

        Raises:
            UserError: the request cannot be fulfilled, e.g. its task is unknown.
        """
        reply = self._call("begin", {slot: request}, record=False)[slot]
        return reply if isinstance(reply, Crashed) else Begun(self._observation(slot), reply.instruction)

    def advance(
        self, actions: Mapping[int, Float[np.ndarray, "T A"]], *, record: bool = False
    ) -> dict[int, Advance | Crashed]:
        """Execute actions in the given slots, until the episode ends; with `record`, draw a picture after each action."""
        results: dict[int, Advance | Crashed] = {}
        for slot, reply in self._call("advance", actions, record=record).items():
            if isinstance(reply, Crashed):
                results[slot] = reply
                continue
            outcome = (reply.done, reply.success, reply.steps, reply.events, reply.frames, reply.shield)
            results[slot] = Advance(self._observation(slot), *outcome)
        return results

    def _call(
        self, kind: Literal["begin", "advance"], work: Mapping[int, Any], *, record: bool
    ) -> dict[int, _Reply | Crashed]:
        """Give each process its share, then collect the answers."""
        asked = [worker for worker in self._workers if worker.ask(kind, work, record=record)]
        answers: dict[int, _Reply | Crashed] = {}
        refused: UserError | None = None
        for worker in asked:  # collect from all before raising, so that no answer is left in a pipe
            answer = worker.answer()
            if isinstance(answer, UserError):
                refused = answer
            else:
                answers.update(answer)
        if refused is not None:
            raise refused
        return {slot: answers[slot] for slot in work}

    def _observation(self, slot: int) -> Observation:
        worker = next(worker for worker in self._workers if slot in worker.slots)
        return worker.slot_memory[slot].read()


class _Worker:
    """The parent's side of one process."""

    def __init__(self, config: EnvConfig, embodiment: Embodiment, slots: tuple[int, ...]) -> None:
        self.slots = slots
        self._config = config
        # Anonymous memory whose file descriptor goes to the process: nothing to clean up, whoever dies.
        self._arrays = {slot: _context().RawArray("B", _record_type(embodiment).itemsize) for slot in slots}
        self.slot_memory = {slot: _Slot(array, embodiment) for slot, array in self._arrays.items()}
        self._asked: Mapping[int, Any] = {}  # work of the call under way
        self._lost: set[int] = set()  # slots whose episode died with an earlier process
        self._start()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    def _start(self) -> None:
        self._pipe, theirs = _context().Pipe()
        self._process = _context().Process(target=_serve, args=(theirs, self._config, self._arrays), daemon=True)
        with _one_thread():
            self._process.start()
        theirs.close()  # so that the end of the process shows as the end of the pipe

    def wait_until_ready(self) -> None:
        """Wait for the environments of a fresh process."""
        try:
            refusal = cast("UserError | str | None", self._pipe.recv())
        except (EOFError, OSError) as error:
            raise RuntimeError(f"a simulation process ended while starting ({self._ended()})") from error
        if isinstance(refusal, UserError):
            raise refusal
        if refusal is not None:
            raise RuntimeError(f"a simulation process could not start:\n{refusal}")

    def ask(self, kind: Literal["begin", "advance"], work: Mapping[int, Any], *, record: bool) -> bool:
        """Send its share of the work; tell whether there is any."""
        self._asked = {slot: work[slot] for slot in self.slots if slot in work}
        if kind == "begin":
            self._lost -= set(self._asked)
        if self._asked:
            self._send(
                _Call(kind, {slot: item for slot, item in self._asked.items() if slot not in self._lost}, record)
            )
        return bool(self._asked)

    def answer(self) -> dict[int, _Reply | Crashed] | UserError:
        """Return the answers to `ask`; a process that has died is replaced, and its episodes have crashed."""
        try:
            answer = cast("dict[int, _Reply | Crashed] | UserError", self._pipe.recv())
        except (EOFError, OSError):
            message = f"the simulation process {self.pid} ended ({self._ended()})"
            self._lost = set(self.slots) - set(self._asked)
            self._restart()
            return dict.fromkeys(self._asked, Crashed(message))
        if isinstance(answer, UserError):
            return answer
        earlier = Crashed("the simulation process of this episode ended")
        lost = self._lost & set(self._asked)
        self._lost -= lost
        return answer | dict.fromkeys(lost, earlier)

    def _send(self, call: _Call) -> None:
        with contextlib.suppress(OSError):  # it has died: `answer` finds out
            self._pipe.send(call)

    def _ended(self) -> str:
        self._process.join(CLOSE_SECONDS)
        code = self._process.exitcode
        return f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"

    def _restart(self) -> None:
        self._pipe.close()
        self._process.close()
        self._start()
        self.wait_until_ready()

    def ask_to_end(self) -> None:
        self._send(_Call("close"))

    def end(self) -> None:
        self._process.join(CLOSE_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()
        self._process.close()


def _context() -> Any:
    return mp.get_context("forkserver")


@contextlib.contextmanager
def _one_thread() -> Generator[None]:
    """Let processes that start now compute in one thread: libraries read these variables when they are loaded."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(pipe: Connection, config: EnvConfig, arrays: Mapping[int, Any]) -> None:
    """Answer calls until told to end, or until the parent is gone. The main function of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    try:
        envs = {slot: TabletopEnv(config) for slot in arrays}
        memory = {slot: _Slot(array, envs[slot].embodiment) for slot, array in arrays.items()}
    except Exception as error:  # noqa: BLE001 (process border: the parent raises it)
        pipe.send(error if isinstance(error, UserError) else traceback.format_exc())
        return
    pipe.send(None)
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        while (call := cast("_Call", pipe.recv())).kind != "close":
            replies: dict[int, _Reply | Crashed] = {}
            try:
                for slot, item in call.work.items():
                    replies[slot] = _answer(envs[slot], memory[slot], call, item)
                    if isinstance(replies[slot], Crashed):
                        envs[slot] = TabletopEnv(config)
            except UserError as error:
                pipe.send(error)
            else:
                pipe.send(replies)
    for env in envs.values():
        env.close()


def _answer(env: TabletopEnv, memory: _Slot, call: _Call, item: Any) -> _Reply | Crashed:
    """Do the work of one slot and put what is seen then into its memory."""
    try:
        reply = _begin(env, item) if call.kind == "begin" else _advance(env, item, record=call.record)
        memory.write(env.observation())
    except UserError:
        raise
    except Exception:  # noqa: BLE001 (process border: told as a crash of this slot, never as a failure)
        return Crashed(traceback.format_exc())
    return reply


def _begin(env: TabletopEnv, request: EpisodeRequest) -> _Reply:
    options = {"task": request.task, "wording": request.wording, "swap": request.swap}
    env.reset(seed=request.seed, options=options)
    return _Reply(instruction=env.instruction)


def _advance(env: TabletopEnv, actions_TA: Float[np.ndarray, "T A"], *, record: bool) -> _Reply:
    """Execute the actions one by one until the episode ends."""
    frames: list[Images] = []
    steps, success, done = 0, False, False
    for action in actions_TA:
        success, done = env.advance(action[None])
        steps += 1
        if record:
            frames.append(env.observation().images)
        if done:
            break
    return _Reply("", done, success, steps, env.events, tuple(frames), env.shield_record() if done else None)
