"""What may be expected of each zone: how soon it preempts, what a preemption costs in time, whether to ask it now.

Spot capacity comes in spells that are heavy-tailed: a zone that has held for ten minutes will often be gone in ten
more, one that has held for a day will hold for long. So the hazard of a zone falls with the age of its present
spell, as in a Lomax distribution, and a factor for each zone (a gamma frailty) learns how it differs from the
rest. What is long past counts less. The figures below are one choice for all clouds; nothing is fitted to a place.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from hedgeserve.policy.plan import NewsKind, ZoneNews
from hedgeserve.replica import Market, ZoneId

GRAIN_S = 600.0
"""Outlooks change with the news and with every full grain of time, not in between: plans hold as long."""

_SHAPE = 0.7
_SCALE_H = 0.15
"""The hazard of a spell of age a hours is ``_SHAPE / (_SCALE_H + a)`` an hour."""
_PRIOR_LOSSES = 2.0
"""Losses' worth of belief in a zone that is like all others."""
_HALF_LIFE_H = 8.0
_UNKNOWN_AGE_H = 1.5
"""Taken for the age of a spell whose begin nobody saw: met at random, a spell is more likely a long one."""
_AHEAD_H = 0.3
"""The hazard is the mean over so much time to come."""
_WARNED_PER_HOUR = 2.0
_WARNED_HALF_LIFE_H = 0.25
"""What a rebalance recommendation adds, and how fast it fades."""

_FIRST_COLD_START_S = 180.0
_LEADS_S = {"aws": 120.0, "gcp": 30.0, "azure": 30.0}
_LEAD_BELIEF = 0.25
"""How many preemptions' worth of belief there is in a lead time that has not been seen."""
_NOTED_LATE_S = 30.0
"""Until a preemption without a notice is known of."""
_REMEMBERED = 20
_GRANT_WITHIN_S = 600.0
"""A cloud grants a launch within this time: a ready replica that is older than any such grant was adopted."""
_SAME_LOSS_S = 10.0
"""VMs of one zone that go within this time are one loss: each is told of on its own, a moment after another."""
_PAUSE_FACTOR = 1.5
_MOST_DOUBLINGS = 3
_FORGET_H = 72.0


def region_of(zone: ZoneId) -> str:
    """The region of a zone: all of its name but the last part."""
    return zone.rpartition("/")[0]


def _expected_losses(age_h: float) -> float:
    """Losses that a spell of the common kind has met on average by this age (the cumulative hazard)."""
    return _SHAPE * math.log1p(age_h / _SCALE_H)


@dataclass(slots=True)
class _Spell:
    """One zone's spot market. ``since_s``: we have held VMs there from then on, at an age of ``age_h`` already."""

    losses: float = 0.0
    expected: float = 0.0
    at_s: float = 0.0
    held: int = 0
    since_s: float | None = None
    age_h: float = _UNKNOWN_AGE_H
    bad_s: float | None = None
    lost_s: float | None = None
    refusals: int = 0
    granted_s: float | None = None
    refusals_before: int = 0
    warned_s: float | None = None

    def fade(self, now_s: float) -> None:
        """Let the past count as much less as time has gone by."""
        share = 0.5 ** (max(0.0, now_s - self.at_s) / 3600 / _HALF_LIFE_H)
        self.losses, self.expected, self.at_s = self.losses * share, self.expected * share, now_s

    def close(self, now_s: float) -> None:
        """End the present spell, whatever ended it, and count what had been expected of it."""
        self.fade(now_s)
        if self.since_s is not None:
            begun = _expected_losses(self.age_h)
            self.expected += _expected_losses(self.age_h + (now_s - self.since_s) / 3600) - begun
            self.since_s = None


