"""What a policy says of its next launches is what it then does."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.hedge import Launch, NewsKind, Observation, Policy, ZoneNews, make_policy
from hedgeserve.replica import Market, Offer, ZoneId
from hedgeserve.spec import HedgeSpec
from tests.zoneworld import A, B, C, offer, replica

_KINDS = [
    NewsKind.GRANTED,
    NewsKind.READY,
    NewsKind.NOTICE,
    NewsKind.PREEMPTED,
    NewsKind.NO_CAPACITY,
    NewsKind.QUOTA,
    NewsKind.UNSUPPORTED,
    NewsKind.LAUNCH_ERROR,
    NewsKind.BOOT_FAILED,
]
D = ZoneId("local/west/d")
_ZONES = [A, B, C, D]
_MARKETS = [Market.SPOT, Market.ON_DEMAND]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Policy, Observation]:
    """A policy that has heard things, and a fleet."""
    policy = make_policy(
        HedgeSpec(
            policy=draw(st.sampled_from(["spothedge", "forecast"])),
            overprovision=draw(st.integers(0, 2)),
            headroom=draw(st.integers(0, 1)),
            rebalance_below=draw(st.integers(1, 3)),
            fallback=draw(st.booleans()),
        )
    )
    heard = draw(
        st.lists(
            st.tuples(
                st.sampled_from(_ZONES), st.sampled_from(_MARKETS), st.sampled_from(_KINDS), st.integers(0, 999)
            ),
            max_size=12,
        )
    )
    for zone, market, kind, at_s in sorted(heard, key=lambda told: told[3]):
        policy.observe(ZoneNews(zone, market, kind, float(at_s), held_s=5.0))
    places = draw(st.lists(st.tuples(st.sampled_from(_ZONES), st.sampled_from(_MARKETS)), unique=True))
    offers: tuple[Offer, ...] = tuple(
        offer(zone, market, draw(st.sampled_from([0.2, 0.3, 1.0]))) for zone, market in places
    )
    replicas = tuple(
        replica(number, zone, market, since_s=float(draw(st.integers(0, 999))))
        for number, (zone, market) in enumerate(
            draw(st.lists(st.tuples(st.sampled_from(_ZONES), st.sampled_from(_MARKETS)), max_size=5))
        )
    )
    return policy, Observation(1000.0, draw(st.integers(0, 4)), replicas, offers)


@given(worlds(), st.integers(0, 12))
def test_the_first_candidate_is_where_the_policy_goes_next(world: tuple[Policy, Observation], more: int) -> None:
    """However many more are needed: no launch before the first candidate's, none where there is no candidate."""
    policy, seen = world
    told = policy.candidates(seen)
    asked = replace(seen, target=seen.target + more)
    begun = [one.offer for one in policy.plan(asked).actions if isinstance(one, Launch)]
    for market in _MARKETS:
        launched = [one for one in begun if one.market is market]
        free = [one.offer for one in told if one.offer.market is market and one.rank is not None]
        assert set(launched) <= set(free)
        # Where the load needs no more, the policy goes where it says; what more load would ask for, SpotHedge too.
        if launched and (more == 0 or policy.name == "spothedge" or market is Market.ON_DEMAND):
            assert launched[0] == free[0]


@given(worlds())
def test_every_zone_has_one_candidate_and_a_reason(world: tuple[Policy, Observation]) -> None:
    """Of each market that is offered there; ranks count from 0 without a gap, ends lie ahead."""
    policy, seen = world
    told = policy.candidates(seen)
    assert {(one.offer.zone, one.offer.market) for one in told} == {(one.zone, one.market) for one in seen.offers}
    assert len(told) == len({(one.offer.zone, one.offer.market) for one in told})
    for market in _MARKETS:
        ranks = [one.rank for one in told if one.offer.market is market and one.rank is not None]
        assert ranks == list(range(len(ranks)))
    assert all(one.why and one.offer in seen.offers for one in told)
    assert all(one.until_s is None or one.until_s > seen.now_s for one in told if one.rank is None)


@given(worlds())
def test_telling_changes_nothing(world: tuple[Policy, Observation]) -> None:
    """The same plan before and after, the same words twice."""
    policy, seen = world
    before = policy.plan(seen)
    states = dict(policy.zone_states())
    told = policy.candidates(seen), policy.sums(seen)
    assert (policy.candidates(seen), policy.sums(seen)) == told
    assert dict(policy.zone_states()) == states
    assert policy.plan(seen) == before


@pytest.mark.parametrize("name", ["spothedge", "forecast"])
def test_a_zone_is_asked_again_when_it_was_said_to_be(name: str) -> None:
    """The pause after a refusal ends on the second."""
    policy = make_policy(HedgeSpec(policy=name, retry_delay="30s", rebalance_below=1))
    policy.observe(ZoneNews(A, Market.ON_DEMAND, NewsKind.NO_CAPACITY, 990.0))
    policy.observe(ZoneNews(A, Market.SPOT, NewsKind.QUOTA, 990.0))
    seen = Observation(1000.0, 1, (), (offer(A), offer(A, Market.ON_DEMAND)))
    spot, on_demand = policy.candidates(seen)
    assert (spot.rank, spot.until_s, on_demand.rank, on_demand.until_s) == (None, 1590.0, None, 1020.0)
    for one in (spot, on_demand):
        assert one.until_s is not None
        just_before, then = (replace(seen, now_s=one.until_s + delta) for delta in (-0.1, 0.0))
        assert [
            candidate.rank
            for at in (just_before, then)
            for candidate in policy.candidates(at)
            if candidate.offer == one.offer
        ] == [None, 0]
