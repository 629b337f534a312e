"""Losses in the middle of a rolling update: what they cost, and that no launch or reason contradicts another."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hedgeserve.hedge import Drain, Launch, Plan, Rule, Terminate
from hedgeserve.replica import Market, Notice, State
from tests.test_rollout import ZONES, World, world

SPOT, ON_DEMAND = Market.SPOT, Market.ON_DEMAND


@dataclass
class Watched(World):
    """A world whose every tick is held to what an update may cost."""

    strict: bool = True
    calm_since_s: float = 0.0
    """Since when nothing has happened that makes a replica unneeded: losses and refusals never do."""
    launched: list[Launch] = field(default_factory=list)
    born_s: dict[str, float] = field(default_factory=dict)

    def _plan(self) -> Plan:
        seen, rollout = self.seen(), self.rollout
        # As if there were one version, whose boots do not fail.
        alone = self.policy.plan(seen if rollout is None else replace(seen, runs=(rollout.old,)))
        there = {one.id: one for one in seen.replicas}
        plan = super()._plan()
        if rollout is None or self.rollout is None or self.rollout.new != rollout.new:
            self.calm_since_s = self.now_s  # a verdict
            return plan
        if self.rollout.new_proven != rollout.new_proven:
            self.calm_since_s = self.now_s
        launches = [one for one in plan.actions if isinstance(one, Launch)]
        self.launched += launches
        self._watch_counts(alone, launches)
        own = {one.replica for one in alone.actions if isinstance(one, Terminate)}
        for action in plan.actions:
            if isinstance(action, Terminate) and action.replica not in own:
                who = there[action.replica]
                assert self.born_s.get(who.id, 0.0) < self.calm_since_s, (who, action)
        return plan

    def _watch_counts(self, alone: Plan, launches: Sequence[Launch]) -> None:
        spot = sum(one.market is SPOT for one in self.alive())
        on_demand = sum(one.market is ON_DEMAND for one in self.alive())
        asked = sum(one.offer.market is SPOT for one in launches)
        bought = len(launches) - asked
        surge = self.update.max_surge
        moves = sum(isinstance(one, Launch) and one.offer.market is SPOT for one in alone.actions)
        assert asked <= max(moves, alone.spot_wanted + surge - spot), (alone, launches)
        assert self.rollout is not None
        replaced = sum(
            one.gives_up_spot or self.replicas[one.replica].market is ON_DEMAND for one in self.rollout.hidden
        )
        if bought:
            assert on_demand + bought <= alone.on_demand_wanted + replaced, (alone, launches, self.rollout.hidden)
        if launches and self.strict:
            bound = self.target + self.extra + surge + max(alone.on_demand_wanted, on_demand)
            assert len(self.alive()) + len(launches) <= bound, (alone, launches)
        for one in launches:
            if one.rule is Rule.FALLBACK and self.strict and not replaced:
                ready = sum(them.market is SPOT for them in self.ready())
                assert f"{ready} of {self.target + self.extra} spot replicas are ready" in one.reason

    extra: int = 1

    def _launch(self, action: Launch) -> None:
        before = self.number
        super()._launch(action)
        if self.number > before:
            self.born_s[f"r-{self.number:04}"] = self.now_s

    def _boot(self) -> None:
        ready, baked = len(self.ready()), self._baked()
        super()._boot()
        if len(self.ready()) != ready or self._baked() != baked:
            self.calm_since_s = self.now_s

    def _baked(self) -> set[str]:
        return {one.id for one in self.ready(2) if self.now_s >= one.since_s + self.update.bake_time}

    def notice(self, who: str, seconds: float = 10.0) -> None:
        """The cloud says that it will take one back."""
        one = self.replicas[who]
        notice = Notice(self.now_s + seconds, "aws")
        self.replicas[who] = replace(one, state=State.NOTICED, since_s=self.now_s, notice=notice)


def watched(policy: str = "spothedge", *, target: int = 2, extra: int = 1, **update: object) -> Watched:
    """A settled fleet of version 1, from now on watched."""
    plain = world(policy, target=target, extra=extra, **update)
    house = Watched(plain.policy, plain.target, plain.update, replicas=plain.replicas, now_s=plain.now_s)
    house.number, house.extra, house.strict = plain.number, extra, policy == "spothedge"
    return house


def moment(house: Watched, what: str, dice: Random) -> None:
    """One thing happens, and the service ticks at once, as it does in earnest."""
    there = house.alive()
    hidden = (
        [one.replica for one in house.rollout.hidden if one.replica in house.replicas] if house.rollout else []
    )
    match what:
        case "hidden" if hidden:  # of all moments the one that used to cost most
            house.preempt(dice.choice(hidden))
        case "lost" | "hidden" if there:
            house.preempt(dice.choice(there).id)
        case "noticed" if ready := house.ready():
            house.notice(dice.choice(ready).id)
        case "refused":
            house.refuses = frozenset(zone for zone in ZONES if dice.random() < 0.6)
        case "granted":
            house.refuses = frozenset()
    house.tick(0.01)
    house.tick(0.3)


MOMENTS = ["lost", "hidden", "noticed", "refused", "granted", "wait", "wait"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    policy=st.sampled_from(["spothedge", "spothedge", "forecast"]),
    target=st.integers(1, 4),
    extra=st.integers(0, 2),
    surge=st.integers(0, 3),
    unavailable=st.integers(0, 2),
    boot_s=st.sampled_from([0.2, 4.0, 30.0]),
    bad=st.booleans(),
    happens=st.lists(st.tuples(st.sampled_from(MOMENTS), st.integers(0, 40)), max_size=25),
    seed=st.integers(0, 2**20),
)
@example(
    policy="forecast",
    target=2,
    extra=0,
    surge=0,
    unavailable=1,
    boot_s=0.2,
    bad=True,
    happens=[("lost", 0)],
    seed=0,
)
def test_whatever_is_lost_an_update_costs_no_more_than_its_surge(
    policy: str,
    target: int,
    extra: int,
    surge: int,
    unavailable: int,
    boot_s: float,
    bad: bool,
    happens: list[tuple[str, int]],
    seed: int,
) -> None:
    """Above what the policy would run without an update, never more than the surge; nothing is launched and then
    ended because of a loss; and in the end all runs one version."""
    surge = surge or not unavailable
    house = watched(policy, target=target, extra=extra, max_surge=int(surge), max_unavailable=unavailable)
    house.boot_s, house.bad = boot_s, frozenset({2} if bad else ())
    house.begin(2)
    house.tick(0.01)
    dice = Random(seed)
    for what, seconds in happens:
        moment(house, what, dice)
        for _ in range(seconds):
            house.tick()
    house.refuses = frozenset()
    for _ in range(1500):
        if house.rollout is None:
            break
        house.tick()
    assert house.rollout is None, house.replicas
    assert {one.version for one in house.alive()} <= {house.wanted}


def settled(house: Watched, ticks: int = 3) -> Watched:
    """An update has begun and its first replacement is on its way."""
    house.begin(2)
    for _ in range(ticks):
        house.tick()
    house.launched.clear()
    return house


@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize("extra", [0, 1])
def test_one_loss_is_made_good_once(hidden: bool, extra: int) -> None:
    """One spot replica for it, and on-demand as without an update: one, and no second one a moment later."""
    house = watched(extra=extra)
    house.boot_s = 30.0
    settled(house)
    assert house.rollout is not None
    replaced = {one.replica for one in house.rollout.hidden}
    house.preempt(next(one.id for one in house.ready(1) if (one.id in replaced) is hidden))
    for _ in range(20):
        house.tick(0.1)
    markets = sorted(one.offer.market for one in house.launched)
    assert markets == [ON_DEMAND, SPOT]
    assert len(house.alive()) == house.target + extra + house.update.max_surge + 1


def test_what_is_replaced_stays_so_until_it_is_gone() -> None:
    """Old on-demand appears and would be first in an order made anew: what is on its way goes on."""
    house = settled(watched())
    house.boot_s = 30.0
    assert house.rollout is not None
    replaced = [one.replica for one in house.rollout.hidden]
    lost = next(one for one in house.ready(1) if one.id not in replaced)
    house.preempt(lost.id)
    for _ in range(10):
        plan = house.tick(0.1)
        assert not [one for one in plan.actions if isinstance(one, Terminate | Drain)]
        assert house.rollout is not None
        assert [one.replica for one in house.rollout.hidden] == replaced


def test_each_launch_says_what_its_sums_leave_out() -> None:
    """2 of 3 run where 3 run: the reason names the one that is being replaced."""
    house = watched()
    house.begin(2)
    [launch] = [one for one in house.tick().actions if isinstance(one, Launch)]
    assert launch.reason.startswith(
        "version 2: 2 of 3 spot replicas run or start (the load needs 2, 1 more to spare)"
    )
    assert launch.reason.endswith("(not counting r-0001, which is being replaced)")


def test_on_demand_that_bridges_a_real_loss_goes_as_without_an_update() -> None:
    """Spot has come back and been ready for `hedge.on_demand_hold`: what is hidden keeps no bridge there."""
    house = settled(watched(bake_time="10m"))
    assert house.rollout is not None
    replaced = {one.replica for one in house.rollout.hidden}
    house.preempt(next(one.id for one in house.ready(1) if one.id not in replaced))
    for _ in range(15):
        house.tick()
    assert [one for one in house.launched if one.rule is Rule.FALLBACK]
    assert not [one for one in house.alive() if one.market is ON_DEMAND]


def test_where_spot_does_not_come_on_demand_takes_its_place_after_a_minute() -> None:
    """One at a time; once there is spot again, it goes as any bridge does."""
    house = watched(extra=0)
    house.refuses = frozenset(ZONES)
    house.begin(2)
    for _ in range(59):
        house.tick()
    assert not [one for one in house.launched if one.offer.market is ON_DEMAND]
    house.most = 0
    while house.rollout is not None:
        house.tick()
        assert house.now_s < 2000
    assert {one.market for one in house.alive()} == {ON_DEMAND}
    assert house.most == house.target + 1
    house.refuses = frozenset()
    for _ in range(120):
        house.tick()
    assert {one.market for one in house.alive()} == {SPOT}


def test_what_the_load_no_longer_needs_goes_from_the_old_version() -> None:
    """One fewer is needed while a replacement starts: that one stays, the one that it replaces goes."""
    house = settled(watched())
    house.boot_s = 30.0
    assert house.rollout is not None
    [starting] = [one.id for one in house.alive() if one.version == 2]
    replaced = house.rollout.hidden[0].replica
    house.target, house.calm_since_s = 1, house.now_s
    plan = house.tick()
    assert [one.replica for one in plan.actions if isinstance(one, Drain)] == [replaced]
    assert starting in house.replicas


def test_until_the_new_version_has_proven_itself_no_second_one_goes_for_it() -> None:
    """`max_surge = 0`, two may be missing: one goes, and its place is the trial."""
    house = watched(target=3, extra=0, max_surge=0, max_unavailable=2)
    house.boot_s = 30.0
    house.begin(2)
    for _ in range(5):
        house.tick()
    assert sorted(one.version for one in house.alive() if one.market is SPOT) == [1, 1, 2]
    assert not [one for one in house.launched if one.offer.market is ON_DEMAND]
