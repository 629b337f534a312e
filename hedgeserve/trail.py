"""The versions that a service has been on, in their order, and those that were taken back: as recorded.

What a person means by "the version before" is a place on the way that was come, not the next lower number: going
back twice goes back two steps, and what was taken back is no place to go back to.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

BACK = "rolled_back"
"""The state of a roll-out whose version was taken back."""
LEFT = "superseded"
"""The state of a roll-out that was left for another one; its version was not taken back by that."""
ROLLBACK = "rollback"
"""The strategy of a roll-out that goes back."""


class Walked(Protocol):
    """One recorded roll-out, as far as it is needed here."""

    @property
    def from_version(self) -> int:
        """The version that was wanted before; 0: none was."""

    @property
    def to_version(self) -> int:
        """The version that was wanted then."""

    @property
    def strategy(self) -> str:
        """How it came in."""

    @property
    def state(self) -> str:
        """What became of it."""

    @property
    def why(self) -> str:
        """Why it was begun."""

    @property
    def outcome(self) -> str:
        """Why it ended as it did."""


@dataclass(frozen=True, slots=True)
class Trail:
    """``path`` ends with the version that is wanted; ``taken_back`` are versions with the reason why."""

    path: Sequence[int]
    taken_back: Mapping[int, str]

    @classmethod
    def of(cls, rollouts: Iterable[Walked]) -> "Trail":
        """The way that these roll-outs describe, the oldest first.

        Who applies what the roll-out under way is leaving returns at once, too, and takes nothing back by it: what
        was left without having failed is the version before.
        """
        path: list[int] = []
        taken_back: dict[int, str] = {}
        before: Walked | None = None
        for one in rollouts:
            new, old = one.to_version, one.from_version
            if old and not path:
                path.append(old)
            left_for_it = before is not None and before.state == LEFT and before.strategy != ROLLBACK
            before = one
            if one.strategy == ROLLBACK and not left_for_it:
                left = path[path.index(new) + 1 :] if new in path else [old]
                taken_back |= dict.fromkeys([*left, old], one.why)
                path = [number for number in path if number not in left]
            path = [*(number for number in path if number != new), new] if new not in path[-1:] else path
            taken_back.pop(new, None)
            if one.state == BACK:
                path.remove(new)
                taken_back[new] = one.outcome
        return cls(tuple(path), taken_back)

    def before(self, wanted: int) -> Sequence[int]:
        """Where one may go back to from this version, the nearest first."""
        path = list(self.path)
        return path[: path.index(wanted)][::-1] if wanted in path else path[::-1]
