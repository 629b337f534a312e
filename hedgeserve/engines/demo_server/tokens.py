"""The vocabulary: which bytes each token id stands for, and the way from text to ids and back."""

from __future__ import annotations

import re

from .phrases import PHRASES, TALK, TOPICS

PAD, BOS, EOS, TURN, TURN_END = range(5)
SPECIAL = (b"<|pad|>", b"<|begin|>", b"<|end|>", b"<|im_start|>", b"<|im_end|>")
BYTE_0 = len(SPECIAL)

# By kind; the kinds are those of the story's templates, and x: words that only prompts have.
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
# By kind too. " \xf0\x9f" and its like end inside a character, as such tokens of real vocabularies do.
LEADS = {"E": (b" \xf0\x9f",), "K": (b" \xe6", b" \xe7"), ",": (b",",)}
# Whole in the vocabulary and yet no special tokens, as with the models that were trained to write them.
MARKS = (b"<tool_call>", b"</tool_call>", b"<tools>", b"</tools>", b"<think>", b"</think>")


def _vocabulary() -> list[bytes]:
    tokens = [*SPECIAL, *(bytes((value,)) for value in range(256))]
    for words in WORDS.values():
        for word in words.split():
            tokens += [word.encode(), b" " + word.encode()]
    tokens += [lead for leads in LEADS.values() for lead in leads if lead not in tokens]
    tokens += MARKS
    tokens += [form.encode() for word in (*TOPICS, TALK) for form in (word, " " + word)]
    for piece in (piece for phrases in PHRASES.values() for phrase in phrases for piece in phrase):
        if piece not in tokens:
            tokens.append(piece)
    return tokens


VOCABULARY = _vocabulary()
IDS = {token: number for number, token in enumerate(VOCABULARY) if number >= BYTE_0}
TOOL_CALL, TOOL_CALL_END, TOOLS, TOOLS_END, THINK, THINK_END = (IDS[mark] for mark in MARKS)
_TOKEN = re.compile(b"|".join(re.escape(token) for token in sorted(IDS, key=len, reverse=True)), re.DOTALL)


def encode(text: str) -> list[int]:
    """Token ids of a text: the longest known token at each place, single bytes where no word fits."""
    return [IDS[match[0]] for match in _TOKEN.finditer(text.encode("utf-8", "replace"))]


def decode(ids: list[int], *, skip_special: bool = False) -> bytes:
    """The bytes of token ids; unknown ids have none."""
    first = BYTE_0 if skip_special else 0
    return b"".join(VOCABULARY[number] for number in ids if first <= number < len(VOCABULARY))
