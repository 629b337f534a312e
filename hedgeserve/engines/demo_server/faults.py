"""The ways in which an answer can go wrong on demand, as those of a vLLM that is killed do."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass

from .generation import Piece
from .refusal import Refusal
from .watch import ClientGone, Watch

FAULTS = {
    "abort": 'end each answer after N tokens with finish_reason "abort"',
    "error": "end each answer after N tokens with an error in the stream (500 where it has not begun)",
    "stall": "fall silent in each answer after N tokens, with the connection open",
    "cut": "close the connection of each answer after N tokens",
    "vanish": "as stall, and keep the connection even when the client leaves, as a machine that is gone does",
}
HEADER = "x-demo-fault"
_FOREVER_S = 3600.0


@dataclass(frozen=True)
class Fault:
    """What befalls an answer after so many tokens; ``name`` is one of :data:`FAULTS`."""

    name: str
    after_tokens: int

    def strike(self, watch: Watch) -> Piece:
        """The piece that ends the answer; a stall gives none and lasts until :class:`ClientGone`."""
        if self.name == "vanish":
            threading.Event().wait(_FOREVER_S)
            raise ClientGone
        if self.name == "stall":
            while True:
                watch.wait(_FOREVER_S)
        return Piece([], "", "abort" if self.name == "abort" else "error")


def asked_fault(header: str) -> Fault:
    """The fault that a request asks for, such as ``cut=7``; raises :class:`Refusal`; ``http500`` asks for that."""
    text = header.strip().lower()
    status = re.fullmatch(r"http([45]\d\d)", text)
    if status is not None:
        raise Refusal(int(status[1]), f"{HEADER}: {text} asked for this", "InternalServerError")
    name, _, tokens = text.partition("=")
    if name not in FAULTS or not re.fullmatch(r"\d{0,9}", tokens):
        names = ", ".join(f"{name}=N" for name in FAULTS)
        raise Refusal(400, f"{HEADER}: {header!r} is no fault; write one of {names} or http500", param=HEADER)
    return Fault(name, int(tokens or 0))


def hard_error(fault: Fault | None) -> Refusal:
    """The error of an engine that died; raises :class:`ClientGone` where the fault is a cut: no answer at all."""
    if fault is not None and fault.name == "cut":
        raise ClientGone
    return Refusal(500, "EngineCore encountered an issue. See stack trace (above).", "InternalServerError")
