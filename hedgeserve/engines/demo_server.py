"""The demo engine: an HTTP server that behaves like vLLM 0.32 on the wire and has no model behind it.

One file, standard library only (Python 3.9 or later), so that it can be copied to any machine and started there.
Its words come from a small grammar: the next token is a function of *all token ids so far* and the seed, and of
nothing else. Hence two servers with the same ``--seed`` continue the same ids with the same ids, wherever the
sequence was cut, which is what makes a failover checkable to the last byte. A request's own ``seed`` counts only
when its ``temperature`` is above zero; temperature itself, top_p and the penalties are accepted and change
nothing, so that an answer stays reproducible. What it cannot do (log-probabilities, tools, several choices,
JSON output) it refuses with 400.

Faithful on purpose, because proxies have to live with it: chunks with empty text while a character is
incomplete, text held back behind ids for stop strings, keep-alive connections closed after 5 idle seconds, and
the whole prompt given out again when the prompt's ids end inside a character (as vLLM's detokenizer does).
"""

from __future__ import annotations

import argparse
import hmac
import json
import math
import os
import re
import select
import signal
import socket
import socketserver
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NoReturn

WHAT_I_AM = (
    "HedgeServe's demo engine: it speaks like vLLM on the wire; no model is behind it, its words mean nothing"
)
VERSION = "hedgeserve-demo-1"
IDLE_TIMEOUT_S = 5.0
SEND_TIMEOUT_S = 60.0
MAX_BODY_BYTES = 64 * 2**20

# --- Tokens -----------------------------------------------------------------------------------------------------

PAD, BOS, EOS, TURN, TURN_END = range(5)
SPECIAL = (b"<|pad|>", b"<|begin|>", b"<|end|>", b"<|im_start|>", b"<|im_end|>")
BYTE_0 = len(SPECIAL)
ENDERS = frozenset(BYTE_0 + ord(mark) for mark in ".!?")
BOUNDARIES = ENDERS | {BYTE_0 + ord(mark) for mark in ":\n"} | set(range(BYTE_0))

WORDS = {
    "^": "The One Every Some This That Each Another",
    "D": "the one every some this that each another",
    "A": "quiet small bright patient curious early distant warm silver brave narrow golden",
    "N": "harbour lighthouse river engine sailor garden mountain lantern signal cloud train window song letter "
    "bridge winter replica island morning queue",
    "V": "follows remembers crosses watches carries answers finds paints counts repairs greets leaves",
    "P": "over under beyond near towards behind beside",
    "C": "while and but because until",
    "R": "slowly again gladly today together twice",
    "x": "Demo demo assistant user system hello Hello you are is of to in it what how not",
}
# " \xf0\x9f" and its like end inside a character, as such tokens of real vocabularies do.
LEADS = {"E": (b" \xf0\x9f",), "K": (b" \xe6", b" \xe7"), ",": (b",",)}
CHARACTERS = tuple(character.encode() for character in "🚀🌊🙂🌟🐢🌙海港灯町月空")
# A template is chosen by the sentence's first word and tells the kinds of the words after it.
TEMPLATES = (
    "NVDAN",
    "ANVPDN",
    "NVPDANE",
    "ANRVDN,CDNV",
    "NVDNCDANVR",
    "NKVDAN",
    "ANVDNEPDN",
    "NPDNVDAN",
)


def _vocabulary() -> list[bytes]:
    tokens = [*SPECIAL, *(bytes((value,)) for value in range(256))]
    for words in WORDS.values():
        for word in words.split():
            tokens += [word.encode(), b" " + word.encode()]
    tokens += [lead for leads in LEADS.values() for lead in leads if lead not in tokens]
    return tokens


VOCABULARY = _vocabulary()
IDS = {token: number for number, token in enumerate(VOCABULARY) if number >= BYTE_0}
CHOICES: dict[str, list[int]] = {
    **{kind: [IDS[b" " + word.encode()] for word in words.split()] for kind, words in WORDS.items()},
    **{kind: [IDS[lead] for lead in leads] for kind, leads in LEADS.items()},
    ".": [IDS[mark.encode()] for mark in "....!?"],
}
INTRODUCTION = tuple(IDS[token] for token in (b"Demo", b" engine", b":"))
_TOKEN = re.compile(b"|".join(re.escape(token) for token in sorted(IDS, key=len, reverse=True)), re.DOTALL)


def encode(text: str) -> list[int]:
    """Token ids of a text: the longest known token at each place, single bytes where no word fits."""
    return [IDS[match[0]] for match in _TOKEN.finditer(text.encode("utf-8", "replace"))]


def decode(ids: list[int], *, skip_special: bool = False) -> bytes:
    """The bytes of token ids; unknown ids have none."""
    first = BYTE_0 if skip_special else 0
    return b"".join(VOCABULARY[number] for number in ids if first <= number < len(VOCABULARY))


def render_chat(messages: list[tuple[str, str]], *, generation_prompt: bool, open_end: bool) -> list[int]:
    """Token ids of a conversation of (role, text); ``open_end`` leaves the last message to be continued."""
    ids: list[int] = []
    for role, text in messages:
        ids += [TURN, *encode(role), IDS[b"\n"], *encode(text), TURN_END, IDS[b"\n"]]
    if open_end:
        del ids[-2:]
    return [*ids, TURN, IDS[b"assistant"], IDS[b"\n"]] if generation_prompt else ids


