"""Explanations while a version takes the place of another: what they say is what the tick does."""

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hedgeserve.hedge import (
    Explanation,
    Health,
    Launch,
    Rolling,
    ScaleDecision,
    Scene,
    Strategy,
    explain_now,
    explain_replica,
    explain_zone,
)
from hedgeserve.policy.foresight import foresee
from hedgeserve.replica import State
from hedgeserve.spec import HedgeSpec, ReplicasSpec
from tests.test_rollback_midway import midway
from tests.test_rollout import ZONES, World, world


def scene_of(house: World) -> Scene:
    """All that is known of this world now, as the service would know it."""
    seen, rolling = house.seen(), None
    if house.rollout is not None:
        rolling = Rolling(house.rollout, house.update, Health(house.counts, house.failures, "it broke"))
    asked = (
        house.policy.plan
        if rolling is None
        else lambda seen: rolling.go(house.policy.plan, seen, at=house.at).plan
    )
    plan = asked(seen)
    return Scene(
        at=house.at,
        observation=seen,
        hedge=HedgeSpec(policy="spothedge", overprovision=1),
        replicas=ReplicasSpec(min=1, max=4, target_requests_per_second=2.0),
        policy=house.policy,
        plan=plan,
        scale=ScaleDecision(house.target, house.target, 0.0, "the load asks for it"),
        outside={},
        boot_s=house.boot_s,
        rolling=rolling,
    )


def text(answer: Explanation) -> str:
    return "\n".join([answer.headline, *answer.because, *answer.would_change])


def rolling_world(strategy: Strategy = Strategy.ROLLING, **more: Any) -> World:
    """Three replicas of version 1, and version 2 has just been asked for."""
    house = world(**more)
    house.begin(2, strategy)
    return house


# The hypothesis: nothing is said to be done but what is done


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10_000),
    policy=st.sampled_from(["spothedge", "forecast"]),
    strategy=st.sampled_from([Strategy.ROLLING, Strategy.BLUE_GREEN]),
    surge=st.integers(0, 2),
    bad=st.booleans(),
)
def test_what_would_be_done_now_is_what_the_tick_does(
    seed: int, policy: str, strategy: Strategy, surge: int, bad: bool
) -> None:
    """Launches and ends alike, with versions and reasons, through preemptions, a switch and a roll-back."""
    dice, house = Random(seed), world(policy, target=3, max_surge=surge, max_unavailable=int(surge == 0))
    house.bad = frozenset({2}) if bad else frozenset()
    house.begin(2, strategy)
    for _ in range(60):
        if house.ready() and dice.random() < 0.05:
            house.preempt(dice.choice(sorted(one.id for one in house.ready())))
        house.now_s += 1.0
        house._boot()
        found = foresee(scene_of(house), lambda _: True)
        said = found.action if found is not None and found.at_s <= house.now_s else None
        done = house.tick(0.0).actions
        assert said == (done[0] if done else None)


def test_the_replica_that_is_named_as_next_is_the_one_that_goes_when_it_is_said() -> None:
    """In a quiet world, each time anew, to the second."""
    house = rolling_world()
    house.tick()
    while house.rollout is not None and house.rollout.cleared_s is None:
        told = explain_now(scene_of(house))
        [named] = [line.partition(" ")[0] for line in told.because if "is the next to go" in line]
        ends = foresee(scene_of(house), lambda action: not isinstance(action, Launch))
        while named in house.replicas:
            house.tick()
        if ends is not None:
            assert getattr(ends.action, "replica", "") == named
            assert house.now_s - ends.at_s == pytest.approx(0.0, abs=1.01)
        house.tick()


# What is said


def test_a_rolling_update_is_the_first_thing_to_be_told() -> None:
    """Which version takes the place of which, what is waited for, who goes next and why."""
    house = rolling_world()
    house.tick()
    answer = explain_now(scene_of(house))
    assert "version 1 is being replaced by version 2 (rolling)" in answer.headline
    assert answer.because[0] == "version 1 is being replaced by version 2 (rolling)"
    assert any(line.startswith("version 2 (rolling): 0 of 3 ready replicas run it") for line in answer.because)
    assert any("waits for r-0004 to become ready" in line for line in answer.because) or "r-00" in text(answer)
    first = min(house.ready(1), key=lambda one: one.id)
    assert any(
        line.startswith(f"{first.id} (spot, {first.zone}, version 1) is the next") for line in answer.because
    )
    assert any(f"as if {first.id} were not there" in line for line in answer.because)
    assert any(line.startswith(f"{first.id} goes at about ") for line in answer.would_change)


def test_the_sums_of_a_rolling_update_are_told_once_and_of_the_world_as_it_is() -> None:
    """What is hidden is told apart, and that nothing stands in for what serves on."""
    house = rolling_world()
    house.tick()
    while len(house.alive()) < 4:
        house.tick()
    answer = explain_now(scene_of(house))
    [spot] = [line for line in answer.because if "spot replicas are wanted" in line]
    assert spot.startswith("3 spot replicas are wanted")
    assert "; 4 run or start, " in spot
    assert " alone: " not in text(answer)
    assert any(line.startswith("nothing on demand stands in for what is only hidden") for line in answer.because)


