"""The calendar: pure, right over midnight and over changes of the clock."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hedgeserve.policy.autoscale import Bounds
from hedgeserve.policy.schedule import Hours, Schedule, moment
from hedgeserve.spec import ReplicasSpec, ScheduleSpec

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "America/Sao_Paulo", "UTC"]
ELASTIC: dict[str, Any] = {"min": 1, "max": 8, "target_requests_per_second": 1.0}


def calendar(replicas: dict[str, Any] | None = None, **keys: Any) -> Schedule:
    """A schedule in Berlin, for two replicas at all other times."""
    spec = ScheduleSpec(**({"timezone": "Europe/Berlin"} | keys))
    return Schedule(spec, ReplicasSpec(**(replicas or {"count": 2})))


def berlin(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).astimezone(UTC)


def at(schedule: Schedule, text: str, *, lead_s: float = 0.0) -> Hours:
    return schedule.at(berlin(text), lead_s=lead_s)


def test_without_a_schedule_nothing_is_said() -> None:
    assert at(calendar(), "2026-11-25T12:00") == Hours(False, Bounds(2, 2), None, "", None)


def test_it_sleeps_over_midnight_and_says_until_when() -> None:
    """2026-11-25 is a Wednesday."""
    schedule = calendar(sleep=["22:00-07:00"])
    assert not at(schedule, "2026-11-25T21:59").asleep
    for night in ("2026-11-25T22:00", "2026-11-26T06:59"):
        hours = at(schedule, night)
        assert hours.bounds == Bounds(0, 0, "asleep until 07:00 Europe/Berlin (schedule.sleep[0])")
        assert hours.until == berlin("2026-11-26T07:00")
        assert hours.next_up == "2 replicas"
    assert not at(schedule, "2026-11-26T07:00").asleep


def test_a_night_belongs_to_the_day_on_which_it_begins() -> None:
    """Mon-Fri: Friday's night ends on Saturday morning, and Sunday's is none."""
    schedule = calendar(sleep=["Mon-Fri 22:00-07:00"])
    assert at(schedule, "2026-11-28T06:00").asleep  # Saturday
    assert not at(schedule, "2026-11-28T23:00").asleep
    assert not at(schedule, "2026-11-30T06:00").asleep  # Monday


def test_sleeps_that_meet_are_one() -> None:
    """Friday's night and the weekend: until Monday, 0:00."""
    schedule = calendar(sleep=["Mon-Fri 22:00-07:00", "Sat-Sun"])
    hours = at(schedule, "2026-11-27T22:30")
    assert hours.until == berlin("2026-11-30T00:00")
    assert hours.bounds.reason == "asleep until Mon 00:00 Europe/Berlin (schedule.sleep[0])"
    assert at(schedule, "2026-11-29T12:00").bounds.reason.endswith("(schedule.sleep[1])")


def test_awake_it_says_what_comes_next() -> None:
    hours = at(calendar(sleep="22:00-07:00"), "2026-11-25T12:00")
    assert (hours.until, hours.next_up) == (berlin("2026-11-25T22:00"), "asleep (schedule.sleep[0])")


def test_hours_may_have_bounds_of_their_own() -> None:
    schedule = calendar(ELASTIC, scale=[{"when": "Mon-Fri 09:00-18:00", "min": 4}])
    assert at(schedule, "2026-11-25T08:59").bounds == Bounds(1, 8)
    said = "4 to 8 replicas until 18:00 Europe/Berlin (schedule.scale[0])"
    assert at(schedule, "2026-11-25T09:00").bounds == Bounds(4, 8, said)
    assert at(schedule, "2026-11-25T18:00").bounds == Bounds(1, 8)
    assert at(schedule, "2026-11-28T12:00").bounds == Bounds(1, 8)


