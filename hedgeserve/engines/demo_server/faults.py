"""The ways in which an answer can go wrong on demand, as those of a vLLM that is killed do."""

from __future__ import annotations

from dataclasses import dataclass

from .generation import Piece
from .refusal import Refusal
from .watch import ClientGone, Watch

FAULTS = {
    "abort": 'end each answer after N tokens with finish_reason "abort"',
    "error": "end each answer after N tokens with an error in the stream (500 where it has not begun)",
    "stall": "fall silent in each answer after N tokens, with the connection open",
    "cut": "close the connection of each answer after N tokens",
}


@dataclass(frozen=True)
class Fault:
    """What befalls every answer after so many tokens; ``name`` is one of :data:`FAULTS`."""

    name: str
    after_tokens: int

    def strike(self, watch: Watch) -> Piece:
        """The piece that ends the answer; a stall gives none and lasts until :class:`ClientGone`."""
        if self.name == "stall":
            while True:
                watch.wait(3600)
        return Piece([], "", "abort" if self.name == "abort" else "error")


def hard_error(fault: Fault | None) -> Refusal:
    """The error of an engine that died; raises :class:`ClientGone` where the fault is a cut: no answer at all."""
    if fault is not None and fault.name == "cut":
        raise ClientGone
    return Refusal(500, "EngineCore encountered an issue. See stack trace (above).", "InternalServerError")
