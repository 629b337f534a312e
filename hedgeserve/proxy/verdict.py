"""Whether an answer is a real one: what finishes it and what spoils it, in each API's words. Pure.

A real ``finish_reason`` is the only proof that a model has finished: engines that die close streams cleanly, say
``[DONE]``, or answer 200 with half an answer whose ``finish_reason`` is ``"abort"``.
"""

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Dialect(StrEnum):
    """The API whose words an answer is in."""

    CHOICES = "choices"  # completions and chat completions
    MESSAGES = "messages"  # Anthropic's messages
    RESPONSES = "responses"  # OpenAI's responses


@dataclass(frozen=True, slots=True)
class Sign:
    """What one event or answer tells of its end.

    ``finished`` holds the indices of the choices that it finishes. ``failure`` says how the engine failed, and
    is empty where it did not. ``refused`` marks an error that is the client's (a 4xx sent inside a stream): it
    is passed on, and ends the answer.
    """

    finished: frozenset[int] = frozenset()
    failure: str = ""
    refused: bool = False


NOTHING = Sign()

_decode = json.JSONDecoder().raw_decode
_ERROR = re.compile(rb'"error"\s*:\s*[^\sn]')
_HINTS: dict[Dialect, tuple[re.Pattern[bytes], ...]] = {
    Dialect.CHOICES: (re.compile(rb'"finish_reason"\s*:\s*"'), _ERROR),
    Dialect.MESSAGES: (re.compile(rb'"stop_reason"\s*:\s*"'), re.compile(rb'"message_stop"'), _ERROR),
    Dialect.RESPONSES: (re.compile(rb'"response\.(?:completed|incomplete|failed)"'), _ERROR),
}
_ABORTED = re.compile(rb'"finish_reason"\s*:\s*"(?:abort|error)"')


def worth_reading(dialect: Dialect, data: bytes | bytearray) -> bool:
    """Whether these bytes may hold a sign. A cheap scan: text of the model cannot fake a key, its quotes are
    escaped; what passes is then parsed."""
    return any(hint.search(data) for hint in _HINTS[dialect])


def parse(data: bytes) -> Any:
    """What :func:`json.loads` would return or raise; sooner where there is nothing but one object."""
    if data[:1] != b"{":
        return json.loads(data)
    text = data.decode("utf-8", "surrogatepass")
    value, end = _decode(text)
    return value if end == len(text) else json.loads(text)


def read_event(dialect: Dialect, data: bytes) -> Sign:
    """The sign that one event's data gives; nothing for what is not a JSON object."""
    try:
        event = parse(data)
    except (ValueError, RecursionError):
        return NOTHING
    return judge(dialect, event) if isinstance(event, dict) else NOTHING


def judge(dialect: Dialect, event: dict[str, Any]) -> Sign:
    """The sign that one event gives."""
    if event.get("error"):
        return _read_error(event["error"])
    match dialect:
        case Dialect.CHOICES:
            return _read_choices(event)
        case Dialect.MESSAGES:
            delta = event.get("delta")
            stopped = isinstance(delta, dict) and isinstance(delta.get("stop_reason"), str)
            return Sign(frozenset({0})) if stopped or event.get("type") == "message_stop" else NOTHING
        case Dialect.RESPONSES:
            return _read_response(event)


def aborted(body: bytes | bytearray) -> bool:
    """Whether a whole answer, 200 though it is, was cut short by its engine (``finish_reason`` "abort")."""
    if not _ABORTED.search(body):
        return False
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(answer, dict) and bool(_read_choices(answer).failure)


def _read_choices(event: dict[str, Any]) -> Sign:
    choices = event.get("choices")
    finished: set[int] = set()
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict) or not isinstance(reason := choice.get("finish_reason"), str):
            continue
        if reason in ("abort", "error"):
            return Sign(failure=f'the engine ended the answer with finish_reason "{reason}"')
        index = choice.get("index", 0)
        finished.add(index if isinstance(index, int) else 0)
    return Sign(frozenset(finished)) if finished else NOTHING


def _read_response(event: dict[str, Any]) -> Sign:
    match event.get("type"):
        case "response.completed" | "response.incomplete":
            return Sign(frozenset({0}))
        case "response.failed":
            response = event.get("response")
            error = response.get("error") if isinstance(response, dict) else None
            return _read_error(error or "the engine gave no reason")
        case _:
            return NOTHING


def _read_error(error: object) -> Sign:
    message, code = (error.get("message"), error.get("code")) if isinstance(error, dict) else (error, None)
    if isinstance(code, int) and 400 <= code < 500:
        return Sign(refused=True)
    return Sign(failure=f"the engine reported an error: {str(message)[:300]}")
