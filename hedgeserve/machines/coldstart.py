"""The picture of one cold start: which phase ran from when to when, in seconds since the launch."""

from dataclasses import dataclass

_SINCE_LAUNCH = frozenset({"boot", "ssh"})
"""Phases that are measured from the launch: each began where the one before it ended."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase; its name is one of those in ``hedgeserve_boot_duration_seconds``, or ``grant``."""

    name: str
    from_s: float
    to_s: float


class ColdStart:
    """Is told of phases as they end."""

    def __init__(self) -> None:
        self._phases: list[Phase] = []

    def ended(self, name: str, at_s: float, seconds: float) -> None:
        """A phase has ended, ``at_s`` seconds after the launch; it took so long."""
        begun_s = at_s - seconds
        if name in _SINCE_LAUNCH:
            begun_s = max((phase.to_s for phase in self._phases), default=0.0)
        self._phases.append(Phase(name, max(0.0, begun_s), at_s))

    def told(self) -> list[dict[str, str | float]]:
        """All phases, in the order of their ends, JSON-able."""
        return [
            {"phase": phase.name, "from_s": round(phase.from_s, 3), "to_s": round(phase.to_s, 3)}
            for phase in self._phases
        ]
