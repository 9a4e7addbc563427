"""Answers of the parity tool for OpenVLA-OFT: parallel slots, the heads, state and FiLM, several cameras, and their training batch.

B = batch, C = cameras, N = tokens, D = width, K = slots = T A, T = horizon, A = action width.
"""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from parity_fixture import Answers, Fixture
from parity_openvla import states
from parity_subject import Slots, accuracy_and_l1
from torch import Tensor
from torch.nn import functional

from ideomotor.model.batch import TokenBatch
from ideomotor.model.config import TokenHead
from ideomotor.model.decode import Whole
from ideomotor.model.diffusion import alphas, time_token
from ideomotor.model.openvla import Noisy


class AllAtOnce:
    """`oft/expected_CASE.npz`, all but the training batch."""

    def __init__(self, fixture: Fixture, file: str, subject: Slots) -> None:
        self.given, self.subject, self.network = fixture.arrays(file), subject, subject.network
        self._made: dict[Any, Any] = {}

    @property
    def answers(self) -> Answers:
        """What there is an answer to."""
        i, steps = r"(?P<i>\d+)\.", r"(?:steps(?P<steps>\d+)\.)?"
        network = self.network
        return {
            i + r"input_ids_full": lambda i: self.ask(i).ids[0],
            i + r"first_action_hidden_index": self.first_state,
            i + r"pixel_values": lambda i: self.subject.pixels([i])[0].flatten(0, 1),
            i + r"projector": lambda i: self.patches(i)[0],
            i + r"patch_features": self.features,
            i + r"mean_language_embedding": lambda i: self.subject.condition(self.ask(i))[0],
            i + r"proprio_normalized": self.subject.state,
            i + r"proprio_token": lambda i: network.proprio_projector(self.ask(i).state)[0],
            i + r"hidden_all": lambda i: states(network, self.ask(i), self.patches(i))[0],
            i + r"hidden_actions": lambda i: self.slot_states(i)[0],
            i + r"logits_action_range": self.logits,
            i + r"predicted_ids": self.ids,
            i + steps + r"normalized_actions": self.chunk,
            i + steps + r"actions\.(?P<key>.+)": self.actions,
            r"\d+\." + steps + r"timesteps": lambda steps: np.array(self.subject.head(steps).steps()),
            i + steps + r"noise_pred": self.noise,
            i + steps + r"x_prev": self.denoised,
            i + steps + r"hidden_actions_first_step": self.first_step,
            r"alphas_cumprod": lambda: alphas(self.subject.head(None).config.train_steps),
            r"time_embedding": lambda: time_token(
                torch.arange(self.subject.head(None).config.train_steps), network.config.language.width
            ),
            r"final_alpha_cumprod": self.final_alpha,
            r"(?P<name>.+)\.noisy": lambda name: self.subject.head(None).add_noise(
                *(torch.from_numpy(self.given[f"{name}.{what}"]) for what in ("actions", "noise", "timesteps"))
            ),
        }

    def _once(self, name: Any, make: Any) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def ask(self, i: str) -> TokenBatch:
        """Return the question with its slots."""
        return self._once(("ask", i), lambda: self.subject.ask([i]))

    def patches(self, i: str) -> Tensor:
        """Return the image tokens of all cameras, [1, C P, D]."""
        return self._once(
            ("patches", i),
            lambda: self.network.patches(self.subject.pixels([i]), self.subject.condition(self.ask(i))),
        )

    def features(self, i: str) -> Tensor:
        """Return what the towers see, one camera after the other, [C P, V]."""
        pixels, condition = self.subject.pixels([i])[0], self.subject.condition(self.ask(i))
        condition = None if condition is None else condition.expand(len(pixels), -1)
        return self.network.vision_backbone(pixels, condition).flatten(0, 1)

    def first_state(self, i: str) -> int:
        """Return where in the sequence the state stands that predicts the first slot."""
        batch = self.ask(i)
        slots = self.network.slots(batch)
        assert slots is not None
        inserted = self.network.sequence(batch, self.patches(i), self.noisy_start(i))[0].shape[1] - batch.ids.shape[1]
        return inserted + int(slots[0].int().argmax()) - 1

    def noisy_start(self, i: str, steps: str | None = None) -> Noisy | None:
        """Return what a diffusion head starts from; None for the other heads."""
        if not self.subject.diffusion:
            return None
        return Noisy(self.start(i, steps), torch.tensor(self.subject.head(steps).steps()[:1]))

    def slot_states(self, i: str) -> Tensor:
        """Return the states that the head reads, [1, K, D]."""
        return self._once(("states", i), lambda: self.network.slots_seen(self.ask(i), self.patches(i)))

    def ids(self, i: str) -> np.ndarray:
        """Return the most likely id of each slot."""
        return self.network.ids(self.ask(i), self.subject.slots, Whole())[0].numpy()

    def logits(self, i: str) -> Tensor:
        """Return the logits of the ids from the first action id on, for each slot."""
        first = self.network.config.vocabulary.actions_first
        count = self.network.config.language.vocabulary - first
        return self.network.language_model.logits(self.slot_states(i), first, count)[0]

    def chunk(self, i: str, steps: str | None) -> np.ndarray:
        """Return the chunk in network coordinates, [T, A]."""
        return self.subject.bins.decode(self.output(i, steps)) if self.subject.tokens else self.output(i, steps)

    def actions(self, i: str, steps: str | None, key: str) -> np.ndarray:
        """Return the chunk in the units of a dataset, [T, A]."""
        return self.subject.decoded(key, self.output(i, steps))

    def output(self, i: str, steps: str | None) -> np.ndarray:
        """Return what the network answers, ids or numbers, [T, A]."""

        def run() -> np.ndarray:
            if self.subject.tokens:
                return self.ids(i).reshape(self.subject.chunk)
            start = self.start(i, steps) if self.subject.diffusion else None
            return self.subject.sampled(self.ask(i), start, steps)[0].numpy()

        return self._once(("output", i, steps), run)

    # ------------------------------------------------------------------------------------------------ diffusion

    def start(self, i: str, steps: str | None) -> Tensor:
        """Return the noise that sampling starts from, [1, T, A]."""
        return torch.from_numpy(self.given[_name(i, steps, "initial_noise")])[None]

    def noise(self, i: str, steps: str | None) -> Tensor:
        """Return the noise that the network sees in each noisy chunk of the file, [S, T, A]."""
        x, head = torch.from_numpy(self.given[_name(i, steps, "x_t")]), self.subject.head(steps)
        return self._once(
            ("noise", i, steps),
            lambda: torch.cat(
                [
                    self.network.noise(self.ask(i), self.patches(i), x[k : k + 1], step)
                    for k, step in enumerate(head.steps())
                ]
            ),
        )

    def denoised(self, i: str, steps: str | None) -> Tensor:
        """Return each noisy chunk of the file one sampling step earlier."""
        head, x = self.subject.head(steps), torch.from_numpy(self.given[_name(i, steps, "x_t")])
        noise = self.noise(i, steps)
        return torch.cat([head.denoise(x[k : k + 1], noise[k : k + 1], t) for k, t in enumerate(head.steps())])

    def first_step(self, i: str, steps: str | None) -> Tensor:
        """Return the states that the first sampling step reads, [K, D]."""
        return self.network.slots_seen(self.ask(i), self.patches(i), self.noisy_start(i, steps))[0]

    def final_alpha(self) -> float:
        """Return the share of signal after the last step, read off that step: without noise it leaves √α of the clean chunk."""
        head, clean = self.subject.head(None), torch.full((1, 1, 1), 0.5)
        share = alphas(head.config.train_steps)[0]
        return float((head.denoise(clean * share.sqrt(), torch.zeros_like(clean), 0) / clean) ** 2)


