"""Caps on spending: which launches fit, the ladder, what goes when a cap is reached; never above it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.budgetspec import BudgetSpec
from hedgeserve.policy.budget import Budget, Held, Marks, Rung, Spent
from hedgeserve.policy.ledger import Period, Purse, price_now
from hedgeserve.policy.plan import Drain, Launch, Observation, Plan, Rule, Terminate
from hedgeserve.replica import GoneReason, Market, Offer, Replica, ReplicaId, State, ZoneId

NOON = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
ZONES = [ZoneId(f"local/east/{letter}") for letter in "abc"]
DRAIN_S = 60.0
NOTHING = Spent(0.0, 0.0)


def offer(market: Market = Market.SPOT, usd: float | None = None, zone: ZoneId = ZONES[0]) -> Offer:
    price = {Market.SPOT: 0.3, Market.ON_DEMAND: 1.0, Market.EXTERNAL: 0.0}[market] if usd is None else usd
    return Offer(zone, "small", market, price, NOON)


def replica(number: int, market: Market = Market.SPOT, state: State = State.READY, **more: Any) -> Replica:
    id = ReplicaId(f"chat-{number}")
    return Replica(id, more.pop("offer", offer(market)), state, 0.0, NOON, vm_id=id, **more)


OFFERS = (offer(), offer(Market.ON_DEMAND))


def budget(**caps: str) -> Budget:
    return Budget(BudgetSpec.model_validate(caps), drain_s=DRAIN_S, ceilings={})


def launches(count: int, market: Market = Market.SPOT, target: int = 10) -> Plan:
    rule = Rule.SPREAD if market is Market.SPOT else Rule.FALLBACK
    return Plan(target, count, 0, tuple(Launch(offer(market), rule, "") for _ in range(count)))


def hold(
    caps: Budget,
    plan: Plan,
    *replicas: Replica,
    spent: Spent = NOTHING,
    now: datetime = NOON,
    offers: Any = OFFERS,
) -> Held:
    return caps.hold(plan, Observation(0.0, plan.target, replicas, offers), now, spent)


def admitted(held: Held) -> int:
    return sum(isinstance(action, Launch) for action in held.plan.actions)


def test_without_a_cap_a_plan_is_left_as_it_is() -> None:
    plan = launches(3)
    held = hold(budget(), plan, spent=Spent(1e6, 1e6))
    assert held.plan is plan
    assert (held.caps, held.reasons, held.shut, held.step) == ((), (), None, Rung.OPEN)


def test_a_spot_vm_counts_as_what_it_may_come_to_cost() -> None:
    """Its on-demand price in the same zone, else the dearest of its cloud, else the pool's limit, else today's."""
    caps, zone = budget(), ZONES[1]
    assert caps.worst_usd_per_hour(offer(), OFFERS) == 1.0
    assert caps.worst_usd_per_hour(offer(), (*OFFERS, offer(Market.ON_DEMAND, 1.4, zone))) == 1.0
    assert caps.worst_usd_per_hour(offer(zone=ZONES[2]), (*OFFERS, offer(Market.ON_DEMAND, 1.4, zone))) == 1.4
    assert caps.worst_usd_per_hour(offer(), (offer(),)) == 0.3
    assert caps.worst_usd_per_hour(offer(), (offer(usd=0.5),)) == 0.5
    limited = Budget(BudgetSpec(), drain_s=DRAIN_S, ceilings={"local": 0.8})
    assert limited.worst_usd_per_hour(offer(), (offer(),)) == 0.8


def test_launches_fit_the_hourly_cap_at_their_worst_price_to_the_last_cent() -> None:
    """Three at a dollar where there are three dollars; the fourth is not launched, and it is said why."""
    held = hold(budget(usd_per_hour="3 USD/h"), launches(4))
    assert admitted(held) == 3
    assert held.reasons == (
        "not launched: budget.usd_per_hour (3 USD/h) leaves no room for a VM at 1.00 USD/h; "
        "a spot VM counts at its on-demand price, the most that it may come to cost",
    )
    assert held.step is Rung.NO_LAUNCHES


def test_a_cap_above_spot_and_below_on_demand_says_which_price_counts() -> None:
    """Spot at 0.30 under a cap of 0.50: nothing is launched, and each sentence on it is true."""
    caps = budget(usd_per_hour="0.5 USD/h")
    held = hold(caps, launches(1))
    assert held.shut is not None
    assert held.shut.reason == (
        "budget.usd_per_hour (0.5 USD/h) leaves no room for a single VM: the cheapest counts at 1.00 USD/h; "
        "a spot VM counts at its on-demand price, the most that it may come to cost"
    )
    [cap] = held.caps
    assert cap.leaves.endswith("(open: no VM fits in what is left: the cheapest counts at 1.00 USD/h)")
    assert caps.no_room(NOON, Spent(0, 0), OFFERS) == held.shut.reason
    [full] = hold(budget(usd_per_hour="1 USD/h"), launches(1)).caps
    assert full.leaves.endswith("0.00 USD/h left (no launches)")
    assert budget(usd_per_hour="1 USD/h").no_room(NOON, Spent(0, 0), OFFERS) == ""
    limited = Budget(BudgetSpec(usd_per_hour="0.5 USD/h"), drain_s=DRAIN_S, ceilings={"local": 0.8})
    assert "at `max_usd_per_hour` of its pools" in limited.no_room(NOON, Spent(0, 0), (offer(),))


def test_launches_fit_the_day_until_its_end() -> None:
    """Half a day is left: 24 dollars are two VMs at a dollar, or three of which one waits for the evening."""
    caps = budget(usd_per_day="24 USD/day")
    assert admitted(hold(caps, launches(4))) == 2
    assert admitted(hold(caps, launches(4), now=NOON.replace(hour=18))) == 4
    assert admitted(hold(caps, launches(4), spent=Spent(12.5, 12.5))) == 0


def test_a_horizon_asks_for_no_more_than_the_next_hours() -> None:
    """The cap is as hard: what is spent ends it."""
    caps = budget(usd_per_month="24 USD/month", horizon="2h")
    assert admitted(hold(caps, launches(20, target=20))) == 12
    held = hold(caps, launches(1), replica(1), spent=Spent(0, 23.99))
    assert held.step is Rung.REACHED


def test_the_ladder_spares_first_then_on_demand_then_all() -> None:
    """Of ten dollars an hour eight, nine and ten are taken: spares, on-demand, everything."""
    caps = budget(usd_per_hour="10.5 USD/h")
    running = [replica(number) for number in range(10)]
    spare, needed, bridge = launches(1, target=5), launches(1, target=20), launches(1, Market.ON_DEMAND, target=5)
    at = {
        count: [admitted(hold(caps, plan, *running[:count])) for plan in (spare, needed, bridge)]
        for count in (8, 9)
    }
    assert at == {8: [1, 1, 1], 9: [0, 1, 1]}
    nine = [*running[:9], replica(10, offer=offer(Market.ON_DEMAND, 0.5), market=Market.ON_DEMAND)]
    assert [admitted(hold(caps, plan, *nine)) for plan in (spare, needed, bridge)] == [0, 1, 0]
    assert [admitted(hold(caps, plan, *running)) for plan in (spare, needed, bridge)] == [0, 0, 0]
    assert hold(caps, spare, *running).plan.actions == (), "what runs is left alone"


def test_a_cap_that_is_reached_takes_all_vms_and_shuts_until_its_period_ends() -> None:
    """Those that serve drain, those that boot end at once, somebody else's stay; and it stays so."""
    caps = budget(usd_per_day="5 USD/day")
    fleet = [replica(1), replica(2, state=State.BOOTING), replica(3, Market.ON_DEMAND)]
    held = hold(caps, launches(1), *fleet, spent=Spent(4.99, 9))
    assert [(type(one), one.rule) for one in held.plan.actions] == [
        (Drain, Rule.BUDGET),
        (Terminate, Rule.BUDGET),
        (Drain, Rule.BUDGET),
    ]
    midnight = NOON.replace(day=26, hour=0)
    assert held.shut is not None
    assert held.shut.until == midnight
    assert "no VM until the day ends (2026-11-26 00:00 UTC)" in held.reasons[0]
    assert held.plan.again_at_s == 12 * 3600
    later = hold(caps, launches(1), spent=Spent(4.99, 9), now=midnight - timedelta(seconds=1))
    assert (admitted(later), later.step) == (0, Rung.REACHED)
    assert admitted(hold(caps, launches(1), spent=Spent(0, 9), now=midnight, offers=OFFERS)) == 0, (
        "24 h do not fit"
    )
    assert hold(caps, launches(1), spent=Spent(0, 9), now=midnight).step is Rung.OPEN


