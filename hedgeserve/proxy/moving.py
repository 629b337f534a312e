"""Which answers leave a replica that will be taken away, and when: those that would not end in time. Pure."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

Id = TypeVar("Id", bound=Hashable)

_SLOWEST = 0.1
"""Tokens a second below which a pace is no measurement."""
_AT_ONCE = 4
"""As many answers may be moved at a time even where the time left would spread them thinner."""


@dataclass(frozen=True, slots=True)
class Moving(Generic[Id]):
    """An answer that is under way on the replica.

    ``pace`` is measured, in tokens a second; 0 where there is none yet. ``expects`` is the most tokens that it
    may have, None where nothing bounds it.
    """

    id: Id
    told: int
    pace: float
    expects: int | None = None


def remaining_s(stream: Moving[Id], *, typical: int) -> float:
    """How long an answer will take, should it become as long as answers typically do.

    One that has outgrown the typical length is taken to go on for half of what it has; none goes on past what it
    expects. Without a pace it is taken to be the longest of all.
    """
    if stream.pace < _SLOWEST:
        return float("inf")
    length = float(typical) if stream.told < typical else 1.5 * stream.told
    if stream.expects is not None:
        length = min(length, stream.expects)
    return max(0.0, length - stream.told) / stream.pace


def plan_moves(
    streams: Iterable[Moving[Id]],
    *,
    now_s: float,
    ends_at_s: float,
    margin_s: float,
    room: bool,
    typical: int,
    every_s: float = 0.5,
) -> list[Id]:
    """The answers to move now, the longest first; asked for again every ``every_s`` until the replica is gone.

    Those that end before ``margin_s`` from the end are let be. The others leave evenly over the time that is left,
    so that no replica gets them in a burst; what is left over at the margin leaves then, all at once. Nothing
    moves where no other replica accepts (``room``): to stay is no worse than to wait elsewhere.
    """
    if not room:
        return []
    left_s = ends_at_s - margin_s - now_s
    late = [(remaining_s(stream, typical=typical), stream) for stream in streams]
    late = [(rest_s, stream) for rest_s, stream in late if rest_s > left_s]
    late.sort(key=lambda pair: (-pair[0], -pair[1].told))
    if left_s <= every_s:
        return [stream.id for _, stream in late]
    rounds = int(left_s / every_s)
    share = max(-(-len(late) // rounds), min(_AT_ONCE, len(late)))
    return [stream.id for _, stream in late[:share]]
