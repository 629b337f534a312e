"""Whether a simulated world can be: every mistake in a setting is told before anything runs."""

import math
from collections.abc import Iterator

from hedgeserve.errors import HedgeServeError
from hedgeserve.replica import Market
from hedgeserve.simulate.setting import OfferModel, WorldSetting

PREEMPTION_ORDERS = ("newest", "oldest", "random")
"""Whom a falling capacity may take."""


class SettingError(HedgeServeError, ValueError):
    """A simulated world that cannot be; tells every mistake found, not only the first."""


def check_setting(setting: WorldSetting) -> None:
    """Return where a world of this setting can be run.

    Raises:
        SettingError: It cannot; the message tells which value is wrong, where, and what it may be.
    """
    mistakes = list(_mistakes(setting))
    if mistakes:
        raise SettingError("\n".join(mistakes))


def _mistakes(setting: WorldSetting) -> Iterator[str]:
    if not setting.offers:
        yield "offers: a world without offers has nothing to launch; give at least one"
    if not _positive(setting.tick_s):
        yield f"tick_s: {setting.tick_s} is no length of time; write seconds above 0"
    if not _positive(setting.window_s):
        yield f"window_s: {setting.window_s} is no length of time; write seconds above 0"
    if not _length(setting.warm_up_s) or setting.warm_up_s >= setting.window_s:
        yield (
            f"warm_up_s: {setting.warm_up_s} leaves nothing of a window of {setting.window_s} s to count; "
            "write less than window_s, and not below 0"
        )
    for key in ("start_s", "launch_latency_s", "drain_s"):
        if not _length(value := getattr(setting, key)):
            yield f"{key}: {value} is below 0 or not finite; write 0 or more seconds"
    if setting.target < 0:
        yield f"target: {setting.target} replicas cannot be; write 0 or more"
    if setting.preemption_order not in PREEMPTION_ORDERS:
        known = ", ".join(f'"{order}"' for order in PREEMPTION_ORDERS)
        yield f'preemption_order: "{setting.preemption_order}" is not known; write one of {known}'
    seen: set[tuple[str, str, Market]] = set()
    for model in setting.offers:
        place = (model.offer.zone, model.offer.instance_type, model.offer.market)
        name = f"offers: {model.offer.market} {model.offer.instance_type} in {model.offer.zone}"
        if place in seen:
            yield f"{name}: it is there twice; leave one of them out"
        seen.add(place)
        yield from (f"{name}: {mistake}" for mistake in _offer_mistakes(model))


def _offer_mistakes(model: OfferModel) -> Iterator[str]:
    if model.offer.market is Market.EXTERNAL:
        yield "an external replica is not launched; only spot and on-demand can be simulated"
    if not _length(model.offer.usd_per_hour):
        yield f"usd_per_hour: {model.offer.usd_per_hour} is no price; write 0 or more"
    if not model.cold_start_s:
        yield "cold_start_s: it is empty; give at least one time"
    if not all(_length(seconds) for seconds in model.cold_start_s):
        yield f"cold_start_s: {model.cold_start_s} has a time below 0 or not finite; write 0 or more seconds"
    if not _length(model.notice_s):
        yield f"notice_s: {model.notice_s} is below 0 or not finite; write 0 or more seconds"
    for key in ("no_notice_share", "available"):
        if not 0.0 <= (share := getattr(model, key)) <= 1.0:
            yield f"{key}: {share} is no share; write 0 to 1"
    if model.capacity is not None:
        if not _positive(model.capacity.gap_s):
            yield f"capacity: a gap of {model.capacity.gap_s} s between two counts cannot be; write above 0"
        if len(model.capacity.counts) == 0:
            yield "capacity: the trace has no counts; give at least one, or no trace for no bound"
        elif int(model.capacity.counts.min()) < 0:
            yield f"capacity: the trace counts {int(model.capacity.counts.min())} VMs; write 0 or more"
    if model.price is not None:
        if not _positive(model.price.gap_s):
            yield f"price: a gap of {model.price.gap_s} s between two prices cannot be; write above 0"
        if not model.price.usd_per_hour:
            yield "price: the trace has no prices; give at least one, or no trace for the offer's own"
        if not all(_length(usd) for usd in model.price.usd_per_hour):
            yield "price: the trace has a price below 0 or not finite; write 0 or more"


def _length(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0
