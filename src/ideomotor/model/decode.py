"""Greedy decoding of a Llama, and single passes for slots that are filled in parallel; no gradients.

Keys and values lie in one buffer per layer and stay from call to call, the last layer computes the rows that are read and no others, and the
head reads the ids that may be chosen. Within a step nothing waits for the host.

Letters: B = batch, N = tokens, M = keys, R = rows that are read, T = room, H = heads, K = key-value heads, D = width, V = ids.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from ideomotor.model.attention import Causal, Mask, rotary_table, visible
from ideomotor.model.config import LanguageConfig
from ideomotor.model.fused import Layer, Product, fuse, is_cpu_bf16, layers_of, norm, packed, plain, stamp, times
from ideomotor.model.language import Llama

ROOM_STEP = 64  # [tokens] buffers grow in such steps
KEY_STEP = (
    16  # [tokens] with other counts of keys torch's bfloat16 attention takes up to twice as long on a CPU [measured]
)

__all__ = ["Choice", "Decoder", "Step", "Whole", "Within", "fuse"]


@dataclass(frozen=True)
class Whole:
    """Any id of the vocabulary, as the reference decodes."""


@dataclass(frozen=True)
class Within:
    """One of the `count` ids from `first_id` on."""

    first_id: int
    count: int


Choice = Whole | Within


@dataclass(frozen=True)
class Step:
    """One token of each row: its id, the logits of the ids to choose among, and the state they were read from."""

    ids: Int64[Tensor, " B"]
    logits: Float[Tensor, "B V"]
    hidden: Float[Tensor, "B D"]


class Decoder:
    """Decodes with a Llama that stays the caller's: what happens to its weights is noticed at the next call."""

    def __init__(self, language: Llama) -> None:
        self._language = language
        self._layers: list[Layer] = []
        self._table = (torch.empty(0), torch.empty(0))
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    @torch.no_grad()
    def pack(self) -> None:
        """Copy the layers' weights into the layout a CPU computes with, which makes prompts in bfloat16 faster by a tenth and more [measured].

        Costs their memory a second time. Any change of the weights undoes it.
        """
        self._layers = [packed(layer) for layer in layers_of(self._language)]

    def generate(
        self,
        embeddings: Float[Tensor, "B N D"],
        seen: Bool[Tensor, "B N"] | None,
        count: int,
        choice: Choice,
        stop: int | None = None,
    ) -> Int64[Tensor, "B count"]:
        """Return the `count` ids that follow each prompt, each the likeliest after those before it.

        Args:
            embeddings: the prompts; shorter ones are padded on the right.
            seen: False where a prompt is padded; None: nowhere.
            count: at least 1.
            choice: what ids to choose among.
            stop: a row that has given this id gives it from then on, and decoding ends early once all rows have.
        """
        ids: list[Tensor] = []
        for step in self.steps(embeddings, seen, count, choice):
            if stop is None:
                ids.append(step.ids)
                continue
            ids.append(torch.where(ids[-1] == stop, stop, step.ids) if ids else step.ids)
            if bool((ids[-1] == stop).all()):
                break
        given = torch.stack(ids, dim=1)
        return given if stop is None else functional.pad(given, (0, count - len(ids)), value=stop)

    def steps(
        self, embeddings: Float[Tensor, "B N D"], seen: Bool[Tensor, "B N"] | None, count: int, choice: Choice
    ) -> Iterator[Step]:
        """Yield token after token, each computed when it is asked for; the arguments are those of `generate`."""
        batch, tokens = embeddings.shape[:2]
        total = tokens + count - 1
        with torch.inference_mode():  # not around a `yield`, where it would reach the caller
            network = self._network(choice)
            buffers = self._room(embeddings, total, self._language.config.depth)
            x, tape = self._tape(embeddings, seen, total)
            last = torch.full((batch, 1), tokens - 1, device=x.device)
            hidden = network.states(x, tape.prompt(tokens), buffers, last)
            step = network.choose(hidden)
        yield step
        for column in range(tokens, total):
            with torch.inference_mode():
                x = self._language.model.embed_tokens(step.ids[:, None])
                step = network.choose(network.states(x, tape.step(column), buffers, None))
            yield step

    @torch.inference_mode()
    def states(
        self,
        embeddings: Float[Tensor, "B N D"],
        mask: Mask,
        seen: Bool[Tensor, "B N"] | None = None,
        rows: Int64[Tensor, "B R"] | None = None,
    ) -> Float[Tensor, "B R D"]:
        """Return what `Llama.forward` returns, at the positions `rows` alone; None: at all."""
        tokens = embeddings.shape[1]
        cos, sin = self._angles(embeddings, tokens)
        run = _run(cos[None, :tokens, None], sin[None, :tokens, None], mask, seen)
        return self._network(Whole()).states(embeddings, run, self._room(embeddings, tokens, 1), rows)

    def _network(self, choice: Choice) -> "_Network":
        """Return the network as functions; those whose weights have changed are made anew."""
        language, known = self._language, self._layers
        self._layers = [
            known[i] if i < len(known) and known[i].stamp == stamp(layer) else plain(layer)
            for i, layer in enumerate(layers_of(language))
        ]
        head, first_id = _head(language, choice)
        return _Network(language.config, self._layers, norm(language.model.norm), head, first_id)

    def _tape(self, embeddings: Tensor, seen: Tensor | None, total: int) -> tuple[Tensor, "_Tape"]:
        """Return the prompts, moved to the right where they are unequal so that they end together, and their places."""
        tokens = embeddings.shape[1]
        cos, sin = self._angles(embeddings, total)
        if seen is None or (seen.device.type == "cpu" and bool(seen.all())):
            return embeddings, _Tape(cos[None, :total, None], sin[None, :total, None], None, None)
        padding = tokens - seen.sum(dim=1, keepdim=True)
        column = torch.arange(total, device=embeddings.device)
        position = (column - padding).clamp(min=0)
        moved = embeddings.gather(1, position[:, :tokens, None].expand_as(embeddings))
        filled = column >= padding
        mask = _additive(filled[:, None, None], total, embeddings.dtype)
        return moved, _Tape(cos[position][:, :, None], sin[position][:, :, None], filled, mask)

    def _angles(self, like: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """Return the cosines, and the sines with the sign of `_turn`, of at least so many positions."""
        cos, sin = self._table
        if len(cos) < tokens or cos.dtype != like.dtype or cos.device != like.device:
            config = self._language.config
            cos, sin = rotary_table(_multiple(tokens, ROOM_STEP), config.width // config.heads, config.rope_theta)
            left, right = sin.chunk(2, dim=-1)
            self._table = cos.to(like), torch.cat([-left, right], dim=-1).to(like)
        return self._table

    def _room(self, like: Tensor, tokens: int, layers: int) -> list[tuple[Tensor, Tensor]]:
        """Return buffers of keys and values with room for the tokens, one pair for each of so many layers."""
        batch, config = like.shape[0], self._language.config
        rows, room = batch, _multiple(tokens, ROOM_STEP)
        if self._keys and self._keys[0].dtype == like.dtype and self._keys[0].device == like.device:
            rows, room = max(rows, self._keys[0].shape[0]), max(room, self._keys[0].shape[1])
        shape = (rows, room, config.kv_heads, config.width // config.heads)
        if self._keys and (
            self._keys[0].shape != shape or self._keys[0].dtype != like.dtype or self._keys[0].device != like.device
        ):
            self._keys, self._values = [], []
        while len(self._keys) < layers:
            self._keys.append(like.new_empty(shape))
            self._values.append(like.new_empty(shape))
        return [(k[:batch], v[:batch]) for k, v in zip(self._keys[:layers], self._values, strict=False)]


@dataclass(frozen=True, slots=True)
class _Run:
    """A run of tokens: the angles of their positions, what each sees, and its columns in the buffers."""

    cos: Float[Tensor, "_ N 1 D"]
    sin: Float[Tensor, "_ N 1 D"]
    sight: Causal | Tensor | None  # or what is added to scores of [B, H, N, M], or nothing
    start: int
    keys: int  # M

    def append(self, buffer: Float[Tensor, "B T K D"], new: Float[Tensor, "B N K D"]) -> Float[Tensor, "B M K D"]:
        """Write the tokens into the buffer, and return the columns that are read."""
        end = self.start + new.shape[1]
        buffer[:, self.start : end] = new
        if end < self.keys:
            buffer[:, end : self.keys] = 0  # unseen, but what was there may be NaN
        return buffer[:, : self.keys]

    def at(self, rows: Int64[Tensor, "B R"]) -> "_Run":
        """Return the run of these tokens alone."""
        batch, sight = len(rows), self.sight
        row = torch.arange(batch, device=rows.device)[:, None]
        if isinstance(sight, Causal):
            seen = torch.arange(self.keys, device=rows.device) <= rows[:, :, None]
            sight = _additive(seen[:, None], self.keys, self.cos.dtype)
        elif sight is not None and sight.shape[-2] > 1:
            sight = sight.expand(batch, 1, -1, -1)[row, 0, rows][:, None]
        cos, sin = (table.expand(batch, -1, -1, -1)[row, rows] for table in (self.cos, self.sin))
        return replace(self, cos=cos, sin=sin, sight=sight)


def _run(cos: Tensor, sin: Tensor, mask: Mask, seen: Tensor | None) -> _Run:
    """Return the run of whole prompts."""
    tokens = cos.shape[1]
    keys = _multiple(tokens, KEY_STEP) if is_cpu_bf16(cos) else tokens
    if isinstance(mask, Causal) and seen is None:
        return _Run(cos, sin, Causal(), 0, keys)
    sight = visible(mask, seen, tokens, cos.device)
    if sight is None and keys > tokens:
        sight = torch.ones(1, tokens, dtype=torch.bool, device=cos.device)
    return _Run(cos, sin, None if sight is None else _additive(sight, keys, cos.dtype), 0, keys)


@dataclass(frozen=True, slots=True)
class _Tape:
    """The columns of the buffers: their angles, which hold a token, and the mask that says so (None: all do)."""

    cos: Float[Tensor, "_ T 1 D"]
    sin: Float[Tensor, "_ T 1 D"]
    filled: Bool[Tensor, "B T"] | None
    mask: Float[Tensor, "B 1 1 T"] | None

    def prompt(self, tokens: int) -> _Run:
        """Return the run of the first columns."""
        filled = None if self.filled is None else self.filled[:, :tokens]
        return _run(self.cos[:, :tokens], self.sin[:, :tokens], Causal(), filled)

    def step(self, column: int) -> _Run:
        """Return the run of a single column, which sees all before it."""
        end = column + 1
        mask = None if self.mask is None else self.mask[..., :end]
        return _Run(self.cos[:, column:end], self.sin[:, column:end], mask, column, end)


@dataclass(frozen=True, slots=True)
class _Network:
    """A Llama as functions, its head cut to what may be chosen."""

    config: LanguageConfig
    layers: list[Layer]
    norm: Product
    head: Product
    first_id: int

    def states(self, x: Tensor, run: _Run, buffers: list[tuple[Tensor, Tensor]], rows: Tensor | None) -> Tensor:
        """Return the states after the final norm, at `rows` (None: all).

        Keys and values go into the layers' buffers; a single pair of them serves all layers in turn, where no later run reads them.
        """
        heads, kv_heads = self.config.heads, self.config.kv_heads
        width = self.config.width // heads
        for index, layer in enumerate(self.layers):
            normed = layer.norm(x)
            key_buffer, value_buffer = buffers[index % len(buffers)]
            if rows is not None and index == len(self.layers) - 1:
                k, v = layer.kv(normed).unflatten(-1, (-1, width)).chunk(2, dim=2)
                k, v = run.append(key_buffer, _turn(k, run)), run.append(value_buffer, v)
                x, normed, run = _take(x, rows), _take(normed, rows), run.at(rows)
                q = _turn(layer.q(normed).unflatten(-1, (-1, width)), run)
            else:
                qkv = layer.qkv(normed).unflatten(-1, (-1, width))
                qk = _turn(qkv[:, :, :-kv_heads], run)
                q = qk[:, :, :heads]
                k, v = run.append(key_buffer, qk[:, :, heads:]), run.append(value_buffer, qkv[:, :, -kv_heads:])
            x = layer.out(_attend(q, k, v, run.sight), x)
            x = layer.mlp(layer.mlp_norm(x), x)
        return self.norm(x)

    def choose(self, hidden: Float[Tensor, "B 1 D"]) -> Step:
        """Return the likeliest id of each row."""
        logits = self.head(hidden)[:, 0]
        return Step(logits.argmax(dim=-1) + self.first_id, logits, hidden[:, 0])


def _attend(q: Tensor, k: Tensor, v: Tensor, sight: Causal | Tensor | None) -> Tensor:
    """Attention of [B, N, H, D] to [B, M, K, D], joined to [B, N, H D].

    For a single token the query heads that share keys stand as rows of one product.
    """
    batch, tokens, heads, width = q.shape
    kv_heads = k.shape[2]
    single = tokens == 1
    mixed = functional.scaled_dot_product_attention(
        q.reshape(batch, kv_heads, heads // kv_heads, width) if single else q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=sight if isinstance(sight, Tensor) else None,
        is_causal=isinstance(sight, Causal) and not single,
        enable_gqa=kv_heads != heads and not single,
    )
    return (mixed if single else mixed.transpose(1, 2)).reshape(batch, tokens, heads * width)


def _turn(x: Float[Tensor, "B N H D"], run: _Run) -> Float[Tensor, "B N H D"]:
    """Turn each pair (x_i, x_{i + D/2}) by its angle; the sines of the left halves are negated."""
    return torch.addcmul(x * run.cos, x.roll(x.shape[-1] // 2, dims=-1), run.sin)


def _take(x: Float[Tensor, "B N D"], rows: Int64[Tensor, "B R"]) -> Float[Tensor, "B R D"]:
    return x.gather(1, rows[:, :, None].expand(-1, -1, x.shape[-1]))


def _head(language: Llama, choice: Choice) -> tuple[Product, int]:
    """Return the function that gives the logits to choose among, and the id of the first."""
    match choice:
        case Whole():
            first, end = 0, language.config.vocabulary
        case Within(first, count):
            end = first + count
            assert 0 <= first < end <= language.config.vocabulary, choice
    head = language.model.embed_tokens if language.config.tied else language.lm_head
    if type(head) in (nn.Linear, nn.Embedding):
        return times(head.weight[first:end]), first
    return lambda x: head(x)[..., first:end], first


def _additive(seen: Bool[Tensor, "*rows M"], keys: int, dtype: torch.dtype) -> Float[Tensor, "*rows keys"]:
    """Return what to add to scores: 0 where a key is seen, -inf elsewhere and for the keys behind the mask's own."""
    seen = functional.pad(seen, (0, keys - seen.shape[-1]))
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, float("-inf"))


def _multiple(tokens: int, step: int) -> int:
    return -(-tokens // step) * step