class Story:
    """The ids so far, and from them alone (and the seed) the next one."""

    def __init__(self, ids: list[int], seed: int) -> None:
        self._seed = seed & _MASK
        self._hash = 0
        self._sentences = 0  # of this turn
        self._units = 0  # words and characters of this sentence
        self._template = ""
        self._open = b""  # the bytes of an unfinished character
        self._last = (PAD, PAD, PAD)
        self._introduced = -1  # how much of the introduction stands at the end; -1: none
        for number in ids:
            self.push(number)

    def push(self, number: int) -> None:
        """Append an id."""
        self._hash = (self._hash * 6364136223846793005 + number + 1442695040888963407) & _MASK
        self._last = (*self._last[1:], number)
        if self._last == (TURN, IDS[b"assistant"], IDS[b"\n"]):
            self._introduced = 0
        elif 0 <= self._introduced < len(INTRODUCTION) and number == INTRODUCTION[self._introduced]:
            self._introduced += 1
        else:
            self._introduced = -1
        self._open = b"" if number < BYTE_0 else _unfinished(self._open + VOCABULARY[number])
        if number in (TURN, EOS):
            self._sentences = 0
        if number in BOUNDARIES:
            self._sentences += number in ENDERS
            self._units = 0
        elif not BYTE_0 + 0x80 <= number < BYTE_0 + 0xC0:
            self._units += 1
            if self._units == 1:
                # Halved: the vocabulary holds each word twice, so that those after a space have even ids.
                self._template = TEMPLATES[number // 2 % len(TEMPLATES)]

    def next(self, *, may_end: bool) -> int:
        """The id that follows; ``may_end`` false rules out the end-of-text id."""
        dice = _mixed(self._hash ^ self._seed)
        if self._open:
            fitting = [character for character in CHARACTERS if character.startswith(self._open)]
            if fitting:
                return BYTE_0 + fitting[dice % len(fitting)][len(self._open)]
            # An unknown character of the prompt; which second bytes are legal depends on the first.
            low = 0x80 if self._open[0] in (0xED, 0xF4) else 0xA0
            return BYTE_0 + low + dice % 16
        if 0 <= self._introduced < len(INTRODUCTION):
            return INTRODUCTION[self._introduced]
        if may_end and self._last[-1] in ENDERS and self._sentences >= 3 and dice % 6 == 0:
            return EOS
        kind = "^" if self._units == 0 else (self._template[self._units - 1 : self._units] or ".")
        choices = CHOICES[kind]
        return choices[(dice >> 8) % len(choices)]


_MASK = 2**64 - 1


def _mixed(value: int) -> int:
    """A 64-bit hash in which every bit of the input counts (the finaliser of SplitMix64)."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _unfinished(data: bytes) -> bytes:
    """The bytes at the end that are the beginning of a UTF-8 character and not all of it."""
    for size in range(1, min(3, len(data)) + 1):
        byte = data[-size]
        if byte >= 0xC0:
            whole = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return data[-size:] if byte < 0xF5 and size < whole else b""
        if byte < 0x80:
            break
    return b""


class TextStream:
    """Token ids to text, as vLLM 0.32 does it: nothing is given out while the text ends inside a character."""

    def __init__(self, prompt: list[int], *, skip_special: bool) -> None:
        self._skip_special = skip_special
        before = decode(prompt, skip_special=skip_special)
        # vLLM's quirk: a prompt that ends inside a character comes out again, whole, with that character.
        self._held = before if before.decode("utf-8", "replace").endswith("\ufffd") else b""

    def step(self, number: int) -> str:
        """The text that this token completes, often empty."""
        self._held += decode([number], skip_special=self._skip_special)
        text = self._held.decode("utf-8", "replace")
        if text.endswith("\ufffd"):
            return ""
        self._held = b""
        return text


# --- Requests ---------------------------------------------------------------------------------------------------


class Refusal(Exception):
    """An answer that is an error; the body is shaped as vLLM shapes it."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"error": {"message": message, "type": kind, "param": param, "code": status}}


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


def _invalid(place: str, kind: str, message: str) -> Refusal:
    where = f"body.{place}" if place else "body"
    detail = f"1 validation error:\n  {{'type': '{kind}', 'loc': '{where}', 'msg': '{message}'}}"
    return Refusal(400, detail, "Bad Request", where)


def _refuse_value(name: str, rule: str, value: object) -> NoReturn:
    message = f"{name} {rule}, got {value}. (parameter={name}, value={value})"
    raise Refusal(400, message, param=name)


@dataclass(frozen=True)
class Job:
    """One request, checked: what to continue, when to stop and how to tell it."""

    chat: bool
    prompt: list[int]
    max_tokens: int
    min_tokens: int
    ignore_eos: bool
    stop: tuple[str, ...]
    stop_ids: frozenset[int]
    keep_stop: bool
    skip_special: bool
    seed: int
    stream: bool
    usage: bool
    continuous_usage: bool
    token_ids: bool
    prompt_text: bool
    echo: bool
    role: str


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
            raise _invalid(name, "int_type", "Input should be a valid integer")
        return value

    def number(self, name: str, default: float) -> float:
        """A number."""
        value = self._body.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _invalid(name, "float_type", "Input should be a valid number")
        return float(value)

    def table(self, name: str) -> dict[str, Any]:
        """An object; empty where it is missing."""
        value = self._body.get(name)
        if value is not None and not isinstance(value, dict):
            raise _invalid(name, "dict_type", "Input should be a valid dictionary")
        return value or {}

    def ids(self, name: str) -> list[int]:
        """A list of token ids; empty where it is missing."""
        value = self._body.get(name) or []
        if not isinstance(value, list) or not all(isinstance(number, int) for number in value):
            raise _invalid(name, "list_type", "Input should be a valid list")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._body.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise _invalid(name, "bool_type", "Input should be a valid boolean")
        return value


_CANNOT = ("logprobs", "top_logprobs", "prompt_logprobs", "use_beam_search", "structured_outputs", "suffix")


def read_job(body: dict[str, Any], *, chat: bool, max_model_len: int, seed: int) -> Job:
    """Check a body of ``/v1/chat/completions`` or ``/v1/completions``; raises :class:`Refusal`."""
    fields = Fields(body)
    for name in _CANNOT:
        if fields.get(name) not in (None, False, 0):
            raise Refusal(400, f"the demo engine has no {name}; leave it out or use a real engine", param=name)
    if fields.table("response_format").get("type", "text") != "text":
        raise Refusal(400, "the demo engine writes plain text only", param="response_format")
    if fields.get("tools") and fields.get("tool_choice") != "none":
        message = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
        raise Refusal(400, message)
    count = fields.integer("n", 1)
    if count is not None and count < 1:
        raise Refusal(400, f"n must be at least 1, got {count}.")
    if count not in (None, 1):
        raise Refusal(400, f"n must be 1 when using greedy sampling, got {count}.")
    temperature = fields.number("temperature", 1.0)
    if temperature < 0:
        _refuse_value("temperature", "must be non-negative", temperature)
    if temperature > 2:
        _refuse_value("temperature", "must be in [0, 2]", temperature)
    options = fields.table("stream_options")
    stream = fields.flag("stream", False)
    if options and not stream:
        message = "Stream options can only be defined when `stream=True`. (parameter=stream_options)"
        raise Refusal(400, message, param="stream_options")
    prompt, role = _read_messages(fields) if chat else (_read_prompt(fields), "assistant")
    wanted = fields.integer("max_tokens", None if chat else 16)
    if chat:
        wanted = fields.integer("max_completion_tokens", wanted)
    keep = fields.integer("truncate_prompt_tokens", None)
    if keep is not None and keep > 0:
        prompt = prompt[-keep:]
    allowed = _max_tokens(wanted, len(prompt), max_model_len)
    least = fields.integer("min_tokens", 0) or 0
    if least > allowed:
        message = f"min_tokens must be less than or equal to max_tokens={allowed}, got {least}."
        raise Refusal(400, message)
    own_seed = fields.integer("seed", None)
    return Job(
        chat=chat,
        prompt=prompt,
        max_tokens=allowed,
        min_tokens=least,
        ignore_eos=fields.flag("ignore_eos", False),
        stop=_read_stop(fields.get("stop")),
        stop_ids=frozenset(fields.ids("stop_token_ids")),
        keep_stop=fields.flag("include_stop_str_in_output", False),
        skip_special=fields.flag("skip_special_tokens", True),
        seed=seed if own_seed is None or temperature == 0 else _mixed((seed + own_seed + 1) & _MASK),
        stream=stream,
        usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("include_usage") and options.get("continuous_usage_stats")),
        token_ids=fields.flag("return_token_ids", False),
        prompt_text=chat and fields.flag("return_prompt_text", False),
        echo=not chat and fields.flag("echo", False),
        role=role,
    )


