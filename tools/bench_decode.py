"""Decoding against transformers: the rows `decode.*` of `make bench`.

One thread, random weights, a prompt of 290 embeddings, seven ids of 256. Both sides get the same weights and the same embeddings (what the
vision towers and the projector would give), run in turns, and each counts in the faster of float32 and bfloat16. The peer is transformers'
Llama in the fastest of three ways: `generate` with its static cache, `generate` with its growing cache, and a loop of our own around its
forward pass; its head is cut to the same 256 ids. Ids are compared first. The parallel rows set one pass over prompt and slots against the
peer's seven steps: they compare cost only, for a network has to be trained to decode in parallel.
"""

import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench import Entry
from torch import Tensor, nn

from ideomotor.model.attention import Everybody
from ideomotor.model.config import LanguageConfig
from ideomotor.model.decode import Decoder, Within, fuse
from ideomotor.model.language import Llama

VOCABULARY, FIRST, BINS = 32064, 31744, 256
PROMPT, ACTION = 290, 7
ROUNDS = 15
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Size:
    """A network, and what is to be reached with it: how many times faster with AMX, and without."""

    width: int
    depth: int
    goal: tuple[float, float]


SIZES = {"25m": Size(512, 8, (1.8, 1.4)), "5m": Size(256, 6, (2.5, 2.0))}
PARALLEL_GOAL = (4.0, 2.2)


def rows(size_name: str) -> list[Entry]:
    """Measure a network: decoding one id after the other, and all at once."""
    size = SIZES[size_name]
    names = [f"decode.autoregressive.{size_name}", f"decode.parallel.{size_name}"]
    goals = [size.goal[0 if has_amx() else 1], PARALLEL_GOAL[0 if has_amx() else 1]]
    try:
        import transformers
    except ImportError:
        note = "transformers is not installed"
        return [
            Entry(n, None, None, None, "ms", None, f">= {g}x", None, note) for n, g in zip(names, goals, strict=True)
        ]
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    works, same = {}, {}
    for name, dtype in DTYPES.items():
        made = build(size, dtype)
        same[name] = agreement(made)
        works |= {f"{side} {name}": work for side, work in made.items()}
    if same["fp32"] < 1.0:
        raise AssertionError(f"{size_name}: ids differ in float32 ({same['fp32']:.0%} equal)")
    best, middle = in_turns(works)
    return [
        _row(name, ours, goal, best, middle, same)
        for name, ours, goal in zip(names, ("loop", "slots"), goals, strict=True)
    ]


def _row(
    name: str, ours: str, goal: float, best: dict[str, float], middle: dict[str, float], same: dict[str, float]
) -> Entry:
    mine = min((n for n in best if n.startswith(ours)), key=best.__getitem__)
    peer = min((n for n in best if n.startswith("peer")), key=best.__getitem__)
    ratio, of_medians = best[peer] / best[mine], middle[peer] / middle[mine]
    compared = (
        f"ids equal in fp32, {same['bf16']:.0%} in bf16"
        if ours == "loop"
        else "one pass against seven steps: cost only, not the same ids"
    )
    others = ", ".join(f"{n} {best[n]:.1f}" for n in sorted(best) if n.startswith(("peer", ours)))
    note = (
        f"best of {ROUNDS} in turns, one thread, {compared}; ratio of medians {of_medians:.2f}; ours '{mine}', peer '{peer}' (all: {others});"
        f" {cpu()}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}"
    )
    return Entry(
        name,
        round(best[mine], 2),
        round(best[peer], 2),
        None,
        "ms",
        round(ratio, 2),
        f">= {goal}x {'with' if has_amx() else 'without'} AMX",
        ratio >= goal,
        note,
    )


