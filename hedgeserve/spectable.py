"""What the tables of model.toml are made of: quantities with units, shaped texts, conflicts, the base class."""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from hedgeserve.errors import SpecProblem
from hedgeserve.units import (
    format_bytes,
    parse_bytes,
    parse_duration_s,
    parse_usd_per_day,
    parse_usd_per_hour,
    parse_usd_per_month,
    write_duration,
    write_usd_per_day,
    write_usd_per_hour,
    write_usd_per_month,
)


def _text_with_unit(parse: Any, example: str) -> BeforeValidator:
    """Text is parsed; a bare number is refused with an example, since its unit could only be guessed."""

    def convert(value: object) -> object:
        if not isinstance(value, str):
            sentence = f'has no unit; write it in quotes with one, such as "{example}"'
            raise PydanticCustomError("shape", "{sentence}", {"sentence": sentence})
        try:
            return parse(value)
        except OverflowError:
            raise ValueError(f"{value[:40]!r} is too large") from None

    return BeforeValidator(convert, json_schema_input_type=str)


Duration = Annotated[
    float, _text_with_unit(parse_duration_s, "90s"), PlainSerializer(write_duration, return_type=str)
]
"""Seconds; written ``"90s"``, ``"5m"``, ``"1h30m"``, ``"250ms"``."""

UsdPerHour = Annotated[
    float,
    _text_with_unit(parse_usd_per_hour, "2.50 USD/h"),
    PlainSerializer(write_usd_per_hour, return_type=str),
]
"""US dollars per hour; written ``"2.50 USD/h"``."""

UsdPerDay = Annotated[
    float,
    _text_with_unit(parse_usd_per_day, "50 USD/day"),
    PlainSerializer(write_usd_per_day, return_type=str),
]
"""US dollars in a day; written ``"50 USD/day"``."""

UsdPerMonth = Annotated[
    float,
    _text_with_unit(parse_usd_per_month, "900 USD/month"),
    PlainSerializer(write_usd_per_month, return_type=str),
]
"""US dollars in a month; written ``"900 USD/month"``."""

Size = Annotated[int, _text_with_unit(parse_bytes, "16 MiB"), PlainSerializer(format_bytes, return_type=str)]
"""Bytes; written ``"16 MiB"`` or ``"10 MB"``."""

ONE_OR_MANY = BeforeValidator(
    lambda given: [given] if isinstance(given, str) else given, json_schema_input_type=list[str] | str
)
"""For a list of texts: one text alone may stand for a list of one."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A part of the whole, 0 to 1."""


KeyPath = tuple[str | int, ...]
"""Where a value stands in a model.toml: ``("pools", 1, "zones")`` is ``pools[1].zones``."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A form that a text must have in full; ``sentence`` goes on after the text that has it not."""

    pattern: str
    sentence: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Add the check to the schema of the text."""
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def check(self, text: str) -> str:
        """The text as it is; a validation error of type ``shape`` if it has another form."""
        if re.fullmatch(self.pattern, text) is None:
            raise PydanticCustomError("shape", "{sentence}", {"sentence": self.sentence})
        return text


Zone = Annotated[
    str, Shape(r"[a-z0-9-]+/[a-z0-9-]+", 'is not a zone; write "region/zone" in lower case, such as "east/a"')
]
"""``region/zone``, without the cloud."""

EnvName = Annotated[
    str, Shape(r"[A-Za-z_][A-Za-z0-9_]*", "is not the name of an environment variable, such as HF_TOKEN")
]
"""The name of an environment variable, never its value."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Values that are each well-formed and cannot stand together.

    ``path`` names the key to write or to change, relative to the table that found the conflict.
    """

    path: KeyPath
    message: str
    hint: str = ""


class Table(BaseModel):
    """A table of model.toml. Unknown keys are mistakes, values are not coerced, nothing changes after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def conflicts(self) -> Iterator[Conflict]:
        """Every way in which the values of this table cannot stand together."""
        yield from ()

    @model_validator(mode="after")
    def _stands_together(self) -> Self:
        if found := tuple(self.conflicts()):
            text = "; ".join(conflict.message for conflict in found)
            raise PydanticCustomError("conflict", "{text}", {"text": text, "conflicts": found})
        return self


def split_listen(text: str) -> tuple[str, int]:
    """Host and port of an address to listen on, such as ``"127.0.0.1:8000"`` or ``"[::1]:0"``.

    The host comes without brackets. Raises ``ValueError`` with an example for anything else.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ValueError(
            f'"{text}" is not an address to listen on; write host and port (0 to 65535), such as '
            '"127.0.0.1:8000" or "[::1]:8000"'
        )
    host = match[1] or match[2]
    if match[1] or re.fullmatch(r"[0-9.]+", host):
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(f'"{text}" is not an address to listen on; {host} is no IP address') from None
    return host, int(match[3])


def is_loopback(listen: str) -> bool:
    """Whether only this machine can reach an address to listen on. A name counts as public, save localhost."""
    host, _ = split_listen(listen)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_listen(text: str) -> str:
    split_listen(text)
    return text


Listen = Annotated[str, AfterValidator(_check_listen)]
"""An address to listen on, ``host:port``, as :func:`split_listen` reads it."""


_FLAGS = {
    "HEDGESERVE_SERVICE_LISTEN": "--listen",
    "HEDGESERVE_SERVICE_STATE_DIR": "--state-dir",
}
"""Options of ``hedgeserve serve`` that take the place of a variable."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The file that a spec was read from, the line of each of its keys, and the keys that a variable has set."""

    source: str
    lines: Mapping[KeyPath, int]
    variables: Mapping[KeyPath, str] = field(default_factory=dict)

    def line_of(self, path: KeyPath) -> int | None:
        """The line of this key; where it is not written, that of the nearest table around it."""
        for end in range(len(path), 0, -1):
            if (line := self.lines.get(path[:end])) is not None:
                return line
        return None

    def problem(self, path: KeyPath, key: str, message: str, hint: str = "") -> SpecProblem:
        """A mistake in the value at ``path``, with its line, or with the variable where that set the value."""
        variable = self.variables.get(path)
        if variable is None:
            return SpecProblem(key, message, self.line_of(path), hint)
        flag = _FLAGS.get(variable)
        said = f"{flag} or the environment variable {variable}" if flag else f"the environment variable {variable}"
        return SpecProblem(key, message, None, f"{hint} ({said} says so)" if hint else f"{said} says so")
