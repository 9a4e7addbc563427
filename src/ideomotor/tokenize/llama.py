"""Llama-2's tokenizer as OpenVLA uses it, and the id sequences of its prompts. Ids are built directly, never through strings.

Surprises: after `Out:` training saw the bare space 29871, which no prompt string ends in: it is appended as an id. `<PAD>` = 32000 is
OpenVLA's addition. Text such as `</s>` inside of an instruction is read as the special token, as the reference does.

The vocabulary belongs to the Llama 2 materials: it is read from the user's checkpoint, and no copy is part of this project.

B = rows of a batch, L = tokens of the longest.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64
from tokenizers import AddedToken, Tokenizer

from ideomotor.core.errors import UserError
from ideomotor.tokenize.sentencepiece_file import SPACE, build, read_pieces

BOS, EOS = 1, 2
PAD = 32000  # the first id after Llama-2's own
BARE_SPACE = 29871
PIECES = {0: "<unk>", BOS: "<s>", EOS: "</s>", BARE_SPACE: SPACE}  # what must stand at these ids
REMEDY = "Take `tokenizer.json` or `tokenizer.model` from the OpenVLA checkpoint"


class LlamaTokenizer:
    """Text to ids and back; 32000 pieces and `<PAD>`."""

    def __init__(self, tokenizer: Tokenizer, where: str) -> None:
        """Check the vocabulary and add `<PAD>` where it is missing.

        Raises:
            UserError: it is not Llama-2's.
        """
        for number, piece in PIECES.items():
            if tokenizer.id_to_token(number) != piece:
                raise UserError(
                    f"{where} is not the tokenizer of Llama-2: id {number} is {tokenizer.id_to_token(number)!r}, not {piece!r}. {REMEDY}"
                )
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if tokenizer.token_to_id("<PAD>") is None:
            tokenizer.add_special_tokens([AddedToken("<PAD>", normalized=False, special=True)])
        if tokenizer.token_to_id("<PAD>") != PAD:
            raise UserError(
                f"{where} is not the tokenizer of Llama-2: <PAD> takes id {tokenizer.token_to_id('<PAD>')}, not {PAD}. {REMEDY}"
            )
        self._tokenizer = tokenizer

    @classmethod
    def from_file(cls, path: Path) -> "LlamaTokenizer":
        """Read a `tokenizer.json` or a sentencepiece `tokenizer.model`, told apart by their first byte.

        Raises:
            UserError: it is absent, neither of the two, or not Llama-2's.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}). {REMEDY}") from error
        if content.lstrip()[:1] == b"{":
            try:
                return cls.from_json(content.decode(), str(path))
            except UnicodeDecodeError as error:
                raise UserError(f"{path} is no tokenizer in JSON form ({error}). {REMEDY}") from error
        return cls.from_model(content, str(path))

    @classmethod
    def from_json(cls, text: str, where: str) -> "LlamaTokenizer":
        """Read the content of a `tokenizer.json`; `where` names it in errors.

        Raises:
            UserError: it is no tokenizer, or not Llama-2's.
        """
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:
            raise UserError(f"{where} is no tokenizer in JSON form ({error}). {REMEDY}") from error
        return cls(tokenizer, where)

    @classmethod
    def from_model(cls, content: bytes, where: str) -> "LlamaTokenizer":
        """Read the content of a sentencepiece `tokenizer.model`; `where` names it in errors.

        Raises:
            UserError: it is none, incomplete, or not Llama-2's.
        """
        pieces = read_pieces(content, where)
        texts = [piece.text for piece in pieces]
        for number, expected in PIECES.items():
            if texts[number : number + 1] != [expected]:
                raise UserError(f"{where} is not the tokenizer of Llama-2: id {number} is not {expected!r}. {REMEDY}")
        return cls(build(pieces), where)

    @property
    def json_text(self) -> str:
        """The whole tokenizer, `<PAD>` included, in the form of `tokenizer.json`."""
        return self._tokenizer.to_str(pretty=True)

    @property
    def vocabulary(self) -> int:
        """Number of ids, `<PAD>` included; networks pad their tables further."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Return the ids with BOS in front."""
        return [BOS, *self.encode_bare(text)]

    def encode_bare(self, text: str) -> list[int]:
        """Return the ids alone."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def prompt_ids(self, prompt_text: str) -> list[int]:
        """Return what the network reads before the first action token: BOS, the prompt, and 29871 unless it ends in that."""
        ids = self.encode(prompt_text)
        return ids if ids[-1] == BARE_SPACE else [*ids, BARE_SPACE]

    def decode(self, ids: Sequence[int]) -> str:
        """Undo `encode`: return the text, special tokens left out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def decode_marked(self, ids: Sequence[int]) -> str:
        """Return the text with special tokens written out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)


def training_ids(prompt_ids: Sequence[int], action_ids: Sequence[int], eos: int = EOS) -> list[int]:
    """Return one training sequence: the prompt (29871 included), the action, the end."""
    return [*prompt_ids, *action_ids, eos]


def pad_rows(rows: Sequence[Sequence[int]], pad: int = PAD) -> tuple[Int64[np.ndarray, "B L"], Bool[np.ndarray, "B L"]]:
    """Return the rows padded on the right to the longest, and True where a token stands."""
    lengths = np.array([len(row) for row in rows], np.int64)
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    ids = np.full(mask.shape, pad, np.int64)
    ids[mask] = [number for row in rows for number in row]
    return ids, mask
