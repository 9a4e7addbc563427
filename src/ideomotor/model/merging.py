"""An adapter of peft and the checkpoint below it, opened as one network."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ideomotor.model.batch import TokenBatch
from ideomotor.model.config import Parallel
from ideomotor.model.lora import load_adapter, merge
from ideomotor.model.openvla import OpenVLA
from ideomotor.model.openvla_weights import Source, load_source, main_dtype
from ideomotor.model.tensors import InMemory

WORDS = 12  # random ids of the probe's instruction
READ = 4  # last places of the probe whose logits are compared


def open_merged(base: Source, folder: Path, dtype: torch.dtype | None) -> Source:
    """Return a checkpoint with an adapter added to its weights; it is held in memory, in `dtype` or as most of the base is stored.

    Raises:
        UserError: the adapter does not fit, or merging moved the outputs too far.
    """
    stored = dtype or main_dtype(base.tensors.entries)
    network = load_source(base, stored, "cpu")
    load_adapter(network, folder)
    found = merge(network, lambda: probe(network), stored)
    return replace(
        base,
        tensors=InMemory(network.state_dict()),
        where=folder,
        notes=(*base.notes, f"base: {base.where}", str(found)),
    )


@torch.inference_mode()
def probe(network: OpenVLA, seed: int = 0) -> Tensor:
    """Return logits of the last places for two samples of noise; they depend on every layer that an adapter can have."""
    config, generator = network.config, torch.Generator().manual_seed(seed)
    side, ids = config.towers[0].vision.image_size, config.vocabulary
    words = torch.randint(ids.eos + 1, ids.actions_first, (2, WORDS), generator=generator)
    ends = [torch.full((2, 1), ids.bos), words, torch.full((2, 1), ids.space)]
    state: Tensor | None = None
    if isinstance(how := config.decoding, Parallel):
        ends += [torch.full((2, how.horizon * how.action_width), ids.placeholder), torch.full((2, 1), ids.eos)]
        state = None if how.state_width is None else torch.rand(2, how.state_width, generator=generator) * 2 - 1
    rows = torch.cat(ends, dim=1)
    images = torch.randint(0, 256, (2, config.cameras, side, side, 3), dtype=torch.uint8, generator=generator)
    batch = TokenBatch(rows, torch.ones_like(rows, dtype=torch.bool), images, state, whole=True)
    hidden = network(batch)[:, -READ:]
    return network.language_model.logits(hidden, 0, config.language.vocabulary).float()
