import dataclasses
import string

import numpy as np
import pytest

from ideomotor.sim.objects import OBJECTS
from ideomotor.sim.scene import Placed, Scene, draw_scene, generator
from ideomotor.sim.task import Goal, Task, instruct
from ideomotor.sim.tasks.pick import PICK
from ideomotor.sim.tasks.place_on import PLACE_ON
from ideomotor.sim.view import View

ROWS = {kind.name: row for row, kind in enumerate(OBJECTS)}
NAMES = ("blue cube", "red can", "green plate")


def hand_made(**changes: object) -> View:
    """A blue cube and a red can stand on the table beside a green plate; the open gripper is high above."""
    view = View(
        kinds=tuple(OBJECTS[ROWS[name]] for name in NAMES),
        position=np.array([[0.40, 0.10, 0.026], [0.50, -0.10, 0.032], [0.55, 0.10, 0.004]]),
        rotation=np.tile(np.eye(3), (3, 1, 1)),
        speed=np.zeros(3),
        spin=np.zeros(3),
        touched=np.zeros((3, 2), dtype=bool),
        tcp=np.array([0.40, 0.0, 0.40]),
        tcp_yaw=0.0,
        opening=1.0,
        commanded=np.array([0.40, 0.0, 0.40]),
        commanded_yaw=0.0,
    )
    return dataclasses.replace(view, **changes)  # pyright: ignore[reportArgumentType]


def moved(index: int, position: tuple[float, float, float]) -> np.ndarray:
    positions = hand_made().position.copy()
    positions[index] = position
    return positions


def touching(index: int, *fingers: int) -> np.ndarray:
    touched = np.zeros((3, 2), dtype=bool)
    touched[index, list(fingers)] = True
    return touched


HIGH = moved(0, (0.40, 0.10, 0.026 + 0.081))
ON_PLATE = moved(0, (0.55, 0.11, 0.008 + 0.026))


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (hand_made(position=HIGH, touched=touching(0, 0, 1)), True),
        (hand_made(position=HIGH, touched=touching(0, 0)), False),  # flies past one finger
        (hand_made(position=HIGH), False),  # in the air, not held
        (hand_made(position=moved(0, (0.40, 0.10, 0.026 + 0.079)), touched=touching(0, 0, 1)), False),  # too low
        (hand_made(position=moved(1, (0.5, -0.1, 0.2)), touched=touching(1, 0, 1)), False),  # the wrong object
    ],
    ids=["held", "one finger", "free", "low", "wrong"],
)
def test_pick_wants_the_target_held_and_lifted(view: View, expected: bool):
    assert PICK.achieved(view, Goal("pick", 0)) is expected


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (hand_made(position=ON_PLATE), True),
        (hand_made(position=ON_PLATE, touched=touching(0, 0)), False),  # still touched
        (hand_made(position=ON_PLATE, opening=0.66), False),  # still in the gripper
        (hand_made(position=ON_PLATE, speed=np.array([0.05, 0.0, 0.0])), False),  # slides
        (hand_made(position=ON_PLATE, spin=np.array([1.0, 0.0, 0.0])), False),  # turns
        (hand_made(position=moved(0, (0.55, 0.165, 0.034))), False),  # centre 65 mm from the plate's, which has 60 mm
        (hand_made(position=moved(0, (0.55, 0.11, 0.10))), False),  # above
        (hand_made(position=moved(1, (0.55, 0.11, 0.008 + 0.032))), False),  # the wrong object
    ],
    ids=["on", "touched", "closed", "slides", "turns", "beside", "above", "wrong"],
)
def test_place_on_wants_the_target_at_rest_on_the_plate_and_let_go(view: View, expected: bool):
    assert PLACE_ON.achieved(view, Goal("place_on", 0, 2)) is expected


@pytest.mark.parametrize("task", [PICK, PLACE_ON], ids=lambda task: task.name)
def test_wordings_are_many_disjoint_and_name_the_objects(task: Task):
    assert len(set(task.train_templates)) >= 14
    assert len(set(task.held_out_templates)) >= 6
    assert not set(task.train_templates) & set(task.held_out_templates)
    needed = {"colour", "shape"} | ({"destination"} if task is PLACE_ON else set())
    for template in (*task.train_templates, *task.held_out_templates):
        assert {name for _, name, _, _ in string.Formatter().parse(template) if name} == needed


@pytest.mark.parametrize("task", [PICK, PLACE_ON], ids=lambda task: task.name)
def test_most_held_out_wordings_recombine_known_words_and_some_do_not(task: Task):
    known = {word for template in task.train_templates for word in template.split()}
    new = [template for template in task.held_out_templates if set(template.split()) - known]
    assert 1 <= len(new) <= len(task.held_out_templates) // 2


def test_the_instruction_names_target_and_destination():
    scene = Scene(0, tuple(Placed(ROWS[name], 0.4, 0.0, 0.0) for name in NAMES))
    text = instruct(PLACE_ON.train_templates[0], scene, Goal("place_on", 1, 2))
    assert text == "put the red can on the green plate"
    assert instruct("pick up the {colour} {shape}", scene, Goal("pick", 0)) == "pick up the blue cube"


def test_goals_name_every_graspable_object_and_each_plate_equally_often():
    scene = next(s for seed in range(50) if len((s := draw_scene(seed)).graspable) == 4)
    goals = [PLACE_ON.draw_goal(generator(seed, 1), scene) for seed in range(400)]
    for options, drawn in (
        (scene.graspable, [goal.target for goal in goals]),
        (scene.receptacles, [goal.destination for goal in goals]),
    ):
        counts = [drawn.count(option) for option in options]
        assert sum(counts) == 400
        assert min(counts) > 0.6 * 400 / len(options)
