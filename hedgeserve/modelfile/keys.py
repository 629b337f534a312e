"""Every key of model.toml as data: its kind, default, bounds and help, read off the classes of spec.py.

Messages, documentation, JSON Schema and environment variables all go by these records, so that none of them
can know of a key that the others do not.
"""

import re
import types
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, PlainSerializer, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from hedgeserve.spec import Spec
from hedgeserve.spectable import ONE_OR_MANY, Shape
from hedgeserve.units import (
    format_bytes,
    write_duration,
    write_usd_per_day,
    write_usd_per_hour,
    write_usd_per_month,
)


class Kind(StrEnum):
    """What a key holds. The words are those of messages and documentation."""

    TEXT = "text"
    WHOLE = "whole number"
    NUMBER = "number"
    SWITCH = "true or false"
    DURATION = "duration"
    PRICE = "price"
    DAILY = "sum for a day"
    MONTHLY = "sum for a month"
    SIZE = "size"
    CHOICE = "one of"
    TEXTS = "list of texts"
    CHOICES = "list of"
    TEXT_TABLE = "table of texts"
    JSON = "table"
    TABLES = "tables"


EXAMPLES = {
    Kind.TEXT: '"text"',
    Kind.WHOLE: "3",
    Kind.NUMBER: "0.5",
    Kind.SWITCH: "true",
    Kind.DURATION: '"90s"',
    Kind.PRICE: '"2.50 USD/h"',
    Kind.DAILY: '"50 USD/day"',
    Kind.MONTHLY: '"900 USD/month"',
    Kind.SIZE: '"16 MiB"',
    Kind.TEXTS: '["one", "two"]',
    Kind.TEXT_TABLE: '{NAME = "text"}',
    Kind.JSON: '{key = "value"}',
}
"""How a value of each kind is written (a choice is its own example)."""

SCALARS = frozenset(
    {
        Kind.TEXT,
        Kind.WHOLE,
        Kind.NUMBER,
        Kind.SWITCH,
        Kind.DURATION,
        Kind.PRICE,
        Kind.DAILY,
        Kind.MONTHLY,
        Kind.SIZE,
        Kind.CHOICE,
    }
)
"""Kinds of one value, which an environment variable can set."""

_UNIT_KINDS: dict[Any, Kind] = {
    write_duration: Kind.DURATION,
    write_usd_per_hour: Kind.PRICE,
    write_usd_per_day: Kind.DAILY,
    write_usd_per_month: Kind.MONTHLY,
    format_bytes: Kind.SIZE,
}
_PLAIN_KINDS: dict[Any, Kind] = {str: Kind.TEXT, int: Kind.WHOLE, float: Kind.NUMBER, bool: Kind.SWITCH}


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit of a number: ``sign`` is one of ``>``, ``>=``, ``<``, ``<=``."""

    sign: str
    value: float

    def __str__(self) -> str:
        return f"{self.sign} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Key:
    """One key of one table. ``default`` is as a value of the class; None where the key may be left unset."""

    table: str
    name: str
    kind: Kind
    help: str
    required: bool
    default: Any
    choices: tuple[str, ...] = ()
    bounds: tuple[Bound, ...] = ()
    pattern: str = ""
    one_or_many: bool = False

    @property
    def path(self) -> str:
        """The key with its table, such as ``replicas.min``."""
        return f"{self.table}.{self.name}"

    @property
    def default_toml(self) -> str:
        """The default as one would write it; empty where there is none."""
        return "" if self.required or self.default is None else to_toml(self.default, self.kind)


@dataclass(frozen=True, slots=True)
class TableInfo:
    """One table of model.toml; ``array`` tables are written with double brackets and may be repeated."""

    path: str
    array: bool
    help: str
    required: bool
    keys: tuple[Key, ...]

    @property
    def header(self) -> str:
        """The table's header line."""
        return f"[[{self.path}]]" if self.array else f"[{self.path}]"

    def key(self, name: str) -> Key | None:
        """The key of this name."""
        return next((key for key in self.keys if key.name == name), None)


def objection(key: Key, value: Any) -> str:
    """What a key has against this value, in its own words, to go on after the value; empty: it takes it."""
    try:
        _adapter(key.table, key.name).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        return str(first.get("ctx", {}).get("error", first["msg"]))
    return ""


@cache
def _adapter(path: str, name: str) -> TypeAdapter[Any]:
    """What checks this key alone."""
    model: Any = Spec
    for part in path.split("."):
        annotation = model.model_fields[part].annotation
        model = next((one for one in get_args(annotation) if isinstance(one, type)), annotation)
    field = model.model_fields[name]
    checked: Any = Annotated[field.annotation, field]
    return TypeAdapter(checked)


