"""The first attempt's stream: its events pass as they are, and what they tell is kept. Pure.

The path of every token. An event that has the shape of the one before it, which is nearly each, is recognised by
comparing bytes and never parsed; anything else is read as JSON.
"""

import re
from typing import Any, Protocol

from hedgeserve.proxy.record import BATCH, Record, strands
from hedgeserve.proxy.soundness import is_sound
from hedgeserve.proxy.sse import DONE, EventCutter, data_of, split
from hedgeserve.proxy.verdict import Dialect, Sign, judge, parse

_LONGEST_FAST_BYTES = 2048
_LONGEST_EVENT_BYTES = 8 * 2**20
_ROLE = b'"role":'
"""In a chat's first event, which none that follows is like."""
_IDS_KEY = b'token_ids"'
_IDS = re.compile(rb"\s*:\s*(\[[^\]]*\])")
# An event with one choice and one string of text, which nothing but the ids after it changes. Text cannot fake
# a key: its quotes are escaped. Of the shapes, `ids` groups: before the text, the text, to the ids, ids, the end.
_BEGINNING = (
    rb'(data: \{[^\[\n]*"choices":\s?\[\{"index":\s?0,\s?(?:"delta":\s?\{"content":|"text":)\s?")([^"\\\n]*)'
)
_UNFINISHED = rb'("[^\[\]\n]*"finish_reason":\s?null'
_SHAPE_WITH_IDS = re.compile(
    _BEGINNING + _UNFINISHED + rb'[^\[\]\n]*"token_ids":\s?\[)([0-9, ]*)(\][^"\[\]\n]*\]\}\n\n)'
)
_SHAPE = re.compile(_BEGINNING + _UNFINISHED + rb"[^\[\]\n]*\][^\[\]\n]*\}\n\n)")
_NEVER = b"\0"


class Stream(Protocol):
    """One attempt's stream of events; the same bytes give the same result however they are cut into chunks."""

    @property
    def failure(self) -> str:
        """What spoilt the answer; empty while nothing has. What comes after it is dropped."""

    @property
    def done(self) -> bool:
        """Whether ``[DONE]`` has been told: the answer is over, even where the replica would go on."""

    @property
    def tokens(self) -> int:
        """How many tokens this attempt has generated so far: ids where known, else events with text."""

    @property
    def complete(self) -> bool:
        """Whether nothing of the answer is missing."""

    def feed(self, payload: bytes) -> bytes:
        """Take the next bytes; returns those for the client, whole events only: ``payload`` itself where it
        passes unchanged."""

    def close(self) -> bytes:
        """The stream has ended cleanly: returns what is left for the client."""


class EventStream(EventCutter):
    """Judges each event; what becomes of it is for the class that extends this."""

    def __init__(self, *, choices: int = 1, longest_event_bytes: int = _LONGEST_EVENT_BYTES) -> None:
        super().__init__(longest_event_bytes)
        self._choices = choices
        self._finished: set[int] = set()
        self._refused = False
        self.done = False
        self.tokens = 0
        self.before = 0
        """Tokens of the answer that came before this stream's, and are not given again."""

    @property
    def complete(self) -> bool:
        """Whether nothing of the answer is missing: all choices have finished, or ``[DONE]`` came after one."""
        return self._refused or len(self._finished) >= self._choices or (self.done and bool(self._finished))

    def _events(self, events: bytes) -> bytes:
        if events.find(b"\n\n") == len(events) - 2 and b"\r" not in events:
            told = self._event(events)  # one, as nearly always
            return b"" if self.failure else told
        out: list[bytes] = []
        changed = False
        for event in split(events):
            told = self._event(event)
            if self.failure:
                changed = True
                break
            changed = changed or told is not event
            out.append(told)
        return b"".join(out) if changed else events

    def _event(self, raw: bytes) -> bytes:
        data = data_of(raw)
        if data == DONE:
            return self._end(raw)
        if not data:
            return raw
        try:
            event = parse(data)
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            return self._unread(raw)
        sign = judge(Dialect.CHOICES, event)
        if sign.failure:
            self.failure = sign.failure
            return b""
        self._finished |= sign.finished
        if sign.refused:
            self._refused = True
            return raw
        return self._chunk(raw, event, sign) if is_sound(event) else self._unread(raw)

    def _end(self, raw: bytes) -> bytes:
        if not self._finished and not self._refused:
            self.failure = "the engine ended the stream without a finish_reason"
            return b""
        self.done = True
        return raw

    def _unread(self, raw: bytes) -> bytes:
        """What becomes of an event that is no JSON object or makes no sense."""
        raise NotImplementedError

    def _chunk(self, raw: bytes, event: dict[str, Any], sign: Sign) -> bytes:
        raise NotImplementedError