def _max_tokens(wanted: int | None, prompt_len: int, max_model_len: int) -> int:
    if prompt_len > max_model_len:
        raise Refusal(
            400,
            f"This model's maximum context length is {max_model_len} tokens. However, your prompt contains at "
            f"least {prompt_len} input tokens, which exceeds this limit even without any output tokens. Please "
            f"reduce the length of the input prompt. (parameter=input_tokens, value={prompt_len})",
            param="input_tokens",
        )
    if wanted is not None and wanted > max_model_len:
        raise Refusal(
            400,
            f"max_tokens={wanted} cannot be greater than max_model_len={max_model_len}. Please request fewer "
            f"output tokens. (parameter=max_tokens, value={wanted})",
            param="max_tokens",
        )
    allowed = max_model_len - prompt_len if wanted is None else min(wanted, max_model_len - prompt_len)
    if allowed < 1:
        _refuse_value("max_tokens", "must be at least 1", allowed)
    return allowed


def _read_stop(value: object) -> tuple[str, ...]:
    stops = () if value is None else (value,) if isinstance(value, str) else value
    if not isinstance(stops, (tuple, list)) or not all(isinstance(item, str) for item in stops):
        raise _invalid("stop", "string_type", "Input should be a valid string")
    if len(stops) > 4:
        raise _invalid("stop", "too_long", "List should have at most 4 items after validation")
    if "" in stops:
        raise Refusal(400, "stop cannot contain an empty string.")
    return tuple(stops)


