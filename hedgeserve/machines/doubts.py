"""Which replicas are in doubt, told to the journal as it changes; what follows from it is the policy's."""

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from hedgeserve.machines.journal import EventKind, Journal
from hedgeserve.replica import ReplicaId, State

if TYPE_CHECKING:
    from hedgeserve.machines.life import ReplicaLife


class Doubts:
    """Remembers whom the journal was told of."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.known: Mapping[ReplicaId, str] = {}
        """As at the last look, and why."""

    async def look(self, lives: Iterable["ReplicaLife"], *, deaf: Collection[str]) -> Mapping[ReplicaId, str]:
        """The ready replicas that are in doubt now, and why, as the journal has been told.

        None of a cloud that is ``deaf``, which does not answer either: there it may be us whom nobody hears.
        """
        found: dict[ReplicaId, str] = {}
        for life in [*lives]:
            replica = life.replica
            if replica.state is not State.READY:
                continue
            told = ""
            if life.doubt and replica.offer.cloud not in deaf:
                found[replica.id] = life.doubt
                if replica.id not in self.known:
                    told = f"in doubt: {life.doubt}; another is launched meanwhile, and its probes decide"
            elif replica.id in self.known and not life.doubt:
                told = "out of doubt: it answers again"
            if told:
                await self._journal.event(EventKind.NOTE, told, replica=replica.id, zone=replica.zone)
        self.known = found
        return self.known
