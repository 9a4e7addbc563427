"""Which part of the parity tool answers for which file, and the networks they need, loaded once and when they are asked for."""

import re
import shutil
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from parity_fixture import Answers, Fixture
from parity_inputs import ActionTokens, Preprocessing
from parity_oft import AllAtOnce, Training
from parity_openvla import OneAfterTheOther
from parity_subject import Slots, Subject

from ideomotor.model.diffusion import Diffusion
from ideomotor.model.oft_weights import OftFacts, load_oft
from ideomotor.model.openvla import OpenVLA
from ideomotor.model.openvla_config import read_openvla_config
from ideomotor.model.openvla_weights import load_openvla

VARIANT = re.compile(r"expected(?:_(.+))?\.npz")  # `expected_X.npz` belongs to `checkpoint/config_X.json`
CASE = re.compile(r"oft/expected_(.+)\.npz")
LESSON = "train_batch"  # the case that is no case: one batch for several of them


class Cases:
    """The files of a fixture, and who answers for each."""

    def __init__(self, fixture: Fixture, scratch: Path) -> None:
        self.fixture, self.scratch = fixture, scratch
        self._made: dict[str, Any] = {}

    def answers(self, file: str) -> Answers:
        """Return what there is an answer to in a file; nothing where no part knows such a file."""
        if file == "preprocess.npz":
            return Preprocessing(self.fixture, file).answers
        if file == "action_tokenizer.npz":
            config = read_openvla_config(self.fixture.checkpoint, None, None)
            return ActionTokens(self.fixture, file, config.vocabulary).answers
        if match := VARIANT.fullmatch(file):
            return self.one_after_the_other(match[1]).answers
        if match := CASE.fullmatch(file):
            return (
                self.training if match[1] == LESSON else AllAtOnce(self.fixture, file, self.slots(match[1]))
            ).answers
        return {}

    def one_after_the_other(self, variant: str | None) -> OneAfterTheOther:
        """Return the answers for the checkpoint with one of its configurations."""
        file = f"expected_{variant}.npz" if variant else "expected.npz"
        return self._once(file, lambda: OneAfterTheOther(self.fixture, file, self.subject(variant)))

    @cached_property
    def training(self) -> Training:
        """The answers for OFT's training batch."""
        return Training(self.fixture, f"oft/expected_{LESSON}.npz", self.slots)

    def subject(self, variant: str | None) -> Subject:
        """Return the checkpoint with one of its configurations."""
        folder = self._folder(variant)
        return self._once(
            f"subject {variant}", lambda: Subject(self.fixture, load_openvla(folder, dtype=torch.float32))
        )

    def slots(self, case: str) -> Slots:
        """Return a case of OFT."""
        return self._once(
            f"slots {case}", lambda: Slots(self.fixture, f"oft/expected_{case}.npz", self._load_oft(case))
        )

    def _load_oft(self, case: str) -> OpenVLA:
        constants = self.fixture.constants
        cameras = 1 if "single_image" in case else max(map(_images, self.fixture.oft_samples.values()))
        facts = OftFacts(constants["chunk"], cameras, constants["action_dim"])
        network = load_oft(self.fixture.checkpoint, self._components(case), facts=facts, dtype=torch.float32)
        head = getattr(network, "action_head", None)
        if isinstance(head, Diffusion):  # no weight file tells the length of its schedule
            steps = constants.get("diffusion_train_steps", head.config.train_steps)
            head.config = replace(head.config, train_steps=steps, steps=steps)
        return network

    def _components(self, case: str) -> Path:
        """Return a folder with the component files of `oft/X`, for a case named X or X_...; nothing of a state where it reads none."""
        folder = self.scratch / "oft" / case
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        parts = [path for path in (self.fixture.folder / "oft").iterdir() if path.is_dir()]
        fitting = [path for path in parts if f"{case}_".startswith(f"{path.name}_")]
        arrays = self.fixture.arrays(f"oft/expected_{case}.npz")
        state = not arrays or any(key.endswith(".state") for key in arrays)
        for path in max(fitting, key=lambda path: len(path.name)).iterdir() if fitting else ():
            if state or not path.name.startswith("proprio_projector"):
                (folder / path.name).symlink_to(path.resolve())
        return folder

    def _folder(self, variant: str | None) -> Path:
        """Return a folder with the checkpoint's files and the variant as its config.json."""
        if variant is None:
            return self.fixture.checkpoint
        folder = self.scratch / "variants" / variant
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        shutil.copyfile(self.fixture.checkpoint / f"config_{variant}.json", folder / "config.json")
        for path in self.fixture.checkpoint.iterdir():
            if path.name != "config.json":
                (folder / path.name).symlink_to(path.resolve())
        return folder

    def _once(self, name: str, make: Any) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


def _images(sample: dict[str, Any]) -> int:
    return sum(name == "image" or name.endswith("_image") for name in sample)
