"""The next-token rule: a small grammar whose dice are the ids so far and the seed."""

from __future__ import annotations

from .dice import chained, mixed
from .tokens import BYTE_0, EOS, IDS, LEADS, PAD, TURN, VOCABULARY, WORDS

ENDERS = frozenset(BYTE_0 + ord(mark) for mark in ".!?")
BOUNDARIES = ENDERS | {BYTE_0 + ord(mark) for mark in ":\n"} | set(range(BYTE_0))
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
CHOICES: dict[str, list[int]] = {
    **{kind: [IDS[b" " + word.encode()] for word in words.split()] for kind, words in WORDS.items()},
    **{kind: [IDS[lead] for lead in leads] for kind, leads in LEADS.items()},
    ".": [IDS[mark.encode()] for mark in "....!?"],
}
INTRODUCTION = tuple(IDS[token] for token in (b"Demo", b" engine", b":"))


class Story:
    """The ids so far, and from them alone (and the seed) the next one."""

    def __init__(self, ids: list[int], seed: int) -> None:
        self._seed = seed
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
        self._hash = chained(self._hash, number)
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
        dice = mixed(self._hash ^ self._seed)
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
