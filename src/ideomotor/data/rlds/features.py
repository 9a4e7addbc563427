"""What an RLDS dataset declares: features.json as leaves, each with its key in the record and the form of its values.

Two forms of nodes are read: `{"pythonClassName": ..., "tensor": {...}}`, and what TFDS wrote before 4.6,
`{"type": class path, "content": {...}}`. `rlds_infer` makes the same leaves from a record where the file is absent.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ideomotor.core import files
from ideomotor.core.errors import UserError
from ideomotor.data.rlds.frame_index import StepFeature

DEEPEST = 32  # nodes below each other
DEEPEST_SEQUENCE = 4  # sequences inside each other, the steps being the first
LARGEST = 1 << 40  # values of one item
Kind = Literal["number", "text", "picture"]
_LEGACY = {  # last part of a class path: the node's name in the newer form
    "FeaturesDict": "featuresDict",
    "Translation": "featuresDict",
    "Sequence": "sequence",
    "Dataset": "sequence",
    "Tensor": "tensor",
    "Scalar": "tensor",
    "BBox": "boundingBox",
    "BBoxFeature": "boundingBox",
    "Image": "image",
    "LabeledImage": "image",
    "Video": "video",
    "Text": "text",
    "ClassLabel": "classLabel",
}


@dataclass(frozen=True)
class Leaf:
    """One feature: a value, or sequences of values, one inside the other."""

    key: str  # in the record, e.g. "steps/observation/state"
    kind: Kind
    dtype: str  # as declared, "string" for text
    shape: tuple[int, ...] = ()  # of one item; -1: not declared
    encoding: str = "none"  # of numbers: "none", "bytes" or "zlib"
    levels: tuple[int, ...] = (-1,)  # lengths of the sequences, outermost first (the steps, in a step); -1: varies
    optional: bool = False

    @property
    def path(self) -> str:
        """Where it lies in a step or in the episode: "observation.state"."""
        return ".".join(self.key.split("/")[1:]) or self.key

    @property
    def is_camera(self) -> bool:
        """Whether it is one picture of colours a step; depth and pictures in sequences are columns."""
        return self.kind == "picture" and self.dtype == "uint8" and len(self.levels) == 1

    @property
    def is_bytes(self) -> bool:
        """Whether the record stores strings for it."""
        return self.kind != "number" or self.encoding != "none"

    @property
    def values(self) -> int:
        """Values of the record that make one item; -1 where the shape does not say."""
        if self.kind == "picture" or self.encoding != "none":
            return 1
        return -1 if -1 in self.shape else math.prod(self.shape)

    @property
    def has_shapes(self) -> bool:
        """Whether the record stores the shape of each item beside it, as TFDS does where two sizes vary."""
        return self.encoding != "none" and self.shape.count(-1) > 1

    @property
    def value_key(self) -> str:
        """Where the values lie."""
        return self.base + ("/ragged_flat_values" if len(self.levels) > 1 else "")

    @property
    def shape_key(self) -> str:
        """Where the shapes lie, if there are any."""
        return f"{self.key}/shape" + ("/ragged_flat_values" if len(self.levels) > 1 else "")

    def lengths_key(self, level: int) -> str:
        """Where the lengths of the sequences inside those of a level lie."""
        return f"{self.base}/ragged_row_lengths_{level}"

    @property
    def base(self) -> str:
        """The key without what ragged features append to it."""
        return f"{self.key}/value" if self.has_shapes else self.key

    @property
    def step_feature(self) -> StepFeature:
        """What the index has to know of it."""
        if len(self.levels) > 1:
            return StepFeature(self.lengths_key(0), 1, "integers", self.optional)
        kind = "camera" if self.is_camera else "strings" if self.is_bytes else "numbers"
        return StepFeature(self.value_key, self.values, kind, self.optional)


@dataclass(frozen=True)
class Features:
    """All that a record holds."""

    steps: tuple[Leaf, ...]
    episode: tuple[Leaf, ...] = ()  # what belongs to the episode as a whole
    unread: tuple[str, ...] = ()  # sentences


def read_features(path: Path) -> Features:
    """Read features.json.

    Raises:
        UserError: it does not declare the steps of an episode.
    """
    try:
        found = list(_walk("", files.read_json(path), (), 0))
    except (TypeError, AttributeError, LookupError, ValueError, OverflowError) as error:
        if isinstance(error, UserError):
            raise UserError(f"{path}: {error}") from error
        raise UserError(f"{path} is not of the form that TFDS writes ({error!r}); copy it again") from error
    leaves = [leaf for leaf in found if isinstance(leaf, Leaf)]
    steps = tuple(leaf for leaf in leaves if leaf.key.startswith("steps/") and leaf.levels)
    if not steps:
        raise UserError(f"{path} declares no sequence 'steps' with features; this is no RLDS dataset of episodes")
    episode = tuple(leaf for leaf in leaves if not leaf.key.startswith("steps/"))
    return Features(steps, episode, tuple(text for text in found if isinstance(text, str)))


def _walk(key: str, node: Mapping[str, Any], levels: tuple[int, ...], depth: int) -> Iterator[Leaf | str]:
    """Yield the leaves below a node, and a sentence for each feature that is not read."""
    if depth > DEEPEST:
        raise UserError(f"'{key}' is nested deeper than {DEEPEST}")
    kind, content = _node(node)
    if kind == "featuresDict":
        children = content["features"]
        for name in sorted(children):
            yield from _walk(f"{key}/{name}" if key else name, children[name], levels, depth + 1)
    elif kind in ("sequence", "video"):
        shape = _shape(content, 4) if kind == "video" else (_size(content.get("length")),)
        inner = content["feature"] if kind == "sequence" else {"image": {**content, "shape": list(shape[1:])}}
        yield from _walk(key, inner, (*levels, shape[0]), depth + 1)
    elif len(levels) > DEEPEST_SEQUENCE:
        yield f"'{key}' is not read: sequences inside each other, {len(levels)} deep"
    else:
        yield _leaf(key, kind, content, levels)


def _leaf(key: str, kind: str, content: Mapping[str, Any], levels: tuple[int, ...]) -> Leaf | str:
    optional = bool(content.get("optional", False))
    if kind == "tensor":
        dtype, encoding = _dtype(content.get("dtype")), str(content.get("encoding") or "none").lower()
        if encoding not in ("none", "bytes", "zlib"):
            return f"'{key}' is not read: its encoding is '{encoding}'"
        if dtype is None:
            return f"'{key}' is not read: its dtype is {content.get('dtype')!r}"
        if encoding == "none" and _shape(content).count(-1) > 1:
            return f"'{key}' is not read: several sizes of it vary, which only an encoded tensor can say"
        text: Kind = "text" if dtype == "string" else "number"
        return Leaf(key, text, dtype, _shape(content), encoding, levels, optional)
    if kind == "image":
        return Leaf(key, "picture", _dtype(content.get("dtype")) or "uint8", _shape(content, 3), "none", levels)
    if kind == "text":
        return Leaf(key, "text", "string", (), "none", levels)
    if kind == "classLabel":
        return Leaf(key, "number", "int64", (), "none", levels)
    if kind == "boundingBox":
        return Leaf(key, "number", "float32", (4,), "none", levels)
    return f"'{key}' is not read: {kind or 'a feature of no known kind'}"


def _node(node: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the kind of a node and what describes it, in the words of the newer form."""
    if "type" in node and "content" in node:  # before 4.6
        kind, content = str(node["type"]).rpartition(".")[2], node["content"]
        return _renamed(kind, json.loads(content) if isinstance(content, str) else content or {})
    if "jsonFeature" in node:  # a class without a form of its own
        return _renamed(
            str(node.get("pythonClassName")).rpartition(".")[2], json.loads(node["jsonFeature"]["json"] or "{}")
        )
    if "translation" in node and not node["translation"].get("variableLanguagesPerExample"):
        languages = node["translation"].get("languages", [])
        return "featuresDict", {"features": {language: {"text": {}} for language in languages}}
    for kind in ("featuresDict", "sequence", "tensor", "image", "video", "text", "classLabel", "boundingBox"):
        if kind in node:
            return kind, node[kind]
    return str(node.get("pythonClassName", "")).rpartition(".")[2], {}