class Follow(EventStream):
    """An attempt from the start, before which the client has been told nothing.

    ``hide_ids``: they were asked for by us, and the client sees the nulls that it would have seen without.
    """

    def __init__(
        self,
        record: Record,
        *,
        hide_ids: bool,
        choices: int = 1,
        longest_event_bytes: int = _LONGEST_EVENT_BYTES,
    ) -> None:
        super().__init__(choices=choices, longest_event_bytes=longest_event_bytes)
        self._record = record
        self._hide = hide_ids
        self._learn(_NEVER, b"", b"", b"")
        self._texts = record.waiting_texts
        self._ids = record.waiting_ids

    def _learn(self, head: bytes, middle: bytes, end: bytes, bare_end: bytes) -> None:
        self._head = head
        self._text_at = len(head)
        self._middle = middle
        self._middle_len = len(middle)
        self._end_bytes = end
        self._end_len = len(end)
        self._bare_end = bare_end

    def feed(self, payload: bytes) -> bytes:
        """See :meth:`Stream.feed`."""
        if not self._tail and not self.failure:
            told = self._quick(payload)
            if told is not None:
                return told
        out = super().feed(payload)
        if out:
            self._record.begun = True
        return out

    def close(self) -> bytes:
        """See :meth:`Stream.close`."""
        out = super().close()
        if out:
            self._record.begun = True
        return out

    def _quick(self, event: bytes) -> bytes | None:
        """What passes of an event that has the shape that was learned; None of any other, and of several."""
        if not event.startswith(self._head):
            return None
        start = self._text_at
        text_end = event.find(b'"', start)
        if not event.startswith(self._middle, text_end) or len(event) > _LONGEST_FAST_BYTES:
            return None
        ids_at = text_end + self._middle_len
        if not self._end_len:  # without ids the middle reaches to the end
            if ids_at != len(event):
                return None
            self.tokens += text_end > start
            if self._record.keeps_text:
                self._texts.append(event[start:text_end])
                if len(self._texts) >= BATCH:
                    self._record.compact()
            return event
        if not event.endswith(self._end_bytes):
            return None
        ids = event[ids_at : -self._end_len]
        if not ids or b"]" in ids:
            return None
        self.tokens += ids.count(b",") + 1
        if self._record.keeps_text:
            self._texts.append(event[start:text_end])
            self._ids.append(ids)
            if len(self._texts) >= BATCH:
                self._record.compact()
        return event[: ids_at - 1] + self._bare_end if self._hide else event

    def _event(self, raw: bytes) -> bytes:
        told = self._quick(raw)
        return super()._event(raw) if told is None else told

    def _end(self, raw: bytes) -> bytes:
        out = super()._end(raw)
        self._record.done = self.done
        return out

    def _unread(self, raw: bytes) -> bytes:
        self._record.lose("the engine sent an event that makes no sense")
        return raw

    def _chunk(self, raw: bytes, event: dict[str, Any], sign: Sign) -> bytes:
        record = self._record
        told = without_ids(raw) if self._hide else raw
        self.tokens += count_tokens(event)
        if self._hide and _is_hollow(event):
            record.add(event)
            return b""
        record.add(event)
        if not sign.finished and _ROLE not in raw:
            self._look_at(raw)
        return raw if told == raw else told

    def _look_at(self, raw: bytes) -> None:
        """Learn the shape of an ordinary event, so that those like it need not be parsed."""
        if shape := _SHAPE_WITH_IDS.fullmatch(raw):
            head, _, middle, _, end = shape.groups()
            self._learn(head, middle, end, b"null" + end[1:])
        elif shape := _SHAPE.fullmatch(raw):
            head, _, middle = shape.groups()
            self._learn(head, middle, b"", b"")
        else:
            return
        self._record.set_fast((0, "text" if b'"text":' in head[-10:] else "content"))


def without_ids(raw: bytes) -> bytes:
    """An event with null for its ``token_ids`` and ``prompt_token_ids``.

    Text cannot fake these keys: its quotes are escaped.
    """
    at = raw.find(_IDS_KEY)
    while at >= 0:
        end = at + len(_IDS_KEY)
        is_key = raw.endswith(b'"', 0, at) or raw.endswith(b'"prompt_', 0, at)
        if is_key and (ids := _IDS.match(raw, end)):
            raw = raw[: ids.start(1)] + b"null" + raw[ids.end() :]
        at = raw.find(_IDS_KEY, end)
    return raw


def count_tokens(event: dict[str, Any]) -> int:
    """The tokens that an event tells of: its ids, or one for each choice with text."""
    count = 0
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            continue
        ids = choice.get("token_ids")
        count += len(ids) if isinstance(ids, list) else any(text for _, text in strands(choice))
    return count


def _is_hollow(event: dict[str, Any]) -> bool:
    """Whether the event is there only because ids were asked for: of tokens that a parser keeps to itself."""
    choices = event.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return False
    choice = choices[0]
    return choice.get("delta") == {} and choice.get("finish_reason") is None
