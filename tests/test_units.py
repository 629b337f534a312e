"""Quantities as people write them: read exactly, refused with an example, written so that they read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.units import (
    format_bytes,
    format_duration,
    format_usd,
    format_usd_per_hour,
    parse_bytes,
    parse_duration_s,
    parse_usd_per_hour,
    write_duration,
    write_usd_per_hour,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1h30m", 5400), ("250ms", 0.25), ("1.5h", 5400), ("2d", 172800), (" 5 m ", 300), ("0s", 0)],
)
def test_durations_are_read_in_any_unit(text: str, seconds: float) -> None:
    """One or more numbers, each with its unit."""
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["90", "", "s", "-5s", "5 parsecs", "1h 30", "1,5h", "nan s", "1e3s"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    """A bare number most of all: its unit could only be guessed."""
    with pytest.raises(ValueError, match=r'not a duration; write .* "90s"'):
        parse_duration_s(text)


@given(st.integers(min_value=0, max_value=10**7))
def test_whole_seconds_survive_writing_and_reading_to_their_two_largest_units(seconds: int) -> None:
    """The two largest units are kept, so little is lost; up to an hour nothing is."""
    again = parse_duration_s(format_duration(seconds))
    assert again == seconds if seconds < 3600 else 0 <= seconds - again < max(60, seconds / 24)


@pytest.mark.parametrize(("text", "usd"), [("2.50 USD/h", 2.5), ("$0.3/h", 0.3), ("1 usd/hour", 1.0)])
def test_prices_are_read(text: str, usd: float) -> None:
    """Dollars an hour, as price lists write them."""
    assert parse_usd_per_hour(text) == usd


@pytest.mark.parametrize("text", ["2.50", "2.50 EUR/h", "2.50 USD", "-1 USD/h", ""])
def test_what_is_no_price_is_refused_with_an_example(text: str) -> None:
    """Currency and time must be said."""
    with pytest.raises(ValueError, match=r'"2.50 USD/h"'):
        parse_usd_per_hour(text)


@given(st.integers(min_value=0, max_value=100_000))
def test_prices_survive_writing_and_reading(cents: int) -> None:
    """To the cent."""
    assert parse_usd_per_hour(format_usd_per_hour(cents / 100)) == pytest.approx(cents / 100, abs=1e-4)


@pytest.mark.parametrize(("text", "size"), [("16 MiB", 2**24), ("10 MB", 10**7), ("1.5KiB", 1536), ("0 B", 0)])
def test_sizes_are_read_in_powers_of_two_and_of_ten(text: str, size: int) -> None:
    """MiB and MB are not the same."""
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["16", "16 mib", "16 M", "MiB", "-1 MB"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    """A unit is needed, in its usual spelling."""
    with pytest.raises(ValueError, match='"16 MiB"'):
        parse_bytes(text)


@given(st.integers(min_value=0, max_value=2**40))
def test_sizes_survive_writing_and_reading(size: int) -> None:
    """Exactly."""
    assert parse_bytes(format_bytes(size)) == size


@given(st.floats(min_value=0, max_value=1e12))
def test_what_is_written_for_programs_is_read_as_the_very_same_number(number: float) -> None:
    """A spec that is sent from one process to another must not change on the way."""
    assert parse_duration_s(write_duration(number)) == number
    assert parse_usd_per_hour(write_usd_per_hour(number)) == number


def test_what_is_written_for_programs_is_short_where_it_can_be() -> None:
    """As a person would write it."""
    assert [write_duration(seconds) for seconds in (0, 90, 3661.0, 0.25)] == ["0s", "1m30s", "3661s", "250ms"]
    assert [write_usd_per_hour(usd) for usd in (0, 2.5, 1.234, 0.00001)] == [
        "0.00 USD/h", "2.50 USD/h", "1.234 USD/h", "0.00001 USD/h",
    ]  # fmt: skip


def test_sums_have_cents_or_what_tells_something() -> None:
    """0.00 USD for something that was paid tells nobody anything."""
    assert [format_usd(usd) for usd in (0, 1234.567, 0.5, 0.0116, 0.00042, -0.0037, 1e-9)] == [
        "0.00 USD", "1,234.57 USD", "0.50 USD", "0.012 USD", "0.00042 USD", "-0.0037 USD", "0.000000 USD",
    ]  # fmt: skip
