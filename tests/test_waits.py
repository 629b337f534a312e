"""What a roll-out is said to wait for, at each stage of it."""

from dataclasses import replace

from hedgeserve.hedge import Strategy, waits_for
from hedgeserve.replica import State
from tests.test_rollback_midway import midway
from tests.test_rollout import ZONES, World, world


def told(house: World) -> list[str]:
    """The sentences of this moment."""
    assert house.rollout is not None
    return list(waits_for(house.rollout, house.seen(), at=house.at, update=house.update))


def test_a_rolling_update_tells_of_the_start_the_bake_and_the_watch_at_the_end() -> None:
    """One stage after the other; each names the replica, the time it took and the setting that bounds it."""
    house = world(bake_time="20s", ready_timeout="5m")
    house.begin(2)
    house.tick()
    house.tick()
    assert told(house) == [
        "Version 2 (rolling): 0 of 3 ready replicas run it, the load needs 2",
        "It waits for r-0006 to become ready (booting for 1s; if it is not in 4m59s, the version "
        "is taken back: `update.ready_timeout` is 5m)",
    ]
    for _ in range(10):
        house.tick()
    assert told(house) == [
        "Version 2 (rolling): 1 of 4 ready replicas run it, the load needs 2",
        "r-0006 has been ready for 7s of the 20s of `update.bake_time`",
    ]
    while house.rollout is not None and house.rollout.cleared_s is None:
        house.tick()
    assert told(house)[-1] == "No replica of another version is left: it is watched for 20s more, then done"


def test_it_says_that_nothing_is_launched() -> None:
    """No zone gives spot: what keeps it stands in the notes of the plan."""
    house = world()
    house.refuses = frozenset(one.zone for one in house.seen().offers)
    house.begin(2)
    house.tick()
    assert told(house)[1].startswith("No replica of version 2 is on its way: it waits for the next launch")


def test_blue_green_tells_of_the_change_over_and_of_the_old_set() -> None:
    """Before the change-over how many are ready, after it for how long the old set stays."""
    house = world(bake_time="20s")
    house.begin(2, Strategy.BLUE_GREEN)
    house.tick()
    assert told(house)[-1] == (
        "All requests change over once as many of the new are ready as the load needs: 0 of 2"
    )
    while house.rollout is not None and house.rollout.switched_s is None:
        house.tick()
    assert told(house)[-1] == (
        "Its requests have changed over; the old set stays ready for 20s more (`update.bake_time` = 20s)"
    )


def test_blue_green_tells_that_the_old_set_stays_for_a_spare_of_the_new_one() -> None:
    """One of the new is lost, and as many as the load needs are left."""
    house = world(bake_time="5s")
    house.boot_s = 12.0
    house.begin(2, Strategy.BLUE_GREEN)
    while house.rollout is not None and house.rollout.switched_s is None:
        house.tick()
    house.preempt(house.ready(2)[0].id)
    for _ in range(8):
        house.tick()
    assert told(house)[-1] == (
        "The load has what it needs; the old set stays while a spare of the new one may still come"
    )


def test_a_roll_back_tells_of_spares_and_of_those_that_finish_their_requests() -> None:
    """What was taken back serves on until enough of the good version do."""
    house = world()
    house.begin(2)
    while house.rollout is not None:
        house.tick()
    house.begin(1, Strategy.ROLLBACK)
    house.tick()
    assert told(house)[-1] == (
        "3 replicas of what was taken back stay as spares (one goes for each of version 1 that has come): 0 of "
        "the 2 that the load needs are ready"
    )
    who = house.ready(2)[0]
    house.replicas[who.id] = replace(who, state=State.DRAINING, since_s=house.now_s - 30)
    assert told(house)[-1] == f"{who.id} of version 2 finishes its requests, for 30s now"


def test_a_roll_back_that_the_load_does_not_wait_for_tells_for_what_it_does() -> None:
    """In the middle of an update: for the good one that starts, or, where none comes, for two minutes at most."""
    house = midway()
    house.tick()
    assert told(house)[-1] == (
        "1 replica of what was taken back stays as a spare (one goes for each of version 1 that has come): the "
        "load has what it needs, the policy wants more"
    )
    house = midway()
    house.refuses = frozenset(ZONES)
    house.capped = True
    for _ in range(41):
        house.tick()
    assert told(house)[-1] == (
        "1 replica of what was taken back stays as a spare for 1m20s more, if no replica of version 1 starts "
        "before: the load has what it needs (what keeps one from being launched stands in the notes)"
    )
    for _ in range(82):
        house.tick()
    assert house.rollout is None


def test_many_replicas_are_not_all_named() -> None:
    """Five by name, of the others how many."""
    house = world(target=12, max_surge=12)
    house.begin(2, old_proven=False)
    house.tick()
    assert len(told(house)) == 7
    assert told(house)[-1] == "The same holds for 7 more"
