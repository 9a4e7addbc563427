"""What is made of an instruction before it is tokenized."""

from dataclasses import dataclass
from typing import assert_never


@dataclass(frozen=True)
class Bare:
    """The instruction itself, lower-cased, white space folded."""


@dataclass(frozen=True)
class OpenVLA:
    """OpenVLA's question; lower-cased, nothing stripped (openvla-7b, Llama-2 base)."""


@dataclass(frozen=True)
class Vicuna:
    """The same question in the conversation form of Vicuna v1.5 (openvla-v01-7b); its ids get 29871 at the end as well."""


Prompt = Bare | OpenVLA | Vicuna

VICUNA_SYSTEM = (  # the system sentence that Vicuna v1.5 was trained with
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


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
        case Vicuna():
            return f"{VICUNA_SYSTEM} USER: What action should the robot take to {instruction.lower()}? ASSISTANT:"
        case _:
            assert_never(prompt)
