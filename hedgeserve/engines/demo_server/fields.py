"""A request body, read field by field."""

from __future__ import annotations

from typing import Any

from .refusal import invalid


class Fields:
    """A request body, read field by field; a wrong type is a 400 that names the field."""

    def __init__(self, body: dict[str, Any]) -> None:
        self._body = body

    def get(self, name: str) -> Any:
        """The value as it came; None where it is missing."""
        return self._body.get(name)

    def integer(self, name: str, default: int | None) -> int | None:
        """A whole number; an explicit null is None, unlike a missing key."""
        value = self._body.get(name, default)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise invalid(name, "int_type", "Input should be a valid integer")
        return value

    def number(self, name: str, default: float) -> float:
        """A number."""
        value = self._body.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise invalid(name, "float_type", "Input should be a valid number")
        return float(value)

    def table(self, name: str) -> dict[str, Any]:
        """An object; empty where it is missing."""
        value = self._body.get(name)
        if value is not None and not isinstance(value, dict):
            raise invalid(name, "dict_type", "Input should be a valid dictionary")
        return value or {}

    def ids(self, name: str) -> list[int]:
        """A list of token ids; empty where it is missing."""
        value = self._body.get(name) or []
        if not isinstance(value, list) or not all(isinstance(number, int) for number in value):
            raise invalid(name, "list_type", "Input should be a valid list")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._body.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise invalid(name, "bool_type", "Input should be a valid boolean")
        return value