def test_with_somebody_elses_servers_the_endpoint_stays_open() -> None:
    held = hold(budget(usd_per_day="1 USD/day"), launches(1), replica(1, Market.EXTERNAL), spent=Spent(2, 2))
    assert (held.step, held.shut, held.plan.actions) == (Rung.REACHED, None, ())


def test_where_nothing_runs_and_nothing_fits_it_is_shut() -> None:
    """And not where a cheaper offer would fit, or the policy has not asked for it in this very moment."""
    caps = budget(usd_per_day="5 USD/day")
    held = hold(caps, launches(1))
    assert held.shut is not None
    assert held.shut.until == NOON.replace(day=26, hour=0)
    assert hold(caps, launches(0)).shut is not None
    assert hold(caps, launches(0), offers=(*OFFERS, offer(Market.ON_DEMAND, 0.1, ZONES[1]))).shut is None
    assert hold(caps, launches(0), replica(1, state=State.BOOTING)).shut is None
    assert hold(caps, launches(0), offers=()).shut is None
    never = hold(budget(usd_per_hour="0.5 USD/h"), launches(1)).shut
    assert never is not None
    assert never.until is None


def test_prices_that_rise_above_the_hourly_cap_take_the_surplus_and_no_more() -> None:
    """What does not serve goes first, then the dearest."""
    caps = budget(usd_per_hour="2 USD/h")
    fleet = [replica(1), replica(2, Market.ON_DEMAND), replica(3, state=State.LOADING)]
    held = hold(caps, Plan(3, 0, 0), *fleet, offers=(offer(usd=0.9), offer(Market.ON_DEMAND, 1.0)))
    assert held.step is Rung.REACHED
    assert [action.replica for action in held.plan.actions if isinstance(action, Terminate)] == ["chat-3"]
    assert held.shut is None
    draining = [fleet[0], fleet[1], replace(fleet[2], state=State.TERMINATING)]
    again = hold(caps, Plan(3, 0, 0), *draining, offers=(offer(usd=0.9), offer(Market.ON_DEMAND, 1.0)))
    assert again.plan.actions == ()


