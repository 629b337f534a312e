"""Small JSON documents that satisfy a schema, chosen by dice."""

from __future__ import annotations

import math
from typing import Any

from .dice import mixed

WORDS = ("lighthouse", "harbour", "東京 港", 'naïve "quote"', "👩🏽‍🚀 moon", "line\nend")
ANY_OBJECT = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "count": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
        "ready": {"type": "boolean"},
    },
}
_MOST_LEVELS = 8
_MOST_VALUES = 200


class Document:
    """Values for schemas; the same dice give the same values."""

    def __init__(self, dice: int) -> None:
        self._dice = dice
        self._root: dict[str, Any] = {}
        self._left = _MOST_VALUES

    def of(self, schema: object) -> Any:
        """A value that satisfies the schema, as far as its types, properties, items, bounds and choices go."""
        self._root = _table(schema)
        return self._value(self._root, 0)

    def _next(self, sides: int) -> int:
        self._dice = mixed(self._dice + 1)
        return (self._dice >> 8) % sides

    def _value(self, schema: dict[str, Any], level: int) -> Any:
        self._left -= 1
        if level > _MOST_LEVELS or self._left < 0:
            return None
        if "const" in schema:
            return schema["const"]
        if choices := _row(schema, "enum"):
            return choices[self._next(len(choices))]
        for several in ("anyOf", "oneOf", "allOf"):
            if branches := _row(schema, several):
                return self._value(_table(branches[self._next(len(branches))]), level + 1)
        if "$ref" in schema:
            return self._value(self._referred(str(schema["$ref"])), level + 1)
        kind = schema.get("type", "object" if "properties" in schema else "string")
        if isinstance(kind, list):
            kind = kind[0] if kind else "null"
        return self._typed(kind, schema, level)

    def _typed(self, kind: object, schema: dict[str, Any], level: int) -> Any:
        if kind == "object":
            parts = _table(schema.get("properties"))
            return {name: self._value(_table(part), level + 1) for name, part in parts.items()}
        if kind == "array":
            count = max(_bound(schema, "minItems", 1), min(_bound(schema, "maxItems", 2), 1 + self._next(2)))
            return [self._value(_table(schema.get("items")), level + 1) for _ in range(min(count, _MOST_LEVELS))]
        if kind in ("integer", "number"):
            low = _bound(schema, "minimum", 0)
            return low + self._next(max(1, min(100, _bound(schema, "maximum", low + 99) - low + 1)))
        if kind == "boolean":
            return bool(self._next(2))
        if kind == "null":
            return None
        return WORDS[self._next(len(WORDS))][: max(0, _bound(schema, "maxLength", 99))]

    def _referred(self, path: str) -> dict[str, Any]:
        place: Any = self._root
        for step in path.lstrip("#/").split("/"):
            place = _table(place).get(step)
        return _table(place)


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _row(schema: dict[str, Any], name: str) -> list[Any]:
    value = schema.get(name)
    return value if isinstance(value, list) else []


def _bound(schema: dict[str, Any], name: str, default: int) -> int:
    value = schema.get(name)
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return math.ceil(value) if known and value is not None else default
