"""Routing: who gets the next request, under every policy and for every standing of the replicas."""

from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.proxy.routing import Candidate, Router, Wants, make_router
from hedgeserve.replica import Market, ReplicaId, RouteTarget, ZoneId
from hedgeserve.spec import RoutingSpec

PLAIN = Wants()
FIELDS = {field.name for field in fields(RouteTarget)}
POLICIES = ["least_load", "round_robin", "p2c", "prefix", "session"]
IDS = [ReplicaId(f"r-{number}") for number in range(6)]


def candidate(replica: ReplicaId = IDS[0], **changes: Any) -> Candidate:
    """A replica; what is not an attribute of a candidate is one of its target."""
    target = {name: changes.pop(name) for name in tuple(changes) if name in FIELDS}
    market = target.pop("market", Market.SPOT)
    made = Candidate(RouteTarget(replica, f"http://{replica}", ZoneId("local/east/a"), market, **target))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def router(policy: str = "least_load", dice: Callable[[], float] = lambda: 0.5, **keys: Any) -> Router:
    return make_router(RoutingSpec.model_validate({"policy": policy, **keys}), dice)


class Turns:
    """Picks one after the other, and counts as the pool would."""

    def __init__(self, router: Router, candidates: list[Candidate], *, limit: int = 256) -> None:
        self.router, self.candidates, self.limit = router, candidates, limit
        self.uses = 0

    def take(self, wants: Wants = PLAIN, now_s: float = 0.0, *, keep: bool = True) -> ReplicaId | None:
        best = self.router.pick(self.candidates, wants, limit=self.limit, now_s=now_s)
        if best is None:
            return None
        self.uses += 1
        best.last_used = self.uses
        if keep:
            best.requests += 1
            best.tokens += wants.tokens
        return best.target.id


@st.composite
def standings(draw: st.DrawFn) -> list[Candidate]:
    return [
        candidate(
            replica,
            accepting=draw(st.booleans()),
            preferred=draw(st.booleans()),
            throughput=draw(st.sampled_from([0.5, 1.0, 4.0])),
            requests=draw(st.integers(0, 4)),
            tokens=draw(st.integers(0, 2000)),
            last_used=draw(st.integers(0, 9)),
            shunned_until_s=draw(st.sampled_from([0.0, 5.0])),
            waiting=draw(st.sampled_from([None, 0.0, 7.0])),
            cache_usage=draw(st.sampled_from([None, 0.5, 0.99])),
            told_at_s=draw(st.sampled_from([1.0, -99.0])),
            rtt_s=draw(st.sampled_from([None, 0.001, 0.2])),
        )
        for replica in draw(st.lists(st.sampled_from(IDS), unique=True))
    ]


@st.composite
def wishes(draw: st.DrawFn) -> Wants:
    return Wants(
        tokens=draw(st.integers(1, 500)),
        prefix=draw(st.sampled_from([b"", b"x" * 700])),
        session=draw(st.sampled_from(["", "me"])),
        urgent=draw(st.booleans()),
        avoid=draw(st.sets(st.sampled_from(IDS))),
        may_return=draw(st.booleans()),
    )


@pytest.mark.parametrize("policy", POLICIES)
@given(
    standings(), wishes(), st.integers(1, 4), st.floats(0, 0.999), st.sampled_from(["any", "on_demand", "near"])
)
def test_a_pick_is_always_allowed_and_none_only_where_nothing_is(
    policy: str, standing: list[Candidate], wants: Wants, limit: int, dice: float, urgent: str
) -> None:
    """Never one that drains or is full; an avoided one only where all are; never a worse tier than there is."""
    best = router(policy, lambda: dice, urgent=urgent).pick(standing, wants, limit=limit, now_s=1.0)
    accepting = [one for one in standing if one.target.accepting]
    fresh = [one for one in accepting if one.target.id not in wants.avoid]
    able = fresh or (accepting if wants.may_return else [])
    allowed = [one for one in able if one.requests < limit]
    assert (best is None) == (not allowed)
    if best is not None:
        assert best in allowed
        tiers = [(one.shunned_until_s > 1.0, not one.target.preferred) for one in allowed]
        assert (best.shunned_until_s > 1.0, not best.target.preferred) == min(tiers)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_last_replica_is_used_whatever_is_the_matter_with_it(policy: str) -> None:
    """Under notice and just failed: better than none."""
    only = candidate(preferred=False, shunned_until_s=99.0)
    assert router(policy).pick([only], Wants(prefix=b"p", session="s"), limit=9, now_s=0.0) is only


