"""The tabletop as an environment: 10 Hz end-effector actions, pictures, instructions, success; Gymnasium's interface."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, cast

import gymnasium
import mujoco
import numpy as np
from jaxtyping import Float, UInt8

from ideomotor.core.errors import UsageError, unknown
from ideomotor.core.spec import Camera, Channel, Embodiment, Gripper, RotationForm
from ideomotor.core.types import Observation
from ideomotor.robot.arm import Arm
from ideomotor.robot.control import EndEffectorControl
from ideomotor.sim.labels import Pinhole, location_labels, patch_labels, seen
from ideomotor.sim.random_state import randomize
from ideomotor.sim.render import Ray, Renderer, RunningRenderer, open_renderer
from ideomotor.sim.scene import STREAM_GOAL, STREAM_TASK, STREAM_WORDING, Scene, draw_scene, generator
from ideomotor.sim.shielded import ShieldedArm, ShieldOptions, ShieldRecord, draw_back
from ideomotor.sim.task import Goal, Task, Wording, instruct
from ideomotor.sim.tasks.pick import PICK
from ideomotor.sim.view import View
from ideomotor.sim.world import PHYSICS_HZ, SimulatedArm, World

RAY = Ray()
RATE_HZ = 10.0  # [1/s] of the actions
MOVE, TURN = 0.05, 0.3  # [m], [rad] largest value of an action's channels
CAMERAS = ("front", "wrist")
LIFTED = 0.03  # [m] an object this far above its rest, between the fingers, counts as lifted
FINAL_SEEDS = 900_000  # seeds from here up are for final measurements only; none is drawn by chance


@dataclass(frozen=True)
class EnvConfig:
    """What an environment is made of. It can be sent to another process."""

    arm: Arm
    tasks: tuple[Task, ...] = (PICK,)
    renderer: Renderer = RAY
    horizon: int | None = None  # [control steps] instead of the task's own
    shield: ShieldOptions | None = None  # None: the arm gets the control's commands as they are


class ResetOptions(TypedDict, total=False):
    """What `reset` takes as options."""

    task: str  # default: drawn from the seed
    wording: Wording  # default: "train"
    swap: bool  # name another object of the same scene


@dataclass(frozen=True)
class Episode:
    """What a seed and options decide: who is where, what is to be done, in which words."""

    scene: Scene
    task: Task
    goal: Goal
    instruction: str


@dataclass(frozen=True)
class EnvState:
    """Everything that changes while an episode runs."""

    physics: Any  # a copy of MuJoCo's data: bodies, contacts, who sleeps
    control: Float[np.ndarray, " C"]
    last_q: Float[np.ndarray, " J"]
    steps: int
    streak: int
    first_touched: int
    first_lifted: int
    shield: Any | None = None


def tabletop_embodiment(arm: Arm, renderer: Renderer) -> Embodiment:
    """Return what the numbers of the tabletop mean for one arm and renderer."""
    moves = tuple(Channel(f"ee_delta_{axis}", "m", "base", "delta", -MOVE, MOVE) for axis in "xyz")
    turns = tuple(Channel(f"ee_delta_r{axis}", "rad", "base", "delta", -TURN, TURN) for axis in "xyz")
    position = tuple(Channel(f"ee_{axis}", "m") for axis in "xyz")
    columns = tuple(Channel(f"ee_r{row}{column}", "1", low=-1.0, high=1.0) for row in range(3) for column in range(2))
    size = renderer.size
    return Embodiment(
        name=f"{arm.name}-tabletop",
        robot=arm.name,
        rate_hz=RATE_HZ,
        action=(*moves, *turns, Channel("gripper", "fraction", "none", "absolute", 0.0, 1.0)),
        state=(*position, *columns, Channel("gripper", "fraction", "none", low=0.0, high=1.0)),
        cameras=tuple(Camera(role, size, size, source=renderer.profile) for role in CAMERAS),
        action_rotation=RotationForm("rotation_vector", first=3),
        state_rotation=RotationForm("rot6d", layout="rows", first=3),
        gripper=Gripper("gripper", open=1.0, closed=0.0, threshold=0.5),
    )


class TabletopEnv(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """One arm, one table, one task at a time."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": RATE_HZ}  # noqa: RUF012 (Gymnasium's name)
    render_mode = "rgb_array"

    def __init__(self, config: EnvConfig) -> None:
        self.config = config
        self.embodiment = tabletop_embodiment(config.arm, config.renderer)
        self._tasks = {task.name: task for task in config.tasks}
        self._control = EndEffectorControl(config.arm, RATE_HZ, PHYSICS_HZ)
        self._worlds: dict[tuple[str, ...], tuple[World, RunningRenderer]] = {}
        self._episode: Episode | None = None
        self.shielded: ShieldedArm | None = None  # of this episode
        low, high = zip(*((c.low, c.high) for c in self.embodiment.action), strict=True)
        self.action_space = gymnasium.spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
        size = config.renderer.size
        images = {role: gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8) for role in CAMERAS}
        state = gymnasium.spaces.Box(-np.inf, np.inf, (len(self.embodiment.state),), np.float32)
        self.observation_space = cast("Any", gymnasium.spaces.Dict({"state": state, **images}))  # typed as invariant

    # 1 an episode

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin the episode of a seed; without one, of a seed drawn by this environment's generator.

        Options: see `ResetOptions`.

        Raises:
            UsageError: an unknown option or task.
        """
        super().reset(seed=seed)
        self.load(seed=int(self.np_random.integers(FINAL_SEEDS)) if seed is None else seed, options=options)
        return self._arrays(), self._info()

    def load(self, *, seed: int, options: Mapping[str, Any] | None = None) -> None:
        """Do what `reset` does, without pictures."""
        self._begin(draw_episode(self.config.tasks, seed, _options(options or {})))

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Execute one action: 0.1 s, behind a shield up to `ShieldOptions.wait` more. The reward is 1 in the step that succeeds."""
        self._execute(np.asarray(action, dtype=np.float64))
        truncated = self.steps >= self.horizon and not self.success
        return self._arrays(), float(self.success), self.success, truncated, self._info()

    def advance(self, actions_TA: Float[np.ndarray, "T A"]) -> tuple[bool, bool]:
        """Execute several actions without pictures, up to the end of the episode. Return success, and whether it ended."""
        for action in actions_TA:
            if self.done:
                break
            self._execute(action)
        return self.success, self.done

    def observation(self) -> Observation:
        """Return what a policy sees now."""
        images = {role: self.image(role) for role in CAMERAS}
        return Observation(time=float(self.world.data.time), images=images, state=self.state())

    def render(self) -> UInt8[np.ndarray, "H W 3"]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the front camera's image."""
        return self.image("front")

    def close(self) -> None:
        """Free worlds and renderers."""
        for _, renderer in self._worlds.values():
            renderer.close()
        self._worlds.clear()

    def randomize_state(self, rng: np.random.Generator) -> None:
        """Begin a random episode in a random state: the arm anywhere over the table, at times holding an object."""
        self._begin(draw_episode(self.config.tasks, int(rng.integers(FINAL_SEEDS)), ResetOptions()))
        state = randomize(self.world, rng)
        self._control.reset(state.q, state.opening)
        self._arm.last_q = state.q
        if self.shielded is not None:
            self.shielded.begin()

    # 2 what can be asked

    @property
    def episode(self) -> Episode:
        """What the last `reset` decided."""
        if self._episode is None:
            raise UsageError("the environment has no episode yet; call reset() first")
        return self._episode

    @property
    def instruction(self) -> str:
        """The sentence given to the policy."""
        return self.episode.instruction

    @property
    def goal(self) -> Goal:
        """What the instruction means."""
        return self.episode.goal

    @property
    def scene(self) -> Scene:
        """Where the objects stood at the beginning."""
        return self.episode.scene

    @property
    def horizon(self) -> int:
        """Steps after which the episode is cut."""
        return self.config.horizon or self.episode.task.horizon

    @property
    def success(self) -> bool:
        """Whether the task's predicate has held for long enough."""
        return self.streak >= self.episode.task.hold_steps

    @property
    def done(self) -> bool:
        """Whether the episode has ended."""
        return self.success or self.steps >= self.horizon

    @property
    def events(self) -> dict[str, int]:
        """Which object the fingers touched first, and which they lifted first: indices, -1 for none yet."""
        return {"first_touched": self._first_touched, "first_lifted": self._first_lifted}

    def shield_record(self) -> ShieldRecord | None:
        """Return what the shield has done in this episode, and what was found in the commands; None without a shield."""
        return None if self.shielded is None else self.shielded.record()

    def state(self) -> Float[np.ndarray, " S"]:
        """Return the proprioception: measured TCP position, rot6d by rows, opening."""
        pose = self.world.tcp_pose()
        return np.array([*pose[:3, 3], *pose[:3, :2].reshape(-1), self.world.opening()], dtype=np.float32)

    def image(self, camera: str) -> UInt8[np.ndarray, "H W 3"]:
        """Return what a camera sees now."""
        return self._renderer.render(self.world.data, camera)

    def view(self) -> View:
        """Return the true state."""
        return self.world.view(self._control.target)

    # 3 expert, labels, saved states

    def expert_action(self) -> Float[np.ndarray, " A"]:
        """Return what the scripted expert does now."""
        return self.episode.task.act(self.view(), self.goal)

    def expert_chunk(self, length: int) -> Float[np.ndarray, "T A"]:
        """Return what the expert would do in the next steps, without noise: it runs ahead, then the state is restored."""
        world, control, last_q = self.world, self._control.get_state(), self._arm.last_q
        shield = None if self.shielded is None else self.shielded.get_state()
        mujoco.mj_copyData(world.spare, world.model, world.data)
        actions: list[np.ndarray] = [self.expert_action()]
        while len(actions) < length:
            self._move(actions[-1])
            actions.append(self.expert_action())
        world.set_state(world.spare)
        self._control.set_state(control)
        self._arm.last_q = last_q
        if self.shielded is not None:
            self.shielded.set_state(shield)
        return np.stack(actions)

    def labels(self) -> dict[str, np.ndarray]:
        """Return what the pictures show and what the instruction names, by dataset column."""
        world, view = self.world, self.view()
        result = location_labels(view, self.goal)
        for role in CAMERAS:
            camera = Pinhole.of(world.model, world.data, role, self.config.renderer.size)
            visible = seen(world.model, world.data, camera, view, world.object_bodies)
            values = patch_labels(view, visible, camera, view.tcp_yaw if role == "wrist" else 0.0)
            result |= {f"label.{role}.{name}": value for name, value in values.items()}
        return result

    def get_state(self) -> EnvState:
        """Return all that changes during an episode."""
        return EnvState(
            self.world.get_state(),
            self._control.get_state(),
            self._arm.last_q,
            self.steps,
            self.streak,
            self._first_touched,
            self._first_lifted,
            None if self.shielded is None else self.shielded.get_state(),
        )

    def set_state(self, state: EnvState) -> None:
        """Undo everything since `get_state`; it continues bit for bit as before."""
        self.world.set_state(state.physics)
        self._control.set_state(state.control)
        self._arm.last_q = state.last_q
        self.steps, self.streak = state.steps, state.streak
        self._first_touched, self._first_lifted = state.first_touched, state.first_lifted
        if self.shielded is not None:
            self.shielded.set_state(state.shield)

    # 4 inside

    def _begin(self, episode: Episode) -> None:
        self._episode = episode
        shapes = tuple(placed.kind.shape for placed in episode.scene.objects)
        key = tuple(shape.name for shape in shapes)
        if key not in self._worlds:
            world = World(self.config.arm, shapes)
            self._worlds[key] = world, open_renderer(self.config.renderer, world.model)
        self.world, self._renderer = self._worlds[key]
        self.world.load(episode.scene)
        self._arm = SimulatedArm(self.world)
        self.shielded = None if self.config.shield is None else ShieldedArm(self._arm, self.config.shield)
        self._control.reset(self._arm.last_q, 1.0)
        self.steps, self.streak, self._first_touched, self._first_lifted = 0, 0, -1, -1

    def _move(self, action: Float[np.ndarray, " A"]) -> None:
        ramp = self._control.command(action)
        if self.shielded is None:
            self._arm.follow(*ramp)
            return
        held = self.shielded.move(ramp.q[-1], float(ramp.opening[-1]))
        draw_back(self._control, self.config.arm, self._arm.last_q, held=held)

    def _execute(self, action: Float[np.ndarray, " A"]) -> None:
        self._move(action)
        self.steps += 1
        view = self.view()
        self.streak = self.streak + 1 if self.episode.task.achieved(view, self.goal) else 0
        self._note_events(view)

    def _note_events(self, view: View) -> None:
        for i in self.scene.graspable:
            if self._first_touched < 0 and view.touched[i].any():
                self._first_touched = i
            height = view.position[i, 2] - view.kinds[i].shape.rest_z
            if self._first_lifted < 0 and height > LIFTED and view.held(i):
                self._first_lifted = i

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"state": self.state(), **{role: self.image(role) for role in CAMERAS}}

    def _info(self) -> dict[str, Any]:
        return {"success": self.success, "instruction": self.instruction, **self.events}


