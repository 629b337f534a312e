"""When the loop rests so that more tokens are there when it looks again, and when it never does."""

from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.proxy.coalescing import Coalescing

LONGEST_REST_S = 0.0005


def rests(turns: list[tuple[float, int]]) -> list[float]:
    """Turns as (seconds since the last one, tokens)."""
    coalescing, now_s, found = Coalescing(), 1000.0, []
    for passed_s, tokens in turns:
        now_s += passed_s
        found.append(coalescing.rest_s(tokens, now_s))
    return found


def test_tokens_that_come_thick_and_one_by_one_are_waited_for() -> None:
    """25,000 a second: after the first hundredth of a second each turn is followed by a rest."""
    found = rests([(0.00004, 1)] * 1000)
    assert found[0] == 0.0
    assert set(found[500:]) == {LONGEST_REST_S}


def test_few_tokens_are_never_waited_for() -> None:
    """100 streams of 50 tokens a second: each token goes at once."""
    assert set(rests([(0.0002, 1)] * 2000)) == {0.0}


def test_a_turn_that_brings_many_needs_no_rest() -> None:
    """A busy loop finds them together anyway."""
    assert set(rests([(0.001, 32)] * 100)) == {0.0}
    assert rests([(0.001, 31)] * 100)[-1] == LONGEST_REST_S


def test_whoever_has_just_come_is_not_kept_waiting() -> None:
    """For three milliseconds after each request there is no rest; the next tokens are waited for again."""
    coalescing, now_s, found = Coalescing(), 1000.0, []
    for turn in range(1000):
        now_s += 0.00004
        if turn in (500, 550):
            coalescing.hurry(now_s)
        found.append(coalescing.rest_s(1, now_s))
    assert found[499] == LONGEST_REST_S
    assert set(found[500:620]) == {0.0}
    assert set(found[640:]) == {LONGEST_REST_S}


def test_it_ends_with_the_tokens() -> None:
    """A turn long after the last of a crowd is judged by what has come since."""
    found = rests([(0.00004, 1)] * 1000 + [(1.0, 1), (0.02, 1), (0.02, 1)])
    assert found[999] == LONGEST_REST_S
    assert found[1000:] == [0.0, 0.0, 0.0]


@given(st.lists(st.tuples(st.floats(0, 0.1), st.integers(0, 200)), max_size=200))
def test_no_rest_is_longer_than_half_a_millisecond(turns: list[tuple[float, int]]) -> None:
    """Whatever comes; and never after a turn without tokens, which may be anybody's."""
    for (_, tokens), rest_s in zip(turns, rests(turns), strict=True):
        assert rest_s in (0.0, LONGEST_REST_S)
        assert tokens or not rest_s
