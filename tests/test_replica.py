"""The one table of legal steps, and what a step keeps."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.errors import IllegalTransitionError
from hedgeserve.replica import (
    TRANSITIONS,
    GoneReason,
    Market,
    Notice,
    Offer,
    Replica,
    ReplicaId,
    State,
    ZoneId,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def a_replica(state: State = State.PLANNED) -> Replica:
    """One spot replica."""
    offer = Offer(ZoneId("local/east/a"), "small", Market.SPOT, 0.3, NOW)
    return Replica(ReplicaId("small-1"), offer, state, since_s=0.0, created_at=NOW)


@given(st.sampled_from(State), st.sampled_from(State))
def test_only_the_steps_of_the_table_can_be_taken(before: State, after: State) -> None:
    """Any other raises and names both states and the replica."""
    replica = a_replica(before)
    if after in TRANSITIONS[before]:
        assert replica.to(after, now_s=1.0, why="a step").state is after
    else:
        with pytest.raises(IllegalTransitionError, match=f"small-1 cannot go from {before} to {after}"):
            replica.to(after, now_s=1.0, why="a step")


@given(st.data())
def test_every_life_ends(data: st.DataObject) -> None:
    """From any state gone can be reached, and from gone nothing."""
    replica = a_replica(data.draw(st.sampled_from(State)))
    for step in range(60):
        ways = sorted(TRANSITIONS[replica.state])
        if not ways:
            break
        # An external replica may go to and fro for ever; an end is always one of the ways, or two steps off.
        way = ways[-1] if step > 40 else data.draw(st.sampled_from(ways))
        replica = replica.to(way, now_s=float(step), why="a step")
    assert replica.state is State.GONE


def test_what_is_known_is_kept_and_the_first_word_on_the_end_stands() -> None:
    """The VM, its URL, the notice, the time of becoming ready; a later reason does not overwrite the first."""
    replica = a_replica().to(State.PROVISIONING, now_s=1, why="").to(State.BOOTING, now_s=2, why="", vm_id="vm")
    replica = replica.to(State.LOADING, now_s=3, why="").to(State.READY, now_s=4, why="", url="http://x")
    replica = replica.to(State.NOTICED, now_s=5, why="", notice=Notice(9.0, "test"))
    assert replica.ready_since_s == 4
    replica = replica.to(State.DRAINING, now_s=6, why="", gone=GoneReason.PREEMPTED)
    replica = replica.to(State.TERMINATING, now_s=7, why="", gone=GoneReason.SCALED_DOWN)
    assert (replica.vm_id, replica.url, replica.gone) == ("vm", "http://x", GoneReason.PREEMPTED)
    assert replica.notice == Notice(9.0, "test")


def test_a_replica_that_loads_again_is_not_ready_since_before() -> None:
    """An external server that comes and goes counts from its last coming."""
    replica = a_replica().to(State.LOADING, now_s=1, why="").to(State.READY, now_s=2, why="")
    assert replica.to(State.LOADING, now_s=3, why="").ready_since_s is None
