"""What a drill is to do, as it was asked for; and how long its conditions hold where nobody says."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

LONGEST_S = 24 * 3600.0


class DrillKind(StrEnum):
    """The trouble that is made. Those up to ``BLACKOUT`` take VMs away, the others only set a condition."""

    PREEMPT = "preempt"  # a notice, and then the end
    VANISH = "vanish"  # the end, without a word
    BLACKOUT = "blackout"  # every VM of a zone, and launches refused there
    REFUSE = "refuse"  # a zone refuses launches
    SLOW_BOOT = "slow-boot"  # VMs take longer to come up
    API_DOWN = "api-down"  # a cloud does not answer


TAKES = frozenset({DrillKind.PREEMPT, DrillKind.VANISH, DrillKind.BLACKOUT})
_FOR_S = {
    DrillKind.BLACKOUT: 60.0,
    DrillKind.REFUSE: 60.0,
    DrillKind.SLOW_BOOT: 300.0,
    DrillKind.API_DOWN: 60.0,
}
_BY_S = 60.0


class DrillError(ValueError):
    """A drill cannot be done as it was asked for; says why, and what can be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrillRequest:
    """A drill that was asked for.

    ``zone``, ``replica`` and ``cloud`` say where, each empty for "where it is felt most". ``take`` has a
    condition's drill preempt one replica too, so that there is something to replace. ``for_s`` is how long a
    condition holds, ``by_s`` how much longer a boot takes, ``notice_s`` how long before the end a notice comes
    (None: as the cloud has it), ``within_s`` how soon all must be well again (None: by the boots seen so far).
    ``prefer`` is the replica that was chosen when it was looked at what the drill would do: another one is taken
    where that one goes by itself meanwhile, which ``replica`` does not allow.
    ``force`` where no replica may be left ready.
    """

    kind: DrillKind
    zone: str = ""
    replica: str = ""
    prefer: str = ""
    cloud: str = ""
    take: bool = False
    for_s: float = 0.0
    by_s: float = _BY_S
    notice_s: float | None = None
    within_s: float | None = None
    force: bool = False

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "DrillRequest":
        """The request in a JSON object.

        Raises:
            DrillError: It has another key, or a value of another kind; says which.
        """
        known = {field.name for field in fields(cls)}
        for key, value in document.items():
            if key not in known:
                raise DrillError(f"{key!r} is nothing that a drill takes; there are {', '.join(sorted(known))}")
            if key in ("take", "force") and not isinstance(value, bool):
                raise DrillError(f"{key} = {value!r}: write true or false")
            if key in ("zone", "replica", "prefer", "cloud") and not isinstance(value, str):
                raise DrillError(f"{key} = {value!r}: write a name")
            if key.endswith("_s") and value is not None and not _is_time(value):
                raise DrillError(f"{key} = {value!r}: write seconds, from 0 to {LONGEST_S:.0f}")
        try:
            kind = DrillKind(str(document.get("kind")))
        except ValueError:
            kinds = ", ".join(DrillKind)
            raise DrillError(f"there is no drill {document.get('kind')!r}; there are {kinds}") from None
        given = {key: value for key, value in document.items() if value is not None}
        found = cls(**{"for_s": _FOR_S.get(kind, 0.0), **given, "kind": kind})
        if found.replica and kind in TAKES and (found.zone or kind is DrillKind.BLACKOUT):
            raise DrillError("a replica and a zone are two ways to say where; give one (a blackout is of a zone)")
        return found


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LONGEST_S
