"""Where a zone has several kinds of VM, a refusal of one of them is no news of the zone until all are refused.

The policies think in zones. This stands before them: it leaves a kind that was refused out of the offers for a
while, so that the next cheapest of the zone is asked for, and tells the policy of the refusal of the last one.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from hedgeserve.policy.plan import NewsKind, ZoneNews
from hedgeserve.replica import Market, Offer, ZoneId
from hedgeserve.units import format_duration

_SHORTEST_REST_S = 300.0
"""A kind rests at least for so long: until each of the others has been asked for, which may take a minute."""
_QUOTA_REST_S = 600.0
_GRAVITY = (NewsKind.NO_CAPACITY, NewsKind.QUOTA, NewsKind.UNSUPPORTED)
"""Refusals of a kind of VM, the one that passes soonest first."""


class TypeRests:
    """Which kinds of VM rest where. Nothing of it outlives the process: asking again costs one refusal."""

    def __init__(self, *, retry_delay_s: float) -> None:
        rest_s = max(retry_delay_s, _SHORTEST_REST_S)
        self._rest_s = {NewsKind.NO_CAPACITY: rest_s, NewsKind.QUOTA: _QUOTA_REST_S, NewsKind.UNSUPPORTED: inf}
        self._refused: dict[tuple[ZoneId, Market, str], ZoneNews] = {}

    def hear(self, news: ZoneNews, offers: Sequence[Offer]) -> ZoneNews | None:
        """What the policy must be told; None while the zone has a kind left that was not refused lately.

        When every kind was refused, the zone is told of the refusal that passes soonest, and is asked for all of
        them again once the policy asks it again; only what a zone never has stays left out.
        """
        place = (news.zone, news.market)
        if not news.instance_type or news.kind not in self._rest_s:
            if news.kind is NewsKind.GRANTED:
                self._refused.pop((*place, news.instance_type), None)
            return news
        kinds = {offer.instance_type for offer in offers if (offer.zone, offer.market) == place}
        if kinds <= {news.instance_type}:
            return news
        self._refused[*place, news.instance_type] = news
        if any(not self._rests((*place, kind), news.at_s) for kind in kinds):
            return None
        refusals = [self._refused[*place, kind] for kind in sorted(kinds)]
        mildest = min(refusals, key=lambda refusal: _GRAVITY.index(refusal.kind))
        for refusal in refusals:
            if refusal.kind is not NewsKind.UNSUPPORTED:
                del self._refused[*place, refusal.instance_type]
        return replace(mildest, at_s=news.at_s)

    def left(self, offers: tuple[Offer, ...], now_s: float) -> tuple[Offer, ...]:
        """The offers without the kinds that rest."""
        if not self._refused:
            return offers
        return tuple(
            offer for offer in offers if not self._rests((offer.zone, offer.market, offer.instance_type), now_s)
        )

    def resting(self, now_s: float) -> dict[ZoneId, list[str]]:
        """The kinds that rest, by zone, each in a sentence; ``left`` leaves out just these."""
        found: dict[ZoneId, list[str]] = {}
        for (zone, market, kind), refusal in self._refused.items():
            if not self._rests((zone, market, kind), now_s):
                continue
            left_s = refusal.at_s + self._rest_s[refusal.kind] - now_s
            how_long = "for good" if left_s == inf else f"for {format_duration(round(left_s))} more"
            name = "on-demand" if market is Market.ON_DEMAND else str(market)
            why = f" ({refusal.detail})" if refusal.detail else ""
            told = f"{name}: {kind} is left out {how_long}, refused with {refusal.kind.replace('_', ' ')}{why}"
            found.setdefault(zone, []).append(told)
        return found

    def _rests(self, kind: tuple[ZoneId, Market, str], now_s: float) -> bool:
        refusal = self._refused.get(kind)
        return refusal is not None and now_s < refusal.at_s + self._rest_s[refusal.kind]
