"""What the caps would make of a plan, asked beforehand: the tick's own hold, now or at a time to come. Pure."""

from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta

from hedgeserve.policy.budget import Budget, Cap, Held, Spent
from hedgeserve.policy.ledger import Period, begin_of, price_now
from hedgeserve.policy.plan import Launch, Observation, Plan, Rule
from hedgeserve.replica import Market, Offer, State


@dataclass(frozen=True, slots=True)
class Means:
    """A budget and what is spent of it, as of ``at``, when the monotonic clock reads ``now_s``.

    Nothing that is asked here changes the budget: it is copied for each question. What is spent later is
    what is spent now, and what the fleet that is asked about costs from now on.
    """

    budget: Budget
    spent: Spent
    at: datetime
    now_s: float

    def hold(self, plan: Plan, observation: Observation) -> Held:
        """What is left of this plan, of this fleet at that time."""
        now = self.at + timedelta(seconds=observation.now_s - self.now_s)
        return deepcopy(self.budget).hold(plan, observation, now, self._spent(observation, now))

    def refusal(self, offer: Offer, observation: Observation) -> str:
        """Why no replica could be launched on this offer now, for the target as observed; empty: one could."""
        launch = Launch(offer, Rule.SPREAD, "")
        target = observation.target
        held = self.hold(Plan(target, spot_wanted=0, on_demand_wanted=0, actions=(launch,)), observation)
        return "" if launch in held.plan.actions or not held.reasons else held.reasons[0]

    def caps(self, observation: Observation) -> tuple[Cap, ...]:
        """Each cap as it stands, with this fleet."""
        now = self.at + timedelta(seconds=observation.now_s - self.now_s)
        spent = self._spent(observation, now)
        return deepcopy(self.budget).look(now, spent, observation.replicas, observation.offers)

    def _spent(self, observation: Observation, now: datetime) -> Spent:
        rate = sum(
            price_now(one.offer, observation.offers)
            for one in observation.replicas
            if one.market is not Market.EXTERNAL and one.state is not State.GONE
        )

        def by_then(period: Period, spent: float) -> float:
            begin = begin_of(period, now)
            since, before = (self.at, spent) if begin <= self.at else (begin, 0.0)
            return before + rate * max(0.0, (now - since).total_seconds()) / 3600

        return Spent(by_then(Period.DAY, self.spent.day), by_then(Period.MONTH, self.spent.month))


def held(means: Means | None, plan: Plan, observation: Observation) -> Plan:
    """The plan as the tick would carry it out; without caps as it is."""
    return plan if means is None else means.hold(plan, observation).plan
