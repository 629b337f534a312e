"""What one replica costs: charged to the ledger now and then, and told for the time that is not charged yet."""

from datetime import UTC, datetime, timedelta

from hedgeserve.hedge import price_now
from hedgeserve.machines.hands import Hands
from hedgeserve.policy.ledger import Line, days_of, purpose_of
from hedgeserve.replica import Replica, State

_PURPOSE = {
    State.READY: "serving",
    State.NOTICED: "serving",
    State.DRAINING: "draining",
    State.TERMINATING: "draining",
}


class Bill:
    """Charges each second of one replica once: in the ledger, or among the :meth:`lines` that it lacks yet."""

    def __init__(self, hands: Hands, *, charged_until_s: float) -> None:
        self._hands = hands
        self._until_s = charged_until_s

    async def charge(self, replica: Replica, now_s: float) -> None:
        """Charge the time since the last charge, in which it was as in ``replica``; a full disk is tried again."""
        async with self._hands.journal.charging:
            begun_s, seconds = self._until_s, now_s - self._until_s
            if seconds <= 0:
                return
            # Before anything that waits: whoever is cancelled meanwhile has charged all the same.
            self._until_s = now_s
            if replica.vm_id is None:
                return
            purpose, price = _PURPOSE.get(replica.state, "booting"), self._price(replica)
            if await self._hands.journal.charge(replica, seconds, price, purpose):
                self._hands.metrics.spent(replica.market, purpose, seconds * price / 3600)
            else:
                self._until_s = begun_s

    def usd(self, replica: Replica, now_s: float) -> float:
        """What it has cost since the last charge."""
        return self._seconds(replica, now_s) * self._price(replica) / 3600

    def lines(self, replica: Replica, now_s: float, *, served: bool) -> list[Line]:
        """The same as the ledger will tell it, by day."""
        now, price = datetime.now(UTC), self._price(replica)
        ended = replica.state in (State.TERMINATING, State.GONE)
        purpose = purpose_of(_PURPOSE.get(replica.state, "booting"), ended=ended, served=served)
        return [
            Line(
                f"{at:%Y-%m-%d}", replica.id, replica.zone, replica.market, purpose, part_s, part_s * price / 3600
            )
            for at, part_s in days_of(now - timedelta(seconds=self._seconds(replica, now_s)), now)
        ]

    def _seconds(self, replica: Replica, now_s: float) -> float:
        return max(0.0, now_s - self._until_s) if replica.vm_id is not None else 0.0

    def _price(self, replica: Replica) -> float:
        return price_now(replica.offer, self._hands.offers())
