"""Drills: what is asked, what would be done, what came of it; and that nothing is learnt from them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from hedgeserve.console.drill import _heard, _least, _readiness, _told
from hedgeserve.drills.lessons import Lessons
from hedgeserve.drills.price import Rest, Taking, foresee, foresee_rest
from hedgeserve.drills.request import DrillError, DrillKind, DrillRequest
from hedgeserve.drills.review import Watch, review
from hedgeserve.drills.script import Means, Script, write_script
from hedgeserve.fates import Fates
from hedgeserve.hedge import Leaving, NewsKind, ZoneNews, make_policy
from hedgeserve.metrics import FailurePhase, Metrics, Outcome
from hedgeserve.replica import Market, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.spec import HedgeSpec
from hedgeserve.units import format_duration
from tests.test_explain import READY, scene
from tests.zoneworld import THREE, A, B, C
from tests.zoneworld import replica as zone_replica

NOBODY = Leaving()
EAST, WEST = ZoneId("local/east/a"), ZoneId("local/west/a")


def replica(
    number: int,
    *,
    zone: str = EAST,
    market: Market = Market.SPOT,
    state: State = State.READY,
    vm: bool = True,
    version: int = 1,
) -> Replica:
    offer = Offer(ZoneId(zone), "small", market, 0.36, datetime.now(UTC))
    vm_id = f"vm-{number}" if vm else None
    return Replica(ReplicaId(f"svc-{number}"), offer, state, 0.0, datetime.now(UTC), vm_id=vm_id, version=version)


def script(
    kind: str,
    replicas: Sequence[Replica],
    *,
    zones: Sequence[str] = (EAST, WEST),
    busy: Sequence[int] = (),
    boot_s: float | None = 100.0,
    leaving: Leaving = NOBODY,
    fis: bool = False,
    **asked: Any,
) -> Script:
    return write_script(
        DrillRequest.read({"kind": kind, **asked}),
        replicas,
        zones=[ZoneId(zone) for zone in zones],
        wanted=2,
        needed=2,
        boot_s=boot_s,
        found_s=15.0,
        drain_s=20.0,
        local_notice_s=10.0,
        fis=fis,
        outstanding=lambda one: 5 * (int(one.rpartition("-")[2]) in busy),
        leaving=leaving,
    )


# What is asked


def test_a_request_is_read_with_what_nobody_said() -> None:
    """Conditions hold for a while by themselves."""
    asked = DrillRequest.read({"kind": "blackout", "zone": "east/a"})
    assert (asked.kind, asked.zone, asked.for_s, asked.force) == (DrillKind.BLACKOUT, "east/a", 60.0, False)
    assert DrillRequest.read({"kind": "slow-boot", "for_s": None}).for_s == 300.0
    assert DrillRequest.read({"kind": "preempt"}).for_s == 0.0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"kind": "flood"}, "there is no drill 'flood'; there are preempt, vanish"),
        ({"kind": "preempt", "zoen": "a"}, "'zoen' is nothing that a drill takes; there are .*zone"),
        ({"kind": "preempt", "notice_s": -1}, "notice_s = -1: write seconds"),
        ({"kind": "preempt", "notice_s": True}, "notice_s = True: write seconds"),
        ({"kind": "preempt", "for_s": float("nan")}, "for_s = nan: write seconds"),
        ({"kind": "preempt", "force": "yes"}, "write true or false"),
        ({"kind": "preempt", "zone": 7}, "write a name"),
        ({"kind": "preempt", "zone": "a", "replica": "b"}, "give one"),
        ({}, "there is no drill None"),
    ],
)
def test_a_request_that_is_wrong_is_told_what_is_wrong(asked: dict[str, Any], said: str) -> None:
    """And what may be written instead."""
    with pytest.raises(DrillError, match=said):
        DrillRequest.read(asked)


# What would be done


def test_the_spot_replica_with_the_most_requests_is_taken() -> None:
    """That is where a preemption is felt most."""
    found = script("preempt", [replica(1), replica(2), replica(3, market=Market.ON_DEMAND)], busy=[2, 3])
    assert [(victim.replica, victim.means) for victim in found.victims] == [("svc-2", Means.CLOUD)]
    assert found.refusal == ""
    assert found.within_s == 15 + 10 + 2 * 100
    assert (found.wanted, found.needed) == (2, 2)
    assert found.taking == Taking(
        victims=frozenset({ReplicaId("svc-2")}), shut=frozenset(), boot_s=100.0, paid_s=10.0, drain_s=20.0
    )


def goes(*numbers: int, later: Sequence[int] = ()) -> Leaving:
    named = [frozenset(ReplicaId(f"svc-{number}") for number in some) for some in (numbers, later)]
    return Leaving(*named)


def test_one_that_a_roll_out_lets_go_next_is_not_taken() -> None:
    """It may be gone when the trouble is to be made; one that stays is taken, an old one after all others."""
    three = [replica(1), replica(2), replica(3, version=2), replica(4, version=2)]
    leaving = goes(1, later=[2])
    assert [one.replica for one in script("vanish", three, busy=[1, 2], leaving=leaving).victims] == ["svc-3"]
    assert [one.replica for one in script("vanish", three[:2], busy=[1], leaving=leaving).victims] == ["svc-2"]
    # Its answers could go on on no other replica: rather the one that is replaced later, though nobody asks it.
    assert [one.replica for one in script("vanish", three[:3], busy=[3], leaving=leaving).victims] == ["svc-2"]
    assert [one.replica for one in script("vanish", three, leaving=leaving, replica="svc-1").victims] == ["svc-1"]


def test_a_drill_is_refused_where_all_that_is_ready_goes_next() -> None:
    """With what to do; it is taken where it is named, or the drill is forced."""
    there = [replica(1), replica(2), replica(3, market=Market.ON_DEMAND, version=2)]
    assert script("preempt", there, leaving=goes(1, 2)).refusal.startswith(
        "the update lets svc-1, svc-2 go next, and no other spot replica is ready: "
    )
    assert [one.replica for one in script("vanish", there, leaving=goes(1, 2)).victims] == ["svc-3"]
    assert script("preempt", there, leaving=goes(1, 2), force=True).refusal == ""
    assert script("preempt", there, leaving=goes(1, 2), replica="svc-2").refusal == ""


def test_another_one_is_taken_where_the_chosen_one_goes_by_itself() -> None:
    """Between the question and the answer a roll-out goes on; what was chosen is preferred, no more."""
    three = [replica(1), replica(2), replica(3)]
    assert [one.replica for one in script("vanish", three, busy=[1], prefer="svc-2").victims] == ["svc-2"]
    gone = [replica(1), replica(2, state=State.TERMINATING), replica(3)]
    assert [one.replica for one in script("vanish", gone, busy=[1], prefer="svc-2").victims] == ["svc-1"]
    left = script("vanish", three, busy=[1], prefer="svc-2", leaving=goes(2))
    assert [one.replica for one in left.victims] == ["svc-1"]


def test_in_a_roll_out_it_is_said_which_versions_stay() -> None:
    """An answer goes on only where its own version runs: whoever says yes must know that before."""
    three = [replica(1), replica(2, version=2), replica(3, version=2)]
    told = script("vanish", three, replica="svc-2").sentences
    assert told[1] == "2 ready replicas stay: 1 of version 1, 1 of version 2"
    assert len(told) == 2
    told = script("vanish", three, replica="svc-1").sentences
    assert told[1] == "2 ready replicas stay: 2 of version 2"
    assert told[2] == (
        "no other ready replica runs version 1 of svc-1: an answer that is cut there goes on on none of another "
        "version, and may end with an error"
    )
    assert script("vanish", three[1:], replica="svc-3").sentences[1] == "1 ready replica stays"


def test_the_last_ready_replica_is_spared_unless_forced() -> None:
    """Requests would wait; who wants to see that says so."""
    alone = [replica(1), replica(2, state=State.LOADING)]
    assert "would leave no replica ready (1 now)" in script("vanish", alone).refusal
    assert script("vanish", alone, force=True).refusal == ""
    assert "no replica is ready now" in script("refuse", [replica(1, state=State.BOOTING)]).refusal


def test_a_blackout_takes_all_of_the_fullest_zone_on_demand_too() -> None:
    """What still boots there included; what stands in another zone stays."""
    there = [
        replica(1, zone=WEST),
        replica(2),
        replica(3, market=Market.ON_DEMAND),
        replica(4, state=State.BOOTING),
        replica(5, state=State.TERMINATING),
    ]
    found = script("blackout", there)
    assert found.zones == (EAST,)
    assert {victim.replica: victim.means for victim in found.victims} == {
        "svc-2": Means.SILENCE,
        "svc-3": Means.TERMINATE,
        "svc-4": Means.SILENCE,
    }
    assert "launches in local/east/a are refused for 1m" in found.sentences


def test_a_zone_may_be_named_by_its_end() -> None:
    """``west/a`` is enough where there is one of it; else the candidates are named."""
    assert script("refuse", [replica(1)], zone="west/a").zones == (WEST,)
    with pytest.raises(DrillError, match="more than one zone of the pools; there are local/east/a, local/west/a"):
        script("refuse", [replica(1)], zone="a")
    with pytest.raises(DrillError, match="no zone of the pools"):
        script("refuse", [replica(1)], zone="north/b")
    with pytest.raises(DrillError, match="no spot replica is in local/west/a"):
        script("preempt", [replica(1)], zone="west/a")


def test_each_cloud_is_drilled_by_the_means_that_it_has() -> None:
    """AWS has no call that gives a notice without FIS: HedgeServe gives it, and ends the VM."""
    aws, gcp, azure = "aws/us-east-1/us-east-1a", "gcp/us-central1/us-central1-a", "azure/eastus/1"
    both = {"zones": [aws, gcp, azure]}
    found = script("preempt", [replica(1, zone=aws), replica(2, zone=gcp)], replica="svc-1", **both)
    assert (found.victims[0].means, found.victims[0].notice_s) == (Means.ANNOUNCE, 120.0)
    found = script("preempt", [replica(1, zone=aws), replica(2, zone=gcp)], replica="svc-2", **both)
    assert (found.victims[0].means, found.victims[0].notice_s) == (Means.CLOUD, None)
    found = script("preempt", [replica(1, zone=azure), replica(2, zone=gcp)], replica="svc-1", **both)
    assert any("within 30 minutes" in sentence for sentence in found.sentences)
    assert found.within_s > 1830
    with pytest.raises(DrillError, match="for gcp to say"):
        script("preempt", [replica(2, zone=gcp), replica(3, zone=gcp)], replica="svc-2", notice_s=5, **both)
    found = script("vanish", [replica(1, zone=aws), replica(2, zone=gcp)], replica="svc-1", **both)
    assert found.victims[0].means is Means.TERMINATE


AWS = "aws/us-east-1/us-east-1a"


def test_aws_itself_gives_the_notice_where_it_has_a_role_for_that() -> None:
    """EC2 takes the VM so long after it was asked; the plan says so before anybody says yes."""
    there = [replica(1, zone=AWS), replica(2, zone=AWS)]
    found = script("preempt", there, zones=[AWS], fis=True)
    assert (found.victims[0].means, found.victims[0].notice_s) == (Means.CLOUD, 120.0)
    assert found.sentences[1] == (
        "by AWS's Fault Injection Service EC2 takes it 2m after the experiment has begun, "
        "and tells the VM 2m before"
    )
    assert found.within_s == 15 + 120 + 60 + 2 * 100
    found = script("preempt", there, zones=[AWS], fis=True, notice_s=300)
    assert found.victims[0].notice_s == 300.0
    assert found.sentences[1].endswith("tells the VM 2m before; until then the VM is only recommended to move")
    for wrong in (30, 119, 901, 150.5):
        with pytest.raises(DrillError, match=r"AWS takes a VM 2m to 15m after it was asked to, in whole seconds"):
            script("preempt", there, zones=[AWS], fis=True, notice_s=wrong)
    assert script("vanish", there, zones=[AWS], fis=True).victims[0].means is Means.TERMINATE


def test_a_notice_that_is_played_says_what_would_make_it_real() -> None:
    """With the key; it may be of any length then."""
    there = [replica(1, zone=AWS), replica(2, zone=AWS)]
    found = script("preempt", there, zones=[AWS], notice_s=30)
    assert (found.victims[0].means, found.victims[0].notice_s) == (Means.ANNOUNCE, 30.0)
    assert any(
        "with [aws] fis_role in model.toml EC2 itself would give the notice" in one for one in found.sentences
    )
    assert not any("fis_role" in one for one in script("preempt", [replica(1), replica(2)], fis=True).sentences)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("svc-9", "there is no replica svc-9 now; there are svc-1, svc-2, svc-3, svc-4"),
        ("svc-2", "somebody else's server"),
        ("svc-3", "svc-3 is an on-demand VM, and no cloud preempts those"),
        ("svc-4", "svc-4 is draining"),
    ],
)
def test_what_cannot_be_taken_is_told_apart(name: str, said: str) -> None:
    """A server of somebody else, an on-demand VM, one that goes already."""
    there = [
        replica(1),
        replica(2, zone="static/0/a:1", market=Market.EXTERNAL, vm=False),
        replica(3, market=Market.ON_DEMAND),
        replica(4, state=State.DRAINING),
    ]
    with pytest.raises(DrillError, match=said):
        script("preempt", there, replica=name)


def test_static_servers_alone_cannot_be_drilled() -> None:
    """There is neither a VM to take nor a zone to close."""
    there = [replica(1, zone="static/0/a:1", market=Market.EXTERNAL, vm=False)]
    for kind in ("preempt", "vanish"):
        with pytest.raises(DrillError, match="none to take"):
            script(kind, there, zones=[])
    with pytest.raises(DrillError, match="no pool has zones"):
        script("blackout", there, zones=[])


def test_a_silent_cloud_must_be_named_where_there_are_several() -> None:
    """One that no pool is on is an error too."""
    zones = [EAST, "aws/us-east-1/us-east-1a"]
    assert script("api-down", [replica(1)], zones=zones, cloud="aws").cloud == "aws"
    assert script("api-down", [replica(1)]).cloud == "local"
    with pytest.raises(DrillError, match="--cloud: local, aws"):
        script("api-down", [replica(1)], zones=zones)
    with pytest.raises(DrillError, match="no pool is on 'gcp'"):
        script("api-down", [replica(1)], cloud="gcp")


def test_a_condition_may_take_a_replica_along() -> None:
    """So that there is something to launch in it."""
    assert script("slow-boot", [replica(1), replica(2)]).victims == ()
    found = script("slow-boot", [replica(1), replica(2)], take=True, by_s=30, for_s=40)
    assert len(found.victims) == 1
    assert found.within_s == 15 + 10 + 70 + 200


# What it costs


def taking(*victims: Replica, shut: Sequence[ZoneId] = (), boot_s: float = 100.0, paid_s: float = 0.0) -> Taking:
    return Taking(
        victims=frozenset(one.id for one in victims),
        shut=frozenset(shut),
        boot_s=boot_s,
        paid_s=paid_s,
        drain_s=0.0,
    )


def test_a_price_has_the_bridge_in_it_for_as_long_as_it_stays() -> None:
    """A spot replica costs what the taken one did; on-demand runs for the boot and `hedge.on_demand_hold`."""
    calm = scene(*READY)
    price = foresee(calm, taking(READY[0], paid_s=30.0))
    [per_hour] = {one.usd_per_hour for one in THREE if one.market is Market.ON_DEMAND}
    spot_usd = READY[0].offer.usd_per_hour
    hold_s = calm.hedge.on_demand_hold
    assert price.bridges == 1
    assert price.bridge_s == pytest.approx(100 + hold_s, abs=3)
    assert price.least_usd == pytest.approx(per_hour * (75 + hold_s) / 3600, rel=0.03)
    assert price.most_usd == pytest.approx((per_hour * (200 + hold_s) + spot_usd * 30) / 3600, rel=0.03)
    assert f"1 on-demand replica bridges for about {format_duration(round(price.bridge_s))}" in price.sentence(
        100.0
    )
    slow = foresee(calm, taking(READY[0], boot_s=400.0))
    assert slow.least_usd > 2 * price.least_usd


def test_what_would_have_ended_anyway_is_no_part_of_the_price() -> None:
    """A bridge of before the drill: the measure sinks when it would have gone."""
    bridge = zone_replica(4, A, market=Market.ON_DEMAND, since_s=900.0)
    calm = scene(*READY, bridge)
    price = foresee(calm, taking(READY[0]))
    assert any(moved == -bridge.offer.usd_per_hour for _, moved in price.calm)
    assert price.least_usd >= 0
    assert (price.bridges, price.kept) == (0, 1), "the bridge that is there already does for this, too"
    assert "1 on-demand replica stays about " in price.sentence(100.0)
    watch = Watch(
        known=frozenset(), victims=frozenset(), wanted=1, usd_per_hour=1.08, calm=((10.0, -0.72),)
    )  # fmt: skip
    watch.look([replica(1)], wanted=1, at_s=10.0)
    watch.look([replica(1)], wanted=1, at_s=20.0)
    assert watch.extra_usd == pytest.approx((0.36 - 0.36) * 20 / 3600)


def test_a_price_without_a_bridge_is_what_it_is_at_most() -> None:
    """Spot alone: the replacement costs as much as what went, but for the time that both are paid for."""
    hedge = HedgeSpec(policy="spothedge", rebalance_below=1, fallback=False)
    price = foresee(scene(*READY, policy=make_policy(hedge)), taking(READY[0], paid_s=100.0))
    assert price.bridges == 0
    usd = READY[0].offer.usd_per_hour * 100 / 3600
    assert price.most_usd == pytest.approx(usd, rel=0.1)
    assert price.sentence(None).startswith(f"up to {price.most_usd:.4f} USD: ")


def test_a_price_where_nothing_is_launched_is_that_of_what_goes() -> None:
    """Enough is left without it: the policy launches nothing, and the sentence promises nothing."""
    spares = [zone_replica(number, zone, since_s=100.0) for number, zone in ((4, B), (5, C))]
    price = foresee(scene(*READY, *spares), taking(READY[0], paid_s=36.0))
    assert (price.launches, price.bridges) == (0, 0)
    assert price.sentence(6.0).startswith(f"up to {price.most_usd:.4f} USD: nothing takes their place")


def test_what_a_drill_leaves_running_is_told_until_it_goes() -> None:
    """On-demand of the drill stays for `hedge.on_demand_hold` after it; what was there before is nothing of it."""
    bridge = zone_replica(4, A, market=Market.ON_DEMAND, since_s=990.0)
    fresh = zone_replica(5, A, since_s=995.0)
    calm = scene(READY[1], READY[2], fresh, bridge)
    rest = foresee_rest(calm, frozenset(one.id for one in READY), 100.0)
    assert rest.replicas == (bridge.id,)
    assert 0 < rest.for_s <= calm.hedge.on_demand_hold
    assert rest.usd == pytest.approx(bridge.offer.usd_per_hour * rest.for_s / 3600)
    assert rest.sentence().startswith(f"{bridge.id} still runs, for about ")
    known = frozenset({*(one.id for one in READY), bridge.id})
    longer = foresee_rest(calm, known, 100.0, {bridge.id: 5.0})
    assert longer.replicas == (bridge.id,), "it was there before, and would have gone sooner without the drill"
    assert longer.usd == pytest.approx(bridge.offer.usd_per_hour * (rest.for_s - 5.0) / 3600)
    assert foresee_rest(calm, frozenset({*(one.id for one in READY), bridge.id}), 100.0) == Rest()


@pytest.mark.parametrize(
    ("extra_usd", "told"),
    [
        (0.002, "0.0020 USD more than without it"),
        (1e-6, "none that shows"),
        (-1e-6, "none that shows"),
        (-0.002, "0.0020 USD less than without it: for a while less ran"),
    ],
)
def test_a_cost_is_told_as_more_or_less(extra_usd: float, told: str) -> None:
    """And never as a negative price; with what is still to come."""
    watch = watched()
    watch.extra_usd = extra_usd
    found = review(
        drill="d", kind="vanish", watch=watch, fates=Fates(), within_s=30, took_s=22, events=[], needed=2,
        rest=Rest((ReplicaId("svc-9"),), 0.0028, 10.0),
    )  # fmt: skip
    assert found.price().startswith(told)
    assert found.price().endswith("; svc-9 still runs, for about 10s: 0.0028 USD more")
    assert found.document()["price"] == found.price()


@pytest.mark.parametrize(
    ("wanted", "needed", "told"),
    [
        (3, 2, "1 ready at the least; the load needs 2, 3 with spares and bridges"),
        (2, 2, "1 ready at the least; the load needs 2"),
        (1, 2, "1 ready at the least; the load needs 2, and 1 was ready before"),
    ],
)
def test_of_how_many_is_said_with_what_they_are_for(wanted: int, needed: int, told: str) -> None:
    """Spares and bridges are not what the load needs."""
    assert _least({"wanted": wanted, "needed": needed, "least_ready": 1}) == told


# What came of it


def watched() -> Watch:
    return Watch(
        known=frozenset({ReplicaId("svc-1"), ReplicaId("svc-2")}),
        victims=frozenset({ReplicaId("svc-1")}),
        wanted=2,
        usd_per_hour=0.72,
    )


def test_the_watch_tells_when_what_was_so() -> None:
    """Launched, ready again, capacity back, and what it cost meanwhile."""
    watch = watched()
    watch.look([replica(1, state=State.NOTICED), replica(2)], wanted=2, at_s=0.0)
    watch.look([replica(1, state=State.NOTICED), replica(2), replica(3, state=State.BOOTING)], wanted=2, at_s=1.0)
    assert not watch.well
    watch.look([replica(2), replica(3, state=State.LOADING)], wanted=2, at_s=11.0)
    watch.look([replica(2), replica(3)], wanted=2, at_s=21.0)
    assert watch.well
    assert (watch.launched_s, watch.ready_again_s, watch.restored_s, watch.gone_s) == (1.0, 21.0, 21.0, 11.0)
    assert (watch.short_s, watch.least_ready) == (21.0, 1)
    assert watch.extra_usd == pytest.approx(0.36 / 3600)
    found = review(
        drill="preempt-1", kind="preempt", watch=watch, fates=Fates(ended=7, moved=2), within_s=30, took_s=21.2,
        needed=2, events=[event("launch", "svc-3", "spot in local/east/a")],
    )  # fmt: skip
    assert found.ok
    assert found.document()["requests"]["moved"] == 2
    assert found.document()["decisions"] == ["svc-3: spot in local/east/a"]
    assert "nothing was lost; capacity was back after 21s; of 7 requests 2 moved early" in found.sentence()


@pytest.mark.parametrize(
    ("fates", "within_s", "cut_short"),
    [(Fates(lost=1), 30, ""), (Fates(turned_away=1), 30, ""), (Fates(), 20, ""), (Fates(), 30, "no answer")],
)
def test_a_drill_fails_for_a_lost_request_or_for_lateness(fates: Fates, within_s: float, cut_short: str) -> None:
    """A request turned away is one that its client did not get an answer to."""
    watch = watched()
    watch.look([replica(2)], wanted=2, at_s=0.0)
    watch.look([replica(2), replica(3)], wanted=2, at_s=21.0)
    found = review(
        drill="d", kind="vanish", watch=watch, fates=fates, within_s=within_s, took_s=22, events=[],
        needed=2, cut_short=cut_short,
    )  # fmt: skip
    assert not found.ok


def event(kind: str, replica: str, message: str = "", **data: Any) -> dict[str, Any]:
    """One of the journal."""
    return {"kind": kind, "replica": replica, "zone": None, "message": message, "data": data}


def test_the_report_says_which_notice_was_heard_and_whose_word_it_was() -> None:
    """One of a VM that the drill did not take is not counted; where nobody knows, that is said."""
    aws_word = "aws spot/instance-action terminate"
    events = [
        event("notice", "svc-2", source="another"),
        event("notice", "svc-1", source=aws_word),
        event("notice", "svc-1", "drained: the cloud is told that it may begin"),
        event("notice", "svc-1", source="again"),
    ]
    known: dict[str, Any] = {
        "drill": "d", "kind": "preempt", "watch": watched(), "fates": Fates(), "within_s": 30, "took_s": 22,
        "needed": 2,
    }  # fmt: skip
    found = review(**known, events=events).document()
    assert found["notices"] == {"svc-1": aws_word}
    assert _heard(found) == f"heard by 1 of 1: {aws_word}"
    assert _heard(review(**known, events=[]).document()) == "heard by 0 of 1"
    assert _heard(review(**known, events=None).document()) == "not known: the journal could not be read"
    assert _told(found) == ["svc-1"]
    assert _told({**found, "kind": "vanish"}) == []


def test_one_in_doubt_is_no_capacity() -> None:
    """Its probes have not decided yet; the fleet has one less all the same, until another is ready."""
    watch = watched()
    watch.look([replica(1), replica(2)], wanted=2, at_s=0.0)
    watch.look([replica(1), replica(2)], wanted=2, at_s=5.0, doubted={replica(1).id})
    watch.look([replica(1), replica(2), replica(3)], wanted=2, at_s=12.0, doubted={replica(1).id})
    assert (watch.short_s, watch.restored_s, watch.least_ready) == (7.0, 12.0, 1)


def test_a_fleet_that_needs_fewer_by_now_is_whole_with_fewer() -> None:
    """An on-demand bridge of before the drill need not come back."""
    watch = watched()
    watch.look([replica(2)], wanted=1, at_s=5.0)
    assert watch.well
    assert watch.short_s == 0.0


def test_the_fates_of_requests_are_counted_from_a_beginning() -> None:
    """As the metrics have them."""
    metrics = Metrics()
    metrics.request_ended("/v1/completions", Outcome.OK, 200)
    before = metrics.fates()
    metrics.request_ended("/v1/completions", Outcome.OK, 200)
    metrics.request_ended("/v1/completions", Outcome.UPSTREAM_ERROR, 502)
    metrics.request_ended("/v1/completions", Outcome.SHED, 503)
    metrics.upstream_failed(FailurePhase.CONNECT)
    metrics.upstream_failed(FailurePhase.BODY)
    metrics.upstream_failed(FailurePhase.MOVED)
    metrics.resumed("continue", "ok")
    metrics.resumed("continue", "failed")
    metrics.resumed("replay", "ok")
    found = metrics.fates().since(before)
    assert found == Fates(ended=3, lost=1, turned_away=1, retried=1, continued=1, replayed=1, moved=1)


# What is learnt


def lost(zone: ZoneId, at_s: float, *, staged: bool) -> ZoneNews:
    return ZoneNews(zone, Market.SPOT, NewsKind.PREEMPTED, at_s, "gone", staged=staged)


@pytest.mark.parametrize("name", ["spothedge", "forecast"])
def test_a_drill_leaves_no_trace_in_what_is_kept(name: str) -> None:
    """The policy in charge acts on it; the memory that is saved, and taken up afterwards, knows nothing of it."""
    hedge = HedgeSpec.model_validate({"policy": name})
    policy, twin, lessons = make_policy(hedge), make_policy(hedge), Lessons()
    for one in (policy, twin):
        one.observe(lost(WEST, 1.0, staged=False))
    lessons.begin(policy)
    for news in (lost(EAST, 2.0, staged=True), lost(WEST, 3.0, staged=False)):
        assert lessons.admit(news)
        policy.observe(news)
    twin.observe(lost(WEST, 3.0, staged=False))
    assert policy.export_memory(4.0) != twin.export_memory(4.0)
    assert lessons.kept(policy).export_memory(4.0) == twin.export_memory(4.0)
    assert lessons.end(4.0) == twin.export_memory(4.0)
    assert lessons.kept(policy) is policy


def test_a_policy_that_is_exchanged_in_a_drill_keeps_its_own_memory() -> None:
    """What one kind of policy knows is nothing to another."""
    lessons, after = Lessons(), make_policy(HedgeSpec.model_validate({"policy": "forecast"}))
    lessons.begin(make_policy(HedgeSpec.model_validate({"policy": "spothedge"})))
    assert lessons.kept(after) is after


def test_the_aftermath_of_a_drill_is_not_heard() -> None:
    """What the drill's VMs still tell when it is over says nothing of the world."""
    lessons = Lessons()
    assert lessons.end(0.0) is None
    assert not lessons.admit(lost(EAST, 1.0, staged=True))
    assert lessons.admit(lost(EAST, 1.0, staged=False))


@pytest.mark.parametrize(
    ("launched_s", "ready_again_s", "restored_s", "said"),
    [
        (0.8, 6.6, 6.6, "launched after 800ms, ready after 6.6s"),
        (
            0.8,
            None,
            5.0,
            "launched after 800ms, still starting when the drill ended: capacity was back without it",
        ),
        (0.0, None, None, "launched at once, not ready in time"),
        (None, None, 0.0, "none was launched: enough were ready without one"),
        (None, None, None, "none was launched"),
    ],
)
def test_a_replacement_that_was_not_seen_ready_is_explained(
    launched_s: float | None, ready_again_s: float | None, restored_s: float | None, said: str
) -> None:
    """A drill passes when capacity is back, and that need not be the replacement's doing."""
    times = {"launched_s": launched_s, "ready_again_s": ready_again_s, "restored_s": restored_s}
    assert _readiness(times) == said