def _renamed(kind: str, content: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    if kind == "Translation" and "languages" in content:
        return "featuresDict", {"features": {language: {"text": {}} for language in content["languages"]}}
    if kind == "FeaturesDict" and ("features" not in content or "type" in content["features"]):
        content = {"features": content}  # unless it is a message in JSON, which has that level already
    return _LEGACY.get(kind, kind), content


def _dtype(name: object) -> str | None:
    """Return numpy's name of a declared dtype, "string", or None for what is no number."""
    if name in ("string", "object", "str"):
        return "string"
    if name == "bfloat16":
        return "bfloat16"
    try:
        dtype = np.dtype(str(name))
    except (TypeError, ValueError, SyntaxError):
        return None
    return str(dtype) if dtype.kind in "biufc" and dtype.fields is None and dtype.shape == () else None


def _shape(content: Mapping[str, Any], rank: int = 0) -> tuple[int, ...]:
    """Return a shape, where sizes are numbers, strings of digits, or null; of `rank` unknown sizes if there is none."""
    declared = content.get("shape") or ()
    sizes = declared.get("dimensions", ()) if isinstance(declared, Mapping) else declared
    shape = tuple(_size(size) for size in sizes) or (-1,) * rank
    if math.prod(abs(size) for size in shape) > LARGEST or len(shape) > 16:
        raise UserError(f"a shape of {list(shape)} is larger than what is read")
    return shape


def _size(size: object) -> int:
    number = -1 if size is None else int(str(size))
    if not -1 <= number <= LARGEST:
        raise UserError(f"a size of {number}; it is -1 (varies) or at least 0")
    return number
