"""Times of the week: what is read, what is refused."""

import pytest

from hedgeserve.weekly import WeeklyWindow, fills_the_week, parse_window

ALL = frozenset(range(7))


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("22:00-07:00", WeeklyWindow(ALL, 1320, 1860)),
        ("Mon-Fri 09:00-18:00", WeeklyWindow(frozenset({0, 1, 2, 3, 4}), 540, 1080)),
        ("Sat,Sun", WeeklyWindow(frozenset({5, 6}), 0, 1440)),
        ("fri - mon, wed 0:00-24:00", WeeklyWindow(frozenset({4, 5, 6, 0, 2}), 0, 1440)),
        ("  Tue   9:05 - 9:06 ", WeeklyWindow(frozenset({1}), 545, 546)),
        ("Mon 22:00-00:00", WeeklyWindow(frozenset({0}), 1320, 1440)),
    ],
)
def test_days_hours_or_both_are_read(text: str, window: WeeklyWindow) -> None:
    """Hours that end before they begin end on the next day, and belong to the day on which they begin."""
    assert parse_window(text) == window


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a time of the week"),
        ("Mo-Fr 09:00-18:00", '"Mo-Fr" is no day'),
        ("09:00-18:00 Mon", "not a time of the week"),
        ("09:00", '"09:00" is no day'),
        ("25:00-26:00", "25:00 is no time of day"),
        ("09:60-10:00", "09:60 is no time of day"),
        ("07:00-07:00", "ends when it begins"),
        ("24:00-07:00", "begins at 24:00"),
        ("Mon-Wed-Fri", "is no day"),
        ("Mon,,Tue", '"" is no day'),
    ],
)
def test_anything_else_is_refused_with_the_text_and_an_example(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=":") as refused:
        parse_window(text)
    assert said in str(refused.value)
    assert f'"{text}"' in str(refused.value)


def test_a_week_is_filled_when_no_minute_is_left_out() -> None:
    """Sunday's night reaches into Monday."""
    assert fills_the_week([parse_window("22:00-07:00"), parse_window("07:00-22:00")])
    assert fills_the_week([parse_window("Mon-Sun")])
    assert not fills_the_week([parse_window("22:00-07:00"), parse_window("07:01-22:00")])
    assert not fills_the_week([])
