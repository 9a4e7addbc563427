"""The names a user may give on the command line. One line here makes an arm or a task known.

The tables are functions that import when called, so that asking for help imports none of what they name.
"""

from typing import TYPE_CHECKING

from ideomotor.core.errors import UsageError, unknown

if TYPE_CHECKING:
    from ideomotor.robot.arm import Arm
    from ideomotor.sim.task import Task


def arms() -> dict[str, "Arm"]:
    """The arms that the tabletop can be built around."""
    from ideomotor.robot.arms.fr3 import FR3
    from ideomotor.robot.arms.panda import PANDA
    from ideomotor.robot.arms.ur5e import UR5E

    return {"fr3": FR3, "panda": PANDA, "ur5e": UR5E}


def tasks() -> dict[str, "Task"]:
    """The tasks of the tabletop."""
    from ideomotor.sim.tasks.pick import PICK
    from ideomotor.sim.tasks.place_on import PLACE_ON

    return {"pick": PICK, "place_on": PLACE_ON}


def arm_named(name: str) -> "Arm":
    """Return one arm.

    Raises:
        UsageError: no such arm.
    """
    table = arms()
    if name not in table:
        raise unknown("arm", name, table)
    return table[name]


def tasks_named(names: str) -> tuple["Task", ...]:
    """Return the tasks of a comma-separated list.

    Raises:
        UsageError: no such task, or none at all.
    """
    table = tasks()
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise UsageError(f"--tasks is empty; known: {', '.join(sorted(table))}")
    for name in wanted:
        if name not in table:
            raise unknown("task", name, table)
    return tuple(table[name] for name in dict.fromkeys(wanted))
