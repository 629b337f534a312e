"""One answer as it grows, stop strings and stop tokens included."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .job import Job, Share
from .logprobs import Mark, Marker
from .story import Story
from .text_stream import TextStream
from .tokens import EOS, THINK_END, encode


@dataclass(frozen=True)
class Piece:
    """What one or more tokens added to the choice of that index; its last one has a ``finish``."""

    ids: list[int]
    text: str
    finish: str | None = None
    stop_reason: object = None
    index: int = 0
    marks: tuple[Mark, ...] = ()


class Generation:
    """One choice of an answer, a token at a time."""

    def __init__(self, job: Job, share: Share) -> None:
        self.index = share.index
        self._job = job
        self._share = share
        self._story = Story(share.prompt, share.seed, thinks=job.thinks)
        self._stream = TextStream(share.prompt, skip_special=job.skip_special)
        self._marker = None if job.logprobs is None else Marker(job.logprobs)
        self._ids: list[int] = []
        self._counts: Counter[int] = Counter()
        # A demanded form begins anew with each request's output (as vLLM's grammars do), and after the thoughts.
        self._form: list[int] | None = None
        self._formed = (job.structure is not None or job.tools.forced) and not job.reasoning
        self._text = ""
        self._given = 0
        # Text that may be the beginning of a stop string is held back.
        self._hold = 0 if job.keep_stop else max((len(stop) - 1 for stop in job.stop), default=0)

    def step(self, tokens: int) -> Piece:
        """The next tokens, fewer where the answer ends; must not be called after the end."""
        ids: list[int] = []
        marks: list[Mark] = []
        finish, reason = None, None
        while finish is None and len(ids) < tokens:
            finish, reason = self._one(ids, marks)
        end = max(self._given, len(self._text) - (0 if finish else self._hold))
        text, self._given = self._text[self._given : end], end
        return Piece(ids, text, finish, reason, self.index, tuple(marks))

    def _take(self, marks: list[Mark]) -> int:
        """The next id, by form, penalties and dice."""
        job, count = self._job, len(self._ids)
        fitting: list[int] = []
        if self._formed:
            if self._form is None:
                self._form = encode(self._form_text())[::-1]
            number = self._form.pop() if self._form else EOS
        else:
            may_end = job.ignore_eos or count >= job.min_tokens
            choices, place = self._story.next(may_end=may_end, draw=count + 1 if job.seeded else 0)
            number = choices[place]
            if job.penalties or self._marker is not None:
                fitting = [*choices[place:], *choices[:place]]
                number = job.penalties.pick(fitting, self._counts) if job.penalties else number
        if self._marker is not None:
            marks.append(self._marker.mark(number, fitting or [number]))
        return number

    def _form_text(self) -> str:
        structure, story = self._job.structure, self._story
        return (
            structure.text(story.dice) if structure is not None else self._job.tools.call(story.hash, story.dice)
        )

    def _one(self, ids: list[int], marks: list[Mark]) -> tuple[str | None, object]:
        job = self._job
        number = self._take(marks)
        self._story.push(number)
        self._ids.append(number)
        self._counts[number] += 1
        if number == THINK_END and job.reasoning:
            self._formed = job.structure is not None or job.tools.forced
        ids.append(number)
        count = len(self._ids)
        past_least = count > job.min_tokens or self._form == []
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
        if count >= self._share.max_tokens:
            return "length", None
        if job.repetition is not None and job.repetition.found(self._ids):
            return "repetition", "repetition_detected"
        return None, None
