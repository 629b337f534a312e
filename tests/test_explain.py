"""Why things are as they are: what is said is what the policy does, of every subject, for both policies."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.console.explain import lines_of
from hedgeserve.hedge import (
    Explanation,
    Launch,
    NewsKind,
    Observation,
    Past,
    Plan,
    Policy,
    ScaleDecision,
    Scene,
    Told,
    ZoneNews,
    explain_gone,
    explain_now,
    explain_replica,
    explain_zone,
    make_policy,
    near_misses,
)
from hedgeserve.policy.foresight import foresee, lets_go
from hedgeserve.replica import GoneReason, Notice, Replica, State
from hedgeserve.spec import HedgeSpec, ReplicasSpec
from tests.test_candidates import worlds
from tests.zoneworld import (
    BORN,
    EXTERNAL,
    ON_DEMAND,
    SPOT,
    THREE,
    A,
    B,
    C,
    launches,
    offer,
    offers,
    replica,
    tell,
    world,
)

_AT = BORN + timedelta(hours=14)
"""The wall clock when the monotonic one reads 1000."""


def scene_of(policy: Policy, seen: Observation, hedge: HedgeSpec | None = None, **more: Any) -> Scene:
    """All that is known at one moment."""
    known: dict[str, Any] = {
        "at": _AT,
        "observation": seen,
        "hedge": hedge or HedgeSpec(policy="spothedge"),
        "replicas": ReplicasSpec(min=1, max=4, target_requests_per_second=2.0),
        "policy": policy,
        "plan": policy.plan(seen),
        "scale": ScaleDecision(seen.target, seen.target, 1.5, "as the load asks (1.5 requests/s)"),
        "outside": {},
        "boot_s": 60.0,
    }
    return Scene(**(known | more))


def scene(*replicas: Replica, target: int = 2, policy: Policy | None = None, **more: Any) -> Scene:
    """SpotHedge, with one spare, over three zones."""
    hedge = HedgeSpec(policy="spothedge", rebalance_below=1)
    there = Observation(1000.0, target, replicas, more.pop("offers", THREE))
    return scene_of(policy or make_policy(hedge), there, hedge, **more)


def text(answer: Explanation) -> str:
    return "\n".join([answer.headline, *answer.because, *answer.would_change])


READY = (replica(1, A, since_s=100.0), replica(2, B, since_s=100.0), replica(3, C, since_s=100.0))


# The fleet


def test_a_fleet_at_rest_is_explained_by_its_sums() -> None:
    """Target, spare, and that no on-demand is needed."""
    answer = explain_now(scene(*READY))
    assert answer.headline == "3 ready of 2 replicas needed; 0.00 USD/h"
    assert answer.because == (
        "the target is 2 replicas, between 1 and 4: as the load asks (1.5 requests/s)",
        "3 spot replicas are wanted: the load needs 2 (N_target) and 1 more to spare (N_extra, "
        "`hedge.overprovision`); 3 run or start, 3 of them ready",
        "on-demand stands in for spot that is not ready: O = min(N_target, N_target + N_extra − ready spot) "
        "= min(2, 3 − 3) = 0; 0 run or start",
    )
    assert answer.would_change == (
        "more than 4 requests/s for 5m (`replicas.upscale_delay`) raise the target",
        "2 requests/s or less for 20m (`replicas.downscale_delay`) lower the target",
    )


def test_an_on_demand_replica_is_explained_in_the_first_line() -> None:
    """And it is said when it goes, by the policy's own word."""
    one_missing = scene(READY[0], replica(9, B, ON_DEMAND))
    assert explain_now(one_missing).headline.startswith(
        "2 ready of 2 replicas needed; 1 on-demand replica stands in for spot: 1 of 3 spot replicas are ready; "
    )
    answer = explain_replica(one_missing, one_missing.observation.replicas[1])
    assert answer.headline == (
        "chat-9 (on-demand, local/east/b, 1.00 USD/h) is ready: 1 on-demand replica stands in for spot: "
        "1 of 3 spot replicas are ready"
    )
    assert "min(2, 3 − 1) = 2" in text(answer)
    assert answer.would_change[0] == "it goes when spot carries the load again; 2 spot replicas are missing"


