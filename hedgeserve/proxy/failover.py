"""What becomes of an answer whose replica fails: the face of failover. Pure.

Nothing told yet: it is asked for anew, anywhere. Something told: it goes on exactly where that is possible
(:mod:`continuation` by token ids, :mod:`replaying` from the start), and ends with an honest error where it is not.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from hedgeserve.proxy.approach import CHAT, Approach, FailoverPolicy, Way, approach
from hedgeserve.proxy.collect import Collected, whole
from hedgeserve.proxy.continuation import Continuation
from hedgeserve.proxy.ending import Cut, Ending, after
from hedgeserve.proxy.follow import EventStream, Follow, Stream
from hedgeserve.proxy.record import Record
from hedgeserve.proxy.replaying import Replay
from hedgeserve.proxy.routes import Forwarded
from hedgeserve.proxy.sse import Scanner
from hedgeserve.proxy.steps import Call, Finished, GiveUp, Recovery, Resume, Step
from hedgeserve.proxy.verdict import Dialect
from hedgeserve.proxy.wrapping import Wrapping

__all__ = [
    "Approach",
    "Call",
    "Cut",
    "Ending",
    "FailoverPolicy",
    "Finished",
    "GiveUp",
    "Recovery",
    "Resume",
    "Step",
    "Stream",
    "Telling",
    "Way",
    "after",
    "approach",
]


class Telling:
    """One client's answer, over all the replicas that it takes.

    ``keep`` is asked for memory in bytes (negative gives back) and may refuse: then the answer can no longer be
    continued. ``source`` is the client's body, a JSON object, and ``choices`` how many choices it asks for.
    """

    def __init__(
        self,
        route: Forwarded,
        source: bytes,
        approach: Approach,
        policy: FailoverPolicy,
        *,
        keep: Callable[[int], bool],
        choices: int = 1,
        longest_event_bytes: int = 8 * 2**20,
    ) -> None:
        self.approach = approach
        self._route = route
        self._source = source
        self._policy = policy
        self._keep = keep
        self._choices = choices
        self._longest = longest_event_bytes
        self._record = self._new_record()
        self._stream: Stream | None = None
        self._most_told = 0

    @property
    def _fields(self) -> Mapping[str, Any]:
        """What was asked for; read again, since few answers need it and all would keep it."""
        fields: Mapping[str, Any] = json.loads(self._source)
        return fields

    def _wrapping(self, record: Record, fields: Mapping[str, Any]) -> Wrapping:
        chat = self._route.path == CHAT
        return Wrapping(record, fields=fields, chat=chat, collect=self.approach.collect)

    def _new_record(self) -> Record:
        way = self.approach.way
        return Record(
            text=way is not Way.NONE,
            ids=way is Way.CONTINUE,
            needed=self.approach.collect,
            limit_bytes=self._policy.max_kept_per_stream,
            keep=self._keep,
        )

    @property
    def begun(self) -> bool:
        """Whether the client has been told something: nothing can be taken back."""
        told = self._record.begun or (isinstance(self._stream, Scanner) and self._stream.tokens > 0)
        return told and not self.approach.collect

    @property
    def kept_bytes(self) -> int:
        """The memory held for this answer."""
        return self._record.kept_bytes

    @property
    def kept_ids(self) -> list[int]:
        """The token ids of the answer so far, as far as they are known."""
        self._record.compact()
        return self._record.ids.tolist()

    @property
    def usage(self) -> Mapping[str, Any] | None:
        """What the engine has told of the tokens used, where it has."""
        return self._record.usage

    @property
    def told_tokens(self) -> int:
        """How many tokens of the answer have been generated: ids where they are known, else events with text."""
        stream = self._stream
        if stream is None:
            return 0
        before = stream.before if isinstance(stream, EventStream) else 0
        return max(self._most_told, before + stream.tokens)

    def first(self) -> Stream:
        """An attempt from the start; only while nothing of the answer has :attr:`begun`."""
        if self._stream is not None:
            self._record.close()
            self._record = self._new_record()
            self._most_told = 0
        if self._route.dialect is Dialect.CHOICES:
            self._stream = Follow(
                self._record,
                hide_ids=self.approach.asks_ids,
                choices=self._choices,
                longest_event_bytes=self._longest,
            )
        else:
            self._stream = Scanner(self._route.dialect, choices=self._choices, longest_event_bytes=self._longest)
        return Collected(self._stream) if self.approach.collect else self._stream

    def recover(self) -> Recovery | GiveUp:
        """How the answer goes on, after a failure once it has begun or while it is collected.

        From here on nothing may be fed to an earlier stream. A recovery that itself fails (its replica too) is
        followed by another one. Where an answer that is collected is given up, :meth:`first` begins it anew.
        """
        self._record.compact()
        ways = self._ways()
        return GiveUp(ways) if isinstance(ways, str) else _Recovering(ways, self._take)

    def _ways(self) -> list[Recovery] | str:
        """What to try, one after the other; a string says why there is nothing."""
        approach, record = self.approach, self._record
        if isinstance(self._stream, Scanner):
            return [Settled(None)] if self._stream.complete else approach.why
        replay = Replay(record, self._route.path, approach.body, hide_ids=approach.asks_ids, choices=self._choices)
        fields = self._fields
        wrapping = self._wrapping(record, fields)
        if record.done or len(record.finished) >= self._choices:
            if wrapping.sums_wanted and not record.usage_told and not record.lost:
                by_count = approach.way is Way.CONTINUE and not record.no_ids
                if not by_count and approach.repeatable and not record.diverged:
                    return [replay, Settled(wrapping)]
            return [Settled(wrapping)]
        if approach.way is Way.NONE or record.lost:
            return record.lost or approach.why
        if record.empty:
            return [replay]
        if len(record.diverged) > 1 or -1 in record.diverged:
            return "other replicas answer differently than what has been told"
        ways: list[Recovery] = []
        why = approach.why
        if approach.way is Way.CONTINUE:
            why = record.no_ids or ("" if record.prompt_ids else "the engine gave no token ids")
            if not why:
                most = min([len(record.ids), *(count - 1 for count in record.diverged)])
                ways.append(
                    Continuation(
                        record,
                        fields,
                        wrapping,
                        expects_tokens=approach.expects_tokens,
                        most=max(0, most),
                        greedy=approach.greedy,
                    )
                )
        if approach.repeatable and not record.diverged:
            ways.append(replay)
        return ways or why

    def _take(self, step: Step) -> Step:
        if isinstance(step, Resume):
            self._most_told = self.told_tokens
            self._stream = step.stream
        if self.approach.collect:
            if isinstance(step, Resume):
                return replace(step, stream=Collected(step.stream))
            if isinstance(step, Finished):
                return Finished(b"")
        return step

    def whole(self) -> bytes:
        """The answer in one piece, once a stream that was collected is complete."""
        show_ids = self._fields.get("return_token_ids") is True
        return whole(self._record, chat=self._route.path == CHAT, show_ids=show_ids)

    def close(self) -> None:
        """Give the kept memory back."""
        self._record.close()


class Settled:
    """Nothing of the answer is missing but its end, which is said by us where the API has one."""

    def __init__(self, wrapping: Wrapping | None) -> None:
        self._wrapping = wrapping

    def start(self) -> Step:
        """The end."""
        return Finished(self._wrapping.end() if self._wrapping is not None else b"")

    def got(self, status: int, body: bytes) -> Step:
        """Nothing was asked."""
        return GiveUp(f"an answer ({status}) to nothing")


class _Recovering:
    """Tries one way after the other."""

    def __init__(self, ways: list[Recovery], take: Callable[[Step], Step]) -> None:
        self._ways = ways
        self._take = take

    def start(self) -> Step:
        """The first step of the first way that has one."""
        return self._next(self._ways[0].start())

    def got(self, status: int, body: bytes) -> Step:
        """The step after a reply."""
        return self._next(self._ways[0].got(status, body))

    def _next(self, step: Step) -> Step:
        while isinstance(step, GiveUp) and len(self._ways) > 1:
            del self._ways[0]
            step = self._ways[0].start()
        return self._take(step)