def test_each_mark_is_told_once_in_a_period() -> None:
    """50, 80 and 100 %; of two that are passed at once the higher; anew in the next period."""
    caps, marks = budget(usd_per_day="100 USD/day"), Marks()

    def told(usd: float, now: datetime = NOON) -> list[float]:
        return [
            mark for _, mark in marks.passed(hold(caps, launches(0), spent=Spent(usd, usd), now=now).caps, now)
        ]

    assert [told(usd) for usd in (49, 50, 60, 85, 84, 99, 100, 101)] == [[], [0.5], [], [0.8], [], [], [1.0], []]
    assert told(50, NOON + timedelta(days=1)) == [0.5]


@given(st.floats(0, 50), st.floats(0, 10), st.integers(0, 6), st.sampled_from([Market.SPOT, Market.ON_DEMAND]))
def test_the_ladder_is_monotone(usd: float, more: float, running: int, market: Market) -> None:
    """Whoever has spent more, or runs more, is no lower on it, and is allowed no more launches."""
    fleet = [replica(number) for number in range(running)]
    plan = launches(1, market, target=3)

    def look(spent: float, *others: Replica) -> tuple[list[Rung], int]:
        caps = budget(usd_per_hour="6 USD/h", usd_per_day="40 USD/day", usd_per_month="45 USD/month", horizon="3h")
        spent_so_far = Spent(spent, spent)
        steps = [cap.step for cap in caps.look(NOON, spent_so_far, [*fleet, *others], OFFERS)]
        return steps, admitted(hold(caps, plan, *fleet, *others, spent=spent_so_far))

    steps, launched = look(usd)
    for later_steps, later_launched in (look(usd + more), look(usd, replica(99))):
        assert all(one <= other for one, other in zip(steps, later_steps, strict=True))
        assert later_launched <= launched


