"""How fast a stream's tokens come: measured when there is something to measure, guessed until then."""

import pytest

from hedgeserve.proxy.pace import Pace


def test_nothing_is_measured_within_the_first_second() -> None:
    """Half of a second with one token in it would be a pace of 2, or of 0."""
    pace = Pace(10.0, 100)
    assert pace.measured(10.9, 120) is None
    assert pace.measured(12.0, 150) == 25.0


def test_tokens_of_an_earlier_replica_do_not_count() -> None:
    """The answer had 100 of them when this one began."""
    assert Pace(0.0, 100).measured(10.0, 100) == 0.0


def test_what_is_typical_counts_as_much_as_a_second_of_its_own() -> None:
    """At first it is all that is known; soon it no longer matters."""
    pace = Pace(0.0, 0)
    assert pace.expected(0.0, 0, 20.0) == 20.0
    assert pace.expected(1.0, 40, 20.0) == 30.0
    assert pace.expected(99.0, 99 * 40, 20.0) == pytest.approx(39.8)
