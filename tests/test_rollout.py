"""Roll-outs, decided in a world of our own: who is replaced when, what is never undercut, what is taken back."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hedgeserve.hedge import (
    Count,
    Drain,
    Health,
    Launch,
    Leaving,
    NewsKind,
    Observation,
    Plan,
    Policy,
    Rolling,
    Rollout,
    Rule,
    Strategy,
    Terminate,
    Verdict,
    ZoneNews,
    amend,
    look,
    make_policy,
    unneeded,
)
from hedgeserve.replica import STARTING, Market, Notice, Offer, Replica, ReplicaId, Role, State, ZoneId
from hedgeserve.spec import HedgeSpec, UpdateSpec

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
SPOT = Market.SPOT
ZONES = ("local/east/a", "local/east/b", "local/west/a", "local/west/b")
OFFERS = tuple(
    Offer(ZoneId(zone), "small", market, usd, BEGAN)
    for zone in ZONES
    for market, usd in ((Market.SPOT, 0.3), (Market.ON_DEMAND, 1.0))
)


@dataclass
class World:
    """A fleet that does what it is told: boots take ``boot_s``; ``bad`` versions never come up."""

    policy: Policy
    target: int
    update: UpdateSpec
    rollout: Rollout | None = None
    bad: frozenset[int] = frozenset()
    refuses: frozenset[str] = frozenset()
    boot_s: float = 4.0
    now_s: float = 1000.0
    replicas: dict[str, Replica] = field(default_factory=dict)
    failures: int = 0
    number: int = 0
    wanted: int = 1
    counts: dict[int, Count] = field(default_factory=dict)
    roles: dict[int, Role] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    most: int = 0

    @property
    def at(self) -> datetime:
        return BEGAN + timedelta(seconds=self.now_s)

    def seen(self) -> Observation:
        return Observation(self.now_s, self.target, tuple(self.replicas.values()), OFFERS, (self.wanted,))

    def ready(self, version: int | None = None) -> list[Replica]:
        return [
            one for one in self.replicas.values() if one.state is State.READY and version in (None, one.version)
        ]

    def alive(self) -> list[Replica]:
        return [one for one in self.replicas.values() if one.alive]

    def serving(self) -> int:
        """Ready replicas to which requests go."""
        return sum(self.roles.get(one.version, Role.SERVE) is not Role.HOLD for one in self.ready())

    def tick(self, seconds: float = 1.0) -> Plan:
        """Time passes, then one tick of the service."""
        self.now_s += seconds
        self._boot()
        plan = self._plan()
        for action in plan.actions:
            match action:
                case Launch():
                    self._launch(action)
                case Drain(replica=who) | Terminate(replica=who):
                    one = self.replicas.pop(who, None)
                    if one is not None:
                        self._tell(one, NewsKind.RELEASED)
        self.most = max(self.most, len(self.alive()))
        return plan

    def preempt(self, who: str) -> None:
        """The cloud takes one back without a word."""
        self._tell(self.replicas.pop(who), NewsKind.PREEMPTED)

    def _plan(self) -> Plan:
        if self.rollout is None:
            return self.policy.plan(self.seen())
        for _ in range(3):
            health = Health(self.counts, self.failures, "it broke")
            step = look(self.rollout, self.seen(), at=self.at, update=self.update, health=health)
            self.rollout = step.rollout
            self.verdicts.append(step.verdict)
            match step.verdict:
                case Verdict.GOES_ON:
                    break
                case Verdict.SWITCH:
                    self.rollout = replace(step.rollout, switched_s=self.now_s)
                case Verdict.DONE:
                    self.rollout, self.roles = None, {}
                    return self.policy.plan(self.seen())
                case Verdict.BACK:
                    self.reasons.append(step.reason)
                    self.wanted = step.rollout.old
                    self.rollout = Rollout(
                        step.rollout.new, step.rollout.old, Strategy.ROLLBACK, False, new_proven=True
                    )
        self.roles = dict(step.roles)
        plans = [self.policy.plan(view.observation) for view in step.views]
        return amend(step, self.seen(), plans, update=self.update)

    def begin(self, version: int, strategy: Strategy = Strategy.ROLLING, *, old_proven: bool = True) -> None:
        """Another version is wanted."""
        self.rollout = Rollout(self.wanted, version, strategy, old_proven)
        self.wanted, self.failures, self.verdicts = version, 0, []

    def _launch(self, action: Launch) -> None:
        if action.offer.zone in self.refuses and action.offer.market is Market.SPOT:
            self.policy.observe(ZoneNews(action.offer.zone, action.offer.market, NewsKind.NO_CAPACITY, self.now_s))
            return
        self.number += 1
        who = ReplicaId(f"r-{self.number:04}")
        version = action.version or self.wanted
        self.replicas[who] = Replica(
            who, action.offer, State.BOOTING, self.now_s, self.at, vm_id=who, version=version
        )
        self._tell(self.replicas[who], NewsKind.GRANTED)

    def _boot(self) -> None:
        for who, one in list(self.replicas.items()):
            if one.state in STARTING and self.now_s >= one.since_s + self.boot_s:
                if one.version in self.bad:
                    del self.replicas[who]
                    self.failures += bool(self.rollout and one.version == self.rollout.new)
                    self._tell(one, NewsKind.BOOT_FAILED)
                else:
                    ready = replace(one, state=State.READY, since_s=self.now_s, ready_since_s=self.now_s)
                    self.replicas[who] = ready
                    self._tell(ready, NewsKind.READY)

    def _tell(self, one: Replica, kind: NewsKind) -> None:
        self.policy.observe(ZoneNews(one.zone, one.market, kind, self.now_s, held_s=1.0, version=one.version))


def world(policy: str = "spothedge", *, target: int = 2, extra: int = 1, **update: object) -> World:
    """A service with a settled fleet of version 1."""
    hedge = HedgeSpec.model_validate(
        {"policy": policy, "overprovision": extra, "retry_delay": "3s", "on_demand_hold": "5s"}
    ).with_headroom(scaled=False)
    made = World(make_policy(hedge), target, UpdateSpec.model_validate({"bake_time": "5s", **update}))
    for _ in range(60):
        made.tick()
    return made


def versions(replicas: Iterable[Replica]) -> list[int]:
    return sorted(one.version for one in replicas)


@pytest.mark.parametrize("policy", ["spothedge", "forecast"])
@pytest.mark.parametrize("strategy", [Strategy.ROLLING, Strategy.BLUE_GREEN])
def test_all_replicas_are_replaced_and_the_load_is_carried_at_all_times(policy: str, strategy: Strategy) -> None:
    """Make before break: the number of ready replicas never falls below what the load needs."""
    house = world(policy)
    house.begin(2, strategy)
    while house.rollout is not None:
        house.tick()
        assert house.serving() >= house.target
        assert house.now_s < 2000, (house.verdicts[-3:], house.replicas)
    assert set(versions(house.alive())) == {2}


def test_a_rolling_update_runs_no_more_than_the_surge_above_what_is_wanted() -> None:
    """Three are wanted, so four run at most while one after the other is replaced."""
    house = world()
    assert len(house.alive()) == 3
    house.begin(2)
    house.most = 0
    while house.rollout is not None:
        house.tick()
    assert house.most == 4


def test_no_on_demand_is_bought_for_an_update() -> None:
    """What is replaced serves on: nothing need be bridged."""
    house = world()
    house.begin(2)
    while house.rollout is not None:
        plan = house.tick()
        assert not [one for one in plan.actions if isinstance(one, Launch) and one.rule is Rule.FALLBACK]


def test_one_after_the_other_where_there_is_no_surge() -> None:
    """`max_surge = 0`: first one goes, then its replacement comes; never more than that one are missing."""
    house = world(target=3, extra=0, max_surge=0, max_unavailable=1)
    house.begin(2)
    house.most, least = 0, 99
    while house.rollout is not None:
        house.tick()
        least = min(least, house.serving())
        assert house.now_s < 2000
    assert least == 2
    assert set(versions(house.alive())) == {2}


def test_until_the_new_version_has_proven_itself_lost_capacity_comes_back_as_the_old_one() -> None:
    """A preemption in the middle of the first step: the old version is launched, beside the one that tries."""
    house = world()
    house.boot_s = 30.0
    house.begin(2)
    house.tick()
    assert versions(one for one in house.alive() if one.state in STARTING) == [2]
    house.preempt(house.ready(1)[0].id)
    house.tick()
    assert versions(one for one in house.alive() if one.state in STARTING and one.market is SPOT) == [1, 2]


def test_once_it_is_proven_lost_capacity_comes_back_as_the_new_version() -> None:
    """From then on nothing old is launched any more."""
    house = world()
    house.begin(2)
    while not (house.rollout and house.rollout.new_proven):
        house.tick()
    house.preempt(house.ready(1)[0].id)
    house.tick()
    assert {one.version for one in house.alive() if one.state in STARTING} == {2}


def test_an_end_says_who_still_finishes_what_it_has() -> None:
    """Old replicas that drain are not all gone: the last word of the roll-out does not say so."""
    house = world()
    [*_, last] = house.ready(1)
    seen = replace(house.seen(), replicas=(replace(last, state=State.READY, version=2, ready_since_s=1.0),))
    rollout, health = Rollout(1, 2, Strategy.ROLLING, cleared_s=1.0), Health()
    step = look(rollout, seen, at=house.at, update=house.update, health=health)
    assert (step.verdict, step.reason) == (Verdict.DONE, "all replicas run version 2")
    draining = tuple(replace(one, state=State.DRAINING) for one in house.ready(1)[:2])
    ending = replace(last, id=ReplicaId("r-0099"), state=State.TERMINATING)
    seen = replace(seen, replicas=(*seen.replicas, *draining, ending))
    step = look(rollout, seen, at=house.at, update=house.update, health=health)
    assert step.reason == (
        "version 2 took all requests from then on, while 2 replicas of another were finishing what they had and "
        "1 VM was being ended"
    )


@pytest.mark.parametrize("strategy", [Strategy.ROLLING, Strategy.BLUE_GREEN])
def test_a_version_that_never_comes_up_is_taken_back(strategy: Strategy) -> None:
    """Three failures are enough; the old version has served all the time."""
    house = world()
    house.bad = frozenset({2})
    house.begin(2, strategy)
    while house.rollout is not None:
        house.tick()
        assert house.serving() >= house.target
        assert house.now_s < 2000
    assert house.reasons == [f"{house.update.max_failures} of its replicas failed, the last with: it broke"]
    assert house.wanted == 1
    assert set(versions(house.alive())) == {1}


@pytest.mark.parametrize("policy", ["spothedge", "forecast"])
def test_what_a_broken_version_breaks_holds_back_no_replacement_of_the_good_one(policy: str) -> None:
    """Its boots failed again and again: its own launches wait, what a preemption takes is launched at once."""
    house = world(policy, max_failures=9)
    house.bad = frozenset({2})
    house.begin(2)
    while 2 not in (plan := house.tick()).held:
        assert house.now_s < 2000
    assert "launches of version 2 wait: 2 times in a row" in " ".join(plan.notes)
    house.preempt(house.ready(1)[0].id)
    launched = [one.version for one in house.tick().actions if isinstance(one, Launch)]
    assert launched
    assert set(launched) == {1}
    assert 2 in house.tick().held
    assert len(house.alive()) >= 3


def test_without_a_surge_a_broken_version_has_no_good_replica_exchanged_for_a_good_one() -> None:
    """The hole that was made for a trial is filled with the old version while the new one waits."""
    house = world(max_failures=9, max_surge=0, max_unavailable=1)
    house.bad = frozenset({2})
    house.begin(2)
    while 2 not in house.tick().held:
        assert house.now_s < 2000
    while 2 in (plan := house.tick()).held:
        assert not any(isinstance(one, Drain) for one in plan.actions)


def test_a_fix_is_launched_whatever_the_boots_of_the_old_version_came_to() -> None:
    """Replicas of version 1 fail; those of version 2 need not wait for that."""
    house = world()
    for _ in range(4):
        house.now_s += 100
        house._tell(house.ready(1)[0], NewsKind.BOOT_FAILED)
    house.begin(2)
    plan = house.tick()
    assert 1 in plan.held
    assert [one.version for one in plan.actions if isinstance(one, Launch)] == [2]


def test_a_version_that_is_not_ready_in_time_is_taken_back() -> None:
    """`ready_timeout` counts from the launch of each of its VMs."""
    house = world(ready_timeout="20s")
    house.boot_s = 1000.0
    house.begin(2)
    began_s = house.now_s
    while not house.reasons:
        house.tick()
    assert house.reasons == ["r-0006 was not ready 20s after its launch"]
    assert house.now_s - began_s < 25


def test_a_version_whose_requests_fail_is_taken_back() -> None:
    """A third of its attempts fail, where the old one fails none."""
    house = world(bake_time="60s")
    house.begin(2)
    for _ in range(10):
        house.tick()
    house.counts = {1: Count(served=300), 2: Count(served=40, failed=20)}
    house.tick()
    assert house.reasons == ["33.3% of its attempts fail, 0.0% on the old"]


@pytest.mark.parametrize(
    ("new", "old"),
    [
        (Count(served=12, failed=3), Count(served=100)),
        (Count(served=95, failed=5), Count(served=960, failed=40)),
        (Count(served=90, refused=10), Count(served=880, refused=120)),
    ],
    ids=["too few", "as often as before", "clients that ask for nonsense of both"],
)
def test_what_chance_or_clients_do_takes_nothing_back(new: Count, old: Count) -> None:
    """The margin, and what a difference must be to mean anything."""
    house = world(bake_time="60s")
    house.begin(2)
    house.counts = {1: old, 2: new}
    for _ in range(10):
        house.tick()
    assert not house.reasons


def test_a_version_that_answers_nothing_at_all_is_found_out_sooner() -> None:
    """Five attempts, all failed."""
    house = world(bake_time="60s")
    house.begin(2)
    house.counts = {1: Count(served=100), 2: Count(failed=5)}
    house.tick()
    assert house.reasons == ["100.0% of its attempts fail, 0.0% on the old"]


def test_without_a_version_that_has_served_nothing_is_taken_back() -> None:
    """The first version was broken, the second one is, too: there is nothing to go back to."""
    house = world()
    house.bad = frozenset({2})
    house.begin(2, old_proven=False)
    for _ in range(200):
        house.tick()
    assert house.rollout is not None
    assert house.reasons == []


def test_blue_green_changes_over_in_one_step_and_keeps_the_old_set_until_the_bake_ends() -> None:
    """Before: all on the old one. After: all on the new one, the old one waits, then goes."""
    house = world(bake_time="20s")
    house.begin(2, Strategy.BLUE_GREEN)
    while Verdict.SWITCH not in house.verdicts:
        house.tick()
        if Verdict.SWITCH not in house.verdicts:
            assert house.roles[1] is Role.SERVE
            assert house.roles.get(2, Role.HOLD) is Role.HOLD
    assert house.roles == {1: Role.HOLD, 2: Role.SERVE}
    assert len(house.ready(2)) >= house.target
    assert len(house.ready(1)) == 3
    for _ in range(18):
        house.tick()
    assert len(house.ready(1)) == 3
    for _ in range(4):
        house.tick()
    assert house.rollout is None
    assert set(versions(house.alive())) == {2}


def test_blue_green_goes_back_at_once_while_the_old_set_is_there() -> None:
    """A bad bake: the old replicas serve again with the very next snapshot."""
    house = world(bake_time="60s")
    house.begin(2, Strategy.BLUE_GREEN)
    while Verdict.SWITCH not in house.verdicts:
        house.tick()
    house.counts = {1: Count(served=500), 2: Count(served=10, failed=30)}
    house.tick()
    assert house.reasons
    assert house.roles.get(1, Role.SERVE) is Role.SERVE
    assert house.roles[2] is Role.SPARE
    for _ in range(30):
        house.tick()
    assert house.rollout is None
    assert set(versions(house.alive())) == {1}


def test_blue_green_uses_the_new_set_early_where_nothing_of_the_old_one_is_left() -> None:
    """Better the new version unbaked than no answer."""
    house = world(target=3, bake_time="60s")
    house.begin(2, Strategy.BLUE_GREEN)
    house.tick()
    for one in [one for one in house.alive() if one.version == 2][1:]:
        del house.replicas[one.id]
    house.refuses = frozenset(ZONES)
    while not house.ready(2):
        house.tick()
    assert house.roles[2] is Role.HOLD
    for one in house.ready(1):
        house.preempt(one.id)
    house.tick()
    assert Verdict.SWITCH in house.verdicts


def test_blue_green_lets_the_old_set_stand_in_for_new_replicas_that_are_lost_after_the_change_over() -> None:
    """Past its bake, too: it goes when as many of the new are ready as the load needs."""
    house = world(target=2, extra=0, bake_time="5s")
    house.begin(2, Strategy.BLUE_GREEN)
    while Verdict.SWITCH not in house.verdicts:
        house.tick()
    house.preempt(house.ready(2)[0].id)
    house.refuses = frozenset(ZONES)
    house.boot_s = 1000.0
    for _ in range(20):
        house.tick()
    assert house.roles == {1: Role.SPARE, 2: Role.SERVE}
    assert house.serving() >= house.target
    house.refuses, house.boot_s = frozenset(), 1.0
    for _ in range(30):
        house.tick()
    assert house.rollout is None
    assert set(versions(house.alive())) == {2}


def test_blue_green_keeps_the_old_set_while_a_spare_of_the_new_one_starts() -> None:
    """As many as the load needs are ready; the spare is on its way, and nothing is bought to bridge it."""
    house = world(target=2, extra=1, bake_time="5s")
    house.boot_s = 8.0
    house.begin(2, Strategy.BLUE_GREEN)
    while Verdict.SWITCH not in house.verdicts:
        house.tick()
    house.preempt(house.ready(2)[0].id)
    known = set(house.replicas)
    for _ in range(40):
        house.tick()
        bought = [one for who, one in house.replicas.items() if who not in known and one.market is not Market.SPOT]
        assert bought == []
    assert house.rollout is None
    assert versions(house.ready()) == [2, 2, 2]


def test_blue_green_ends_where_no_spare_is_to_be_had() -> None:
    """On-demand, or after two minutes in which nothing came what the load needs, is enough."""
    house = world(target=2, extra=1, bake_time="5s")
    house.begin(2, Strategy.BLUE_GREEN)
    while Verdict.SWITCH not in house.verdicts:
        house.tick()
    house.preempt(house.ready(2)[0].id)
    house.refuses = frozenset(ZONES)
    for _ in range(140):
        house.tick()
    assert house.rollout is None
    assert set(versions(house.alive())) == {2}


def test_a_service_at_zero_changes_its_version_without_a_replica() -> None:
    """Nothing runs and nothing is needed: done."""
    house = world(target=0)
    house.begin(2)
    for _ in range(10):
        house.tick()
    assert house.rollout is None
    assert house.alive() == []


def test_a_replica_under_notice_is_the_policys_to_let_go() -> None:
    """It is not counted as one of those to replace, and its replacement is launched as usual."""
    house = world()
    house.begin(2)
    house.tick()
    who = house.ready(1)[-1]
    notice = Notice(house.now_s + 10, "aws")
    house.replicas[who.id] = replace(who, state=State.NOTICED, since_s=house.now_s, notice=notice)
    for _ in range(60):
        house.tick()
        assert house.serving() >= house.target
    assert house.rollout is None
    assert set(versions(house.alive())) == {2}


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    policy=st.sampled_from(["spothedge", "forecast"]),
    strategy=st.sampled_from([Strategy.ROLLING, Strategy.BLUE_GREEN]),
    target=st.integers(0, 5),
    extra=st.integers(0, 2),
    surge=st.integers(0, 3),
    unavailable=st.integers(0, 2),
    bad=st.booleans(),
    seed=st.integers(0, 2**20),
    trouble=st.floats(0, 0.25),
)
def test_whatever_happens_a_rollout_undercuts_nothing_and_ends(
    policy: str,
    strategy: Strategy,
    target: int,
    extra: int,
    surge: int,
    unavailable: int,
    bad: bool,
    seed: int,
    trouble: float,
) -> None:
    """With preemptions and refused zones: an update alone never takes ready replicas below what the load needs or
    what was ready; it ends with one version everywhere; what is bad is taken back, and the old one returns."""
    if surge == 0 and unavailable == 0:
        surge = 1
    house = world(policy, target=target, extra=extra, max_surge=surge, max_unavailable=unavailable)
    house.bad = frozenset({2}) if bad else frozenset()
    house.begin(2, strategy)
    dice, began_s = Random(seed), house.now_s
    while house.rollout is not None and house.now_s - began_s < 2400:
        if house.now_s - began_s < 200:  # then it calms down
            if house.alive() and dice.random() < trouble:
                house.preempt(dice.choice(house.alive()).id)
            house.refuses = frozenset(zone for zone in ZONES if dice.random() < trouble)
        else:
            house.refuses = frozenset()
        house.now_s += 1.0
        house._boot()
        before = house.serving()
        house.now_s -= 1.0
        house.tick()
        floor = min(house.target, before) - (unavailable if strategy is Strategy.ROLLING else 0)
        assert house.serving() >= floor, (house.rollout, house.replicas)
    assert house.rollout is None, (house.verdicts[-3:], versions(house.alive()))
    if bad and target:
        assert house.wanted == 1
        assert house.reasons
    assert set(versions(house.alive())) <= {house.wanted}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    policy=st.sampled_from(["spothedge", "forecast"]),
    target=st.integers(1, 5),
    extra=st.integers(0, 2),
    seed=st.integers(0, 2**20),
    trouble=st.sampled_from([0.0, 0.1]),
)
def test_a_roll_back_from_a_healthy_fleet_buys_no_bridge_and_undercuts_nothing(
    policy: str, target: int, extra: int, seed: int, trouble: float
) -> None:
    """On-demand comes only for what is lost, as without a roll-back; nothing that serves goes before others do."""
    house = world(policy, target=target, extra=extra)
    house.begin(2, Strategy.ROLLBACK)
    dice, began_s, whole = Random(seed), house.now_s, len(house.ready())
    while house.rollout is not None and house.now_s - began_s < 300:
        if house.now_s - began_s < 60 and house.ready() and dice.random() < trouble:
            house.preempt(dice.choice(house.ready()).id)
            whole = 0
        house.now_s += 1.0
        house._boot()
        before, bridges = house.serving(), on_demand_of(house.policy.plan(house.seen()))
        house.now_s -= 1.0
        plan = house.tick()
        assert on_demand_of(plan) <= bridges, plan.actions
        assert house.serving() >= min(max(target, min(whole, target + extra)), before)
    assert house.rollout is None
    assert set(versions(house.alive())) == {2}
    assert trouble or house.now_s - began_s <= house.boot_s + 3


def on_demand_of(plan: Plan) -> int:
    return sum(isinstance(one, Launch) and one.offer.market is Market.ON_DEMAND for one in plan.actions)


def test_a_roll_back_whose_replicas_come_up_one_by_one_buys_no_bridge_at_its_end() -> None:
    """The last one still starts when as many as the load needs are ready: one of the old serves until then."""
    house = world(target=3)
    house.begin(2, Strategy.ROLLBACK)
    house.tick()
    for place, one in enumerate(new for new in house.alive() if new.version == 2):
        house.replicas[one.id] = replace(one, since_s=one.since_s + 2 * place)
    for _ in range(30):
        assert on_demand_of(house.tick()) == 0
        assert len(house.ready()) >= 4
    assert house.rollout is None


def test_a_roll_back_from_what_does_not_serve_is_quick() -> None:
    """Its requests fail, or none of it is ready: on-demand bridges until the good version's spot is there."""
    for failing in (True, False):
        house = world(target=3)
        house.begin(2, Strategy.ROLLBACK)
        if failing:
            house.counts = {1: Count(served=1, failed=30)}
        else:
            for one in house.ready():
                house.replicas[one.id] = replace(one, state=State.LOADING, since_s=house.now_s)
        assert on_demand_of(house.tick(0.5)) == 3


