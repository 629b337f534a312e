"""Log-probabilities: made up, and the same every time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .fields import Fields
from .refusal import Refusal, refuse_together
from .sampling import STEP
from .text_stream import TextStream
from .tokens import VOCABULARY

MOST = 20
_UNFIT = -9.0


@dataclass(frozen=True)
class Mark:
    """A token as log-probabilities tell it, and the likeliest ones at its place, itself first."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]


class Marker:
    """Marks the tokens of one answer as they come."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._stream = TextStream([], skip_special=False)

    def mark(self, number: int, fitting: Sequence[int]) -> Mark:
        """The mark of a token that was taken from those fitting, which are given from the likeliest on."""
        whole = math.log(sum(math.exp(-STEP * place) for place in range(len(fitting))))
        ranked: dict[int, float] = {}
        for place, token in enumerate(fitting):
            ranked.setdefault(token, round(-STEP * place - whole - 0.001, 6))
        # The story knows which tokens fit and nothing of the others: some that are far off fill up the list.
        for place in range(self._top):
            ranked.setdefault((number + 7 * place + 1) % len(VOCABULARY), _UNFIT - place)
        own = ranked.get(number, _UNFIT)
        # A token in the middle of a character has no text; the one that ends it has the character.
        text = self._stream.step(number)
        best = sorted(ranked, key=lambda token: -ranked[token])[: self._top]
        others = [(_alone(token), ranked[token]) for token in best if token != number]
        return Mark(text, own, ((text, own), *others))


def _alone(number: int) -> str:
    return VOCABULARY[number].decode("utf-8", "replace").rstrip("\ufffd")


def read_logprobs(fields: Fields, *, chat: bool) -> int | None:
    """How many likeliest tokens are to be told; None where no log-probabilities are. Raises :class:`Refusal`."""
    name = "top_logprobs" if chat else "logprobs"
    count = fields.get(name)
    if count is not None and not isinstance(count, (int, float)):
        raise Refusal(400, f"`{name}` must be an integer. (parameter={name}, value={count})", param=name)
    if count is not None and count < -1:
        message = f"`{name}` must be a positive value or -1. (parameter={name}, value={count})"
        raise Refusal(400, message, param=name)
    if chat and not fields.flag("logprobs", False):
        if count:
            refuse_together(name, "when using `top_logprobs`, `logprobs` must be set to true.")
        return None
    if count is None:
        return 0 if chat else None
    asked = len(VOCABULARY) if count == -1 else int(count)
    if asked > MOST:
        message = f"Requested sample logprobs of {asked}, which is greater than max allowed: {MOST} "
        raise Refusal(400, f"{message}(parameter=logprobs, value={asked})", param="logprobs")
    return asked


def chat_logprobs(marks: Sequence[Mark], top: int) -> dict[str, Any]:
    """The marks as a chat tells them."""

    def entry(token: str, logprob: float) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

    content = [
        {**entry(mark.token, mark.logprob), "top_logprobs": [entry(*one) for one in mark.top[:top]]}
        for mark in marks
    ]
    return {"content": content}


def text_logprobs(marks: Sequence[Mark], offset: int) -> dict[str, Any]:
    """The marks as a text completion tells them, beginning at this offset of its text."""
    offsets = []
    for mark in marks:
        offsets.append(offset)
        offset += len(mark.token)
    return {
        "text_offset": offsets,
        "token_logprobs": [mark.logprob for mark in marks],
        "tokens": [mark.token for mark in marks],
        "top_logprobs": [dict(mark.top) for mark in marks],
    }