def test_work_counts_and_not_requests() -> None:
    """One long answer weighs more than three short ones."""
    long, short = candidate(IDS[0], requests=1, tokens=2000), candidate(IDS[1], requests=3, tokens=90)
    assert router().pick([long, short], Wants(), limit=9, now_s=0.0) is short


@given(standings())
def test_the_least_loaded_is_taken_and_of_equals_the_one_not_used_for_longest(standing: list[Candidate]) -> None:
    """By tokens, requests, and what its engine told a moment ago, over what the replica can do."""

    def load(one: Candidate) -> float:
        fresh = one.told_at_s == 1.0
        others = max(0.0, (one.waiting or 0.0) - one.requests) if fresh else 0.0
        full = fresh and (one.cache_usage or 0.0) > 0.95
        return (one.tokens + 16 * one.requests + 256 * others) * (2 if full else 1) / one.target.throughput

    well = [one for one in standing if one.target.accepting and one.target.preferred and one.shunned_until_s == 0]
    best = router().pick(standing, PLAIN, limit=9, now_s=1.0)
    if well:
        assert best in well
        assert (load(best), best.last_used) == min((load(one), one.last_used) for one in well)


def test_a_cache_that_is_full_counts_though_nothing_waits() -> None:
    """Whatever is given to it throws another request out."""
    full = candidate(IDS[0], tokens=300, cache_usage=0.99, waiting=0.0, told_at_s=1.0)
    half = candidate(IDS[1], tokens=400, cache_usage=0.5, waiting=0.0, told_at_s=1.0)
    assert router().pick([full, half], PLAIN, limit=9, now_s=1.0) is half


def test_a_faster_kind_of_machine_gets_more() -> None:
    """Three times the throughput, three times the requests."""
    turns = Turns(router(), [candidate(IDS[0], throughput=3.0), candidate(IDS[1])])
    counts = Counter(turns.take(Wants(tokens=100)) for _ in range(200))
    assert counts[IDS[0]] == 150


@given(st.integers(2, 6), st.integers(1, 60))
def test_equal_requests_are_spread_evenly(count: int, requests: int) -> None:
    """No two of equal replicas are ever more than one request apart."""
    turns = Turns(router(), [candidate(replica) for replica in IDS[:count]])
    for _ in range(requests):
        turns.take(Wants(tokens=50))
    held = [one.requests for one in turns.candidates]
    assert max(held) - min(held) <= 1


def test_ties_go_round() -> None:
    """Idle replicas take turns, a new one without a backlog of turns to make up for."""
    turns = Turns(router(), [candidate(replica) for replica in IDS[:3]])
    assert [turns.take(keep=False) for _ in range(6)] == IDS[:3] * 2


def test_round_robin_visits_all_in_order() -> None:
    """However loaded they are."""
    turns = Turns(router("round_robin"), [candidate(one, tokens=1000 * n) for n, one in enumerate(IDS)])
    assert [turns.take() for _ in range(12)] == IDS * 2


@given(st.floats(0, 0.999), st.floats(0, 0.999))
def test_of_two_choices_the_worse_is_never_taken(first: float, second: float) -> None:
    """The most loaded of all loses against whomever it is drawn with."""
    rolls = iter([first, second])
    crowd = [candidate(one, tokens=100 * n) for n, one in enumerate(IDS)]
    assert router("p2c", lambda: next(rolls)).pick(crowd, Wants(), limit=9, now_s=0.0) is not crowd[-1]


def test_what_engines_tell_counts_while_it_is_fresh() -> None:
    """A queue that is not ours, and a cache that is full; an hour later nobody believes it."""
    busy = candidate(IDS[0], waiting=5.0, cache_usage=0.5, told_at_s=100.0)
    idle = candidate(IDS[1], tokens=300, requests=1, waiting=0.0, told_at_s=100.0)
    assert router().pick([busy, idle], Wants(), limit=9, now_s=101.0) is idle
    assert router().pick([busy, idle], Wants(), limit=9, now_s=3700.0) is busy


def test_a_prompt_goes_where_its_beginning_is_known() -> None:
    """A conversation grows: each turn finds the replica that has the ones before in its cache."""
    turns = Turns(router("prefix", load_bound=100), [candidate(one) for one in IDS])
    talk = b"system: be kind. " * 60
    home = turns.take(Wants(prefix=talk))
    for _ in range(5):
        talk += b"user: go on. assistant: and on. " * 20
        assert turns.take(Wants(prefix=talk)) == home
    assert turns.take(Wants(prefix=b"another talk " * 90)) != home


def test_a_loaded_replica_is_passed_over_however_much_it_knows() -> None:
    """Affinity never makes a hot spot."""
    turns = Turns(router("prefix", load_bound=1.25), [candidate(one) for one in IDS[:3]])
    for _ in range(60):
        turns.take(Wants(tokens=100, prefix=b"the one prompt of all " * 40))
    held = [one.tokens for one in turns.candidates]
    assert max(held) <= 1.3 * (sum(held) / 3 + 100)


