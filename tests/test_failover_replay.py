"""Answers with parts that token ids do not tell of: repeated, and joined where they had been cut."""

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgeserve.proxy.failover import FailoverPolicy, Finished, GiveUp, Resume, Telling, Way, approach
from hedgeserve.proxy.routes import FORWARDED

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
POLICY = FailoverPolicy()
Atom = dict[str, Any]


def delta(index: int = 0, finish: str | None = None, **parts: Any) -> Atom:
    return {"index": index, "delta": parts, "logprobs": None, "finish_reason": finish}


def call(number: int, index: int = 0, *, name: str = "", arguments: str = "") -> Atom:
    told: Atom = {"index": number, "function": {"arguments": arguments}}
    if name:
        told |= {"id": "TOOL-ID", "type": "function"}
        told["function"]["name"] = name
    return delta(index, tool_calls=[told])


def logged(text: str) -> Atom:
    entry = {"token": text, "logprob": -0.5, "bytes": list(text.encode()), "top_logprobs": []}
    return delta(content=text) | {"logprobs": {"content": [entry]}}


def listed(text: str, offset: int) -> Atom:
    logprobs = {
        "tokens": [text],
        "token_logprobs": [-1.0],
        "top_logprobs": [{text: -1.0}],
        "text_offset": [offset],
    }
    return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": None}


ROLE = delta(role="assistant", content="")
THOUGHTS = [
    ROLE,
    *(delta(reasoning=word) for word in ("I ", "think", " 🚀", " so")),
    *(delta(content=word) for word in ("Yes", ",", " 海", "!")),
]
TOOLS = [
    ROLE,
    delta(content="Let me see"),
    call(0, name="weather"),
    *(call(0, arguments=piece) for piece in ('{"', "city", '": "', "Par", 'is"}')),
    call(1, name="time", arguments=""),
    *(call(1, arguments=piece) for piece in ("{", "}")),
]
SCRIPTS: dict[str, tuple[str, dict[str, Any], list[Atom]]] = {
    "reasoning": (CHAT, {"reasoning_effort": "low"}, [*THOUGHTS, delta(finish="stop")]),
    "reasoning unasked": (CHAT, {}, [*THOUGHTS, delta(finish="stop")]),
    "tools": (CHAT, {"tools": [{}]}, [*TOOLS, delta(finish="tool_calls")]),
    "two choices": (
        CHAT,
        {"n": 2},
        [
            ROLE,
            ROLE | {"index": 1},
            delta(0, content="a"),
            delta(1, content="b"),
            delta(0, content="c"),
            delta(0, finish="stop"),
            delta(1, content="d"),
            delta(1, finish="length"),
        ],
    ),
    "logprobs": (CHAT, {"logprobs": True}, [ROLE, *map(logged, ("a", "b", "c")), delta(finish="stop")]),
    "logprobs of completions": (
        COMPLETIONS,
        {"logprobs": 1},
        [listed(text, place) for place, text in enumerate("abcd")]
        + [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}],
    ),
}


def joined(first: Atom, second: Atom) -> Atom | None:
    """Two atoms as one, as a busy engine tells them; None where it would not."""
    a, b = first.get("delta"), second.get("delta")
    if a is None or b is None or first["index"] != second["index"] or second["finish_reason"]:
        return None
    if len(a) != 1 or a.keys() != b.keys() or "tool_calls" in a or first["logprobs"]:
        return None
    ((key, value),) = a.items()
    return first | {"delta": {key: value + b[key]}}


def stream(name: str, attempt: int, *, merging: int = 0) -> list[bytes]:
    """The events of one attempt: id, time and the ids of tool calls differ from one to another."""
    _, _, atoms = SCRIPTS[name]
    dice = random.Random(merging)
    told: list[Atom] = []
    for atom in atoms:
        together = joined(told[-1], atom) if told and merging and dice.random() < 0.6 else None
        if together is None:
            told.append(atom)
        else:
            told[-1] = together
    head = {"id": f"id-{attempt}", "object": "x", "created": attempt, "model": "m"}

    def events() -> Iterator[bytes]:
        for atom in told:
            data = json.dumps({**head, "choices": [atom]}).replace("TOOL-ID", f"call-{attempt}")
            yield f"data: {data}\n\n".encode()
        usage = {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}
        yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n".encode()
        yield b"data: [DONE]\n\n"

    return list(events())


