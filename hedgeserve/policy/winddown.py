"""Whether the service runs at all: awake, asleep by its calendar, or paused by a person; and what then goes."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from hedgeserve.policy.autoscale import Bounds, LoadSignal
from hedgeserve.policy.plan import Drain, Observation, Plan, Rule, Terminate
from hedgeserve.policy.schedule import Hours, Schedule
from hedgeserve.replica import STARTING, GoneReason, Market, Replica, State
from hedgeserve.spec import ReplicasSpec, ScheduleSpec

_UNKNOWN_BOOT_S = 300.0
_LONGEST_LEAD_S = 43200.0
_GOES = STARTING | {State.READY, State.NOTICED}


class Rest(StrEnum):
    """Whether the service runs."""

    AWAKE = "awake"
    ASLEEP = "asleep"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Pause:
    """A person wants no VM until ``until`` (None: until they say so); requests may finish within ``drain_s``."""

    since: datetime
    until: datetime | None = None
    drain_s: float | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether the service runs now, within which bounds, why, and until when (UTC; None: nobody knows).

    ``next_up`` is what comes then, in words. ``drain_until`` bounds what a pause lets finish. ``on_request`` says
    that a request would end the rest.
    """

    rest: Rest
    bounds: Bounds
    reason: str
    until: datetime | None = None
    next_up: str = ""
    drain_until: datetime | None = None
    on_request: bool = False
    look_again: datetime | None = None
    ahead: bool = False
    """The lower bound is that of hours which have not begun: the replicas are not needed yet."""