def test_a_bridge_goes_when_spot_has_been_ready_for_long_enough() -> None:
    """With the time of day; the clock alone brings it about."""
    back = scene(READY[0], READY[1], replica(3, C, since_s=990.0), replica(9, B, ON_DEMAND))
    answer = explain_replica(back, back.observation.replicas[3])
    assert "1 on-demand replica still there, until spot has proved itself" in answer.headline
    assert answer.would_change[0].startswith(
        "chat-9 goes at 14:00:50 UTC (in 50s), if nothing happens before: 3 of 3 spot replicas have been ready for"
    )


def test_a_bridge_waits_for_the_spot_replica_that_starts() -> None:
    """It is on its way for 10 s of the 60 that the last ones took, and must then be ready for 60 s more."""
    coming = replica(3, C, state=State.LOADING, since_s=990.0)
    coming = replace(coming, created_at=_AT - timedelta(seconds=10))
    bridged = scene(READY[0], READY[1], coming, replica(9, B, ON_DEMAND))
    answer = explain_replica(bridged, bridged.observation.replicas[3])
    assert answer.would_change[0].startswith("chat-9 goes at about 14:01:50 UTC (in 1m50s), if chat-3 comes up: ")
    assert "chat-3 should be ready at 14:00:50 UTC (in 50s): the last ones took 1m" in text(explain_now(bridged))
    at_rest = replace(bridged, boot_s=None)
    assert "when chat-3 is ready; how long that takes here is not known yet" in text(explain_now(at_rest))
    late = replace(bridged, boot_s=5.0)
    assert "at any moment: the last ones took 5s, this one has 10 s" in text(explain_now(late))


def test_on_demand_at_all_times_is_the_users_word() -> None:
    """Not a bridge; a key lets it go."""
    hedge = HedgeSpec(policy="spothedge", always_on_demand=1)
    seen = Observation(1000.0, 2, (READY[0], READY[1], replica(9, B, ON_DEMAND)), THREE)
    answer = explain_replica(scene_of(make_policy(hedge), seen, hedge), seen.replicas[2])
    assert "1 on-demand replica at all times, as `hedge.always_on_demand` says" in answer.headline
    assert "a lower `hedge.always_on_demand` than 1 lets it go" in answer.would_change


@pytest.mark.parametrize("name", ["spothedge", "forecast"])
def test_where_no_pool_has_spot_on_demand_is_all(name: str) -> None:
    """It stands in for nothing."""
    hedge = HedgeSpec(policy=name)  # type: ignore[arg-type]
    seen = Observation(1000.0, 1, (replica(9, A, ON_DEMAND),), (offer(A, ON_DEMAND),))
    answer = explain_replica(scene_of(make_policy(hedge), seen, hedge), seen.replicas[0])
    assert "1 on-demand replica, since no spot is to be had" in answer.headline
    assert "no pool offers spot" in text(answer)


def test_nothing_ready_says_what_is_waited_for() -> None:
    """What starts; or, where nothing does, why no zone is asked."""
    starting = scene(replica(1, A, state=State.BOOTING, since_s=995.0))
    answer = explain_now(starting)
    assert answer.headline.startswith("nothing is ready, and 2 replicas are needed")
    assert "chat-1 (spot, local/east/a) has been booting for 5s" in answer.because

    policy = make_policy(HedgeSpec(policy="spothedge", retry_delay="30s"))
    for market in (SPOT, ON_DEMAND):
        tell(policy, A, NewsKind.NO_CAPACITY, 990.0, market, "no small is left")
    barred = scene(policy=policy, offers=offers(A))
    told = text(explain_now(barred))
    assert "no zone is asked now" in told
    assert (
        "rests for 30s from spot: refused once (no capacity: no small is left); until 14:00:20 UTC (in 20s)"
        in told
    )
    assert "no zone is asked for spot now; local/east/a may be again at 14:00:20 UTC (in 20s)" in told

    empty = explain_now(
        scene(offers=(), outside={A: ["spot: small for 1.20 USD/h is not offered: it costs more"]})
    )
    assert "no pool offers anything that may be launched" in empty.because
    assert "local/east/a: spot: small for 1.20 USD/h is not offered: it costs more" in empty.because


