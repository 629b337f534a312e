"""A roll-back asked for in the middle of an update: what it costs, that it undercuts nothing, and that it ends."""

from dataclasses import dataclass, replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hedgeserve.hedge import Count, Launch, NewsKind, Observation, Plan, Strategy, ZoneNews, make_policy
from hedgeserve.replica import Market, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.spec import HedgeSpec
from tests.test_rollout import BEGAN, OFFERS, ZONES, World, versions, world

SPOT, ON_DEMAND = Market.SPOT, Market.ON_DEMAND
SERVER = Offer(ZoneId("static/here/a"), "server", Market.EXTERNAL, 0.0, BEGAN)


@dataclass
class Troubled(World):
    """A world with more that may go wrong, which counts what is bought and what is lost."""

    capped: bool = False
    dear: bool = False
    bought: int = 0
    lost: int = 0
    offered: str = "both"
    servers: int = 0

    def seen(self) -> Observation:
        """Only these markets are offered, and servers of somebody else answer beside ours."""
        seen = super().seen()
        offers = tuple(
            one
            for one in seen.offers
            if self.offered == "both" or (one.market is SPOT) == (self.offered == "spot")
        )
        servers = tuple(
            Replica(ReplicaId(f"static-{number}"), SERVER, State.READY, 0.0, BEGAN, ready_since_s=0.0)
            for number in range(self.servers)
        )
        return replace(seen, offers=offers, replicas=(*seen.replicas, *servers))

    def _launch(self, action: Launch) -> None:
        on_demand = action.offer.market is ON_DEMAND
        if self.capped:  # a cap of the budget takes the launch out of the plan, and the policy hears nothing
            return
        if on_demand and self.dear:
            news = ZoneNews(action.offer.zone, action.offer.market, NewsKind.NO_CAPACITY, self.now_s)
            self.policy.observe(news)
            return
        # ``forecast`` asks for on-demand beside every spot launch, until that is granted (docs/policy.md).
        self.bought += on_demand and "in parallel until" not in action.reason
        super()._launch(action)

    def take(self, who: str) -> None:
        """The cloud takes one back; what did not serve yet leaves no hole."""
        self.lost += self.replicas[who].state is State.READY or self.replicas[who].market is ON_DEMAND
        self.preempt(who)


def troubled(policy: str = "spothedge", *, target: int = 2, extra: int = 1, **update: object) -> Troubled:
    """A settled fleet of version 1, for which nothing has been bought yet."""
    plain = world(policy, target=target, extra=extra, **update)
    house = Troubled(plain.policy, plain.target, plain.update, replicas=plain.replicas, now_s=plain.now_s)
    house.number = plain.number
    return house


def midway(policy: str = "spothedge", *, renewed: int = 1, target: int = 2, extra: int = 1) -> Troubled:
    """A roll-back is asked for when an update has replaced so many of version 1, and has none on its way."""
    house = troubled(policy, target=target, extra=extra)
    house.begin(2)
    while len(house.ready(2)) < renewed or len(house.alive()) > target + extra:
        house.tick()
    back(house)
    return house


def back(house: World) -> None:
    """Somebody asks for the version before."""
    house.begin(1, Strategy.ROLLBACK)
    assert house.rollout is not None
    house.rollout = replace(house.rollout, new_proven=True)


def bought(plan: Plan) -> int:
    return sum(isinstance(one, Launch) and one.offer.market is ON_DEMAND for one in plan.actions)


@pytest.mark.parametrize("policy", ["spothedge", "forecast"])
def test_where_the_good_ones_meet_the_load_the_spare_is_not_bridged_either(policy: str) -> None:
    """Two of three are good: the third stays until the good one that is asked for in its place is ready."""
    house = midway(policy)
    assert len(house.ready(1)) >= house.target
    whole = len(house.ready())
    for _ in range(30):
        assert bought(house.tick()) == 0
        assert len(house.ready()) >= whole
    assert house.rollout is None
    assert set(versions(house.alive())) == {1}
    assert {one.market for one in house.alive()} == {SPOT}


