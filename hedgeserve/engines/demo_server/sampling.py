"""How the next token is taken out of those that fit: penalties, and the end of an answer that goes in circles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .fields import Fields
from .refusal import Refusal

STEP = 0.25
"""By how much each of the fitting tokens is less likely (in logits) than the one before it."""


@dataclass(frozen=True)
class Penalties:
    """Penalties for tokens that are in the answer already; what is in the prompt does not count."""

    presence: float
    frequency: float

    def __bool__(self) -> bool:
        return self.presence != 0 or self.frequency != 0

    def pick(self, fitting: Sequence[int], counts: Counter[int]) -> int:
        """The likeliest of the tokens, which are given from the likeliest to the least likely."""

        def burden(place: int) -> float:
            count = counts[fitting[place]]
            return place * STEP + self.presence * (count > 0) + self.frequency * count

        return fitting[min(range(len(fitting)), key=burden)]


def read_penalties(fields: Fields) -> Penalties:
    """``presence_penalty`` and ``frequency_penalty``; raises :class:`Refusal`."""
    values = []
    for name in ("presence_penalty", "frequency_penalty"):
        value = fields.number(name, 0.0)
        if not -2 <= value <= 2:
            raise Refusal(400, f"{name} must be in [-2, 2], got {value}.")
        values.append(value)
    repetition = fields.number("repetition_penalty", 1.0)
    if repetition <= 0:
        raise Refusal(400, f"repetition_penalty must be greater than zero, got {repetition}.")
    return Penalties(*values)


@dataclass(frozen=True)
class Repetition:
    """A pattern of so many tokens, so many times in a row, ends the answer."""

    least: int
    most: int
    times: int

    def found(self, ids: Sequence[int]) -> bool:
        """Whether the answer's ids end in such a row."""
        for size in range(max(1, self.least), self.most + 1):
            if size * self.times > len(ids):
                return False
            row = ids[-size * self.times :]
            if all(row[place] == row[place % size] for place in range(size, len(row))):
                return True
        return False


def read_repetition(fields: Fields) -> Repetition | None:
    """``repetition_detection``; None where it is not asked for. Raises :class:`Refusal`."""
    inner = Fields(fields.table("repetition_detection"))
    most, least, times = (
        inner.integer(name, 0) or 0 for name in ("max_pattern_size", "min_pattern_size", "min_count")
    )
    if least < 0 or not least <= most:
        message = "max_pattern_size, min_pattern_size must be >=0, with min_pattern_size <= max_pattern_size. "
        raise Refusal(400, message + "Set both to 0 to disable repetitive pattern detection.")
    if most == 0:
        return None
    if times < 2:
        message = "min_count must be >= 2 to detect repetitive patterns in engine output. If you do not wish to "
        raise Refusal(400, message + "detect repetitive patterns, set max_pattern_size to 0.")
    return Repetition(least, most, times)