def test_launches_that_are_held_back_say_until_when() -> None:
    """Boots that fail in a row are no zone's fault."""
    policy = make_policy(HedgeSpec(policy="spothedge", retry_delay="30s"))
    tell(policy, A, NewsKind.BOOT_FAILED, 900.0)
    tell(policy, A, NewsKind.BOOT_FAILED, 980.0)
    told = text(explain_now(scene(policy=policy)))
    assert "launches wait: 2 times in a row no ready replica came of them" in told
    assert "until 14:00:40 UTC (in 40s)" in told


def test_a_service_at_rest_says_so_and_foresees_nothing() -> None:
    """Asleep or paused: neither load nor zone is the reason."""
    paused = scene(READY[0], target=0, resting="paused by `hedgeserve pause`; `hedgeserve resume` ends it")
    answer = explain_now(paused)
    assert answer.headline.startswith("no replica is wanted: the service rests; 1 replica is ready; ")
    assert answer.because == ("paused by `hedgeserve pause`; `hedgeserve resume` ends it",)
    assert answer.would_change == ("when the rest ends, at least 1 replica will run again, as `[replicas]` says",)
    assert "and goes" in explain_replica(paused, READY[0]).headline
    zone = explain_zone(paused, B)
    assert zone.headline == "local/east/b is where the next spot replica goes once the service runs again"
    assert "paused by `hedgeserve pause`; `hedgeserve resume` ends it" in zone.because


# A replica


def test_a_launch_is_explained_by_the_reason_that_the_plan_gave_it() -> None:
    """Word for word, from the journal; after a restart too."""
    story = [
        Told(_AT, "launch", "spot in local/east/a: the reason of the plan"),
        Told(_AT, "state", "planned → provisioning: asking"),
        Told(_AT, "adopted", "taken up again as booting"),
    ]
    answer = explain_replica(scene(*READY), READY[0], story)
    assert answer.because[:2] == (
        "launched at 14:00:00 UTC: spot in local/east/a: the reason of the plan",
        "found at 14:00:00 UTC, when the controller started: taken up again as booting",
    )
    assert "stands no longer in the journal" in explain_replica(scene(*READY), READY[0]).because[0]


def test_a_replica_under_notice_ends_when_its_cloud_says() -> None:
    """And its replacement goes somewhere."""
    notice = replace(READY[0], state=State.NOTICED, since_s=995.0, notice=Notice(1025.0, "aws"))
    policy = make_policy(HedgeSpec(policy="spothedge"))
    tell(policy, A, NewsKind.NOTICE, 995.0)
    answer = explain_replica(scene(notice, *READY[1:], policy=policy), notice)
    assert "on its way out, noticed for 5s" in answer.headline
    assert "its VM ends at 14:00:25 UTC (in 25s), as its cloud says; nothing stops that" in answer.would_change
    assert "it drains as soon as enough others are ready: 2 of 2 are" in answer.would_change
    assert any(told.startswith("the next spot replica goes to local/east/b") for told in answer.would_change)


def test_other_ends_and_servers_of_others() -> None:
    """Draining, terminating, external."""
    draining, ending = replace(READY[0], state=State.DRAINING), replace(READY[1], state=State.TERMINATING)
    there = scene(draining, ending, READY[2])
    assert "`timeouts.drain`" in text(explain_replica(there, draining))
    assert "lists its VM no more" in text(explain_replica(there, ending))
    server = replica(7, A, EXTERNAL)
    assert "a server that somebody else runs" in explain_replica(scene(server), server).headline
    assert "a server that somebody else runs" in explain_zone(scene(server), A).headline


def test_a_replica_that_is_gone_is_explained_from_the_journal() -> None:
    """Why it was there, how it ended, what comes next, and why not there."""
    policy = make_policy(HedgeSpec(policy="spothedge"))
    tell(policy, A, NewsKind.PREEMPTED, 995.0)
    story = (
        Told(_AT - timedelta(minutes=9), "launch", "spot in local/east/a: it was cheap"),
        Told(_AT - timedelta(minutes=8), "state", "booting → loading: SSH answers"),
        Told(_AT - timedelta(minutes=7), "state", "loading → ready: it answered"),
        Told(_AT - timedelta(seconds=5), "gone", "preempted after 9m, for 0.05 USD"),
    )
    past = Past("chat-1", A, SPOT, "the end", GoneReason.PREEMPTED, _AT - timedelta(seconds=5), story)
    answer = explain_gone(scene(*READY[1:], policy=policy), past)
    assert answer.headline == "chat-1 (spot, local/east/a) went at 13:59:55 UTC, 5s ago: its cloud took it back"
    assert answer.because == (
        "launched at 13:51:00 UTC: spot in local/east/a: it was cheap",
        "at 13:53:00 UTC: loading → ready: it answered",
        "at 13:59:55 UTC: preempted after 9m, for 0.05 USD",
    )
    assert answer.would_change[1].startswith("the next spot replica goes to local/east/b")
    assert "local/east/a is not where the next one goes" in answer.would_change[2]
    forgotten = explain_gone(scene(), replace(past, story=(), gone=None, market=ON_DEMAND))
    assert "its events stand no longer in the journal; its last word was: the end" in forgotten.because


