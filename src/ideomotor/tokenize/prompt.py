"""What is made of an instruction before it is tokenized."""

from dataclasses import dataclass
from typing import assert_never


@dataclass(frozen=True)
class Bare:
    """The instruction itself, lower-cased, white space folded."""


@dataclass(frozen=True)
class OpenVLA:
    """OpenVLA's question; lower-cased, nothing stripped (openvla-7b, Llama-2 base)."""


Prompt = Bare | OpenVLA


def prompt_text(prompt: Prompt, instruction: str) -> str:
    r"""Return the text that is tokenized.

    >>> prompt_text(OpenVLA(), "Pick up the cup.")
    'In: What action should the robot take to pick up the cup.?\nOut:'
    >>> prompt_text(Bare(), " Pick up   the cup")
    'pick up the cup'
    """
    match prompt:
        case Bare():
            return " ".join(instruction.lower().split())
        case OpenVLA():
            return f"In: What action should the robot take to {instruction.lower()}?\nOut:"
        case _:
            assert_never(prompt)
