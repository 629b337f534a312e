"""Means over windows, and what two policies differ by in the same windows."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference and its standard error; NaN where the windows are too few to tell."""

    mean: float
    error: float


def mean(values: Sequence[float]) -> float:
    """The mean."""
    return math.fsum(values) / len(values)


def sd(values: Sequence[float]) -> float:
    """The standard deviation of just these values."""
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / len(values))


def difference(ours: Sequence[float], theirs: Sequence[float], groups: Sequence[Hashable]) -> Difference:
    """``ours - theirs``, window by window. Windows of one group are no independent tries, as they overlap.

    The error is that of a mean over clusters: within a group deviations are added up before they are squared,
    so that the same hours seen twice count once.
    """
    apart = [one - other for one, other in zip(ours, theirs, strict=True)]
    middle = mean(apart)
    sums: dict[Hashable, float] = {}
    for value, group in zip(apart, groups, strict=True):
        sums[group] = sums.get(group, 0.0) + value - middle
    if len(sums) < 2:
        return Difference(middle, math.nan)
    spread = math.sqrt(math.fsum(value**2 for value in sums.values())) / len(apart)
    return Difference(middle, spread * math.sqrt(len(sums) / (len(sums) - 1)))