# A zone


def test_the_next_zone_and_those_after_it_say_why() -> None:
    """Fewer replicas before more, cheaper before dearer, then by name."""
    dear = (offer(A), offer(B, usd=0.2), offer(C), *(offer(zone, ON_DEMAND) for zone in (A, B, C)))
    there = scene(READY[0], offers=dear)
    assert explain_zone(there, B).headline == "local/east/b is where the next spot replica goes"
    assert "local/east/b comes first: it costs 0.20 USD/h, this one 0.30 USD/h" in text(explain_zone(there, C))
    assert "local/east/b comes first: it has no replica, this one 1" in text(explain_zone(there, A))
    assert explain_zone(there, A).headline == "local/east/a may be asked for spot: it is number 3 in the order"


def test_a_zone_that_is_not_asked_says_until_when_and_what_is_not_offered() -> None:
    """Quota refused, price above the pool's limit: with the key that would change it."""
    policy = make_policy(HedgeSpec(policy="spothedge"))
    tell(policy, A, NewsKind.QUOTA, 990.0, detail="VcpuLimitExceeded")
    limit = (
        "spot: large for 1.20 USD/h is not offered: it costs more than the pool's max_usd_per_hour of 1.00 USD/h"
    )
    answer = explain_zone(scene(policy=policy, outside={A: [limit]}), A)
    assert answer.headline == "local/east/a is not asked for spot now until 14:09:50 UTC (in 9m50s)"
    assert "has no quota left for spot" in text(answer)
    assert "VcpuLimitExceeded" in text(answer)
    assert limit in answer.because
    assert "it may be asked for spot again at 14:09:50 UTC (in 9m50s)" in answer.would_change


def test_a_zone_of_the_preempted_waits_for_news() -> None:
    """Z_P of the paper: no clock ends it."""
    policy = make_policy(HedgeSpec(policy="spothedge"))
    tell(policy, A, NewsKind.PREEMPTED, 940.0)
    answer = explain_zone(scene(READY[1], policy=policy), A)
    assert answer.headline == "local/east/a is not asked for spot now"
    assert "a preemption 1m ago" in text(answer)
    assert any("opens it for spot again" in told for told in answer.would_change)


# What is said is what is done


def _answers(there: Scene) -> Iterator[Explanation]:
    yield explain_now(there)
    for one in there.observation.replicas:
        yield explain_replica(there, one)
        gone = Past(one.id, one.zone, one.market, "", GoneReason.FAILED, there.at)
        yield explain_gone(there, gone)
    for zone in there.zones():
        yield explain_zone(there, zone)  # type: ignore[arg-type]


@given(worlds())
def test_every_subject_has_an_answer_and_asking_changes_nothing(told: tuple[Policy, Observation]) -> None:
    """Whatever has happened before: a headline, a reason, no sentence twice, and the plan stays what it was."""
    policy, seen = told
    before, states = policy.plan(seen), dict(policy.zone_states())
    there = scene_of(policy, seen)
    for answer in _answers(there):
        assert answer.headline
        assert answer.because
        assert len(set(answer.because)) == len(answer.because)
        assert all(map(str.strip, [*answer.because, *answer.would_change]))
        assert answer.document()["subject"] == answer.subject
    assert policy.plan(seen) == before
    assert dict(policy.zone_states()) == states


@given(worlds())
def test_the_zone_that_is_called_next_is_launched_into(told: tuple[Policy, Observation]) -> None:
    """Where spot is missing now, the plan's first spot launch is in the zone whose headline says so."""
    policy, seen = told
    there = scene_of(policy, seen)
    spot = [one.offer.zone for one in there.plan.actions if isinstance(one, Launch) and one.offer.market is SPOT]
    called = [
        zone
        for zone in there.zones()
        if "is where the next spot replica goes" in explain_zone(there, zone).headline
    ]  # type: ignore[arg-type]
    assert len(called) <= 1
    if spot:
        assert called == [spot[0]]