@pytest.mark.parametrize(
    ("hours", "bounds"),
    [
        ([{"min": 4}], (4, 8)),
        ([{"min": 12}], (12, 12)),
        ([{"max": 3}], (1, 3)),
        ([{"count": 5}], (5, 5)),
        ([{"min": 4}, {"min": 2}], (4, 8)),
        ([{"max": 3}, {"max": 5}], (1, 5)),
        ([{"min": 6}, {"max": 3}], (6, 6)),
        ([{"count": 2}, {"min": 4, "max": 6}], (4, 6)),
        ([{"min": 0}], (0, 8)),
    ],
)
def test_of_windows_that_overlap_the_highest_bounds_hold(
    hours: list[dict[str, int]], bounds: tuple[int, int]
) -> None:
    """Lower and upper bounds each for themselves; what no window says is as in [replicas], and gives way."""
    schedule = calendar(ELASTIC, scale=[{"when": "Wed"} | one for one in hours])
    found = at(schedule, "2026-11-25T12:00").bounds
    assert (found.lowest, found.highest) == bounds


def test_sleep_stands_above_scale() -> None:
    schedule = calendar(ELASTIC, sleep="Wed 12:00-13:00", scale=[{"when": "Wed", "min": 4}])
    assert at(schedule, "2026-11-25T12:30").asleep
    assert at(schedule, "2026-11-25T13:00").bounds.lowest == 4


def test_replicas_are_started_ahead_of_their_hours() -> None:
    """Five minutes of boot: at 8:55 the lower bound of 9:00 holds, the upper one is only raised by it."""
    schedule = calendar(ELASTIC, scale=[{"when": "09:00-18:00", "min": 4, "max": 6}])
    assert at(schedule, "2026-11-25T08:54", lead_s=300).bounds.lowest == 1
    early = at(schedule, "2026-11-25T08:55", lead_s=300).bounds
    assert early == Bounds(4, 8, "4 to 6 replicas to be ready by 09:00 Europe/Berlin (schedule.scale[0])")


def test_hours_of_fewer_replicas_do_not_begin_early_but_end_early() -> None:
    schedule = calendar({"count": 4}, scale=[{"when": "22:00-07:00", "count": 1}])
    assert at(schedule, "2026-11-25T21:58", lead_s=300).bounds.lowest == 4
    assert at(schedule, "2026-11-26T06:50", lead_s=300).bounds.lowest == 1
    early = at(schedule, "2026-11-26T06:56", lead_s=300).bounds
    assert (early.lowest, early.highest) == (4, 4)
    assert early.reason == "4 replicas to be ready by 07:00 Europe/Berlin (the end of schedule.scale[0])"


def test_it_wakes_early_enough_to_be_ready() -> None:
    schedule = calendar(sleep="22:00-07:00", scale=[{"when": "07:00-09:00", "count": 3}])
    assert at(schedule, "2026-11-26T06:54", lead_s=300).asleep
    early = at(schedule, "2026-11-26T06:55", lead_s=300)
    assert not early.asleep
    assert early.bounds == Bounds(3, 3, "3 replicas to be ready by 07:00 Europe/Berlin (schedule.scale[0])")


def test_a_sleep_that_is_shorter_than_a_boot_is_none() -> None:
    schedule = calendar(sleep="12:00-12:04")
    assert not at(schedule, "2026-11-25T12:00", lead_s=300).asleep


# Changes of the clock: Berlin skips 2:00 to 3:00 on 2026-03-29 and has it twice on 2026-10-25.


def test_a_time_that_is_skipped_is_the_moment_of_the_change() -> None:
    change = datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    assert [moment(date(2026, 3, 29), minutes, BERLIN) for minutes in (120, 150, 180)] == [change] * 3
    assert moment(date(2026, 3, 29), 119, BERLIN) == change - timedelta(minutes=1)
    assert moment(date(2026, 3, 29), 181, BERLIN) == change + timedelta(minutes=1)


def test_a_time_that_comes_twice_is_the_first() -> None:
    assert moment(date(2026, 10, 25), 150, BERLIN) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert moment(date(2026, 10, 25), 180, BERLIN) == datetime(2026, 10, 25, 2, 0, tzinfo=UTC)


def test_nights_in_which_the_clock_changes_end_at_the_time_that_the_clock_shows() -> None:
    """22:00 to 7:00 is eight hours in March and ten in October."""
    schedule = calendar(sleep="22:00-07:00")
    for begin, hours in (("2026-03-28T22:00", 8), ("2026-10-24T22:00", 10)):
        asleep = at(schedule, begin)
        assert asleep.asleep
        assert asleep.until == berlin(begin) + timedelta(hours=hours)


