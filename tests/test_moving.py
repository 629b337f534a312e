"""Answers leave a replica under notice in time, without a burst, and only those that must."""

from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.proxy.moving import Moving, plan_moves, remaining_s

TYPICAL = 200


def plan(streams: list[Moving[int]], now_s: float, *, ends_at_s: float = 30.0, room: bool = True) -> list[int]:
    return plan_moves(streams, now_s=now_s, ends_at_s=ends_at_s, margin_s=3.0, room=room, typical=TYPICAL)


def test_answers_that_end_in_time_are_let_be() -> None:
    """100 tokens at 10 a second are done in 10 seconds; 27 are left."""
    assert plan([Moving(1, told=100, pace=10.0, expects=200)], 0.0) == []


def test_answers_that_do_not_end_in_time_are_moved_the_longest_first() -> None:
    """The longer one gains most by going early: it must be read again from its prompt by the other replica."""
    slow = Moving(1, told=10, pace=2.0, expects=100)
    slower = Moving(2, told=10, pace=1.0, expects=100)
    assert plan([slow, slower], 0.0) == [2, 1]


def test_an_unbounded_answer_is_taken_to_be_a_typical_one() -> None:
    """Or to go on for half of what it has, where it has outgrown that."""
    assert remaining_s(Moving(1, told=100, pace=10.0), typical=TYPICAL) == 10.0
    assert remaining_s(Moving(1, told=400, pace=10.0), typical=TYPICAL) == 20.0
    assert remaining_s(Moving(1, told=400, pace=10.0, expects=500), typical=TYPICAL) == 10.0
    assert remaining_s(Moving(1, told=0, pace=0.0), typical=TYPICAL) == float("inf")


def test_many_are_spread_over_the_time_left() -> None:
    """500 answers in 27 seconds: about ten each half second, never hundreds."""
    waiting = {number: Moving(number, told=1, pace=1.0) for number in range(500)}
    now_s, most = 0.0, 0
    while now_s < 27.0:
        moved = plan(list(waiting.values()), now_s)
        most = max(most, len(moved))
        for number in moved:
            del waiting[number]
        now_s += 0.5
    assert not waiting
    assert most <= 12


def test_nothing_moves_where_nobody_would_take_it() -> None:
    """Where it is, it may still end; in a line elsewhere it cannot."""
    assert plan([Moving(1, told=1, pace=1.0)], 29.0, room=False) == []


streams = st.lists(
    st.tuples(st.integers(0, 2000), st.floats(0, 200), st.none() | st.integers(1, 4000)), max_size=60
).map(lambda rows: [Moving(number, *row) for number, row in enumerate(rows)])


@given(streams, st.floats(0, 40))
def test_all_that_must_move_have_moved_before_the_margin(given_streams: list[Moving[int]], now_s: float) -> None:
    """Nobody is moved twice or unasked, and at the margin nobody is left who would not end in time."""
    moved = plan(given_streams, now_s)
    assert len(set(moved)) == len(moved)
    late = {stream.id for stream in given_streams if remaining_s(stream, typical=TYPICAL) > 30.0 - 3.0 - now_s}
    assert set(moved) <= late
    if late:
        assert moved
    if now_s >= 27.0:
        assert set(moved) == late