def _read_prompt(fields: Fields) -> list[int]:
    prompt = fields.get("prompt")
    if prompt is None or prompt == "":
        message = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
        raise Refusal(400, message, param="prompt")
    if isinstance(prompt, str):
        return encode(prompt)
    if not isinstance(prompt, list):
        raise _invalid("prompt", "string_type", "Input should be a valid string")
    if not prompt:
        raise Refusal(400, "You must pass at least one prompt")
    if isinstance(prompt[0], (str, list)):
        if len(prompt) > 1:
            raise Refusal(400, "the demo engine answers one prompt a request; send the others on their own")
        return _read_prompt(Fields({"prompt": prompt[0]}))
    for place, number in enumerate(prompt):
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise _invalid(f"prompt.{place}", "greater_than_equal", "Input should be greater than or equal to 0")
        if number >= len(VOCABULARY):
            raise Refusal(400, f"Token id {number} is out of vocabulary")
    return prompt


def _read_messages(fields: Fields) -> tuple[list[int], str]:
    messages = fields.get("messages")
    if messages is None:
        raise _invalid("messages", "missing", "Field required")
    if not isinstance(messages, list):
        raise _invalid("messages", "list_type", "Input should be a valid list")
    if not messages:
        message = "Cannot apply chat template to an empty conversation. Provide at least one message."
        raise Refusal(400, message)
    turns = []
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _invalid(f"messages.{place}.role", "missing", "Field required")
        content = message.get("content") or ""
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts if isinstance(parts, list) else [None]:
            if not isinstance(part, dict) or not isinstance(part.get("text"), str):
                raise Refusal(400, "the demo engine is not a multimodal model")
        turns.append((message["role"], "\n".join(part["text"] for part in parts)))
    add = fields.flag("add_generation_prompt", True)
    go_on = fields.flag("continue_final_message", False)
    if add and go_on:
        raise Refusal(400, "continue_final_message and add_generation_prompt are not compatible.")
    return render_chat(turns, generation_prompt=add, open_end=go_on), "assistant" if add else turns[-1][0]


@dataclass(frozen=True)
class Piece:
    """What one or more tokens added to an answer; the last one has a ``finish``."""

    ids: list[int]
    text: str
    finish: str | None = None
    stop_reason: object = None


class Generation:
    """One answer, a token at a time."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.count = 0
        self._story = Story(job.prompt, job.seed)
        self._stream = TextStream(job.prompt, skip_special=job.skip_special)
        self._text = ""
        self._given = 0
        # Text that may be the beginning of a stop string is held back.
        self._hold = 0 if job.keep_stop else max((len(stop) - 1 for stop in job.stop), default=0)

    def step(self, tokens: int) -> Piece:
        """The next tokens, fewer where the answer ends; must not be called after the end."""
        ids: list[int] = []
        finish, reason = None, None
        while finish is None and len(ids) < tokens:
            finish, reason = self._one(ids)
        end = len(self._text) - (0 if finish else self._hold)
        text, self._given = self._text[self._given : end], max(self._given, end)
        return Piece(ids, text, finish, reason)

    def _one(self, ids: list[int]) -> tuple[str | None, object]:
        job = self.job
        number = self._story.next(may_end=job.ignore_eos or self.count >= job.min_tokens)
        self._story.push(number)
        self.count += 1
        ids.append(number)
        past_least = self.count > job.min_tokens
        at_end = number == EOS and not job.ignore_eos
        at_stop_id = number in job.stop_ids and past_least
        before = len(self._text)
        if not (at_end or at_stop_id) or job.keep_stop:
            self._text += self._stream.step(number)
        if past_least and len(self._text) > before:
            found = [
                (place + len(stop), stop)
                for stop in job.stop
                if (place := self._text.find(stop, max(0, before - len(stop) + 1))) >= 0
            ]
            if found:
                end, stop = min(found)
                self._text = self._text[: end if job.keep_stop else end - len(stop)]
                return "stop", stop
        if at_end or at_stop_id:
            return "stop", number if at_stop_id and not at_end else None
        return ("length", None) if self.count >= job.max_tokens else (None, None)


# --- The engine -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    names: tuple[str, ...]
    load_time_s: float
    tokens_per_second: float
    stream_interval: int
    max_model_len: int
    max_num_seqs: int
    seed: int
    api_key: str
    health_status: int
    hang: bool
    fault: str
    fault_after_tokens: int


class Watch:
    """Tells whether the client at the other end of a connection has left."""

    # RDHUP, not IN: the beginning of a pipelined request is no farewell.
    _FAREWELL = getattr(select, "POLLRDHUP", 0)

    def __init__(self, connection: socket.socket) -> None:
        self._poll = select.poll()
        self._poll.register(connection, self._FAREWELL)

    def wait(self, seconds: float) -> None:
        """Return after so many seconds; raises :class:`ClientGone` as soon as the client leaves."""
        if self._poll.poll(max(0, math.ceil(seconds * 1000))):
            raise ClientGone


class Engine:
    """Runs generations at the promised pace, a bounded number at a time, and counts what it does."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started_s = time.monotonic()
        self.running = 0
        self.waiting = 0
        self._cached_tokens = 0
        self._prompt_tokens = 0
        self._generated_tokens = 0
        self._finished = dict.fromkeys(("stop", "length", "abort", "error", "repetition"), 0)
        self._changed = threading.Condition()

    @property
    def loaded(self) -> bool:
        """Whether the make-believe weights have been loaded."""
        return time.monotonic() >= self.started_s + self.settings.load_time_s

    @property
    def cache_usage(self) -> float:
        """The share of the make-believe KV cache that running requests hold."""
        room = self.settings.max_model_len * min(self.settings.max_num_seqs, 64)
        return min(1.0, self._cached_tokens / room)

    def run(self, job: Job, watch: Watch) -> Generator[Piece, None, None]:
        """The pieces of an answer, each when it is due; raises :class:`ClientGone`.

        Whoever stops early must close the iterator: that is when the request stops counting as running.
        """
        self._admit(watch)
        generation = Generation(job)
        held = len(job.prompt)
        with self._changed:
            self._prompt_tokens += held
            self._cached_tokens += held
        try:
            for piece in self._paced(generation, watch):
                with self._changed:
                    self._generated_tokens += len(piece.ids)
                    self._cached_tokens += len(piece.ids)
                    held += len(piece.ids)
                    if piece.finish:
                        self._finished[piece.finish] += 1
                yield piece
        finally:
            with self._changed:
                self._cached_tokens -= held
                self.running -= 1
                self._changed.notify()

    def _admit(self, watch: Watch) -> None:
        with self._changed:
            self.waiting += 1
            try:
                while self.running >= self.settings.max_num_seqs:
                    self._changed.wait(0.05)
                    watch.wait(0)
                self.running += 1
            finally:
                self.waiting -= 1

    def _paced(self, generation: Generation, watch: Watch) -> Iterator[Piece]:
        settings = self.settings
        rate = settings.tokens_per_second
        begun_s = time.monotonic()
        while True:
            # The first token goes out alone, as with vLLM's --stream-interval.
            tokens = settings.stream_interval if generation.count else 1
            if rate:
                watch.wait(begun_s + (generation.count + tokens) / rate - time.monotonic())
                # Late? Then this chunk holds all that is due, as chunks of a busy vLLM do.
                tokens = max(tokens, int((time.monotonic() - begun_s) * rate) - generation.count)
            else:
                watch.wait(0)
            if settings.fault:
                tokens = min(tokens, settings.fault_after_tokens - generation.count)
                if tokens <= 0:
                    yield self._fail(watch)
                    return
            piece = generation.step(tokens)
            yield piece
            if piece.finish:
                return

    def _fail(self, watch: Watch) -> Piece:
        if self.settings.fault == "stall":
            while True:
                watch.wait(3600)
        return Piece([], "", "abort" if self.settings.fault == "abort" else "error")

    def metrics(self) -> str:
        """The counters in Prometheus' text format, under vLLM's names."""
        rows: list[tuple[str, str, str, float]] = [
            ("num_requests_running", "gauge", "", self.running),
            ("num_requests_waiting", "gauge", "", self.waiting),
            ("kv_cache_usage_perc", "gauge", "", self.cache_usage),
            ("prompt_tokens_total", "counter", "", self._prompt_tokens),
            ("generation_tokens_total", "counter", "", self._generated_tokens),
        ]
        for reason, count in self._finished.items():
            rows.append(("request_success_total", "counter", f'finished_reason="{reason}",', count))
        lines = []
        for number, (name, kind, label, value) in enumerate(rows):
            if number == 0 or rows[number - 1][0] != name:
                family = name[: -len("_total")] if kind == "counter" else name
                lines += [f"# HELP vllm:{family} {name} of the demo engine.", f"# TYPE vllm:{family} {kind}"]
            labels = f'engine="0",{label}model_name="{self.settings.names[0]}"'
            lines.append(f"vllm:{name}{{{labels}}} {float(value)}")
        return "\n".join(lines) + "\n"