@given(worlds(), st.integers(0, 5))
def test_what_is_foreseen_comes_to_pass(told: tuple[Policy, Observation], number: int) -> None:
    """If nothing happens, the policy does it then, and not a moment before."""
    policy, seen = told
    if not seen.replicas:
        return
    wanted = lets_go(seen.replicas[number % len(seen.replicas)])
    found = foresee(scene_of(policy, seen), wanted)
    if found is None or found.ready_first:
        return
    assert found.action in policy.plan(replace(seen, now_s=found.at_s)).actions
    if found.at_s > seen.now_s:
        earlier = policy.plan(replace(seen, now_s=seen.now_s + (found.at_s - seen.now_s) * 0.99))
        assert not any(wanted(action) for action in earlier.actions)


class Questioned:
    """A policy that is asked where it goes next, each time before it is asked what it does."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.launches = 0

    def observe(self, news: ZoneNews) -> None:
        self._policy.observe(news)

    def plan(self, seen: Observation) -> Plan:
        told = [one.offer for one in self._policy.candidates(seen) if one.offer.market is SPOT and one.rank == 0]
        plan = self._policy.plan(seen)
        begun = [one.offer for one in launches(plan) if one.offer.market is SPOT]
        assert begun[:1] in ([], told)
        self.launches += bool(begun)
        return plan


@pytest.mark.parametrize("name", ["spothedge", "forecast"])
def test_in_a_world_that_moves_each_launch_goes_where_it_was_said(name: str) -> None:
    """Ten minutes with losses: asked before each plan, the policy calls the zone of its first spot launch."""
    here = world(cold_start_s=7, target=2, policy=name, retry_delay="2s", fallback=False)
    questioned = Questioned(here.policy)
    here.policy = questioned  # type: ignore[assignment]
    for second in range(600):
        ready = [one for one in here.replicas if one.market is SPOT and one.state is State.READY]
        if second % 40 == 39 and ready:
            here.take(ready[second % len(ready)])
        here.tick()
    assert questioned.launches >= 8


# Words


def test_near_misses_are_parts_first_then_look_alikes() -> None:
    """At most five."""
    known = ["chat-1", "chat-2", "local/east/a", "local/east/b", "local/west/a", "now"]
    assert near_misses("local/east", known)[:2] == ["local/east/a", "local/east/b"]
    assert near_misses("chta-1", known)[0] == "chat-1"
    assert near_misses("nwo", known) == ["now"]
    assert near_misses("zzz", known) == []
    assert near_misses("", known) == []
    assert len(near_misses("chat", [f"chat-{number}" for number in range(20)])) == 5


def test_an_answer_is_folded_to_a_terminal_and_one_line_a_sentence_elsewhere() -> None:
    """What a cloud says cannot do anything to a terminal."""
    found = {"headline": "it is", "because": ["\x1b[31mred " + "word " * 30], "would_change": ["time?"]}
    plain = [*lines_of(found)]
    assert plain[0] == "it is."
    assert plain[3].startswith("  - [31mred word word")
    assert plain[-1] == "  - time?"
    folded = [*lines_of(found, width=50)]
    assert all(len(line) <= 50 for line in folded)
    assert len(folded) > len(plain)
    assert [*lines_of({**found, "because": [], "would_change": []})] == ["it is."]


def test_no_launch_is_promised_while_the_journal_cannot_be_written() -> None:
    """The policy would launch at once; but an intent must be on the disk before a cloud is asked."""
    halted = scene(
        READY[0], READY[1], halts="the journal is full", troubles=("the journal is full; free some space",)
    )
    answer = explain_now(halted)
    assert "nothing is launched while the journal cannot be written" in answer.headline
    assert "the journal is full; free some space" in answer.because
    assert "would be launched" not in text(answer)
    assert "once the journal can be written again, launches go on by themselves" in answer.would_change
    zone = explain_zone(halted, C)
    assert zone.headline == f"{C} is where the next spot replica goes once the journal can be written again"
    assert any("the journal is full" in sentence for sentence in zone.because)
