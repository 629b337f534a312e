"""What a chat's client sees of thoughts and calls, which a model writes as marked text."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

_THINK, _THINK_END = "<think>", "</think>"
_CALL, _CALL_END = "<tool_call>", "</tool_call>"
_NAME = re.compile(r'"name"\s*:\s*"([^"]+)"')
_ARGUMENTS = re.compile(r'"arguments"\s*:\s*')
_CALLS = re.compile(r"<tool_call>(.*?)(?:</tool_call>|$)", re.DOTALL)


def call_id() -> str:
    """An id as vLLM gives to calls: another one each time, even where the answer is the same."""
    return f"chatcmpl-tool-{uuid.uuid4().hex[:16]}"


def split(text: str, *, reasoning: bool, calls: bool) -> tuple[str | None, str | None, list[dict[str, Any]]]:
    """Thoughts, content and calls of a whole answer; what cannot be read as a call stays content."""
    thoughts: str | None = None
    content: str | None = text
    if reasoning and text.startswith(_THINK):
        thoughts, found, content = text[len(_THINK) :].partition(_THINK_END)
        content = content if found and content else None
    if not calls or content is None or _CALL not in content:
        return thoughts, content, []
    try:
        read = [json.loads(body) for body in _CALLS.findall(content)]
        made = [(call["name"], json.dumps(call["arguments"], ensure_ascii=False)) for call in read]
    except (ValueError, KeyError, TypeError):
        return thoughts, content, []
    before = content[: content.index(_CALL)]
    told = [
        {"id": call_id(), "type": "function", "function": {"name": name, "arguments": arguments}}
        for name, arguments in made
    ]
    return thoughts, before if before.strip() else None, told


class Splitter:
    """Takes the text of a streamed answer bit by bit, and gives what each bit adds, as a delta of vLLM's."""

    def __init__(self, *, reasoning: bool, calls: bool) -> None:
        self._thinks = reasoning
        self._calls = calls
        self._thoughts = ""
        self._text = ""
        self._sent = 0
        self._names = 0
        self._arguments: list[str] = []

    def feed(self, text: str) -> dict[str, Any] | None:
        """The delta; None where there is nothing to tell yet."""
        if self._thinks:
            self._thoughts += text
            if self._thoughts.startswith(_THINK):
                return self._think(text)
            # No thoughts after all.
            self._thinks = not self._thoughts
        if not self._calls:
            return {"content": text} if text else None
        return self._call(text)

    def _think(self, text: str) -> dict[str, Any] | None:
        new, ended, content = text.removeprefix(_THINK if self._thoughts == text else "").partition(_THINK_END)
        self._thinks = not ended
        if not ended:
            return {"reasoning": new} if new else None
        rest = self._call(content) if self._calls and content else {"content": content} if content else None
        delta = {**({"reasoning": new} if new else {}), **(rest or {})}
        return delta or None

    def _call(self, text: str) -> dict[str, Any] | None:
        self._text += text
        end = self._text.find(_CALL)
        if end < 0:
            # The beginning of a mark is held back.
            end = len(self._text) - _overlap(self._text, _CALL)
        content = self._text[self._sent : end] or None
        self._sent = max(self._sent, end)
        told = []
        for place, (body, whole) in enumerate(_bodies(self._text)):
            if place == self._names:
                name = _NAME.search(body)
                if name is None:
                    break
                self._names += 1
                self._arguments.append("")
                told.append(
                    {"id": call_id(), "type": "function", "index": place, "function": {"name": name[1]}},
                )
            known = self._arguments[place]
            arguments = _arguments(body, whole=whole)
            if len(arguments) > len(known):
                self._arguments[place] = arguments
                told.append({"index": place, "function": {"arguments": arguments[len(known) :]}})
        if told:
            return {"content": content, "tool_calls": told}
        return None if content is None else {"content": content}


def _bodies(text: str) -> list[tuple[str, bool]]:
    """What stands in each call so far, and whether it is all of it."""
    bodies = []
    for part in text.split(_CALL)[1:]:
        body, ended, _ = part.partition(_CALL_END)
        if not ended:
            body = body[: len(body) - _overlap(body, _CALL_END)]
        body = body.strip()
        bodies.append((body, bool(ended) or _is_json(body)))
    return bodies


def _arguments(body: str, *, whole: bool) -> str:
    found = _ARGUMENTS.search(body)
    if found is None:
        return ""
    arguments = body[found.end() :]
    # The last brace is the call's own.
    return arguments.removesuffix("}").rstrip() if whole else arguments


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of the text begin the mark."""
    sizes = range(min(len(text), len(mark) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(mark[:size])), 0)