MOVES = st.lists(
    st.tuples(
        st.integers(1, 4000),  # seconds until the next look
        st.lists(st.sampled_from([Market.SPOT, Market.ON_DEMAND]), max_size=4),  # launches that are wanted
        st.floats(0.05, 1.0),  # the price of spot then
        st.integers(0, 3),  # a replica that is preempted
    ),
    max_size=60,
)


@given(MOVES, st.sampled_from([None, "20m", "6h"]))
def test_never_above_the_cap(moves: list[tuple[int, list[Market], float, int]], horizon: str | None) -> None:
    """Whatever is wanted, taken back and asked for it: no hour's price, no day and no month is above its cap.

    The controller looks every second, as it does in production; a drain takes all the time that it may.
    """
    given_caps = {"usd_per_hour": "4 USD/h", "usd_per_day": "9 USD/day", "usd_per_month": "11 USD/month"}
    caps = budget(**given_caps, **({} if horizon is None else {"horizon": horizon}))
    now, purse, born = NOON.replace(hour=20, day=29), Purse(), 0
    fleet: dict[int, Replica] = {}
    ends: dict[int, datetime] = {}
    for wait_s, wanted, spot, taken in moves:
        for step_s in [1.0] + [30.0] * (wait_s // 30):
            offers = (offer(usd=spot), offer(Market.ON_DEMAND))
            spent = Spent(purse.spent(Period.DAY, now), purse.spent(Period.MONTH, now))
            kinds = [offer(market, spot if market is Market.SPOT else None) for market in wanted]
            plan = Plan(2, 0, 0, tuple(Launch(kind, Rule.SPREAD, "") for kind in kinds))
            held = hold(caps, plan, *fleet.values(), spent=spent, now=now, offers=offers)
            for action in held.plan.actions:
                if isinstance(action, Launch):
                    born += 1
                    fleet[born] = replica(born, action.offer.market, offer=action.offer)
                    continue
                assert action.gone is GoneReason.SCALED_DOWN
                number = int(action.replica.split("-")[1])
                fleet[number] = replace(fleet[number], state=State.DRAINING)
                ends[number] = now + timedelta(seconds=DRAIN_S - 30)
            rate = sum(price_now(one.offer, offers) for one in fleet.values())
            assert rate <= 4 + 1e-9
            now += timedelta(seconds=step_s)
            purse.pay(now - timedelta(microseconds=1), rate * step_s / 3600)
            assert purse.spent(Period.DAY, now - timedelta(microseconds=1)) <= 9 + 1e-6
            assert purse.spent(Period.MONTH, now - timedelta(microseconds=1)) <= 11 + 1e-6
            for number in [number for number, end in ends.items() if end <= now]:
                fleet.pop(number, None)
                del ends[number]
            wanted = []  # asked for once; what is launched runs on
        fleet.pop(taken, None)