def build(size: Size, dtype: torch.dtype) -> dict[str, Callable[[], Tensor]]:
    """Return what is timed: our loop, our pass over slots, and the peer in three ways."""
    torch.manual_seed(0)
    heads = size.width // 64
    ours = Llama(LanguageConfig(VOCABULARY, size.width, size.depth, heads, heads, size.width * 43 // 16)).eval()
    peer = _peer(ours, size, dtype)
    ours.to(dtype)
    fuse(ours)
    decoder, choice = Decoder(ours), Within(FIRST, BINS)
    decoder.pack()
    prompt = (torch.randn(1, PROMPT, size.width) * 0.02).to(dtype)
    slots = torch.cat([prompt, torch.zeros(1, ACTION, size.width, dtype=dtype)], dim=1)
    places = torch.arange(PROMPT - 1, PROMPT + ACTION - 1)[None]

    def parallel() -> Tensor:
        states = decoder.states(slots, Everybody(), rows=places)
        return FIRST + ours.logits(states, FIRST, BINS).argmax(-1)

    return {
        "loop": lambda: decoder.generate(prompt, None, ACTION, choice),
        "slots": torch.inference_mode()(parallel),
        "peer generate, static": lambda: _generate(peer, prompt, "static"),
        "peer generate, growing": lambda: _generate(peer, prompt, None),
        "peer loop": lambda: _loop(peer, prompt),
    }


def _peer(ours: Llama, size: Size, dtype: torch.dtype) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = size.width // 64
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.width,
        intermediate_size=size.width * 43 // 16,
        num_hidden_layers=size.depth,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        rms_norm_eps=ours.config.rms_eps,
        attn_implementation="sdpa",
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    peer: Any = LlamaForCausalLM(config).eval()
    peer.load_state_dict(ours.state_dict())
    rows = slice(FIRST, FIRST + BINS)  # both sides know these ids alone: head and embedding are cut
    head, words = nn.Linear(size.width, BINS, bias=False), nn.Embedding(BINS, size.width)
    head.weight.data, words.weight.data = (
        peer.lm_head.weight[rows].clone(),
        peer.model.embed_tokens.weight[rows].clone(),
    )
    peer.lm_head, peer.model.embed_tokens, peer.config.vocab_size = head, words, BINS
    return peer.to(dtype)


@torch.inference_mode()
def _generate(peer: Any, prompt: Tensor, cache: str | None) -> Tensor:
    options = {} if cache is None else {"cache_implementation": cache, "disable_compile": True}
    mask = torch.ones(prompt.shape[:2], dtype=torch.long)
    made = peer.generate(
        inputs_embeds=prompt,
        attention_mask=mask,
        max_new_tokens=ACTION,
        min_new_tokens=ACTION,
        do_sample=False,
        **options,
    )
    return made[:, -ACTION:] + FIRST


@torch.inference_mode()
def _loop(peer: Any, prompt: Tensor) -> Tensor:
    from transformers import DynamicCache

    cache, x, ids = DynamicCache(config=peer.config), prompt, []
    for step in range(ACTION):
        out = peer(inputs_embeds=x, past_key_values=cache, use_cache=True, logits_to_keep=1)
        ids.append(out.logits[:, -1].argmax(-1))
        if step < ACTION - 1:
            x = peer.model.embed_tokens(ids[-1][:, None])
    return torch.stack(ids, dim=1) + FIRST


def agreement(works: dict[str, Callable[[], Tensor]]) -> float:
    """Return the smallest share of ids that our loop has in common with a way of the peer."""
    mine = works["loop"]()
    return min(float((mine == work()).float().mean()) for name, work in works.items() if name.startswith("peer"))


def in_turns(works: dict[str, Callable[[], Tensor]]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the shortest and the middle time [ms] of each work, all of them in turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for round_index in range(ROUNDS + 3):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if round_index >= 3:  # warmed up
                times[name].append(1e3 * (time.perf_counter() - start))
    return {n: min(t) for n, t in times.items()}, {n: statistics.median(t) for n, t in times.items()}


def has_amx() -> bool:
    """Tell whether this processor has a matrix unit for bfloat16."""
    return "amx_bf16" in _flags()


def cpu() -> str:
    """Return what of the processor matters here."""
    return ", ".join(flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in _flags()) or "plain CPU"


def _flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="ascii", errors="replace").splitlines() if path.is_file() else []
    return set(next((line for line in lines if line.startswith("flags")), "").split())


if __name__ == "__main__":
    for size_name in SIZES:
        for row in rows(size_name):
            print(row)
