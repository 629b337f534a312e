"""What came of a drill, from what was seen while it went on. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hedgeserve.drills.price import Rest
from hedgeserve.fates import Fates
from hedgeserve.replica import Replica, ReplicaId, State
from hedgeserve.units import format_duration

_MOST_DECISIONS = 40
_NO_REST = Rest()


@dataclass(slots=True)
class Watch:
    """Looks at the fleet again and again while a drill goes on, and remembers when what was so.

    ``known`` are the replicas from before; times are seconds since the drill began. ``usd_per_hour`` is what the
    fleet cost before, and ``calm`` when that would have become how much more or less without the drill (a bridge
    ends, say): together the measure of what the drill costs more.
    """

    known: frozenset[ReplicaId]
    victims: frozenset[ReplicaId]
    wanted: int
    usd_per_hour: float
    calm: Sequence[tuple[float, float]] = ()
    launched_s: float | None = None
    ready_again_s: float | None = None
    restored_s: float | None = None
    gone_s: float | None = None
    short_s: float = 0.0
    least_ready: int | None = None
    extra_usd: float = 0.0
    _last_s: float = 0.0
    _short: bool = False

    def look(
        self,
        replicas: Sequence[Replica],
        *,
        wanted: int,
        at_s: float,
        doubted: Collection[ReplicaId] = (),
    ) -> None:
        """The fleet as it is now, of which ``wanted`` are meant to be ready; ``doubted`` ones are no capacity.

        Nor is one that the drill itself has silenced, from that very moment on.
        """
        ready = sum(replica.state is State.READY and replica.id not in doubted for replica in replicas)
        passed_s, self._last_s = at_s - self._last_s, at_s
        if self._short:
            self.short_s += passed_s
        costs = sum(replica.offer.usd_per_hour for replica in replicas if replica.vm_id is not None)
        calm = self.usd_per_hour + sum(moved for moved_s, moved in self.calm if moved_s <= at_s)
        self.extra_usd += (costs - calm) * passed_s / 3600
        fresh = [replica for replica in replicas if replica.id not in self.known]
        if self.launched_s is None and fresh:
            self.launched_s = at_s
        if self.ready_again_s is None and any(replica.state is State.READY for replica in fresh):
            self.ready_again_s = at_s
        if self.gone_s is None and not any(replica.id in self.victims for replica in replicas):
            self.gone_s = at_s
        self.least_ready = ready if self.least_ready is None else min(self.least_ready, ready)
        self._short = ready < min(self.wanted, wanted)
        if self._short:
            self.restored_s = None
        elif self.restored_s is None:
            self.restored_s = at_s

    @property
    def well(self) -> bool:
        """Whether all that were to go are gone, and as many are ready as before."""
        return self.gone_s is not None and self.restored_s is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """The report of a drill; the command line prints it, programs read it as JSON.

    ``ok``: no request was lost or turned away, and capacity was back within ``within_s``. Counts are of all
    requests of that time. ``notices`` are those that victims heard, with whose word it was (None: the journal
    could not be read). ``short_s`` is for how long fewer than ``wanted`` were ready, of which the load needs
    ``needed``. ``extra_usd`` is what the fleet cost more than it would have without the drill (less than 0: what
    went was dearer), and ``to_come_usd`` what ``still_running``, launched in it, cost until they are let go of.
    """

    drill: str
    kind: str
    ok: bool
    took_s: float
    within_s: float
    victims: list[str]
    notices: dict[str, str] | None
    requests: Fates
    launched_s: float | None
    ready_again_s: float | None
    restored_s: float | None
    short_s: float
    least_ready: int | None
    wanted: int
    needed: int
    extra_usd: float
    to_come_usd: float
    still_running: list[str]
    still: str
    decisions: list[str] = field(default_factory=list)
    cut_short: str = ""

    def document(self) -> dict[str, Any]:
        """The same, JSON-able, with the price in words."""
        return {**asdict(self), "price": self.price()}

    def sentence(self) -> str:
        """All of it in one line, for the journal."""
        lost = self.requests.lost + self.requests.turned_away
        told = f"{'nothing was lost' if not lost else f'{lost} requests failed'}"
        if self.cut_short:
            told += f"; it was cut short: {self.cut_short}"
        elif self.restored_s is None:
            told += f"; capacity was not back after {format_duration(self.took_s)}"
        else:
            told += f"; capacity was back after {format_duration(self.restored_s)}"
        return (
            f"{told}; of {self.requests.ended} requests {self.requests.moved} moved early, "
            f"{self.requests.continued} went on elsewhere, {self.requests.replayed} were replayed, "
            f"{self.requests.retried} attempts were made again; {self.price()}"
        )

    def price(self) -> str:
        """What it cost more, or less, and what is to come, in words."""
        less = self.extra_usd < 0
        told = f"{abs(self.extra_usd):.4f} USD {'less' if less else 'more'} than without it"
        if f"{abs(self.extra_usd):.4f}" == "0.0000":
            told = "none that shows in a hundredth of a cent"
        elif less:
            told += ": for a while less ran, or cheaper"
        return f"{told}; {self.still}" if self.still else told


def _decisions_in(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was decided and what happened, as sentences with their replica, oldest first."""
    told = [
        f"{event['replica'] or event['zone'] or 'service'}: {event['message']}"
        for event in events
        if event["kind"] in ("launch", "refused", "notice", "gone", "scaled", "trouble", "note")
        or (event["kind"] == "state" and "→ ready" in event["message"])
    ]
    return told[:_MOST_DECISIONS]


def _notices_in(events: Sequence[Mapping[str, Any]], victims: Collection[ReplicaId]) -> dict[str, str]:
    """Whose word each of these replicas had of its end, as far as it had any."""
    heard: dict[str, str] = {}
    for event in events:
        if event["kind"] == "notice" and event["replica"] in victims and "source" in event["data"]:
            heard.setdefault(event["replica"], event["data"]["source"])
    return heard


def review(
    *,
    drill: str,
    kind: str,
    watch: Watch,
    fates: Fates,
    within_s: float,
    took_s: float,
    events: Sequence[Mapping[str, Any]] | None,
    needed: int,
    rest: Rest = _NO_REST,
    cut_short: str = "",
) -> Review:
    """The report of what was seen, and of the journal's events of that time, oldest first (None: unknown)."""
    lost = fates.lost + fates.turned_away
    restored_s = watch.restored_s if watch.well else None
    return Review(
        drill=drill,
        kind=kind,
        ok=not lost and not cut_short and restored_s is not None and restored_s <= within_s,
        took_s=round(took_s, 2),
        within_s=round(within_s, 2),
        victims=sorted(watch.victims),
        notices=None if events is None else _notices_in(events, watch.victims),
        requests=fates,
        launched_s=_rounded(watch.launched_s),
        ready_again_s=_rounded(watch.ready_again_s),
        restored_s=_rounded(restored_s),
        short_s=round(watch.short_s, 2),
        least_ready=watch.least_ready,
        wanted=watch.wanted,
        needed=needed,
        extra_usd=round(watch.extra_usd, 6),
        to_come_usd=round(rest.usd, 6),
        still_running=[*rest.replicas],
        still=rest.sentence(),
        decisions=_decisions_in(events or ()),
        cut_short=cut_short,
    )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