class WindDown:
    """Decides between running and resting: a pause stands above the calendar, and a request may end a sleep.

    Asked with the same calls in the same order it gives the same answers; times are UTC and must not go back.
    """

    def __init__(self, schedule: ScheduleSpec, replicas: ReplicasSpec) -> None:
        self._spec = schedule
        self._replicas = replicas
        self._schedule = Schedule(schedule, replicas)
        self._pause: Pause | None = None
        self._awake_until: datetime | None = None
        self._woken_by = ""
        self._seen_total = 0

    def adopt(self, schedule: ScheduleSpec, replicas: ReplicasSpec) -> None:
        """Go by this calendar and these bounds from now on; a pause goes on, and so does being woken."""
        self._spec, self._replicas = schedule, replicas
        self._schedule = Schedule(schedule, replicas)

    @property
    def paused(self) -> Pause | None:
        """The pause that a person has asked for, if there is one; it may be over by the clock."""
        return self._pause

    def pause(self, pause: Pause) -> None:
        """Rest from now on, until it is over or somebody resumes."""
        self._pause, self._awake_until = pause, None

    def resume(self, now: datetime) -> None:
        """End a pause; in hours of sleep, wake for as long as a request would."""
        self._pause = None
        self._awake_until, self._woken_by = now + timedelta(seconds=self._spec.awake_for), "`hedgeserve resume`"

    @property
    def woken(self) -> tuple[datetime, str] | None:
        """Until when it is awake in hours of sleep, and by whom; None where it is not."""
        return None if self._awake_until is None else (self._awake_until, self._woken_by)

    def go_on(self, awake_until: datetime, woken_by: str) -> None:
        """Be as awake as an earlier run was."""
        self._awake_until, self._woken_by = awake_until, woken_by

    def decide(self, now: datetime, signal: LoadSignal | None, *, boot_s: float | None) -> Standing:
        """Whether to run now. ``boot_s`` is how long boots take lately; ``signal`` None: there are no requests."""
        lead_s = self._spec.lead
        if lead_s is None:
            lead_s = min(_UNKNOWN_BOOT_S if boot_s is None else boot_s, _LONGEST_LEAD_S)
        wanted, busy = self._requests(signal)
        if self._pause is not None and self._pause.until is not None and self._pause.until <= now:
            self._pause = None
        if self._pause is not None:
            return self._paused(self._pause)
        hours = self._schedule.at(now, lead_s=lead_s)
        if not hours.asleep:
            # What was woken in a sleep that is over is not woken any more: the next sleep is slept.
            self._awake_until = None
            return self._awake(hours)
        if self._spec.wake_on_request and wanted:
            self._awake_until, self._woken_by = now + timedelta(seconds=self._spec.awake_for), "a request"
        if self._awake_until is not None:
            if wanted:
                self._awake_until = now + timedelta(seconds=self._spec.awake_for)
            if now < self._awake_until or busy:
                return self._woken(hours, self._awake_until)
            self._awake_until = None
        return Standing(
            Rest.ASLEEP, hours.bounds, hours.bounds.reason, hours.until, hours.next_up,
            on_request=self._spec.wake_on_request, look_again=hours.look_again,
        )  # fmt: skip

    def _requests(self, signal: LoadSignal | None) -> tuple[bool, bool]:
        """Whether a request has come or waits; whether one is there at all."""
        if signal is None:
            return False, False
        wanted = signal.arrived_total > self._seen_total or signal.queued > 0
        self._seen_total = signal.arrived_total
        return wanted, wanted or signal.in_flight > 0

    def _paused(self, pause: Pause) -> Standing:
        until = f" until {pause.until:%Y-%m-%d %H:%M} UTC" if pause.until else ""
        reason = f"paused{until} by `hedgeserve pause`; `hedgeserve resume` ends it"
        drain_until = None if pause.drain_s is None else pause.since + timedelta(seconds=pause.drain_s)
        return Standing(
            Rest.PAUSED, Bounds(0, 0, reason), reason, pause.until, "awake" if pause.until else "",
            drain_until=drain_until, look_again=pause.until,
        )  # fmt: skip

    @staticmethod
    def _awake(hours: Hours) -> Standing:
        return Standing(
            Rest.AWAKE,
            hours.bounds,
            hours.bounds.reason,
            hours.until,
            hours.next_up,
            look_again=hours.look_again,
            ahead=hours.ahead,
        )

    def _woken(self, hours: Hours, awake_until: datetime) -> Standing:
        # One replica to begin with, and more as the load asks; a number that no load sets stays what it is.
        lowest, highest = self._replicas.lowest, self._replicas.highest
        lowest = min(1, lowest) if self._replicas.target_requests_per_second is not None else lowest
        lowest = max(1, lowest)
        reason = f"woken by {self._woken_by}, though {hours.bounds.reason}"
        look_again = min([when for when in (hours.look_again, awake_until) if when is not None])
        return Standing(
            Rest.AWAKE, Bounds(lowest, max(highest, lowest), reason), reason, awake_until, "asleep",
            look_again=look_again,
        )  # fmt: skip


def rest_plan(standing: Standing, observation: Observation, now: datetime) -> Plan:
    """The plan of a rest: nothing is launched, and all that runs goes, its requests first. External ones stay."""
    rule = Rule.PAUSED if standing.rest is Rest.PAUSED else Rule.ASLEEP
    deadline_s = None
    if standing.drain_until is not None:
        deadline_s = observation.now_s + max(0.0, (standing.drain_until - now).total_seconds())
    actions = let_go(observation.replicas, rule, standing.reason, deadline_s)
    again_at_s = None
    if standing.look_again is not None:
        again_at_s = observation.now_s + (standing.look_again - now).total_seconds()
    return Plan(0, 0, 0, actions, again_at_s=again_at_s)


def let_go(
    replicas: Iterable[Replica], rule: Rule, reason: str, deadline_s: float | None
) -> tuple[Drain | Terminate, ...]:
    """All VMs go, those that serve after their requests. External replicas stay."""
    actions: list[Drain | Terminate] = []
    for replica in replicas:
        if replica.market is Market.EXTERNAL or replica.state not in _GOES:
            continue
        if replica.state in STARTING:
            actions.append(Terminate(replica.id, rule, reason, GoneReason.SCALED_DOWN))
        else:
            actions.append(Drain(replica.id, rule, reason, GoneReason.SCALED_DOWN, deadline_s))
    return tuple(actions)