def understood(out: bytes) -> dict[str, Any]:
    """All that a client gets from a stream, strand by strand."""
    strands: dict[str, Any] = defaultdict(str)
    lists: dict[str, list[Any]] = defaultdict(list)
    for event in out.split(b"\n\n")[:-1]:
        data = event.removeprefix(b"data: ")
        if data == b"[DONE]":
            lists["done"].append(1)
            continue
        told = json.loads(data)
        if (told["id"], told["created"]) not in lists["heads"]:
            lists["heads"].append((told["id"], told["created"]))
        lists["usage"] += [told["usage"]] if "usage" in told else []
        for choice in told["choices"]:
            index = choice["index"]
            strands[f"{index} text"] += choice.get("text", "")
            for key, value in choice.get("delta", {}).items():
                if key == "role":
                    lists["roles"].append((index, value))
                elif key == "tool_calls":
                    for each in value:
                        number = each["index"]
                        lists["calls"] += [(index, number, each["type"])] if "id" in each else []
                        for part, piece in each["function"].items():
                            strands[f"{index} {number} {part}"] += piece or ""
                else:
                    strands[f"{index} {key}"] += value or ""
            for key, value in (choice["logprobs"] or {}).items():
                lists[f"{index} logprobs {key}"] += value
            if choice["finish_reason"]:
                lists["finish"].append((index, choice["finish_reason"]))
    return {**{key: value for key, value in strands.items() if value}, **lists}


def asked(name: str, **more: Any) -> tuple[Telling, Way]:
    path, extra, _ = SCRIPTS[name]
    fields = {"model": "m", "stream": True, "temperature": 0, "prompt": "p", "messages": [], **extra, **more}
    fields["stream_options"] = {"include_usage": True}
    route = FORWARDED[path]
    body = json.dumps(fields).encode()
    way = approach(route, fields, body, POLICY, dice=lambda: 0.5)
    choices = fields.get("n", 1)
    return Telling(route, body, way, POLICY, keep=lambda _: True, choices=choices), way.way


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(SCRIPTS)), st.lists(st.integers(1, 16), min_size=1, max_size=3), st.integers(0, 9))
def test_every_part_of_a_repeated_answer_comes_once(name: str, cuts: list[int], merging: int) -> None:
    """Thoughts, tool calls, choices and log-probabilities: each strand is whole, in whichever pieces it came."""
    telling, _ = asked(name)
    whole = understood(b"".join(stream(name, 1)))
    out = b""
    attempt = 0
    for attempt, cut in enumerate([*cuts, 99], 1):
        if attempt == 1:
            current = telling.first()
        else:
            recovery = telling.recover()
            assert not isinstance(recovery, GiveUp)
            step = recovery.start()
            if isinstance(step, Finished):  # nothing was missing but the end
                out += step.payload
                break
            assert isinstance(step, Resume)
            current = step.stream
        for event in stream(name, attempt, merging=merging * attempt)[:cut]:
            out += current.feed(event)
        assert current.failure == ""
        if current.done:
            break
    assert understood(out) == whole


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_what_cannot_be_continued_is_repeated(name: str) -> None:
    """Token ids do not tell of a parser's or a sampler's state; unasked thoughts are found when they come."""
    _, way = asked(name)
    assert way is (Way.CONTINUE if name == "reasoning unasked" else Way.REPLAY)


def test_thoughts_that_were_sampled_unasked_end_honestly() -> None:
    """No ids tell of the parser's state, and asked again it would think otherwise."""
    telling, way = asked("reasoning unasked", temperature=1)
    assert way is Way.CONTINUE
    assert telling.first().feed(b"".join(stream("reasoning unasked", 1)[:4]))
    given_up = telling.recover()
    assert isinstance(given_up, GiveUp)
    assert "not plain text" in given_up.why


@pytest.mark.parametrize("place", [2, 4, 8])
def test_a_tool_call_that_comes_otherwise_is_not_joined(place: int) -> None:
    """Another argument, another name, or another choice of words before it."""
    telling, _ = asked("tools")
    telling.first().feed(b"".join(stream("tools", 1)[:-3]))
    recovery = telling.recover()
    assert not isinstance(recovery, GiveUp)
    step = recovery.start()
    assert isinstance(step, Resume)
    events = stream("tools", 2)
    events[place] = (
        events[place].replace(b"weather", b"whether").replace(b"city", b"town").replace(b"time", b"date")
    )
    out = step.stream.feed(b"".join(events))
    assert out == b""
    assert "differs" in step.stream.failure
    assert isinstance(telling.recover(), GiveUp)


def test_an_answer_that_ends_before_what_was_told_of_it_is_not_joined() -> None:
    """It is another one."""
    telling, _ = asked("tools")
    telling.first().feed(b"".join(stream("tools", 1)[:8]))
    recovery = telling.recover()
    assert not isinstance(recovery, GiveUp)
    step = recovery.start()
    assert isinstance(step, Resume)
    events = stream("tools", 2)
    step.stream.feed(b"".join([*events[:4], *events[-3:]]))
    assert "differs" in step.stream.failure
