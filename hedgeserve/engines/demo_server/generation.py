"""One answer as it grows, stop strings and stop tokens included."""

from __future__ import annotations

from dataclasses import dataclass

from .job import Job
from .story import Story
from .text_stream import TextStream
from .tokens import EOS


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
