"""A continuation's stream: what was told is swallowed, the rest is told as the first replica would have. Pure."""

from array import array
from typing import Any

from hedgeserve.proxy.boundary import Boundary
from hedgeserve.proxy.follow import EventStream
from hedgeserve.proxy.record import Record
from hedgeserve.proxy.reemission import reemits
from hedgeserve.proxy.stops import Stops
from hedgeserve.proxy.verdict import Sign
from hedgeserve.proxy.wrapping import Wrapping


class Resumed(EventStream):
    """Follows a ``/v1/completions`` stream that goes on after ``boundary``.

    ``held_back`` characters at most stay behind the ids in that stream. ``stops`` matches stop strings where the
    replica would miss those that began before the boundary; then ``min_tokens`` is that of the whole answer. The
    record is changed only when the first new thing is told, so that a continuation that fails before can be tried
    again from the same place.
    """

    def __init__(
        self,
        record: Record,
        wrapping: Wrapping,
        boundary: Boundary,
        *,
        held_back: int = 0,
        stops: Stops | None = None,
        min_tokens: int = 0,
    ) -> None:
        super().__init__()
        self._record = record
        self._wrap = wrapping
        self._at = boundary
        self._held_back = held_back
        self._stops = stops
        self._min_tokens = min_tokens
        self._swallow = record.text()[len(boundary.text) :]
        self._known: array[int] = record.ids[boundary.count :]
        self._shown = len(self._known) if wrapping.shows_ids else 0
        self._new: list[int] = []  # ids that have come and have not gone into the record
        self._waiting = ""  # new text whose ids are still among those that were shown
        self._joined = False
        self.before = boundary.count
        self._guarded = boundary.count == 0

    def _event(self, raw: bytes) -> bytes:
        return b"" if self.done else super()._event(raw)

    def _unread(self, raw: bytes) -> bytes:
        self.failure = "the replica sent an event that makes no sense"
        return b""

    def _end(self, raw: bytes) -> bytes:
        out = super()._end(raw)
        if out:
            self._record.done = True
        return out

    def _chunk(self, raw: bytes, event: dict[str, Any], sign: Sign) -> bytes:
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        usage = event.get("usage")
        fingerprint = event.get("system_fingerprint")
        if not isinstance(choice, dict):
            if not isinstance(usage, dict) or self._record.usage_told or not self._wrap.sums_wanted:
                return b""
            return self._wrap.sums(self.before + self.tokens, given=usage, fingerprint=fingerprint)
        text, ids = choice.get("text") or "", choice.get("token_ids")
        if not isinstance(ids, list):
            self._record.no_ids = "the engine gave no token ids"
            ids = []
        if text and not self._guarded:
            self._guarded = True
            if reemits(text, self._at, tokens=len(ids), held_back=self._held_back):
                return self._diverge("the replica gave out the prompt again")
        shown = self._unshown(ids)
        self.tokens += len(ids)
        self._new += ids
        text = self._waiting + self._unsaid(text)
        if self.failure:
            return b""
        finish, stop_reason = choice.get("finish_reason"), choice.get("stop_reason")
        by_us = False
        if self._stops is not None:
            text, stopped = self._stops.feed(text, active=self._is_active(stop_reason))
            if stopped is not None:
                by_us = not finish
                finish, stop_reason = "stop", stopped
            elif finish:
                text += self._stops.rest()
        if finish and (self._swallow or self._shown):
            return self._diverge("the replica ended the answer before what had been told of it")
        self._waiting = text if self._shown else ""
        if self._shown:
            return b""
        if not text and not finish and not (shown if self._wrap.shows_ids else not self._known):
            return b""
        if not self._joined:
            self._joined = True
            self._record.rewind_ids(self._at.count)
        new, self._new = self._new, []
        out = self._wrap.chunk(
            text,
            shown,
            new_ids=new,
            finish=finish,
            stop_reason=stop_reason,
            completion=self.before + self.tokens,
            fingerprint=fingerprint,
        )
        if by_us:  # the replica knows of no end, and is not needed any more
            self._finished.add(0)
            self.done = True
            out += self._wrap.end()
        return out

    def _is_active(self, stop_reason: object) -> bool:
        return isinstance(stop_reason, str) or self.before + self.tokens > self._min_tokens

    def _unshown(self, ids: list[int]) -> list[int]:
        """Those of the ids that the client has not seen; they must be the same again where it has."""
        again = ids[: len(self._known)]
        same = again == self._known[: len(again)].tolist()
        if self._shown and not same:
            self._diverge("the replica's token ids differ from those told before")
        del self._known[: len(again)]
        seen = min(self._shown, len(ids))
        self._shown -= seen
        return ids[seen:]

    def _unsaid(self, text: str) -> str:
        """What of the text has not been told; it must be the same again as far as it has."""
        count = min(len(text), len(self._swallow))
        if text[:count] != self._swallow[:count]:
            self._diverge("the replica's text differs from that told before")
        self._swallow = self._swallow[count:]
        return text[count:]

    def _diverge(self, why: str) -> bytes:
        self.failure = self.failure or why
        self._record.diverged.append(self._at.count)
        return b""