def test_a_session_stays_where_it_is_while_others_come_and_go() -> None:
    """Only the sessions of the one that left move."""
    crowd = [candidate(one) for one in IDS]
    by_session = router("session", load_bound=100)
    home = {
        name: by_session.pick(crowd, Wants(session=name), limit=9, now_s=0.0)
        for name in (f"session-{number}" for number in range(100))
    }
    left = crowd[:-1]
    for name, before in home.items():
        after = by_session.pick(left, Wants(session=name), limit=9, now_s=0.0)
        assert after is before or before is crowd[-1]
    assert len({id(one) for one in home.values()}) == len(IDS)


def test_a_faster_kind_of_machine_has_more_sessions() -> None:
    """Three times the throughput, three times the sessions."""
    crowd = [candidate(IDS[0], throughput=3.0), candidate(IDS[1])]
    by_session = router("session", load_bound=100)
    picks = [by_session.pick(crowd, Wants(session=str(number)), limit=9, now_s=0.0) for number in range(2000)]
    assert picks.count(crowd[0]) / 2000 == pytest.approx(0.75, abs=0.04)


def test_a_prompt_finds_its_home_after_another_was_preempted() -> None:
    """Both had the same system prompt; the one that is taken away was the last to answer it."""
    one, other, third = (candidate(replica) for replica in IDS[:3])
    by_prefix = router("prefix", load_bound=100)
    system, talk = b"system: be kind. " * 60, b"system: be kind. " * 60 + b"user: hello. " * 60
    assert by_prefix.pick([one], Wants(prefix=talk), limit=9, now_s=0.0) is one
    assert by_prefix.pick([other], Wants(prefix=system + b"user: no? " * 60), limit=9, now_s=0.0) is other
    by_prefix.forget(other.target.id)
    one.tokens = 10
    assert by_prefix.pick([one, third], Wants(prefix=talk + b"more"), limit=9, now_s=0.0) is one


def test_a_policy_whose_input_is_missing_says_so() -> None:
    """After some requests, and no longer once there is some."""
    crowd = [candidate(one) for one in IDS[:2]]
    for policy, wants in (("prefix", Wants(prefix=b"p" * 300)), ("session", Wants(session="s"))):
        blind = router(policy)
        for _ in range(40):
            blind.pick(crowd, Wants(), limit=9, now_s=0.0)
        assert f'routing.policy = "{policy}"' in blind.note
        blind.pick(crowd, wants, limit=9, now_s=0.0)
        assert blind.note == ""


def test_urgent_requests_go_to_on_demand_replicas_while_these_have_room() -> None:
    """Then to all."""
    crowd = [candidate(IDS[0]), candidate(IDS[1], market=Market.ON_DEMAND)]
    turns = Turns(router(urgent="on_demand"), crowd)
    assert turns.take(Wants(tokens=100, urgent=True)) == IDS[1]
    assert {turns.take(Wants(tokens=100, urgent=True)) for _ in range(4)} == set(IDS[:2])
    assert Turns(router(urgent="on_demand"), crowd[:1]).take(Wants(urgent=True)) == IDS[0]


def test_urgent_requests_go_to_near_replicas() -> None:
    """By their round-trip time; one that nobody has measured comes later."""
    crowd = [candidate(IDS[0], rtt_s=0.09), candidate(IDS[1]), candidate(IDS[2], rtt_s=0.002)]
    assert router(urgent="near").pick(crowd, Wants(urgent=True), limit=9, now_s=0.0) is crowd[2]


def test_where_all_near_replicas_are_overloaded_those_not_measured_come_before_them() -> None:
    """Near is no excuse for a hot spot."""
    crowd = [
        candidate(IDS[0], rtt_s=0.002, tokens=5000),
        candidate(IDS[1], tokens=100),
        candidate(IDS[2], tokens=90),
    ]
    by_turns = router("round_robin", urgent="near")
    assert by_turns.pick(crowd, Wants(urgent=True), limit=9, now_s=0.0) is crowd[1]


def test_near_says_so_where_nobody_was_measured() -> None:
    """After some urgent requests, and no longer once one was measured."""
    crowd = [candidate(one) for one in IDS[:2]]
    near = router(urgent="near")
    for _ in range(40):
        near.pick(crowd, Wants(urgent=True), limit=9, now_s=0.0)
    assert 'routing.urgent = "near"' in near.note
    crowd[0].rtt_s = 0.01
    near.pick(crowd, Wants(urgent=True), limit=9, now_s=0.0)
    assert near.note == ""