def test_where_no_spot_comes_on_demand_is_ready_before_the_last_one_goes() -> None:
    """After a minute without spot, as it bridges without a roll-back."""
    house = midway()
    house.refuses, began_s = frozenset(ZONES), house.now_s
    while not house.bought:
        assert len(house.ready(2)) == 1
        house.tick()
    assert house.now_s == began_s + 61
    while house.ready(2):
        house.tick()
        assert len(house.ready()) >= 3
    assert house.now_s < began_s + 61 + house.boot_s + 2


@pytest.mark.parametrize("why", ["a cap holds all launches", "nothing is to be had", "nothing bridges"])
def test_where_nothing_comes_what_is_only_a_spare_goes_after_two_minutes(why: str) -> None:
    """A roll-back ends: the load has what it needs."""
    house = midway()
    house.capped = why == "a cap holds all launches"
    house.refuses, house.dear, began_s = frozenset(ZONES), why == "nothing is to be had", house.now_s
    if why == "nothing bridges":
        hedge = HedgeSpec(policy="spothedge", overprovision=1, fallback=False).with_headroom(scaled=False)
        house.policy = make_policy(hedge)
    while house.rollout is not None:
        house.tick()
        assert house.now_s <= began_s + 123
    assert house.now_s > began_s + 119
    assert versions(house.alive()) == [1, 1]


def test_where_boots_of_the_good_version_fail_nothing_is_waited_for() -> None:
    """From the second failure in a row on, from which on its launches wait."""
    house = midway()
    house.bad, began_s = frozenset({1}), house.now_s
    while house.ready(2):
        house.tick()
    assert began_s + 2 * house.boot_s <= house.now_s <= began_s + 2 * house.boot_s + 4


def test_a_version_whose_requests_fail_goes_as_soon_as_the_good_one_meets_the_load() -> None:
    """It is no spare, and the spare is bridged meanwhile."""
    house = midway()
    house.counts = {1: Count(served=300), 2: Count(served=20, failed=10)}
    house.tick()
    assert not house.ready(2)
    assert house.bought == 1


def test_a_version_whose_clients_ask_for_nonsense_of_the_good_one_too_is_a_spare() -> None:
    """A tenth of the answers are refusals on either."""
    house = midway()
    house.counts = {1: Count(served=900, refused=100), 2: Count(served=90, refused=10)}
    house.tick()
    assert house.ready(2)
    assert house.bought == 0


def test_what_an_update_was_allowed_to_leave_missing_is_not_bridged_when_it_is_taken_back() -> None:
    """`max_unavailable = 1`: one is missing when the roll-back is asked for, and spot comes for it."""
    house = troubled(max_surge=0, max_unavailable=1)
    house.begin(2)
    house.tick()
    while len(house.ready()) == 3 or len(house.ready(2)) < 1:
        house.tick()
    back(house)
    while house.rollout is not None:
        house.tick()
    assert house.bought == 0


def test_on_demand_that_bridges_is_not_exchanged_for_on_demand() -> None:
    """It is of the version that was taken back, and goes when the spot is there that it bridges."""
    house = midway(renewed=2)
    house.boot_s = 30.0
    [first, *_] = house.ready(2)
    house.replicas[first.id] = replace(first, offer=OFFERS[1], ready_since_s=house.now_s)
    for _ in range(100):
        house.tick()
        assert len(house.ready()) >= 3 or house.rollout is None
    assert house.rollout is None
    assert house.bought == 0


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    policy=st.sampled_from(["spothedge", "spothedge", "forecast"]),
    strategy=st.sampled_from([Strategy.ROLLING, Strategy.ROLLING, Strategy.BLUE_GREEN]),
    target=st.integers(1, 4),
    extra=st.integers(0, 2),
    surge=st.integers(1, 3),
    boot_s=st.sampled_from([0.2, 4.0, 30.0]),
    losses=st.integers(0, 3),
    seed=st.integers(0, 2**20),
)
def test_whenever_it_is_asked_a_roll_back_buys_no_more_than_is_lost(
    policy: str,
    strategy: Strategy,
    target: int,
    extra: int,
    surge: int,
    boot_s: float,
    losses: int,
    seed: int,
) -> None:
    """Spot is granted: on-demand comes once for each replica that is lost, as without a roll-back, for none else;
    none that serves goes before as many others do; and in the end all run the good version on spot."""
    house = troubled(policy, target=target, extra=extra, max_surge=surge)
    house.boot_s = boot_s
    house.begin(2, strategy)
    dice = Random(seed)
    asked_after, lost_after = dice.randrange(80), [dice.randrange(120) for _ in range(losses)]
    asked = False
    for second in range(400):
        if second == asked_after and house.rollout is not None:
            back(house)
            asked, house.bought = True, 0
            # What was missing before: whatever bridges it runs the bad version.
            house.lost = max(0, target + extra - len(house.ready()))
        if second in lost_after and house.alive():
            house.take(dice.choice(house.alive()).id)
        house.now_s += 1.0
        house._boot()
        before, alone = house.serving(), bought(house.policy.plan(house.seen()))
        house.now_s -= 1.0
        plan = house.tick()
        if asked:
            # A policy that weighs all anew may move the fleet by itself.
            assert house.bought <= house.lost or (policy == "forecast" and bought(plan) <= alone), second
        assert house.serving() >= min(target, before)
    assert house.rollout is None
    assert set(versions(house.alive())) == {house.wanted}
    assert {one.market for one in house.alive()} == {SPOT}


