"""What a task is: a goal drawn in a scene, words for it, a predicate on the true state, and a scripted plan."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from ideomotor.sim.scene import Scene
from ideomotor.sim.view import View

Wording = Literal["train", "held_out"]


@dataclass(frozen=True)
class Goal:
    """What is to be done to which object of the scene."""

    task: str
    target: int  # index in `Scene.objects` of the object to be moved
    destination: int | None = None  # index of the object that it goes to


@dataclass(frozen=True)
class Task:
    """A kind of job. One instance in one file under `sim/tasks` is all that a new task needs."""

    name: str
    horizon: int  # [control steps] an episode is cut here
    hold_steps: int  # [control steps] for which `achieved` has to hold without a break
    train_templates: tuple[str, ...]  # with fields {colour}, {shape} and, where there is a destination, {destination}
    held_out_templates: tuple[str, ...]  # wordings that no policy sees in training
    draw_goal: Callable[[np.random.Generator, Scene], Goal]
    achieved: Callable[[View, Goal], bool]
    act: Callable[[View, Goal], Float[np.ndarray, " A"]]  # the scripted expert: true state -> action

    def templates(self, wording: Wording) -> tuple[str, ...]:
        """Return the templates of one wording."""
        return self.train_templates if wording == "train" else self.held_out_templates


def instruct(template: str, scene: Scene, goal: Goal) -> str:
    """Fill a template with the names of the goal's objects."""
    target = scene.objects[goal.target].kind
    destination = "" if goal.destination is None else scene.objects[goal.destination].kind.name
    return template.format(colour=target.colour.name, shape=target.shape.name, destination=destination)
