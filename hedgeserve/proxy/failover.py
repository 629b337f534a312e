"""What becomes of an answer whose replica fails: the face of failover. Pure.

Nothing told yet: it is asked for anew, anywhere. Something told: it goes on exactly where that is possible
(:mod:`continuation` by token ids, :mod:`replaying` from the start), and ends with an honest error where it is not.
"""

from collections.abc import Callable, Mapping
from typing import Any

from hedgeserve.proxy.approach import CHAT, Approach, FailoverPolicy, Way, approach
from hedgeserve.proxy.collect import Collected, whole
from hedgeserve.proxy.ending import Cut, Ending, after
from hedgeserve.proxy.follow import Follow, Stream
from hedgeserve.proxy.record import Record
from hedgeserve.proxy.routes import Forwarded
from hedgeserve.proxy.sse import Scanner
from hedgeserve.proxy.steps import Call, Finished, GiveUp, Recovery, Resume, Step
from hedgeserve.proxy.verdict import Dialect

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
    continued. ``choices`` is the number of choices that were asked for.
    """

    def __init__(
        self,
        route: Forwarded,
        fields: Mapping[str, Any],
        approach: Approach,
        policy: FailoverPolicy,
        *,
        keep: Callable[[int], bool],
        choices: int = 1,
        longest_event_bytes: int = 8 * 2**20,
    ) -> None:
        self.approach = approach
        self._route = route
        self._fields = fields
        self._policy = policy
        self._keep = keep
        self._choices = choices
        self._longest = longest_event_bytes
        self._record = self._new_record()
        self._scanner: Scanner | None = None
        self._setbacks = 0

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
        told = self._record.begun or (self._scanner is not None and self._scanner.tokens > 0)
        return told and not self.approach.collect

    @property
    def kept_bytes(self) -> int:
        """The memory held for this answer."""
        return self._record.kept_bytes

    def first(self) -> Stream:
        """An attempt from the start; only while nothing of the answer :attr:`begun`."""
        self._record.close()
        self._record = self._new_record()
        if self._route.dialect is not Dialect.CHOICES:
            self._scanner = Scanner(self._route.dialect, choices=self._choices, longest_event_bytes=self._longest)
            return self._scanner
        return self._shown(
            Follow(
                self._record,
                hide_ids=self.approach.asks_ids,
                choices=self._choices,
                longest_event_bytes=self._longest,
            )
        )

    def _shown(self, stream: Stream) -> Stream:
        return Collected(stream) if self.approach.collect else stream

    def recover(self) -> Recovery | GiveUp:
        """How the answer goes on, after a failure once it has begun or while it is collected."""
        return GiveUp(self.approach.why or "the answer cannot be taken up again")

    def whole(self) -> bytes:
        """The answer in one piece, once a stream that was collected is complete."""
        show_ids = self._fields.get("return_token_ids") is True
        return whole(self._record, chat=self._route.path == CHAT, show_ids=show_ids)

    def close(self) -> None:
        """Give the kept memory back."""
        self._record.close()
