"""Put the named object on the named plate and let go of it."""

import numpy as np
from jaxtyping import Float

from ideomotor.sim.expert import OPENED, carry, grasp, leave, relocate
from ideomotor.sim.scene import Scene
from ideomotor.sim.task import Goal, Task
from ideomotor.sim.view import View

TRAIN = (
    "put the {colour} {shape} on the {destination}",
    "put the {colour} {shape} onto the {destination}",
    "please put the {colour} {shape} on the {destination}",
    "could you put the {colour} {shape} on the {destination}",
    "place the {colour} {shape} on the {destination}",
    "please place the {colour} {shape} on the {destination}",
    "place the {colour} {shape} on top of the {destination}",
    "move the {colour} {shape} onto the {destination}",
    "move the {colour} {shape} to the {destination}",
    "set the {colour} {shape} down on the {destination}",
    "set the {colour} {shape} on the {destination}",
    "pick up the {colour} {shape} and put it on the {destination}",
    "grab the {colour} {shape} and place it on the {destination}",
    "take the {colour} {shape} and put it onto the {destination}",
    "take the {colour} {shape} to the {destination}",
    "get the {colour} {shape} onto the {destination}",
)
HELD_OUT = (
    "could you please place the {colour} {shape} onto the {destination}",
    "please move the {colour} {shape} on top of the {destination}",
    "lift the {colour} {shape} and set it down on the {destination}",
    "get the {colour} {shape} and put it on top of the {destination}",
    "could you move the {colour} {shape} to the {destination}",
    "pick the {colour} {shape} up and place it onto the {destination}",
    "bring the {colour} {shape} to the {destination}",
    "drop the {colour} {shape} on the {destination}",
)


def draw_goal(rng: np.random.Generator, scene: Scene) -> Goal:
    """Name one of the objects that fit the gripper and one of the plates."""
    return Goal("place_on", int(rng.choice(scene.graspable)), int(rng.choice(scene.receptacles)))


def achieved(view: View, goal: Goal) -> bool:
    """Tell whether the target lies on the destination, at rest, with the gripper open and clear of it."""
    assert goal.destination is not None
    released = view.opening >= OPENED and not view.touched[goal.target].any()
    return released and view.rests(goal.target) and view.is_on(goal.target, goal.destination)


def act(view: View, goal: Goal) -> Float[np.ndarray, " A"]:
    """Clear the destination if need be, grasp the target, carry it over the destination, let go and leave."""
    assert goal.destination is not None
    if view.held(goal.target):
        place = view.position[goal.destination]
        return carry(view, goal.target, place, float(place[2]) + view.kinds[goal.destination].shape.half_height)
    if view.is_on(goal.target, goal.destination):
        return leave(view, goal.target)
    for other, kind in enumerate(view.kinds):
        if kind.shape.graspable and other != goal.target and view.is_on(other, goal.destination):
            return relocate(view, other)
    return grasp(view, goal.target)


PLACE_ON = Task("place_on", 80, 3, TRAIN, HELD_OUT, draw_goal, achieved, act)
