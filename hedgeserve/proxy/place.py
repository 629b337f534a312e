"""One request's place in the waiting line. Pure."""

from collections.abc import Callable

from hedgeserve.replica import ReplicaId

LOWEST, HIGHEST = 0, 2


class Place:
    """One request's place in the line, and which replicas have failed it.

    ``arrival`` orders those of one ``key``. ``priority`` is 0 (low), 1 (normal) or 2 (high), ``tokens`` what it
    is thought to cost; after ``deadline_s`` it is not served any more. ``failed_on`` stays as it is while it
    waits, and so do ``versions`` (those that it may be sent to, None: any) and ``resuming`` (it goes on with an
    answer). ``admitted`` is set by the first entry (or by being served without one) and exempts from the bound:
    who was let in once is not turned away for coming back.
    """

    __slots__ = (
        "_may_return",
        "_on_change",
        "admitted",
        "arrival",
        "deadline_s",
        "failed_on",
        "key",
        "priority",
        "resuming",
        "tokens",
        "versions",
    )

    def __init__(
        self,
        arrival: int,
        *,
        key: str = "",
        priority: int = 1,
        deadline_s: float | None = None,
        tokens: int = 1,
    ) -> None:
        self.arrival = arrival
        self.key = key
        self.priority = min(max(priority, LOWEST), HIGHEST)
        self.deadline_s = deadline_s
        self.tokens = max(tokens, 1)
        self.failed_on: set[ReplicaId] = set()
        self.versions: frozenset[int] | None = None
        self.resuming = False
        self.admitted = False
        self._may_return = False
        self._on_change: Callable[[Place], None] | None = None

    @property
    def may_return(self) -> bool:
        """Whether it has waited long enough to be sent where it failed before, should there be no other."""
        return self._may_return

    @may_return.setter
    def may_return(self, value: bool) -> None:
        if value != self._may_return:
            self._may_return = value
            if self._on_change is not None:
                self._on_change(self)

    def watch(self, on_change: Callable[["Place"], None] | None) -> None:
        """Let whoever keeps it in order know when :attr:`may_return` changes; None: nobody."""
        self._on_change = on_change