def test_a_window_within_the_hour_that_is_skipped_does_not_happen() -> None:
    schedule = calendar(sleep="02:10-02:50")
    night = [berlin("2026-03-29T00:00") + timedelta(minutes=minute) for minute in range(300)]
    assert not any(schedule.at(now, lead_s=0).asleep for now in night)


def test_a_window_within_the_hour_that_comes_twice_happens_once() -> None:
    schedule = calendar(sleep="02:10-02:50")
    night = [berlin("2026-10-25T00:00") + timedelta(minutes=minute) for minute in range(300)]
    asleep = [now for now in night if schedule.at(now, lead_s=0).asleep]
    assert len(asleep) == 40
    assert asleep[0] == datetime(2026, 10, 25, 0, 10, tzinfo=UTC)


@given(
    st.sampled_from(ZONES),
    st.dates(date(2010, 1, 1), date(2030, 12, 31)),
    st.lists(st.integers(0, 2880), min_size=2, max_size=2),
)
def test_an_earlier_time_of_the_clock_is_never_a_later_moment(name: str, day: date, minutes: list[int]) -> None:
    """So no window ends before it begins, whatever the clocks do (Apia skipped a whole day in 2011)."""
    zone = ZoneInfo(name)
    early, late = sorted(minutes)
    first, second = moment(day, early, zone), moment(day, late, zone)
    assert first <= second
    wall = (datetime(day.year, day.month, day.day) + timedelta(minutes=early)).replace(tzinfo=zone)
    if wall.astimezone(UTC).astimezone(zone).replace(tzinfo=None) == wall.replace(tzinfo=None):
        assert first.astimezone(zone).replace(tzinfo=None) == wall.replace(tzinfo=None)
    else:  # skipped: nothing between the second before and the moment itself is on that side of the change
        assert first.astimezone(zone).utcoffset() != (first - timedelta(seconds=1)).astimezone(zone).utcoffset()


WHEN = st.builds(
    lambda days, begin, length: (
        f"{days} {begin // 60:02}:{begin % 60:02}-{(begin + length) // 60 % 24:02}:{(begin + length) % 60:02}"
    ),
    st.sampled_from(["Mon-Sun", "Mon-Fri", "Sat,Sun", "Wed"]),
    st.integers(0, 1439),
    st.integers(1, 1200),
)


@given(
    st.sampled_from(ZONES),
    st.lists(WHEN, max_size=2),
    st.lists(WHEN, max_size=2),
    st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31)),
    st.integers(0, 3 * 3600),
)
@example("Europe/Berlin", ["Mon-Sun 00:00-05:57", "Mon-Sun 05:54-01:45"], [], datetime(2026, 12, 1, 0, 0, 11), 132)
def test_the_answer_holds_until_it_is_time_to_look_again(
    zone: str, sleep: list[str], busy: list[str], now: datetime, lead_s: int
) -> None:
    """Until then nothing changes, and what is said to come does come; so a simulator need not ask in between."""
    spec = ScheduleSpec(
        timezone=zone, sleep=sleep, wake_on_request=True, scale=[{"when": one, "count": 5} for one in busy]
    )
    schedule = Schedule(spec, ReplicasSpec(count=2))
    begin = now.replace(tzinfo=UTC)
    hours = schedule.at(begin, lead_s=lead_s)
    assert (hours.bounds.lowest, hours.bounds.highest) in {(0, 0)} if hours.asleep else {(2, 2), (5, 5), (2, 5)}
    if hours.look_again is None:
        assert not sleep
        assert not busy
        return
    assert hours.look_again > begin
    for share in (0.3, 0.999):
        later = schedule.at(begin + (hours.look_again - begin) * share, lead_s=lead_s)
        assert (later.asleep, later.bounds.lowest, later.bounds.highest) == (
            hours.asleep,
            hours.bounds.lowest,
            hours.bounds.highest,
        )
    if hours.asleep and hours.until is not None:
        assert not schedule.at(hours.until, lead_s=0).asleep
        assert schedule.at(hours.until - timedelta(seconds=1), lead_s=0).asleep
