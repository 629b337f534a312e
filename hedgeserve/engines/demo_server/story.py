"""The next-token rule: a small grammar whose dice are the ids so far and the seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .dice import chained, mixed
from .phrases import LINE_ENDS, PHRASES, TALK, TOPICS
from .tokens import (
    BYTE_0,
    EOS,
    IDS,
    LEADS,
    PAD,
    THINK,
    THINK_END,
    TOOLS,
    TOOLS_END,
    TURN,
    VOCABULARY,
    WORDS,
    decode,
    encode,
)
from .tools import calls, listed

ENDERS = frozenset(BYTE_0 + ord(mark) for mark in ".!?")
BOUNDARIES = (
    ENDERS
    | {BYTE_0 + ord(mark) for mark in ":\n"}
    | set(range(BYTE_0))
    | {IDS[end] for end in LINE_ENDS}
    | {THINK, THINK_END}
)
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
Phrase = tuple[int, ...]
_PHRASES = {kind: [tuple(IDS[piece] for piece in phrase) for phrase in some] for kind, some in PHRASES.items()}
_BY_FIRST: dict[int, list[Phrase]] = {}
for _some in _PHRASES.values():
    for _phrase in _some:
        if len(_phrase) > 1:
            _BY_FIRST.setdefault(_phrase[0], []).append(_phrase[1:])
CHOICES: dict[str, list[int]] = {
    **{kind: [IDS[b" " + word.encode()] for word in words.split()] for kind, words in WORDS.items()},
    **{kind: [IDS[lead] for lead in leads] for kind, leads in LEADS.items()},
    **{kind: [phrase[0] for phrase in phrases] for kind, phrases in _PHRASES.items()},
    ".": [IDS[mark.encode()] for mark in "....!?"],
}
INTRODUCTION: Phrase = tuple(IDS[token] for token in (b"Demo", b" engine", b":"))
_TOPICS = {IDS[form.encode()]: topic for topic in TOPICS for form in (topic, " " + topic)}
_TALK = {IDS[TALK.encode()], IDS[b" " + TALK.encode()]}


class Story:
    """The ids so far, and from them alone (and the seed) the next one; ``thinks``: chats begin with thoughts."""

    def __init__(self, ids: list[int], seed: int, *, thinks: bool = False) -> None:
        self._seed = seed
        self._thinks = thinks
        self._hash = 0
        self._sentences = 0  # of this turn
        self._units = 0  # words and characters of this sentence
        self._template = ""
        self._templates: tuple[str, ...] = TEMPLATES
        self._topics: list[str] = []
        self._open = b""  # the bytes of an unfinished character
        self._last = (PAD, PAD, PAD)
        self._rest: list[Phrase] = []  # how the phrases may go on that the ids at the end have begun
        self._thinking = False
        self._listing: list[int] | None = None  # the ids of an unfinished list of tools
        self._tools: list[dict[str, Any]] = []
        self._talk = False
        for number in ids:
            self.push(number)

    @property
    def hash(self) -> int:
        """A number that the ids decide."""
        return mixed(self._hash)

    @property
    def dice(self) -> int:
        """A number that the ids and the seed decide."""
        return mixed(self._hash ^ self._seed)

    def push(self, number: int) -> None:
        """Append an id."""
        self._hash = chained(self._hash, number)
        self._last = (*self._last[1:], number)
        self._open = b"" if number < BYTE_0 else _unfinished(self._open + VOCABULARY[number])
        going_on = [phrase[1:] for phrase in self._rest if phrase and phrase[0] == number]
        self._rest = going_on or _BY_FIRST.get(number, [])
        if number in (TURN, EOS):
            self._sentences = 0
            self._thinking = False
        if number in _SWITCHES:
            self._switch(number)
        if number in BOUNDARIES:
            self._sentences += number in ENDERS and not going_on
            self._units = 0
        elif not going_on and not BYTE_0 + 0x80 <= number < BYTE_0 + 0xC0:
            self._units += 1
            if self._units == 1:
                # Halved: the vocabulary holds each word twice, so that those after a space have even ids.
                self._template = self._templates[number // 2 % len(self._templates)]
        if self._listing is not None:
            self._listing.append(number)
        if self._last == (TURN, IDS[b"assistant"], IDS[b"\n"]):
            self._rest = [(THINK,)] if self._thinks else self._openings()

    def _switch(self, number: int) -> None:
        """Take note of an id that changes what the story is about."""
        if number in _TOPICS:
            if _TOPICS[number] not in self._topics:
                self._topics.append(_TOPICS[number])
            self._templates = tuple(template for topic in self._topics for template in TOPICS[topic])
        elif number in _TALK:
            self._talk = True
        elif number == TOOLS:
            self._listing = []
        elif number == TOOLS_END and self._listing is not None:
            self._tools = listed(decode(self._listing[1:]).decode("utf-8", "replace"))
            self._listing = None
        elif number == THINK:
            self._thinking, self._sentences, self._units = True, 0, 0
        elif number == THINK_END and self._thinking:
            self._thinking, self._sentences, self._units = False, 0, 0
            self._rest = self._openings()

    def _openings(self) -> list[Phrase]:
        """How an answer may begin: with the introduction, or with calls of the tools in the prompt."""
        if not self._tools or self._talk:
            return [INTRODUCTION]
        # By the hash and not by the seed: a sampled answer's call must be known to whoever goes on with its ids.
        plans = [(*encode(call), EOS) for call in calls(self._tools, self.hash)]
        return [*plans, *((*INTRODUCTION, IDS[b"\n"], *plan) for plan in plans)]

    def next(self, *, may_end: bool, draw: int = 0) -> tuple[Sequence[int], int]:
        """Ids that fit, and the place among them of the one that follows; ``may_end`` false rules out the end.

        A ``draw`` other than 0 numbers the throws of a generator that was seeded when the answer began.
        """
        dice = mixed(self._hash ^ (mixed(self._seed + draw) if draw else self._seed))
        going_on = self._rest
        if going_on and (phrase := going_on[dice % len(going_on)]):
            if phrase[0] != EOS or may_end:
                return (phrase[0],), 0
        elif self._open:
            fitting = [character for character in CHARACTERS if character.startswith(self._open)]
            if fitting:
                return (BYTE_0 + fitting[dice % len(fitting)][len(self._open)],), 0
            # An unknown character of the prompt; which second bytes are legal depends on the first.
            low = 0x80 if self._open[0] in (0xED, 0xF4) else 0xA0
            return (BYTE_0 + low + dice % 16,), 0
        if self._last[-1] in ENDERS:
            if self._thinking and self._sentences >= 2:
                return (THINK_END,), 0
            if may_end and not self._thinking and self._sentences >= 3 and dice % 6 == 0:
                return (EOS,), 0
        kind = "^" if self._units == 0 else (self._template[self._units - 1 : self._units] or ".")
        choices = CHOICES[kind]
        return choices, (dice >> 8) % len(choices)


_SWITCHES = frozenset((*_TOPICS, *_TALK, TOOLS, TOOLS_END, THINK, THINK_END))


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
