"""Several kinds of VM in one zone: a refusal of one is no news of the zone until all are refused."""

from collections import Counter
from dataclasses import replace

from hedgeserve.drivers.catalogue_table import READ_ON
from hedgeserve.hedge import NewsKind, Observation, TypeRests, ZoneNews, make_policy
from hedgeserve.policy.placement import cheapest_by_zone, most_dispensable, place
from hedgeserve.replica import Market, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.spec import Cloud, HedgeSpec

SPOT = Market.SPOT
READ = READ_ON[Cloud.AWS, SPOT]
ZONE = ZoneId("aws/us-east-1/us-east-1a")


def _offer(kind: str, usd_per_hour: float, *, zone: ZoneId = ZONE, throughput: float = 1.0) -> Offer:
    return Offer(zone, kind, SPOT, usd_per_hour, READ, throughput)


def _refusal(kind: str, at_s: float, what: NewsKind = NewsKind.NO_CAPACITY) -> ZoneNews:
    return ZoneNews(ZONE, SPOT, what, at_s, "refused", instance_type=kind)


SMALL, LARGE, HUGE = _offer("small", 1.0), _offer("large", 2.0), _offer("huge", 4.0)
ALL = (SMALL, LARGE, HUGE)


def test_the_next_kind_is_offered_while_the_cheapest_rests() -> None:
    rests = TypeRests(retry_delay_s=30)
    assert rests.left(ALL, 0) is ALL
    assert rests.hear(_refusal("small", 10), ALL) is None
    assert rests.left(ALL, 11) == (LARGE, HUGE)
    assert rests.left(ALL, 310) == ALL


def test_the_zone_is_told_when_every_kind_was_refused_and_then_has_them_all_again() -> None:
    rests = TypeRests(retry_delay_s=30)
    assert rests.hear(_refusal("small", 10), ALL) is None
    assert rests.hear(_refusal("small", 12), ALL) is None
    assert rests.hear(_refusal("large", 60), ALL) is None
    told = rests.hear(_refusal("huge", 120), ALL)
    assert told is not None
    assert (told.kind, told.at_s) == (NewsKind.NO_CAPACITY, 120)
    assert rests.left(ALL, 121) == ALL


def test_what_a_zone_never_has_does_not_make_it_a_zone_that_has_nothing() -> None:
    rests, two = TypeRests(retry_delay_s=30), (SMALL, LARGE)
    assert rests.hear(_refusal("small", 1), two) is None
    told = rests.hear(_refusal("large", 2, NewsKind.UNSUPPORTED), two)
    assert told is not None
    assert told.kind is NewsKind.NO_CAPACITY
    assert rests.left(two, 1e9) == (SMALL,)
    told = rests.hear(_refusal("small", 3, NewsKind.UNSUPPORTED), two)
    assert told is not None
    assert told.kind is NewsKind.UNSUPPORTED


def test_a_zone_with_one_kind_hears_everything_at_once() -> None:
    rests = TypeRests(retry_delay_s=30)
    news = _refusal("small", 1)
    assert rests.hear(news, (SMALL,)) is news
    assert rests.left((SMALL,), 2) == (SMALL,)


def test_other_news_go_through_and_a_grant_ends_the_rest() -> None:
    rests = TypeRests(retry_delay_s=30)
    lost = _refusal("small", 1, NewsKind.PREEMPTED)
    assert rests.hear(lost, ALL) is lost
    assert rests.hear(_refusal("small", 2), ALL) is None
    granted = _refusal("small", 3, NewsKind.GRANTED)
    assert rests.hear(granted, ALL) is granted
    assert rests.left(ALL, 4) == ALL
    nameless = replace(_refusal("small", 5), instance_type="")
    assert rests.hear(nameless, ALL) is nameless


def test_the_policy_asks_for_the_next_kind_in_the_same_zone() -> None:
    rests, policy = TypeRests(retry_delay_s=30), make_policy(HedgeSpec(policy="spothedge", overprovision=0))

    def launched(now_s: float) -> list[str]:
        plan = policy.plan(Observation(now_s, 1, (), rests.left(ALL, now_s)))
        return [action.offer.instance_type for action in plan.actions if hasattr(action, "offer")]

    assert launched(0) == ["small"]
    assert rests.hear(_refusal("small", 1), ALL) is None
    assert launched(2) == ["large"]


# Prices per throughput


def test_prices_are_compared_per_throughput_and_told_as_they_are_paid() -> None:
    fast = _offer("fast", 1.5, throughput=2.0)
    assert cheapest_by_zone([SMALL, fast], SPOT) == {ZONE: fast}
    elsewhere = _offer("small", 0.8, zone=ZoneId("aws/us-east-1/us-east-1b"))
    chosen = place({ZONE: fast, elsewhere.zone: elsewhere}, Counter())
    assert chosen is not None
    assert chosen.offer is fast
    assert chosen.why.endswith("1.50 USD/h for 2 times the throughput")


def test_the_dearest_for_its_work_goes_first() -> None:
    fast = _offer("fast", 1.5, throughput=2.0)
    replicas = [
        Replica(ReplicaId(f"s-{offer.instance_type}"), offer, State.READY, 0.0, READ) for offer in (fast, SMALL)
    ]
    assert [one.offer.instance_type for one in most_dispensable(replicas, crowding=False)] == ["small", "fast"]


def test_a_kind_that_is_left_out_says_for_how_long_and_why() -> None:
    """Just those that `left` leaves out; what a zone never has, for good."""
    rests = TypeRests(retry_delay_s=30)
    rests.hear(_refusal("small", 10), ALL)
    rests.hear(_refusal("large", 20, NewsKind.UNSUPPORTED), ALL)
    assert rests.resting(30) == {
        ZONE: [
            "spot: small is left out for 4m40s more, refused with no capacity (refused)",
            "spot: large is left out for good, refused with unsupported (refused)",
        ]
    }
    assert [len(sentences) for sentences in rests.resting(311).values()] == [1]
    assert rests.left(ALL, 311) == (SMALL, HUGE)