def test_without_a_roll_out_nothing_is_told_of_versions() -> None:
    """The words are those of before."""
    house = world()
    assert "version" not in text(explain_now(scene_of(house)))
    assert "version" not in text(explain_replica(scene_of(house), house.ready()[0]))


def test_an_old_replica_is_told_its_turn() -> None:
    """The first one when and why it goes, the others after whom."""
    house = rolling_world()
    house.tick()
    first, second, third = sorted(house.ready(1), key=lambda one: one.id)
    answer = explain_replica(scene_of(house), first)
    assert answer.headline.endswith("it runs version 1, an old one: version 2 takes its place")
    assert any(line.startswith("it is the next to go: ") for line in answer.would_change)
    assert answer.would_change[0].startswith(f"{first.id} goes at about ")
    answer = explain_replica(scene_of(house), third)
    assert f"its turn comes after {first.id}, {second.id}" in answer.would_change
    assert "it stays if version 2 is taken back: `hedgeserve rollback` does that" in answer.would_change


def test_a_new_replica_is_on_trial_until_it_has_been_ready_for_long_enough() -> None:
    """And it is said what would take it back."""
    house = rolling_world(bake_time="20s")
    while not house.ready(2):
        house.tick()
    [new] = house.ready(2)
    answer = explain_replica(scene_of(house), new)
    assert answer.headline.endswith("it runs version 2, the new one, on trial")
    assert any("it counts once ready for 20s (`update.bake_time`)" in line for line in answer.because)
    assert any(line.startswith("it goes if version 2 is taken back: ") for line in answer.would_change)
    house.now_s += 21
    assert "it counts: it has been ready for 21s" in text(explain_replica(scene_of(house), new))


def test_of_a_blue_green_update_both_sets_are_told() -> None:
    """The sums are those of each set alone, and the old set knows when it goes."""
    house = rolling_world(Strategy.BLUE_GREEN, bake_time="30s")
    house.tick()
    answer = explain_now(scene_of(house))
    assert "version 1 is being replaced by version 2 (blue-green)" in answer.headline
    assert any(line.startswith("for version 2 alone: 3 spot replicas are wanted") for line in answer.because)
    assert any(line.startswith("for the old set alone: 3 spot replicas are wanted") for line in answer.because)
    assert any("All requests change over".lower() in line.lower() for line in answer.because)
    whole = "the old set goes as a whole, 30s (`update.bake_time`) after the new one has taken over: "
    assert f"{whole}{', '.join(sorted(one.id for one in house.ready(1)))}" in answer.because
    assert "is the next to go" not in text(answer)
    old = house.ready(1)[0]
    goes = "it goes with the whole old set, 30s (`update.bake_time`) after the new one has taken over"
    assert goes in explain_replica(scene_of(house), old).would_change


def test_a_version_that_is_taken_back_is_told_as_that() -> None:
    """Nobody is promised a way back from the way back."""
    house = rolling_world()
    while house.rollout is not None:
        house.tick()
    house.begin(1, Strategy.ROLLBACK)
    house.tick()
    answer = explain_now(scene_of(house))
    assert "version 2 is taken back and version 1 returns" in answer.headline
    bad = house.ready(2)[0]
    told = explain_replica(scene_of(house), bad)
    assert told.headline.endswith("it runs version 2, which is taken back")
    assert any(
        line.startswith("it goes when one of version 1 is ready in its place") for line in told.would_change
    )
    assert "it stays" not in text(told)
    good = next(one for one in house.alive() if one.version == 1)
    assert "it runs version 1, which returns" in text(explain_replica(scene_of(house), good))


def test_a_spare_of_a_roll_back_knows_when_it_goes_at_the_latest() -> None:
    """The load has what it needs and nothing comes: it is said to the second."""
    house = midway()
    house.refuses, house.capped = frozenset(ZONES), True
    house.tick()
    [spare] = house.ready(2)
    scene = scene_of(house)
    assert any(
        "1 replica of what was taken back stays as a spare for 2m more" in line
        for line in explain_now(scene).because
    )
    found = foresee(scene, lambda action: not isinstance(action, Launch) and action.replica == spare.id)
    assert found is not None
    assert found.at_s == house.now_s + 120
    while house.ready(2):
        house.tick()
    assert house.now_s == found.at_s


def test_a_zone_is_explained_by_what_the_policy_is_shown() -> None:
    """The zone of the replica that is hidden may be where its replacement goes; and why is told."""
    house = rolling_world()
    found = foresee(scene_of(house), lambda action: isinstance(action, Launch))
    assert found is not None
    assert isinstance(found.action, Launch)
    answer = explain_zone(scene_of(house), found.action.offer.zone)
    assert "is where the next spot replica goes" in answer.headline
    assert any("were not there" in line for line in answer.because)


def test_times_are_those_of_the_wall_clock() -> None:
    """A replica that takes too long has the version taken back, and that is foreseen."""
    house = rolling_world(ready_timeout="20s")
    house.boot_s = 1000.0
    house.tick()
    late = replace(scene_of(house), boot_s=None)
    [new] = [one for one in house.alive() if one.state is State.BOOTING]
    found = foresee(late, lambda action: not isinstance(action, Launch) and action.replica == new.id)
    assert found is not None
    assert "back to version 1" in found.action.reason
    assert found.at_s == pytest.approx(house.now_s + 20, abs=0.1)