class Outlook:
    """What the news have taught about the zones' spot markets, and the time that a preemption costs here.

    Times are monotonic seconds, rates per hour.
    """

    def __init__(self, *, retry_delay_s: float, notice_lead_s: float | None = None) -> None:
        """``notice_lead_s`` is what notices give as far as the user knows; None: what the cloud promises."""
        self._retry_delay_s = retry_delay_s
        self._notice_lead_s = notice_lead_s
        self._spells: dict[ZoneId, _Spell] = {}
        self._boots_s: deque[float] = deque(maxlen=_REMEMBERED)
        self._grants_s: dict[tuple[ZoneId, Market], deque[float]] = {}
        self._leads_s: dict[str, deque[float]] = {}
        # What follows from the boots and the leads, until one more of them is known: it is asked for every zone.
        self._gaps_s: dict[str, float] = {}

    def observe(self, news: ZoneNews) -> None:
        """Learn one thing; only spot teaches of spells, every market of cold starts."""
        if news.kind is NewsKind.GRANTED:
            grants_s = self._grants_s.setdefault((news.zone, news.market), deque(maxlen=_REMEMBERED))
            grants_s.append(news.at_s)
        if news.kind is NewsKind.READY and news.held_s and self._is_boot(news):
            self._boots_s.append(news.held_s)
            self._gaps_s.clear()
        if news.market is not Market.SPOT:
            return
        spell = self._spells.get(news.zone)
        if spell is None:
            spell = self._spells[news.zone] = _Spell(at_s=news.at_s)
        match news.kind:
            case NewsKind.GRANTED | NewsKind.READY:
                self._held(spell, news)
            case NewsKind.NOTICE:
                self._lost(spell, news)
            case NewsKind.PREEMPTED if not news.lead_s:
                self._lost(spell, news)
            case NewsKind.NO_CAPACITY:
                if news.held_s is not None:  # it was granted, and taken before it served
                    self._lost(spell, news)
                if (
                    not spell.refusals
                    and spell.granted_s is not None
                    and news.at_s - spell.granted_s <= _SAME_LOSS_S
                ):
                    # Some were granted and the rest refused: it is as full as it was before this grant.
                    spell.refusals = spell.refusals_before
                spell.bad_s = news.at_s
                spell.refusals += 1
            case NewsKind.RELEASED | NewsKind.BOOT_FAILED:
                self._left(spell, news)
            case NewsKind.REBALANCE:
                spell.warned_s = news.at_s

    def _is_boot(self, news: ZoneNews) -> bool:
        """Whether this replica was launched in this run, so that its age is its cold start."""
        begun_s = news.at_s - (news.held_s or 0.0)
        grants_s = self._grants_s.get((news.zone, news.market), ())
        return any(-1.0 <= granted_s - begun_s <= _GRANT_WITHIN_S for granted_s in grants_s)

    def _held(self, spell: _Spell, news: ZoneNews) -> None:
        if news.kind is NewsKind.READY and spell.held and (not news.held_s or self._is_boot(news)):
            return
        spell.held += 1
        if news.kind is NewsKind.GRANTED:
            if spell.granted_s is None or news.at_s - spell.granted_s > _SAME_LOSS_S:
                spell.refusals_before = spell.refusals
            spell.granted_s = news.at_s
            if spell.bad_s is None or news.at_s - spell.bad_s > _SAME_LOSS_S:
                spell.refusals = 0
        if spell.since_s is None:
            spell.fade(news.at_s)
            spell.since_s = news.at_s
            # Known to have been without capacity then, and with it now: on average the spell began half-way.
            known = _UNKNOWN_AGE_H if spell.bad_s is None else (news.at_s - spell.bad_s) / 7200
            spell.age_h = min(_UNKNOWN_AGE_H, known)
            if news.kind is NewsKind.READY and news.held_s:  # adopted from an earlier run
                spell.age_h = max(spell.age_h, news.held_s / 3600)

    def _lost(self, spell: _Spell, news: ZoneNews) -> None:
        self._leads_s.setdefault(_cloud(news.zone), deque(maxlen=_REMEMBERED)).append(news.lead_s or 0.0)
        self._gaps_s.clear()
        spell.held = max(0, spell.held - 1)
        if spell.lost_s is None or news.at_s - spell.lost_s > _SAME_LOSS_S:  # several at once are one loss
            spell.close(news.at_s)
            spell.losses += 1
        spell.since_s, spell.age_h = (news.at_s, 0.0) if spell.held else (None, spell.age_h)
        spell.lost_s = spell.bad_s = news.at_s
        spell.refusals = max(1, spell.refusals)

    def _left(self, spell: _Spell, news: ZoneNews) -> None:
        if news.held_s is None:
            return
        spell.held = max(0, spell.held - 1)
        if not spell.held:
            spell.close(news.at_s)

    # What may be expected

    def losses_per_hour(self, zone: ZoneId, now_s: float) -> float:
        """How often this zone is expected to take back what is held there, from now on."""
        spell, clock_s = self._spells.get(zone), now_s // GRAIN_S * GRAIN_S
        if spell is None:
            return (_expected_losses(_UNKNOWN_AGE_H + _AHEAD_H) - _expected_losses(_UNKNOWN_AGE_H)) / _AHEAD_H
        age_h, expected = self.age_h(zone, now_s), 0.0
        if spell.since_s is not None:
            expected = _expected_losses(age_h) - _expected_losses(spell.age_h)
        share = 0.5 ** (max(0.0, clock_s - spell.at_s) / 3600 / _HALF_LIFE_H)
        frailty = (spell.losses * share + _PRIOR_LOSSES) / (spell.expected * share + expected + _PRIOR_LOSSES)
        hazard = frailty * (_expected_losses(age_h + _AHEAD_H) - _expected_losses(age_h)) / _AHEAD_H
        if spell.warned_s is not None:
            hazard += _WARNED_PER_HOUR * 0.5 ** (max(0.0, clock_s - spell.warned_s) / 3600 / _WARNED_HALF_LIFE_H)
        return float(hazard)

    def age_h(self, zone: ZoneId, now_s: float) -> float:
        """For how long the zone has had capacity, as far as is known; a guess where nothing is held."""
        spell, clock_s = self._spells.get(zone), now_s // GRAIN_S * GRAIN_S
        if spell is None:
            return _UNKNOWN_AGE_H
        if spell.since_s is not None:
            return spell.age_h + max(0.0, clock_s - spell.since_s) / 3600
        if spell.bad_s is None:
            return _UNKNOWN_AGE_H
        return min(_UNKNOWN_AGE_H, max(0.0, clock_s - spell.bad_s) / 7200)

    def held_for_h(self, zone: ZoneId, now_s: float) -> float | None:
        """For how long VMs have been held there without a loss; None where none is."""
        spell = self._spells.get(zone)
        if spell is None or spell.since_s is None:
            return None
        return max(0.0, now_s // GRAIN_S * GRAIN_S - spell.since_s) / 3600

    def rests_until_s(self, zone: ZoneId) -> float | None:
        """Until when a zone rests that lost or refused one: 1.5 retry delays, doubled at most three times."""
        spell = self._spells.get(zone)
        if spell is None or spell.bad_s is None or not spell.refusals:
            return None
        doublings = min(spell.refusals - 1, _MOST_DOUBLINGS)
        return float(spell.bad_s + _PAUSE_FACTOR * self._retry_delay_s * 2**doublings)

    def last_trouble(self, zone: ZoneId) -> tuple[str, float] | None:
        """The last loss or refusal of a zone that has not granted a launch since, in words, and when it was."""
        spell = self._spells.get(zone)
        if spell is None or spell.bad_s is None or not spell.refusals:
            return None
        return ("a preemption" if spell.bad_s == spell.lost_s else "no capacity"), spell.bad_s

    def cold_start_s(self) -> float:
        """From a launch to a ready replica: the median of the last ones, 3 minutes before there was any."""
        return median(self._boots_s) if self._boots_s else _FIRST_COLD_START_S

    def gap_s(self, zone: ZoneId) -> float:
        """How long a preempted replica is missed, if its replacement is launched as soon as the loss is known of.

        The mean over the preemptions that this cloud has announced, or not, lately. Before there were any, what
        the user expects counts; a cloud's own promise is only half believed.
        """
        cloud = _cloud(zone)
        if (known := self._gaps_s.get(cloud)) is not None:
            return known
        cold_start_s = self.cold_start_s()
        leads = self._leads_s.get(cloud, ())

        def missed_s(lead_s: float) -> float:
            return max(0.0, cold_start_s - lead_s) if lead_s > 0 else cold_start_s + _NOTED_LATE_S

        if self._notice_lead_s is None:
            unseen_s = (missed_s(0.0) + missed_s(_LEADS_S.get(cloud, 0.0))) / 2
        else:
            unseen_s = missed_s(self._notice_lead_s)
        gap_s = (_LEAD_BELIEF * unseen_s + sum(map(missed_s, leads))) / (_LEAD_BELIEF + len(leads))
        self._gaps_s[cloud] = gap_s
        return gap_s

    # What is kept over a restart

    def export(self, now_s: float) -> dict[str, Any]:
        """Everything, JSON-able, with ages for times."""

        def spell_of(spell: _Spell) -> dict[str, Any]:
            told = asdict(spell)
            for key in ("at_s", "since_s", "bad_s", "lost_s", "granted_s", "warned_s"):
                told[key] = None if told[key] is None else now_s - told[key]
            return told

        return {
            "spells": {
                zone: spell_of(spell)
                for zone, spell in self._spells.items()
                if now_s - max(spell.at_s, spell.bad_s or 0.0, spell.since_s or 0.0) < _FORGET_H * 3600
                or spell.held
            },
            "cold_starts_s": list(self._boots_s),
            "leads_s": {cloud: list(leads) for cloud, leads in self._leads_s.items()},
        }

    def restore(self, memory: Mapping[str, Any], now_s: float) -> None:
        """Take up what :meth:`export` gave; in place of a memory of another shape, none.

        What was held is told of again by its adoption, so spells are closed as of when they were last known of.
        """
        try:
            spells = {ZoneId(str(zone)): _restored(told, now_s) for zone, told in memory["spells"].items()}
            boots_s = [_number(boot_s) for boot_s in memory["cold_starts_s"]]
            leads_s = {
                str(cloud): deque((_number(lead_s) for lead_s in leads), maxlen=_REMEMBERED)
                for cloud, leads in memory["leads_s"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return
        self._spells, self._leads_s = spells, leads_s
        self._boots_s = deque(boots_s, maxlen=_REMEMBERED)
        self._gaps_s.clear()


def _cloud(zone: ZoneId) -> str:
    return zone.partition("/")[0]


def _number(told: Any) -> float:
    """A finite number; ValueError where it is none."""
    if not math.isfinite(number := float(told)):
        raise ValueError("not a finite number")
    return number


def _restored(told: Mapping[str, Any], now_s: float) -> _Spell:
    def time_of(key: str) -> float | None:
        return None if told[key] is None else now_s - _number(told[key])

    spell = _Spell(
        losses=max(0.0, _number(told["losses"])),
        expected=max(0.0, _number(told["expected"])),
        at_s=time_of("at_s") or 0.0,
        since_s=time_of("since_s"),
        age_h=max(0.0, _number(told["age_h"])),
        bad_s=time_of("bad_s"),
        lost_s=time_of("lost_s"),
        refusals=max(0, int(told["refusals"])),
        granted_s=time_of("granted_s"),
        refusals_before=max(0, int(told["refusals_before"])),
        warned_s=time_of("warned_s"),
    )
    spell.close(now_s)
    return spell