def test_a_roll_back_for_which_no_spot_comes_takes_on_demand_after_a_minute() -> None:
    """What is taken back serves as long as that."""
    house = world(target=3)
    house.begin(2, Strategy.ROLLBACK)
    house.refuses = frozenset(ZONES)
    began_s = house.now_s
    while not on_demand_of(house.tick()):
        assert len(house.ready(1)) >= 3
        assert house.now_s < began_s + 100
    assert house.now_s >= began_s + 60
    while house.rollout is not None:
        house.tick()
        assert house.serving() >= 3
        assert house.now_s < began_s + 200
    assert set(versions(house.alive())) == {2}


def test_it_is_known_whom_a_roll_out_lets_go_next() -> None:
    """Whoever wants to take a replica away asks: one by one, the old set after the change-over, or all at once."""
    world = World(make_policy(HedgeSpec(policy="spothedge")), 3, UpdateSpec())
    for _ in range(30):
        world.tick()
    old = {one.id for one in world.ready(1)}
    world.begin(2)
    world.tick()
    assert world.rollout is not None
    found = Rolling(world.rollout, world.update).leaving(world.seen())
    assert found.next == {one.replica for one in world.rollout.hidden}
    assert found.later == old - found.next
    green = Rollout(1, 2, Strategy.BLUE_GREEN)
    assert Rolling(green, world.update).leaving(world.seen()) == Leaving(later=frozenset(old))
    for rollout in (replace(green, switched_s=world.now_s), Rollout(1, 2, Strategy.ROLLBACK)):
        assert Rolling(rollout, world.update).leaving(world.seen()) == Leaving(frozenset(old))


@pytest.mark.parametrize(("wanted", "found"), [(0, 2), (1, 1), (2, 0), (3, 0)])
def test_what_only_bridged_is_not_counted_among_those_that_are_replaced(wanted: int, found: int) -> None:
    """On-demand that is held until spot has proved itself goes without another in its place."""
    spot, on_demand = OFFERS[0], OFFERS[1]
    there = [
        Replica(ReplicaId(f"r-{number}"), offer, State.READY, 1000.0, BEGAN, version=1)
        for number, offer in enumerate((spot, spot, spot, on_demand, on_demand))
    ]
    assert unneeded(there, Plan(target=2, spot_wanted=3, on_demand_wanted=wanted)) == found
