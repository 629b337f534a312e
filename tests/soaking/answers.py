"""What an answer is, and how it must be: the twin's, which an engine gives that is left alone."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.demo_process import demo_process
from tests.soaking.kinds import QUESTIONS, Question
from tests.streams import read

_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Verdict:
    """``outcome`` in the words of the report; ``why`` where it is not what it should be."""

    outcome: str
    why: str = ""


EQUAL = Verdict("whole and equal")


@dataclass(slots=True)
class Twins:
    """The answers as they should be, each asked for once."""

    known: dict[tuple[str, int], Any] = field(default_factory=dict)

    def learn(self, question: Question, body: bytes) -> None:
        """This is how the answer should be."""
        if question.streamed:
            told = read(body)
            assert told.done, body
            assert told.finish, body
            assert not told.errors, body
            self.known[question.kind, question.variant] = told.same
        else:
            self.known[question.kind, question.variant] = _essence(json.loads(body))

    def judge(self, question: Question, body: bytes) -> Verdict:
        """Whether a complete answer with status 200 is its twin, and what it is if not."""
        twin = self.known[question.kind, question.variant]
        if not question.streamed:
            try:
                told = _essence(json.loads(body))
            except (ValueError, KeyError, TypeError) as error:
                return Verdict("corrupted", f"not an answer ({error!r}): {body[:_SHOWN]!r}")
            return EQUAL if told == twin else Verdict("corrupted", _difference(repr(twin), repr(told)))
        try:
            stream = read(body)
        except (AssertionError, ValueError, KeyError, TypeError) as error:
            return Verdict("corrupted", f"not a stream of events ({error!r}): {body[-_SHOWN:]!r}")
        if stream.errors:
            return Verdict("honest error", stream.errors[0])
        if not stream.done:
            return Verdict("lost", f"it ended without a word after {len(body)} bytes: {body[-_SHOWN:]!r}")
        if stream.same != twin:
            return Verdict("corrupted", _difference(repr(twin), repr(stream.same)))
        if len(stream.names) != 1:
            return Verdict("corrupted", f"several ids or times in one stream: {sorted(stream.names)}")
        return EQUAL


@asynccontextmanager
async def twins() -> AsyncIterator[Twins]:
    """The twins of all questions, by an engine of our own as fast as it can."""
    found = Twins()
    with demo_process("--enable-auto-tool-choice") as engine:
        async with aiohttp.ClientSession() as http:
            for question in QUESTIONS:
                async with http.post(engine.url + question.path, json=question.body) as response:
                    body = await response.read()
                assert response.status == 200, body
                found.learn(question, body)
    yield found


def _essence(answer: dict[str, Any]) -> dict[str, Any]:
    """All of an answer in one piece but its id and time."""
    return {key: answer[key] for key in ("object", "model", "usage", "choices")}


def _difference(expected: str, got: str) -> str:
    """Where two texts part, with a little around it."""
    at = next(
        (i for i, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), min(len(expected), len(got))
    )
    around = slice(max(0, at - _SHOWN), at + _SHOWN)
    return f"expected …{expected[around]}… but got …{got[around]}…"