def draw_episode(tasks: tuple[Task, ...], seed: int, options: ResetOptions) -> Episode:
    """Draw scene, goal and instruction of a seed. Wording and swap change nothing else."""
    by_name = {task.name: task for task in tasks}
    name = options.get("task") or tasks[int(generator(seed, STREAM_TASK).integers(len(tasks)))].name
    if name not in by_name:
        raise unknown("task", name, by_name)
    task, scene = by_name[name], draw_scene(seed)
    rng = generator(seed, STREAM_GOAL)
    goal = task.draw_goal(rng, scene)
    if options.get("swap"):
        others = [i for i in scene.graspable if i != goal.target]
        goal = Goal(goal.task, int(rng.choice(others)), goal.destination)
    templates = task.templates(options.get("wording", "train"))
    template = templates[int(generator(seed, STREAM_WORDING).integers(len(templates)))]
    return Episode(scene, task, goal, instruct(template, scene, goal))


def _options(options: Mapping[str, Any]) -> ResetOptions:
    known = ResetOptions.__annotations__
    for name, value in options.items():
        if name not in known:
            raise unknown("option of reset", name, known)
        if name == "wording" and value not in ("train", "held_out"):
            raise unknown("wording", value, ("train", "held_out"))
    return ResetOptions(**options)
