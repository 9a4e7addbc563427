"""What growth costs: an arm or a task is one object in one file, and one line in `cli/names.py`."""

import re
from pathlib import Path

import numpy as np
import pytest

import ideomotor
from ideomotor.cli.names import arms, tasks
from ideomotor.collect.expert import Expert
from ideomotor.robot.arm import Arm
from ideomotor.robot.arms.panda import PANDA
from ideomotor.sim.env import EnvConfig, TabletopEnv
from ideomotor.sim.scene import Scene
from ideomotor.sim.task import Goal, Task
from ideomotor.sim.tasks import pick
from ideomotor.sim.tasks.pick import PICK

SOURCE = Path(ideomotor.__file__).parent


def files_that_name(word: str) -> set[str]:
    pattern = re.compile(rf"\b{word}\b")
    return {str(p.relative_to(SOURCE)) for p in SOURCE.rglob("*.py") if pattern.search(p.read_text(encoding="utf-8"))}


def test_an_arm_is_named_in_its_own_file_and_in_the_table_of_names_only():
    assert files_that_name("UR5E") == {"robot/arms/ur5e.py", "cli/names.py"}


def test_a_task_is_named_in_its_own_file_and_in_the_table_of_names_only():
    assert files_that_name("PLACE_ON") == {"sim/tasks/place_on.py", "cli/names.py"}


@pytest.mark.parametrize("arm", arms().values(), ids=list(arms()))
@pytest.mark.parametrize("task", tasks().values(), ids=list(tasks()))
def test_every_arm_of_the_table_does_every_task_of_the_table(arm: Arm, task: Task):
    env = TabletopEnv(EnvConfig(arm, (task,)))
    for seed in (11, 12):
        env.load(seed=seed)
        while not env.done:
            env.advance(env.expert_action()[None])
        assert env.success, f"{arm.name}, {task.name}, seed {seed}"
    assert (env.embodiment.robot, env.embodiment.name) == (arm.name, f"{arm.name}-tabletop")


def leftmost(rng: np.random.Generator, scene: Scene) -> Goal:
    """Seen from the arm, which looks along x, left is +y."""
    return Goal("pick_leftmost", max(scene.graspable, key=lambda i: scene.objects[i].y))


# All of a new task: how its goal is drawn, its words, and pieces of the tasks that are there.
PICK_LEFTMOST = Task(
    name="pick_leftmost",
    horizon=60,
    hold_steps=3,
    train_templates=("pick up the leftmost object", "grab what is furthest to the left"),
    held_out_templates=("lift the object on the far left",),
    draw_goal=leftmost,
    achieved=pick.achieved,
    act=pick.act,
)


def test_a_new_task_made_of_pieces_runs_beside_the_others():
    env = TabletopEnv(EnvConfig(PANDA, (PICK, PICK_LEFTMOST)))
    for seed in (0, 1):
        episode = Expert(noisy=0.0).episode(env, seed, "pick_leftmost")
        objects = env.scene.objects
        assert all(objects[env.goal.target].y >= objects[i].y for i in env.scene.graspable)
        assert env.events["first_lifted"] == env.goal.target
        assert episode.success == "success"
        assert episode.instruction in PICK_LEFTMOST.train_templates
    env.load(seed=0, options={"task": "pick_leftmost", "wording": "held_out"})
    assert env.instruction == "lift the object on the far left"
