"""What the calendar says at a moment: awake or asleep, how many replicas at least and at most, and until when."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from hedgeserve.policy.autoscale import Bounds
from hedgeserve.spec import ReplicasSpec, ScheduleSpec
from hedgeserve.weekly import WeeklyWindow, parse_window

_MINUTE = timedelta(minutes=1)
_DAYS_BACK, _DAYS_AHEAD = 2, 9
"""Days around today whose windows are known: a week ahead, and a window may have begun the day before."""


@dataclass(frozen=True, slots=True)
class Hours:
    """What the calendar says now.

    ``asleep``: no replicas, and ``until`` is the end of the sleep. Awake, ``bounds`` hold; ``until`` is then the
    next time at which the calendar says something else, and ``next_up`` what. All times are UTC; None: never.
    ``ahead`` says that the lower bound is that of hours which have not begun yet.
    ``look_again`` is the soonest time at which :meth:`Schedule.at` may answer otherwise, the lead included.
    """

    asleep: bool
    bounds: Bounds
    until: datetime | None
    next_up: str
    look_again: datetime | None
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A window on one day, in UTC, with the key in model.toml that says so and its words."""

    begin: datetime
    end: datetime
    key: str
    scale: int | None
    """The number of the ``[[schedule.scale]]``; None: sleep."""


@dataclass(frozen=True, slots=True)
class _Said:
    asleep: bool
    lowest: int
    highest: int
    key: str


