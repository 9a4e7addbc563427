"""Frozen dataclasses to JSON values and back, checked against their types on the way in."""

import dataclasses
import hashlib
import json
import types
import typing
from typing import Any, TypeVar

from ideomotor.core.errors import UserError

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Return `value` (dataclasses, tuples, dicts, strings, numbers, None) as plain JSON values.

    A dataclass carries its class name under `"type"`, so that a union of dataclasses can be read back.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in typing.cast("list[Any]", value)]
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in typing.cast("dict[Any, Any]", value).items()}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{type(value).__name__} has no JSON form")


def canonical(value: Any) -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces, no NaN."""
    return json.dumps(to_json(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def from_json(kind: type[T], value: Any, where: str = "$") -> T:
    """Return the dataclass `kind` from its JSON form.

    Raises:
        UserError: a field is missing, unknown or of another type; the message names its path.
    """
    return typing.cast("T", _read(kind, value, where))


def _read(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _read_union(typing.get_args(kind), value, where)
    if origin is typing.Literal:
        if value not in typing.get_args(kind):
            raise UserError(f"{where} is {value!r}; allowed: {', '.join(map(repr, typing.get_args(kind)))}")
        return value
    if origin is tuple:
        return _read_tuple(typing.get_args(kind), value, where)
    if origin is dict:
        _expect(isinstance(value, dict), where, "an object", value)
        return {key: _read(typing.get_args(kind)[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(typing.cast("type[Any]", kind), value, where)
    if kind is float:
        _expect(isinstance(value, int | float) and not isinstance(value, bool), where, "a number", value)
        try:
            return float(value)
        except OverflowError as error:  # a whole number of hundreds of digits
            raise UserError(f"{where} is a number of {len(str(value))} digits; write a smaller one") from error
    _expect(type(value) is kind, where, kind.__name__, value)
    return value


def _read_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    if isinstance(value, dict) and "type" in value:
        for option in options:
            if getattr(option, "__name__", "") == value["type"]:
                return _read(option, value, where)
    if len(options) == 1:
        return _read(options[0], value, where)
    names = ", ".join(getattr(option, "__name__", str(option)) for option in options)
    raise UserError(f"{where} fits none of: {names}; it is {value!r}")


def _read_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _expect(isinstance(value, list), where, "a list", value)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    _expect(len(value) == len(arguments), where, f"a list of {len(arguments)}", value)
    return tuple(
        _read(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(arguments, value, strict=True))
    )


def _read_dataclass(kind: type[Any], value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), where, "an object", value)
    hints = typing.get_type_hints(kind)
    names = {field.name for field in dataclasses.fields(kind)}
    extra = set(value) - names - {"type"}
    if extra:
        raise UserError(f"{where} has unknown fields {sorted(extra)}; a {kind.__name__} has {sorted(names)}")
    required = {
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if missing := required - set(value):
        raise UserError(f"{where} lacks {sorted(missing)}, which a {kind.__name__} needs")
    return kind(**{name: _read(hints[name], value[name], f"{where}.{name}") for name in names & set(value)})


def _expect(condition: bool, where: str, expected: str, value: Any) -> None:  # noqa: FBT001 (the condition is the point)
    if not condition:
        raise UserError(f"{where} should be {expected}; it is {value!r}")
