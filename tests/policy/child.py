"""A policy process without deep learning: its behaviour is chosen by the instruction."""

import os
import signal
import time

import numpy as np

from ideomotor.core.errors import UserError
from ideomotor.core.spec import Channel, ChunkLength, Embodiment
from ideomotor.core.types import Chunk
from ideomotor.policy.worker import run

EMBODIMENT = Embodiment(
    name="point",
    robot="point",
    rate_hz=10.0,
    action=(Channel("x", "m", mode="delta"), Channel("y", "m", mode="delta")),
    state=(Channel("x", "m"), Channel("y", "m")),
    cameras=(),
    chunk=ChunkLength(2, 2),
)


class EchoPolicy:
    policy_id = "echo"
    embodiment = EMBODIMENT
    tasks: tuple[str, ...] = ("echo",)

    def __init__(self):
        self.instruction = ""
        self.sequence = 0
        self.illegal_ids = 0

    def reset(self, instruction):
        self.instruction = instruction

    def act(self, observation):
        return self.act_batch([self.instruction], [observation])[0]

    def act_batch(self, instructions, observations):
        return [self.chunk(i, o) for i, o in zip(instructions, observations, strict=True)]

    def chunk(self, instruction, observation):
        match instruction:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os.write(2, b"out of luck\n")
                os._exit(3)
            case "sleep":
                time.sleep(60)
            case "illegal":
                self.illegal_ids += 3
            case "raise":
                raise ZeroDivisionError("one by nothing")
            case _:
                pass  # any other text is an ordinary task
        self.sequence += 1
        scale = float("nan") if instruction == "nan" else 1.0
        actions = np.stack([observation.state, observation.state + len(instruction)]) * scale
        return Chunk(observation.time, observation.time, 0.1, actions, self.policy_id, self.sequence)


def load(name, options):
    if name == "missing":
        raise UserError("no policy folder 'missing'; give one that training wrote")
    if name == "slow":
        time.sleep(60)
    policy = EchoPolicy()
    policy.tasks = (name, options.statistics)
    return policy


if __name__ == "__main__":
    run(load)
