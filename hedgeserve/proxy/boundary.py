"""Where an answer may be taken up again: the most ids whose text has been told and ends with a character. Pure.

The ids run ahead of the text: half a character is held back, and so is what may be the beginning of a stop string.
Resubmitted ids must not end inside a character, or vLLM gives out the *whole prompt* as text. Which text ids stand
for is asked of the replica (``/detokenize``), usually twice.
"""

import re
from array import array
from collections.abc import Callable, Generator
from dataclasses import dataclass

SPECIAL = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,20}\]")
"""How special tokens are written, ``<s>``, ``<|im_start|>``, ``[INST]``, that are not shown in an answer."""
_HALF = "\ufffd"
_WHOLE_PROMPT = 4096  # ids; of a longer prompt its end is context enough
_CONTEXT = 64
_MOST_HIDDEN = 4
_MOST_QUESTIONS = 64


@dataclass(frozen=True, slots=True)
class Boundary:
    """``count`` ids have ``text``, where whole characters end; ``prompt`` is the text before them, or its end."""

    count: int
    text: str
    prompt: str


Search = Generator[list[int], str, Boundary | None]
"""Yields ids whose text it wants to be told; returns the boundary, None where there is none beyond doubt."""


def find(
    prompt_ids: "array[int]",
    ids: "array[int]",
    told: str,
    *,
    most: int,
    room: int = 0,
    beyond: bool = False,
    shows_special: bool = False,
) -> Search:
    """Search the largest boundary with at most ``most`` ids.

    Its text is a part of ``told``, of which ``room`` characters at least are left. With ``beyond`` it is all of
    it, and the rest of its last token: where ids are drawn by chance, that would be drawn otherwise. Whether
    special ids are shown can be seen in what was told; behind it, ``shows_special`` must say so, or there is no
    boundary where it matters.
    """
    context = list(prompt_ids if len(prompt_ids) <= _WHOLE_PROMPT else prompt_ids[-_CONTEXT:])
    prompt = yield context
    if prompt.endswith(_HALF) and len(context) < len(prompt_ids):
        context = list(prompt_ids)
        prompt = yield context
    # A prompt that ends inside a character has been given out as text: it counts as a part of the answer.
    before = "" if prompt.endswith(_HALF) else prompt
    search = _Search(context, ids[:most].tolist(), before, prompt, told, room)
    return (yield from (search.beyond(shows_special=shows_special) if beyond else search.within()))


class _Search:
    def __init__(self, context: list[int], ids: list[int], before: str, prompt: str, told: str, room: int) -> None:
        self._context = context
        self._ids = ids
        self._before = before
        self._prompt = prompt
        self._told = told
        self._goal = told[: max(0, len(told) - room)]
        self._hidden: set[int] = set()  # special ids: /detokenize shows them, an answer does not
        self._known: dict[int, str | None] = {}
        self._questions = 0

    def beyond(self, *, shows_special: bool) -> Search:
        """The fewest ids whose text has all that was told in it and ends with a character.

        The fewest: of ids behind them, none of whose text was told, nobody knows whether it is shown at all.
        """
        if not (yield from self._match()):
            return None
        total = len(self._ids)
        if not self._told:
            return Boundary(0, "", self._prompt)
        if not (yield from self._covers(total)):
            return None
        count = yield from self._last(self._falls_short)
        for longer in range(count + 1, total + 1):
            text = yield from self._text(longer)
            if text is not None and not shows_special and (yield from self._doubtful(longer, text)):
                return None
            if text is not None and text.startswith(self._told) and not text.endswith(_HALF):
                return Boundary(longer, text, self._prompt)
        return None

    def within(self) -> Search:
        """The most ids whose text is a part of what was told."""
        if not (yield from self._match()):
            return None
        count = yield from self._last(self._within)
        while count:
            text = yield from self._text(count)
            if text and not text.endswith(_HALF) and self._goal.startswith(text):
                return Boundary(count, text, self._prompt)
            count -= 1
        return Boundary(0, "", self._prompt)

    def _last(self, holds: Callable[[int], Generator[list[int], str, bool]]) -> Generator[list[int], str, int]:
        """The most ids for which this holds, as it does up to some number; 0 where it does for none."""
        # Gallop from the end, where that nearly always is, then halve.
        count = above = len(self._ids)
        step = 1
        while count and not (yield from holds(count)):
            above, count = count, max(0, count - step)
            step *= 2
        while above - count > 1:
            middle = (above + count) // 2
            if (yield from holds(middle)):
                count = middle
            else:
                above = middle
        return count

    def _match(self) -> Generator[list[int], str, bool]:
        """Find the ids that have no text, until the others go together with what was told."""
        while not (yield from self._fits(len(self._ids))):
            if not (yield from self._hide_one()):
                return False
        return True

    def _text(self, count: int) -> Generator[list[int], str, str | None]:
        """The text of so many ids; None where it does not come after the prompt's or too much has been asked."""
        if count not in self._known:
            self._questions += 1
            if self._questions > _MOST_QUESTIONS:
                return None
            shown = [number for number in self._ids[:count] if number not in self._hidden]
            text = yield [*self._context, *shown]
            fits = text.startswith(self._before)
            self._known[count] = text[len(self._before) :] if fits else None
        return self._known[count]

    def _within(self, count: int) -> Generator[list[int], str, bool]:
        """Whether the text of so many ids, half characters aside, is a part of the goal."""
        text = yield from self._text(count)
        return text is not None and self._goal.startswith(text.rstrip(_HALF))

    def _covers(self, count: int) -> Generator[list[int], str, bool]:
        """Whether all that was told is in the text of so many ids."""
        text = yield from self._text(count)
        return text is not None and text.startswith(self._told)

    def _falls_short(self, count: int) -> Generator[list[int], str, bool]:
        return not (yield from self._covers(count))

    def _fits(self, count: int) -> Generator[list[int], str, bool]:
        """Whether the text of so many ids and the told text go together as far as both go."""
        text = yield from self._text(count)
        if text is None:
            return False
        text = text.rstrip(_HALF)
        return self._told.startswith(text) or text.startswith(self._told)

    def _doubtful(self, count: int, text: str) -> Generator[list[int], str, bool]:
        """Whether the last of so many ids has a word for itself that is written like a special one's.

        Nothing that was told shows whether it is hidden, as ``</s>`` is, or shown, as an ordinary ``<br>`` is; and
        a character that a hidden one interrupts looks whole behind it.
        """
        words = list(SPECIAL.finditer(text, len(self._told)))
        if not words or words[-1].end() != len(text):
            return False
        before = yield from self._text(count - 1)
        return before == text[: words[-1].start()]

    def _hide_one(self) -> Generator[list[int], str, bool]:
        """Find the first id whose text was not told, and leave it out from now on."""
        good, bad = 0, len(self._ids)
        while bad - good > 1:
            middle = (good + bad) // 2
            if (yield from self._fits(middle)):
                good = middle
            else:
                bad = middle
        if not bad or len(self._hidden) >= _MOST_HIDDEN or self._questions > _MOST_QUESTIONS:
            return False
        self._hidden.add(self._ids[bad - 1])
        self._known.clear()
        return True
