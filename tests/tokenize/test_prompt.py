"""Prompts as OpenVLA's two released models were given them."""

import pytest

from ideomotor.tokenize.prompt import OpenVLA, Prompt, Vicuna, prompt_text


def test_the_prompt_of_openvla_v01_gives_its_published_string():
    # README and deployment script of openvla/openvla
    expected = (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
        "polite answers to the user's questions. USER: What action should the robot take to open the drawer? ASSISTANT:"
    )
    assert prompt_text(Vicuna(), "Open the Drawer") == expected


@pytest.mark.parametrize("prompt", [OpenVLA(), Vicuna()])
def test_a_question_lower_cases_and_strips_nothing(prompt: Prompt):
    assert " take to  pick up the cup. ?" in prompt_text(prompt, " Pick up the CUP. ")
