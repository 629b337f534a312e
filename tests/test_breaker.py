"""How long failures keep others first."""

from hedgeserve.proxy.breaker import Breaker


def test_each_failure_in_a_row_doubles_the_pause_up_to_a_bound() -> None:
    """1, 2, 4, 8, then 15 s for as long as it lasts."""
    breaker = Breaker()
    assert [breaker.failed(100.0) - 100.0 for _ in range(7)] == [1, 2, 4, 8, 15, 15, 15]


def test_one_success_forgives_all() -> None:
    """The next failure is a first one."""
    breaker = Breaker()
    for _ in range(9):
        breaker.failed(0.0)
    breaker.worked()
    assert breaker.failed(0.0) == 1.0
