"""Answers that are errors, in vLLM's words."""

from __future__ import annotations

from typing import NoReturn


class Refusal(Exception):
    """An answer that is an error; the body is shaped as vLLM shapes it."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"error": {"message": message, "type": kind, "param": param, "code": status}}


def invalid(place: str, kind: str, message: str) -> Refusal:
    """The refusal of a body that has the wrong shape at ``place``, worded as pydantic words it."""
    where = f"body.{place}" if place else "body"
    detail = f"1 validation error:\n  {{'type': '{kind}', 'loc': '{where}', 'msg': '{message}'}}"
    return Refusal(400, detail, "Bad Request", where)


def refuse_value(name: str, rule: str, value: object) -> NoReturn:
    """Refuse a value that breaks a rule; raises :class:`Refusal`."""
    message = f"{name} {rule}, got {value}. (parameter={name}, value={value})"
    raise Refusal(400, message, param=name)


def refuse_together(name: str, message: str) -> NoReturn:
    """Refuse fields that do not go together, and name the one to change; raises :class:`Refusal`."""
    raise Refusal(400, f"{message} (parameter={name})", param=name)
