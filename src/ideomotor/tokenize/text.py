"""Byte-level BPE text tokens of fixed length, and the words left out in training.

Letters: B = batch, L = tokens of an instruction.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64
from tokenizers import Tokenizer

from ideomotor.core.errors import UserError

SHIPPED = Path(__file__).parents[1] / "assets" / "tabletop_bpe.json"


class TextTokenizer:
    """Any `tokenizers` JSON; ids are padded to a fixed length."""

    def __init__(self, json_text: str, where: str = "the tokenizer") -> None:
        """Read the JSON of a `tokenizers.Tokenizer`.

        Raises:
            UserError: it is none.
        """
        try:
            self._tokenizer = Tokenizer.from_str(json_text)
        except Exception as error:
            raise UserError(
                f"{where} is no tokenizer in JSON form ({error}); take the file from the checkpoint again"
            ) from error
        self.json_text = json_text

    @classmethod
    def shipped(cls) -> "TextTokenizer":
        """Return the small vocabulary of the tabletop (tools/train_bpe.py)."""
        return cls(SHIPPED.read_text(encoding="utf-8"), str(SHIPPED))

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return self._tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str], length: int) -> tuple[Int64[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
        """Return ids, padded with 0, and True where a token stands.

        Raises:
            UserError: a text has more tokens than fit.
        """
        ids = np.zeros((len(texts), length), np.int64)
        mask = np.zeros((len(texts), length), bool)
        for row, encoding in enumerate(self._tokenizer.encode_batch(list(texts), add_special_tokens=False)):
            if len(encoding.ids) > length:
                raise UserError(
                    f"the instruction {texts[row][:80]!r} has {len(encoding.ids)} tokens, this network reads {length}; say it shorter"
                )
            ids[row, : len(encoding.ids)] = encoding.ids
            mask[row, : len(encoding.ids)] = True
        return ids, mask

    def decode(self, ids: Sequence[int]) -> str:
        """Undo `encode` for the ids of one text; the space that a byte-level vocabulary puts in front is taken off."""
        return self._tokenizer.decode(list(ids)).removeprefix(" ")


def drop_words(
    mask: Bool[np.ndarray, "B L"], share: float, seed: int, numbers: Int64[np.ndarray, " B"]
) -> Bool[np.ndarray, "B L"]:
    """Return the mask with a share of its tokens left out, in half of the rows; keyed by the global sample numbers."""
    kept = mask.copy()
    for row, number in enumerate(numbers.tolist()):
        random = np.random.Generator(np.random.Philox(key=[seed, 0xD0], counter=[0, 0, 0, number])).random(
            mask.shape[1] + 1
        )
        if random[0] < 0.5:
            kept[row] &= random[1:] >= share
    return kept


def foreign_words(
    text: Int64[np.ndarray, "B L"],
    mask: Bool[np.ndarray, "B L"],
    share: float,
    vocabulary: int,
    seed: int,
    numbers: Int64[np.ndarray, " B"],
) -> tuple[Int64[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
    """Replace one token by up to three random ones in a share of the rows; keyed by the global sample numbers.

    A verb that training never used falls into several pieces of the vocabulary: this is what it looks like to the network. Rows without
    room stay as they are.
    """
    text, mask = text.copy(), mask.copy()
    for row, number in enumerate(numbers.tolist()):
        random = np.random.Generator(np.random.Philox(key=[seed, 0xF0], counter=[0, 0, 0, number]))
        length, pieces = int(mask[row].sum()), int(random.integers(1, 4))
        if random.random() >= share or length == 0 or length - 1 + pieces > text.shape[1]:
            continue
        place = int(random.integers(length))
        ids = [*text[row, :place], *random.integers(vocabulary, size=pieces), *text[row, place + 1 : length]]
        text[row, : len(ids)] = ids
        mask[row, : len(ids)] = True
    return text, mask