def _name(i: str, steps: str | None, what: str) -> str:
    return f"{i}.steps{steps}.{what}" if steps else f"{i}.{what}"


class Training:
    """`oft/expected_train_batch.npz`: one padded batch, seen by the network of each case."""

    def __init__(self, fixture: Fixture, file: str, subjects: Any) -> None:
        self.given, self.subjects = fixture.arrays(file), subjects
        self._made: dict[Any, Any] = {}

    @property
    def answers(self) -> Answers:
        """What there is an answer to."""
        case = r"(?P<case>[^.]+)\."
        return {
            r"batch\.input_ids": lambda: self.lesson(None).ids,
            r"batch\.attention_mask": lambda: self.lesson(None).mask,
            r"batch\.labels": lambda: self.lesson(None).labels,
            r"batch\.current_action_mask": lambda: self.masks[0],
            r"batch\.next_actions_mask": lambda: self.masks[1],
            case + r"noisy_actions": self.noisy_actions,
            case + r"hidden_actions": self.states,
            case + r"argmax": lambda case: self.logits(case).argmax(dim=-1),
            case + r"predicted_actions": lambda case: self.subjects(case).network.action_head.chunk(self.states(case)),
            case + r"noise_pred": lambda case: self.subjects(case).network.action_head.noise(self.states(case)),
        }

    @cached_property
    def any_case(self) -> str:
        """A case of the file: ids, labels and masks are the same in all."""
        return next(key.split(".")[0] for key in self.given if not key.startswith("batch."))

    def lesson(self, case: str | None) -> TokenBatch:
        """Return the training batch as a case's network reads it."""
        subject: Slots = self.subjects(case or self.any_case)
        state = self.given.get("batch.proprio") if subject.how.state_width is not None else None
        return subject.lesson_of(self.given["batch.actions"], state)

    @cached_property
    def masks(self) -> tuple[Tensor, Tensor]:
        """Where the first action of the chunk is predicted, and where the others are, [B, L - 1]."""
        subject: Slots = self.subjects(self.any_case)
        slots = subject.network.slots(self.lesson(None))
        assert slots is not None
        place = slots.cumsum(dim=1)
        first = slots & (place <= subject.chunk[1])
        return first[:, 1:], (slots & ~first)[:, 1:]

    def noisy_actions(self, case: str) -> Tensor:
        """Return the chunks after the forward process."""
        noise, steps = (torch.from_numpy(self.given[f"{case}.{name}"]) for name in ("noise", "timesteps"))
        return self.subjects(case).network.action_head.add_noise(self.lesson(case).actions, noise, steps)

    def states(self, case: str) -> Tensor:
        """Return the states that the head reads, [B, K, D]."""
        if case not in self._made:
            subject, batch = self.subjects(case), self.lesson(case)
            pixels = subject.pixels(subject.first(len(batch.ids)))
            # the reference's mean takes the padding in (OpenVLA-OFT does so): here it is reproduced, elsewhere not
            patches = subject.network.patches(pixels, subject.condition(batch, padding=True))
            noisy = None
            if subject.diffusion:
                noisy = Noisy(self.noisy_actions(case), torch.from_numpy(self.given[f"{case}.timesteps"]))
            self._made[case] = subject.network.slot_states(batch, subject.network(batch, patches, noisy))
        return self._made[case]

    def logits(self, case: str) -> Tensor:
        """Return the logits of all ids for each slot, [B, K, vocabulary]."""
        network = self.subjects(case).network
        return network.language_model.logits(self.states(case), 0, network.config.language.vocabulary)

    # ------------------------------------------------------------------------------------------------ losses

    def losses(self, case: str) -> dict[str, float]:
        """Return loss and metrics of a case under the names of `oft/expected.json`."""
        subject, batch = self.subjects(case), self.lesson(case)
        head = subject.network.action_head if not subject.tokens else None
        if subject.diffusion:
            noise = torch.from_numpy(self.given[f"{case}.noise"])
            return {"loss": float(head.loss(self.states(case), noise))}
        if isinstance(subject.network.config.decoding.head, TokenHead):
            return self._token_losses(subject, batch, case)
        chunk = head.chunk(self.states(case))
        apart = (chunk - batch.actions).abs()
        return {
            "loss": float(head.loss(self.states(case), batch.actions)),
            "curr_action_l1_loss": float(apart[:, 0].mean()),
            "next_actions_l1_loss": float(apart[:, 1:].mean()),
        }

    def _token_losses(self, subject: Slots, batch: TokenBatch, case: str) -> dict[str, float]:
        hidden = subject.network(batch, subject.network.patches(subject.pixels(subject.first(len(batch.ids)))))
        found = {"loss": float(functional.cross_entropy(*subject.network.supervised(batch, hidden)))}
        horizon, width = subject.chunk
        chosen = self.logits(case).argmax(dim=-1).unflatten(1, (horizon, width)).numpy()
        labels = batch.labels[:, 1:][subject.network.slots(batch)[:, 1:]].reshape(chosen.shape).numpy()
        for name, part in (("curr_action", np.s_[:, :1]), ("next_actions", np.s_[:, 1:])):
            right, apart = accuracy_and_l1(subject.bins, chosen[part], labels[part])
            found |= {f"{name}_accuracy": right, f"{name}_l1_loss": apart}
        return found