class Schedule:
    """The calendar of ``[schedule]``: nothing but arithmetic on the time that it is asked for.

    Sleep stands above scale. Where several ``[[schedule.scale]]`` hold at once, the highest of their lower bounds
    and the highest of their upper bounds do. More replicas are due ``lead_s`` early, so that they are ready when
    their hours begin; the end of a sleep too.
    """

    def __init__(self, spec: ScheduleSpec, replicas: ReplicasSpec) -> None:
        self._zone = ZoneInfo(spec.timezone)
        self._replicas = replicas
        self._scale = spec.scale
        self._windows: list[tuple[WeeklyWindow, str, int | None]] = [
            (parse_window(text), f"schedule.sleep[{number}]", None) for number, text in enumerate(spec.sleep)
        ]
        self._windows += [
            (parse_window(text), f"schedule.scale[{number}]", number)
            for number, hours in enumerate(spec.scale)
            for text in hours.when
        ]
        self._known_for: date | None = None
        self._known_until = datetime.min.replace(tzinfo=UTC)
        self._stretches: tuple[_Stretch, ...] = ()
        self._edges: tuple[datetime, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether the calendar says nothing, ever."""
        return not self._windows

    def at(self, now: datetime, *, lead_s: float) -> Hours:
        """What holds at a moment, given in UTC."""
        if not self._windows:
            return Hours(False, Bounds(self._replicas.lowest, self._replicas.highest), None, "", None)
        self._know(now)
        said, lead = self._say(now), timedelta(seconds=lead_s)
        ahead = [edge for edge in self._edges if edge > now]
        look_again = min([when for edge in ahead for when in (edge - lead, edge) if when > now], default=None)
        soon = [(edge, self._say(edge)) for edge in ahead if edge <= now + lead]
        best = max([each for each in soon if not each[1].asleep], key=lambda each: each[1].lowest, default=None)
        until, next_up = self._next(said, ahead)
        if said.asleep and best is None:
            end = self._told(until, now)
            reason = f"asleep until {end} ({said.key})" if until else f"asleep ({said.key})"
            return Hours(True, Bounds(0, 0, reason), until, next_up, look_again)
        lowest, highest, reason = said.lowest, said.highest, ""
        if said.key and not said.asleep:
            reason = f"{_range(lowest, highest)}{f' until {self._told(until, now)}' if until else ''} ({said.key})"
        ahead_of_them = False
        if best is not None and (said.asleep or best[1].lowest > lowest):
            ahead_of_them = True
            at, then = best
            lowest = then.lowest
            highest = then.highest if said.asleep else max(highest, lowest)
            key = f" ({then.key})" if then.key else f" (the end of {said.key})" if said.key else ""
            reason = f"{_range(then.lowest, then.highest)} to be ready by {self._told(at, now)}{key}"
        return Hours(False, Bounds(lowest, highest, reason), until, next_up, look_again, ahead_of_them)

    # The calendar

    def _next(self, said: _Said, ahead: Sequence[datetime]) -> tuple[datetime | None, str]:
        for edge in ahead:
            if edge >= self._known_until:
                break  # what begins there is not worked out: windows that meet for ever have no end
            then = self._say(edge)
            if (then.asleep, then.lowest, then.highest) != (said.asleep, said.lowest, said.highest):
                what = "asleep" if then.asleep else _range(then.lowest, then.highest)
                return edge, f"{what}{f' ({then.key})' if then.key else ''}"
        return None, ""

    def _say(self, now: datetime) -> _Said:
        """What the windows say at this very moment, without looking ahead."""
        holding = [stretch for stretch in self._stretches if stretch.begin <= now < stretch.end]
        for stretch in holding:
            if stretch.scale is None:
                return _Said(True, 0, 0, stretch.key)
        numbers = dict.fromkeys(stretch.scale for stretch in holding if stretch.scale is not None)
        hours = [self._scale[number] for number in numbers]
        lowest, highest = self._replicas.within(
            max([one.lowest for one in hours if one.lowest is not None], default=None),
            max([one.highest for one in hours if one.highest is not None], default=None),
        )
        return _Said(False, lowest, highest, ", ".join(f"schedule.scale[{number}]" for number in numbers))

    def _know(self, now: datetime) -> None:
        """Work out the stretches around this day; once a day, since it is asked every second."""
        today = now.astimezone(UTC).date()
        if today == self._known_for:
            return
        self._known_for = today
        self._known_until = datetime(today.year, today.month, today.day, tzinfo=UTC) + timedelta(days=_DAYS_AHEAD)
        self._stretches = tuple(self._stretches_around(today))
        self._edges = tuple(sorted({edge for one in self._stretches for edge in (one.begin, one.end)}))

    def _stretches_around(self, today: date) -> Iterator[_Stretch]:
        for ahead in range(-_DAYS_BACK, _DAYS_AHEAD + 1):
            day = today + timedelta(days=ahead)
            for window, key, scale in self._windows:
                if day.weekday() in window.days:
                    begin = moment(day, window.begin_min, self._zone)
                    end = moment(day, window.end_min, self._zone)
                    if begin < end:  # a window that a change of the clock leaves out does not happen
                        yield _Stretch(begin, end, key, scale)

    def _told(self, when: datetime | None, now: datetime) -> str:
        """A time as people of the time zone say it; with its day where that is not within a day."""
        if when is None:
            return ""
        local = when.astimezone(self._zone)
        day = "" if when - now < timedelta(hours=24) else f"{local:%a} "
        return f"{day}{local:%H:%M} {self._zone.key}"


def moment(day: date, minutes: int, zone: ZoneInfo) -> datetime:
    """When the clocks of a zone first show, or pass, so many minutes after the midnight of a day; UTC.

    A time that occurs twice, where clocks are put back, is the first of the two. One that does not occur, where
    they are put forward, is the moment of the change. So an earlier time of the clock is never a later moment.
    """
    wall = datetime(day.year, day.month, day.day) + timedelta(minutes=minutes)
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    second = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if second >= first:
        return first
    # Skipped: read with the offset of after, it would be before the change, and the other way round.
    before, after = second, first
    offset = before.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) / 2
        if middle.astimezone(zone).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after.replace(microsecond=0)


def _range(lowest: int, highest: int) -> str:
    count = f"{lowest}" if lowest == highest else f"{lowest} to {highest}"
    return f"{count} replica{'s' * (highest != 1)}"