TROUBLES = ["lost", "dry", "granted", "dear", "capped", "broken", "mended", "fewer", "more", "failing", "wait"]


def moment(house: Troubled, what: str, dice: Random) -> None:
    """One thing happens."""
    match what:
        case "lost" if there := house.alive():
            house.take(dice.choice(there).id)
        case "dry":
            house.refuses = frozenset(zone for zone in ZONES if dice.random() < 0.8)
        case "dear":
            house.dear = True
        case "capped":
            house.capped = True
        case "granted":
            house.refuses, house.dear, house.capped = frozenset(), False, False
        case "broken":
            house.bad = frozenset({1})
        case "mended":
            house.bad = frozenset()
        case "fewer":
            house.target = max(0, house.target - 1)
        case "more":
            house.target += 1
        case "failing":
            house.counts = {1: Count(served=300), 2: Count(served=10, failed=30)}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    policy=st.sampled_from(["spothedge", "forecast"]),
    offered=st.sampled_from(["both", "both", "spot", "on-demand"]),
    servers=st.integers(0, 2),
    target=st.integers(0, 4),
    extra=st.integers(0, 2),
    unavailable=st.integers(0, 1),
    asked_after=st.integers(0, 60),
    happens=st.lists(st.tuples(st.sampled_from(TROUBLES), st.integers(0, 40)), max_size=12),
    seed=st.integers(0, 2**20),
)
def test_a_roll_back_undercuts_nothing_and_ends_once_the_good_ones_meet_the_load(
    policy: str,
    offered: str,
    servers: int,
    target: int,
    extra: int,
    unavailable: int,
    asked_after: int,
    happens: list[tuple[str, int]],
    seed: int,
) -> None:
    """Whatever goes wrong, and with whatever there is: nothing that serves goes before the load has enough without
    it; and where that is so, it ends although nothing more comes, ever."""
    house = troubled(policy, target=target, extra=extra, max_unavailable=unavailable)
    house.offered, house.servers = offered, servers
    for _ in range(60):
        house.tick()
    house.begin(2)
    for _ in range(asked_after):
        house.tick()
    if house.rollout is None:
        return
    back(house)
    dice = Random(seed)

    def tick() -> None:
        house.now_s += 1.0
        house._boot()
        before = house.serving() + servers
        house.now_s -= 1.0
        house.tick()
        assert house.serving() + servers >= min(house.target, before), (house.rollout, house.replicas)

    for what, seconds in happens:
        moment(house, what, dice)
        for _ in range(seconds):
            tick()
    met_s = None
    for _ in range(2000):
        if house.rollout is None:
            return
        tick()
        good = len(house.ready(1)) + servers
        met_s = None if good < house.target else house.now_s if met_s is None else met_s
        if met_s is not None and (house.capped or (house.dear and set(ZONES) == set(house.refuses))):
            assert house.now_s <= met_s + 125, house.rollout
    # It goes on only for want of good ones, for which what was taken back stands in.
    assert len(house.ready(1)) + servers < house.target or not house.ready(1), (house.rollout, house.replicas)
    moment(house, "granted", dice)
    moment(house, "mended", dice)
    for _ in range(2000):
        if house.rollout is None:
            break
        tick()
    assert house.rollout is None, (house.rollout, house.replicas)