def to_toml(value: Any, kind: Kind | None = None, limit: int = 0) -> str:
    """A value as TOML would write it on one line; cut to ``limit`` characters where one is given.

    Passwords in URLs are masked, since this text goes into messages.
    """
    text = _toml(value, kind)
    text = re.sub(r"//[^/@\s\"]*@", "//***@", text)
    return text if not limit or len(text) <= limit else text[: limit - 3] + "..."


def _toml(value: Any, kind: Kind | None) -> str:
    for serializer, unit_kind in _UNIT_KINDS.items():
        if kind is unit_kind and isinstance(value, int | float):
            return f'"{serializer(value)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return _toml(value.value, None)
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of more than 70 digits"
    if isinstance(value, float) and value.is_integer() and kind in (Kind.WHOLE, Kind.NUMBER):
        return str(int(value))
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item, None) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(item, None)}" for name, item in value.items()) + "}"
    return str(value)


@cache
def tables() -> tuple[TableInfo, ...]:
    """All tables, in the order of the documentation; a table inside another follows it."""
    found: list[TableInfo] = []
    for name, field in Spec.model_fields.items():
        origin = get_origin(field.annotation)
        model: Any = get_args(field.annotation)[0] if origin is list else field.annotation
        found += _walk(name, model, array=origin is list, required=field.is_required())
    return tuple(found)


@cache
def table(path: str) -> TableInfo | None:
    """The table of this path, such as ``"local.zones"``."""
    return next((one for one in tables() if one.path == path), None)


def _walk(path: str, model: type[BaseModel], *, array: bool, required: bool) -> list[TableInfo]:
    keys = tuple(_key(path, name, field) for name, field in model.model_fields.items())
    summary = (model.__doc__ or "").strip()
    found = [TableInfo(path, array, summary, required, keys)]
    for name, field in model.model_fields.items():
        for item in get_args(field.annotation):
            if isinstance(item, type) and issubclass(item, BaseModel):
                found += _walk(f"{path}.{name}", item, array=True, required=False)
    return found


def _key(path: str, name: str, field: FieldInfo) -> Key:
    kind, metadata, choices = _kind(field.annotation, list(field.metadata))
    return Key(
        table=path,
        name=name,
        kind=kind,
        help=field.description or "",
        required=field.is_required(),
        default=None if field.is_required() else field.default,
        choices=choices,
        bounds=tuple(_bounds(metadata)),
        pattern=next((item.pattern for item in metadata if isinstance(item, Shape)), ""),
        one_or_many=ONE_OR_MANY in metadata,
    )


def _kind(annotation: Any, metadata: list[Any]) -> tuple[Kind, list[Any], tuple[str, ...]]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0], [*metadata, *arguments[1:]])
    if origin in (Union, types.UnionType):
        return _kind(next(item for item in arguments if item is not type(None)), metadata)
    if origin is Literal:
        return Kind.CHOICE, metadata, tuple(str(item) for item in arguments)
    if origin is list:
        if isinstance(arguments[0], type) and issubclass(arguments[0], BaseModel):
            return Kind.TABLES, metadata, ()
        item_kind, item_metadata, choices = _kind(arguments[0], [])
        return (Kind.CHOICES if item_kind is Kind.CHOICE else Kind.TEXTS), [*metadata, *item_metadata], choices
    if origin is dict:
        return (Kind.TEXT_TABLE if arguments[1] is str else Kind.JSON), metadata, ()
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return Kind.CHOICE, metadata, tuple(str(member.value) for member in annotation)
    for item in metadata:
        if isinstance(item, PlainSerializer) and (kind := _UNIT_KINDS.get(item.func)):
            return kind, metadata, ()
    return _PLAIN_KINDS[annotation], metadata, ()


def _bounds(metadata: list[Any]) -> list[Bound]:
    flat = [part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
    found = []
    for item in flat:
        match item:
            case annotated_types.Gt(gt=limit):
                found.append(Bound(">", float(limit)))  # type: ignore[arg-type]
            case annotated_types.Ge(ge=limit):
                found.append(Bound(">=", float(limit)))  # type: ignore[arg-type]
            case annotated_types.Lt(lt=limit):
                found.append(Bound("<", float(limit)))  # type: ignore[arg-type]
            case annotated_types.Le(le=limit):
                found.append(Bound("<=", float(limit)))  # type: ignore[arg-type]
    return found
