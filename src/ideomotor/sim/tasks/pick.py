"""Pick up the named object: lifted clear of the table and held."""

import numpy as np
from jaxtyping import Float

from ideomotor.sim.expert import grasp, lift
from ideomotor.sim.scene import Scene
from ideomotor.sim.task import Goal, Task
from ideomotor.sim.view import View

LIFT = 0.08  # [m] height above its rest on the table from which it counts as picked up

TRAIN = (
    "pick up the {colour} {shape}",
    "pick the {colour} {shape} up",
    "please pick up the {colour} {shape}",
    "could you pick up the {colour} {shape}",
    "grab the {colour} {shape}",
    "please grab the {colour} {shape}",
    "grab the {colour} {shape} and lift it",
    "lift the {colour} {shape}",
    "lift up the {colour} {shape}",
    "could you lift the {colour} {shape}",
    "take the {colour} {shape}",
    "take the {colour} {shape} off the table",
    "get the {colour} {shape}",
    "please get the {colour} {shape} from the table",
    "raise the {colour} {shape}",
    "hold up the {colour} {shape}",
)
HELD_OUT = (
    "could you please grab the {colour} {shape}",
    "please lift the {colour} {shape} up",
    "take the {colour} {shape} and raise it",
    "get the {colour} {shape} and hold it up",
    "please could you take the {colour} {shape} from the table",
    "lift the {colour} {shape} off the table",
    "fetch the {colour} {shape}",
    "robot, pick up the {colour} {shape} now",
)


def draw_goal(rng: np.random.Generator, scene: Scene) -> Goal:
    """Name one of the objects that fit the gripper."""
    return Goal("pick", int(rng.choice(scene.graspable)))


def achieved(view: View, goal: Goal) -> bool:
    """Tell whether the target is held by both fingers, at least `LIFT` above its rest."""
    height = view.position[goal.target, 2] - view.kinds[goal.target].shape.rest_z
    return bool(height >= LIFT) and view.held(goal.target)


def act(view: View, goal: Goal) -> Float[np.ndarray, " A"]:
    """Grasp the target, then lift it."""
    return lift(view, goal.target) if view.held(goal.target) else grasp(view, goal.target)


PICK = Task("pick", 60, 3, TRAIN, HELD_OUT, draw_goal, achieved, act)
