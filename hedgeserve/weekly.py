"""Times of the week as people write them: ``"Mon-Fri 22:00-07:00"``; parsed once, at the edge."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES = 24 * 60
_WEEK_MINUTES = 7 * _DAY_MINUTES
_HOURS = re.compile(r"([0-9]{1,2}):([0-9]{2})\s*-\s*([0-9]{1,2}):([0-9]{2})")
_EXAMPLE = 'such as "22:00-07:00", "Mon-Fri 09:00-18:00" or "Sat,Sun"'


@dataclass(frozen=True, slots=True)
class WeeklyWindow:
    """A stretch of local time on some days of the week (0 is Monday).

    ``begin_min`` and ``end_min`` are minutes of the clock from the midnight at which the day begins; an end above
    1440 is on the day after, so that a window belongs to the day on which it begins.
    """

    days: frozenset[int]
    begin_min: int
    end_min: int


def parse_window(text: str) -> WeeklyWindow:
    """The window of a text: days, hours, or both; hours that end before they begin end on the next day.

    Raises ``ValueError`` with an example for anything else. Hours that end where they begin are refused, since
    they may mean all day or nothing.
    """
    compact = " ".join(text.split())
    hours = _HOURS.search(compact)
    named = compact if hours is None else compact[: hours.start()].strip()
    if not compact or (hours is not None and hours.end() != len(compact)):
        raise ValueError(f'"{text}" is not a time of the week; write days, hours or both, {_EXAMPLE}')
    days = frozenset(range(7)) if not named else _parse_days(named, text)
    if hours is None:
        return WeeklyWindow(days, 0, _DAY_MINUTES)
    begin_min, end_min = _minutes(hours[1], hours[2], text), _minutes(hours[3], hours[4], text)
    if begin_min == end_min:
        raise ValueError(f'"{text}" ends when it begins; write 00:00-24:00 for a whole day, or another end')
    if begin_min == _DAY_MINUTES:
        raise ValueError(f'"{text}" begins at 24:00; write 00:00 of the next day')
    return WeeklyWindow(days, begin_min, end_min if end_min > begin_min else end_min + _DAY_MINUTES)


def fills_the_week(windows: Iterable[WeeklyWindow]) -> bool:
    """Whether no minute of the week is outside of all these windows."""
    covered = bytearray(_WEEK_MINUTES)
    for window in windows:
        for day in window.days:
            for minute in range(window.begin_min, window.end_min):
                covered[(day * _DAY_MINUTES + minute) % _WEEK_MINUTES] = 1
    return all(covered)


def _parse_days(named: str, text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in re.split(r"\s*,\s*", named):
        ends = [end.strip().lower() for end in part.split("-")]
        if len(ends) > 2 or any(end not in _DAYS for end in ends):
            raise ValueError(
                f'"{text}": "{part}" is no day; days are Mon, Tue, Wed, Thu, Fri, Sat, Sun, with "-" from one to '
                f'another and "," between them, {_EXAMPLE}'
            )
        first, last = _DAYS.index(ends[0]), _DAYS.index(ends[-1])
        days |= {day % 7 for day in range(first, (last if last >= first else last + 7) + 1)}
    return frozenset(days)


def _minutes(hours: str, minutes: str, text: str) -> int:
    total = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or total > _DAY_MINUTES:
        raise ValueError(f'"{text}": {hours}:{minutes} is no time of day; write 00:00 to 24:00')
    return total
