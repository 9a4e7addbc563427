"""A sentencepiece `tokenizer.model` of BPE with byte fallback, read without protobuf and rebuilt for `tokenizers`.

`ModelProto{1: repeated SentencePiece, 2: TrainerSpec, 3: NormalizerSpec}`; `SentencePiece{1: text, 2: score, 3: kind}`. The file stores
no merges: two pieces merge where their join is a piece, the join of the higher score first (sentencepiece's BPE; among equal scores, which
only runs of spaces have, the lower ids first, as `transformers` writes the `tokenizer.json` of Llama-2).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from ideomotor.core.errors import UserError

SPACE = "\u2581"  # sentencepiece writes a space as this
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # kinds of pieces
_BPE = 2  # TrainerSpec.model_type
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_LONGEST_VARINT = 10  # [bytes]

REMEDY = "Take the file from the checkpoint again; `tokenizer.json` serves as well"

# What TrainerSpec and NormalizerSpec must say, by field number, with sentencepiece's defaults for absent fields.
_TRAINER = {3: ("model_type", 1, _BPE), 24: ("treat_whitespace_as_suffix", 0, 0), 35: ("byte_fallback", 0, 1)}
_NORMALIZER = {
    2: ("precompiled_charsmap", b"", b""),
    3: ("add_dummy_prefix", 1, 1),
    4: ("remove_extra_whitespaces", 1, 0),
    5: ("escape_whitespaces", 1, 1),
}


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its id is its place in the file."""

    text: str
    score: float
    kind: int


def read_pieces(content: bytes, where: str) -> list[Piece]:
    """Return the vocabulary of a sentencepiece model.

    Raises:
        UserError: no sentencepiece model, an incomplete one, or one that does not work as Llama-2's.
    """
    pieces: list[Piece] = []
    seen: set[int] = set()
    for number, value in _fields(content, where):
        if number == 1:
            pieces.append(_piece(value, where))
        elif number in (2, 3):
            _check_settings(dict(_fields(value, where)), _TRAINER if number == 2 else _NORMALIZER, where)
        seen.add(number)
    if not {1, 2, 3} <= seen:
        raise UserError(
            f"{where} is no complete sentencepiece model: it has {len(pieces)} pieces and lacks its settings. {REMEDY}"
        )
    bytes_256 = sum(piece.kind == BYTE for piece in pieces)
    if bytes_256 != 256 or len({piece.text for piece in pieces}) != len(pieces):
        raise UserError(f"{where}: of {len(pieces)} pieces {bytes_256} are bytes, not 256, or two are equal. {REMEDY}")
    return pieces


def build(pieces: list[Piece]) -> Tokenizer:
    """Return the tokenizer of these pieces (`<unk>` and `<s>` among them): a space in front, BPE with byte fallback, `<s>` first."""
    vocabulary = {piece.text: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges(pieces), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    special = [piece.text for piece in pieces if piece.kind in (UNKNOWN, CONTROL)]
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    return tokenizer


def merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """Return the pairs that merge, first the ones to merge first."""
    number = {piece.text: i for i, piece in enumerate(pieces)}
    ranked: list[tuple[float, int, int, int]] = []
    for joined, piece in enumerate(pieces):
        if piece.kind == NORMAL:
            for cut in range(1, len(piece.text)):
                left, right = number.get(piece.text[:cut]), number.get(piece.text[cut:])
                if left is not None and right is not None:
                    ranked.append((-piece.score, joined, left, right))
    return [(pieces[left].text, pieces[right].text) for _, _, left, right in sorted(ranked)]


def _piece(message: bytes, where: str) -> Piece:
    fields = dict(_fields(message, where))
    try:
        text, (score,) = fields[1].decode(), struct.unpack("<f", fields.get(2, bytes(4)))
    except (KeyError, AttributeError, TypeError, UnicodeDecodeError, struct.error) as error:
        raise UserError(
            f"{where} is no sentencepiece model: a piece has no readable text or score. {REMEDY}"
        ) from error
    kind = fields.get(3, NORMAL)
    if kind not in (NORMAL, UNKNOWN, CONTROL, BYTE):
        raise UserError(f"{where}: the piece {text!r} is of kind {kind}, which Llama-2's model does not use. {REMEDY}")
    return Piece(text, score, kind)


def _check_settings(found: dict[int, Any], required: dict[int, tuple[str, Any, Any]], where: str) -> None:
    for number, (name, default, expected) in required.items():
        if found.get(number, default) != expected:
            raise UserError(
                f"{where} states {name} = {found.get(number, default)!r:.60}; read are models like Llama-2's, with {expected!r}. "
                "Give the checkpoint's `tokenizer.json` instead"
            )


def _fields(message: bytes, where: str) -> Iterator[tuple[int, Any]]:
    """Yield field number and value (an int, or bytes) of one message."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at, where)
        wire = tag & 7
        if wire == _VARINT:
            value, at = _varint(message, at, where)
            yield tag >> 3, value
            continue
        if wire == _BYTES:
            length, at = _varint(message, at, where)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise UserError(f"{where} is no sentencepiece model: wire type {wire} at byte {at}. {REMEDY}")
        if at + length > len(message):
            raise UserError(
                f"{where} is cut off or no sentencepiece model: {length} bytes are announced, {len(message) - at} are left. {REMEDY}"
            )
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int, where: str) -> tuple[int, int]:
    """Return the number at `at` and where the next byte lies."""
    value = 0
    for place, byte in enumerate(message[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    raise UserError(f"{where} is cut off or no sentencepiece model: a number at byte {at} has no end. {REMEDY}")