# --- Answers ----------------------------------------------------------------------------------------------------


class Teller:
    """Puts the pieces of one answer into vLLM's JSON, key for key."""

    def __init__(self, job: Job, *, request_id: str, model: str, fingerprint: str) -> None:
        self._job = job
        self._fingerprint = fingerprint
        self._id = f"{'chatcmpl' if job.chat else 'cmpl'}-{request_id}"
        self._kind = "chat.completion" if job.chat else "text_completion"
        self._created = int(time.time())
        self._model = model
        self._count = 0

    def _head(self, *, chunk: bool) -> dict[str, Any]:
        kind = self._kind + ".chunk" if chunk and self._job.chat else self._kind
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _usage(self) -> dict[str, Any]:
        prompt = len(self._job.prompt)
        return {"prompt_tokens": prompt, "total_tokens": prompt + self._count, "completion_tokens": self._count}

    def _continuous_usage(self) -> dict[str, Any]:
        return {**self._usage(), "completion_tokens_details": None} if self._job.chat else self._usage()

    def _prompt_ids(self) -> list[int] | None:
        return self._job.prompt if self._job.token_ids else None

    def _prompt_text(self) -> str:
        return decode(self._job.prompt).decode("utf-8", "replace")

    def role(self) -> dict[str, Any]:
        """The chunk before the first token of a chat."""
        delta = {"role": self._job.role, "content": ""}
        chunk = self._head(chunk=True)
        chunk["choices"] = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]
        if self._job.continuous_usage:
            chunk["usage"] = self._continuous_usage()
        chunk["prompt_token_ids"] = self._prompt_ids()
        chunk["prompt_text"] = self._prompt_text() if self._job.prompt_text else None
        return chunk

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """The chunk of one piece."""
        job = self._job
        first = self._count == 0
        self._count += len(piece.ids)
        ids = piece.ids if job.token_ids else None
        if job.chat:
            choice = {
                "index": 0,
                "delta": {"content": piece.text},
                "logprobs": None,
                "finish_reason": piece.finish,
            }
            if piece.finish:
                choice["stop_reason"] = piece.stop_reason
        else:
            # With ids asked for, vLLM leaves the echoed text out.
            echo = self._prompt_text() if first and job.echo and not job.token_ids else ""
            prompt_ids = job.prompt if first and (job.token_ids or job.echo) else None
            choice = {
                "index": 0,
                "text": echo + piece.text,
                "logprobs": None,
                "finish_reason": piece.finish,
                "stop_reason": piece.stop_reason,
                "prompt_token_ids": prompt_ids,
            }
        choice["token_ids"] = ids
        chunk = {**self._head(chunk=True), "choices": [choice]}
        if job.continuous_usage:
            chunk["usage"] = self._continuous_usage()
        if piece.finish and not job.usage:
            chunk["system_fingerprint"] = self._fingerprint
        return chunk

    def usage(self) -> dict[str, Any]:
        """The chunk after the last one, with the sums."""
        sums = {"choices": [], "usage": self._usage(), "system_fingerprint": self._fingerprint}
        return {**self._head(chunk=True), **sums}

    def whole(self, pieces: list[Piece]) -> dict[str, Any]:
        """The answer in one, for a request that does not stream."""
        job, last = self._job, pieces[-1]
        ids = [number for piece in pieces for number in piece.ids]
        text = "".join(piece.text for piece in pieces)
        self._count = len(ids)
        choice: dict[str, Any] = {"index": 0}
        nothing = dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning"))
        if job.chat:
            choice["message"] = {"role": job.role, "content": text, **nothing}
        else:
            choice["text"] = (self._prompt_text() if job.echo and not job.token_ids else "") + text
        choice.update(logprobs=None, finish_reason=last.finish, stop_reason=last.stop_reason)
        choice["token_ids"] = ids if job.token_ids else None
        if not job.chat:
            choice.update(prompt_logprobs=None, prompt_token_ids=self._prompt_ids())
        choice["routed_experts"] = None
        answer = self._head(chunk=False)
        answer.update(choices=[choice], service_tier=None, system_fingerprint=self._fingerprint)
        answer["usage"] = {**self._usage(), "prompt_tokens_details": None, "completion_tokens_details": None}
        if job.chat:
            answer.update(prompt_logprobs=None, prompt_token_ids=self._prompt_ids())
            answer["prompt_text"] = self._prompt_text() if job.prompt_text else None
        answer.update(kv_transfer_params=None, ec_transfer_params=None, metrics=None)
        return answer


class Handler(BaseHTTPRequestHandler):
    """One connection, kept alive from request to request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = SEND_TIMEOUT_S
    error_message_format = "%(message)s\n"
    error_content_type = "text/plain; charset=utf-8"
    server: Server

    def version_string(self) -> str:
        """The Server header."""
        return VERSION

    def handle_one_request(self) -> None:
        """Answer the next request, or close after some idle seconds, as vLLM's server does."""
        super().handle_one_request()
        # Only the wait for the next request's first line is short; a slow reader has SEND_TIMEOUT_S.
        self.connection.settimeout(IDLE_TIMEOUT_S)

    def _dispatch(self) -> None:
        self.connection.settimeout(SEND_TIMEOUT_S)
        self.watch = Watch(self.connection)
        try:
            try:
                body = self._read_body()
            except ValueError:
                self.close_connection = True
                raise Refusal(400, "the body's length or its chunks make no sense", "Bad Request") from None
            if self.server.engine.settings.hang:
                self.watch.wait(86400)
            self._route(body)
        except Refusal as refusal:
            self._send_json(refusal.status, refusal.error)
        except (ClientGone, OSError):
            self.close_connection = True

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _dispatch

    def _route(self, body: bytes) -> None:
        path = self.path.partition("?")[0]
        settings = self.server.engine.settings
        if path.startswith("/v1/") and settings.api_key and not self._authorized(settings.api_key):
            self._send_json(401, {"error": "Unauthorized"})
            return
        if path.startswith("/v1/") and not self.server.engine.loaded:
            raise Refusal(503, "the demo engine is still loading", "ServiceUnavailableError")
        methods = ROUTES.get(path)
        if methods is None:
            self._send_json(404, {"detail": "Not Found"})
        elif self.command not in methods:
            self._send_json(405, {"detail": "Method Not Allowed"}, {"Allow": ", ".join(methods)})
        else:
            methods[self.command](self, body)

    def _authorized(self, api_key: str) -> bool:
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), api_key.encode())

    def _read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            parts, total = [], 0
            while size := int(self.rfile.readline(100).split(b";")[0].strip() or b"0", 16):
                total = self._bounded(total + size)
                parts.append(self.rfile.read(size))
                self.rfile.readline(100)
            while self.rfile.readline(65536).strip():
                continue
            return b"".join(parts)
        return self.rfile.read(self._bounded(int(self.headers.get("Content-Length") or 0)))

    def _bounded(self, size: int) -> int:
        if not 0 <= size <= MAX_BODY_BYTES:
            self.close_connection = True
            raise Refusal(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
        return size

    def _json_body(self, body: bytes) -> dict[str, Any]:
        if self.headers.get_content_type() != "application/json":
            message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
            raise Refusal(400, message, "Bad Request")
        try:
            value = json.loads(body) if body else None
        except ValueError:
            raise _invalid("", "json_invalid", "JSON decode error") from None
        if value is None:
            raise _invalid("", "missing", "Field required")
        if not isinstance(value, dict):
            raise _invalid("", "model_attributes_type", "Input should be a valid dictionary")
        names = self.server.engine.settings.names
        if value.get("model") and value["model"] not in names:
            message = f"The model `{value['model']}` does not exist. Valid aliases: {', '.join(names)}."
            raise Refusal(404, message, "NotFoundError", "model")
        return value

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self._end(body if self.command != "HEAD" else b"")

    def _send_json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        self._send(status, _json(value), "application/json", headers)

    def _end(self, body: bytes = b"") -> None:
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if body:
            self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        """One line for each request, except for those that probes send all the time."""
        # A request line that cannot be read has no path.
        if getattr(self, "path", "") not in ("/health", "/metrics"):
            _log(f"{self.client_address[0]} {format % values}")

    def health(self, _body: bytes) -> None:
        """Empty, 200 once the load time is over."""
        engine = self.server.engine
        status = engine.settings.health_status if engine.loaded else 503
        self._send(status, b"", "")

    def models(self, _body: bytes) -> None:
        """The model under each of its names."""
        settings, now = self.server.engine.settings, int(time.time())
        rights = {
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": False,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        data = [
            {
                "id": name,
                "object": "model",
                "created": now,
                "owned_by": "hedgeserve-demo-engine",
                "root": settings.names[0],
                "parent": None,
                "max_model_len": settings.max_model_len,
                "permission": [
                    {"id": f"modelperm-{_new_id()}", "object": "model_permission", "created": now, **rights}
                ],
            }
            for name in settings.names
        ]
        self._send_json(200, {"object": "list", "data": data})

    def version(self, _body: bytes) -> None:
        """What this is, in words too."""
        self._send_json(200, {"version": VERSION, "description": WHAT_I_AM})

    def load(self, _body: bytes) -> None:
        """How many requests are in hand."""
        self._send_json(200, {"server_load": self.server.engine.running + self.server.engine.waiting})

    def metrics(self, _body: bytes) -> None:
        """Prometheus metrics."""
        body = self.server.engine.metrics().encode()
        self._send(200, body, "text/plain; version=1.0.0; charset=utf-8")

    def tokenize(self, body: bytes) -> None:
        """Text or messages to ids."""
        fields = Fields(self._json_body(body))
        ids = _read_prompt(fields) if fields.get("messages") is None else _read_messages(fields)[0]
        texts = [VOCABULARY[number].decode("utf-8", "replace") for number in ids]
        answer = {"count": len(ids), "max_model_len": self.server.engine.settings.max_model_len, "tokens": ids}
        self._send_json(200, {**answer, "token_strs": texts if fields.get("return_token_strs") else None})

    def detokenize(self, body: bytes) -> None:
        """Ids to text, special tokens included."""
        tokens = Fields(self._json_body(body)).ids("tokens")
        self._send_json(200, {"prompt": decode(tokens).decode("utf-8", "replace")})

    def chat(self, body: bytes) -> None:
        """A chat completion."""
        self._generate(body, chat=True)

    def completion(self, body: bytes) -> None:
        """A text completion."""
        self._generate(body, chat=False)

    def _generate(self, raw: bytes, *, chat: bool) -> None:
        engine = self.server.engine
        settings = engine.settings
        body = self._json_body(raw)
        job = read_job(body, chat=chat, max_model_len=settings.max_model_len, seed=settings.seed)
        request_id = self.headers.get("X-Request-Id") or str(body.get("request_id") or _new_id())
        fingerprint = f"{VERSION}-{_mixed(settings.seed & _MASK):016x}"
        teller = Teller(job, request_id=request_id, model=settings.names[0], fingerprint=fingerprint)
        pieces = engine.run(job, self.watch)
        try:
            if job.stream:
                self._stream(teller, job, pieces)
                return
            whole = list(pieces)
        finally:
            pieces.close()
        if whole[-1].finish == "error":
            raise self._hard_error()
        self._send_json(200, teller.whole(whole), self._load_header())

    def _load_header(self) -> dict[str, str]:
        form = self.headers.get("endpoint-load-metrics-format", "").lower()
        engine = self.server.engine
        named = {"num_requests_waiting": float(engine.waiting), "kv_cache_usage_perc": engine.cache_usage}
        if form == "json":
            return {"endpoint-load-metrics": "JSON " + json.dumps({"named_metrics": named})}
        if form == "text":
            listed = ", ".join(f"named_metrics.{name}={value}" for name, value in named.items())
            return {"endpoint-load-metrics": "TEXT " + listed}
        return {}

    def _hard_error(self) -> Refusal:
        """The error of an engine that died, or, where the fault is a cut, no answer at all."""
        if self.server.engine.settings.fault == "cut":
            raise ClientGone
        return Refusal(500, "EngineCore encountered an issue. See stack trace (above).", "InternalServerError")

    def _stream(self, teller: Teller, job: Job, pieces: Iterator[Piece]) -> None:
        chunked = self.request_version != "HTTP/1.0"

        def event(data: bytes) -> bytes:
            line = b"data: " + data + b"\n\n"
            return b"%x\r\n%b\r\n" % (len(line), line) if chunked else line

        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.close_connection = True
        self._end()
        # The role is not told before the first token exists.
        opening = event(_json(teller.role())) if job.chat else b""
        for piece in pieces:
            if piece.finish == "error":
                closing = event(_json(self._hard_error().error))
                break
            self.wfile.write(opening + event(_json(teller.chunk(piece))))
            opening = b""
        else:
            closing = event(_json(teller.usage())) if job.usage else b""
        self.wfile.write(closing + event(b"[DONE]") + (b"0\r\n\r\n" if chunked else b""))


ROUTES: dict[str, dict[str, Callable[[Handler, bytes], None]]] = {
    "/health": {"GET": Handler.health},
    "/ping": {"GET": Handler.health, "POST": Handler.health},
    "/version": {"GET": Handler.version},
    "/load": {"GET": Handler.load},
    "/metrics": {"GET": Handler.metrics},
    "/tokenize": {"POST": Handler.tokenize},
    "/detokenize": {"POST": Handler.detokenize},
    "/v1/models": {"GET": Handler.models},
    "/v1/chat/completions": {"POST": Handler.chat},
    "/v1/completions": {"POST": Handler.completion},
}


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _new_id() -> str:
    return uuid.uuid4().hex[:16]


class Server(ThreadingHTTPServer):
    """A thread for each connection; none of them keeps the process alive."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, host: str, port: int, engine: Engine) -> None:
        self.engine = engine
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of the host's name, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that leave are no news; anything else is told with its traceback."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


# --- Command line -----------------------------------------------------------------------------------------------


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f'{text!r} is not a duration; write a number with a unit, such as "2s"')
    return float(match[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}[match[2]]


def _rate(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError("must be 0 (as fast as possible) or more")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def parser() -> argparse.ArgumentParser:
    """The command line, which is also the reference of the options."""
    top = argparse.ArgumentParser(description=WHAT_I_AM + ".", allow_abbrev=False)
    add = top.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", type=int, default=8000, help="port to listen on; 0 takes a free one (%(default)s)")
    add("--model", default="demo", help="name of the model (%(default)s)")
    add("--alias", action="append", default=[], help="another name of the model; may be repeated")
    add("--load-time", type=_seconds, default=2.0, metavar="DURATION", help="time until /health answers 200 (2s)")
    add("--tokens-per-second", type=_rate, default=40.0, help="pace of each answer; 0: no limit (%(default)g)")
    add("--stream-interval", type=_count, default=1, help="tokens in a chunk (%(default)s)")
    add("--max-model-len", type=_count, default=4096, help="tokens of prompt and answer together (%(default)s)")
    add("--max-num-seqs", type=_count, default=256, help="answers at a time; more wait (%(default)s)")
    add("--seed", type=int, default=0, help="servers with the same seed write the same texts (%(default)s)")
    add(
        "--api-key-env",
        default="VLLM_API_KEY",
        metavar="NAME",
        help="environment variable with the key that /v1 asks for (%(default)s)",
    )
    faults = top.add_argument_group("faults, for testing what stands in front")
    add = faults.add_argument
    add("--health-status", type=int, default=200, help="status of /health once loaded (%(default)s)")
    add("--hang", action="store_true", help="accept requests and never answer, /health included")
    add("--die-after", type=_seconds, metavar="DURATION", help="end with exit code 1 so long after the start")
    exclusive = faults.add_mutually_exclusive_group()
    for name, what in FAULTS.items():
        exclusive.add_argument(f"--{name}-after-tokens", type=int, metavar="N", help=what)
    return top


FAULTS = {
    "abort": 'end each answer after N tokens with finish_reason "abort"',
    "error": "end each answer after N tokens with an error in the stream (500 where it has not begun)",
    "stall": "fall silent in each answer after N tokens, with the connection open",
    "cut": "close the connection of each answer after N tokens",
}


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; then stop at once, whatever is being answered."""
    given = parser().parse_args(arguments)
    fault = next((name for name in FAULTS if getattr(given, f"{name}_after_tokens") is not None), "")
    settings = Settings(
        names=(given.model, *given.alias),
        load_time_s=given.load_time,
        tokens_per_second=given.tokens_per_second,
        stream_interval=given.stream_interval,
        max_model_len=given.max_model_len,
        max_num_seqs=given.max_num_seqs,
        seed=given.seed,
        api_key=os.environ.get(given.api_key_env, ""),
        health_status=given.health_status,
        hang=given.hang,
        fault=fault,
        fault_after_tokens=getattr(given, f"{fault}_after_tokens") if fault else 0,
    )
    _log(WHAT_I_AM)
    threading.stack_size(512 * 1024)
    try:
        server = Server(given.host, given.port, Engine(settings))
    except OSError as error:
        _log(f"cannot listen on {given.host}:{given.port}: {error.strerror}; give another --host or --port")
        return 1
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=server.serve_forever, name="accept", daemon=True).start()
    key = "with" if settings.api_key else "without"
    _log(f"{given.model!r} listens on http://{given.host}:{server.server_port}, {key} an API key")
    died = not stop.wait(given.die_after)
    _log("died, as --die-after asked" if died else "stopped by a signal")
    # Not sys.exit: threads that are answering could hold up the interpreter's end.
    os._exit(1 if died else 0)


def _log(line: str) -> None:
    try:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        sys.stderr.flush()
    except OSError:
        pass  # nobody reads; serving goes on


if __name__ == "__main__":
    sys.exit(main())
