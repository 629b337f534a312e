"""What the body of a replica's answer is, and what is held of it in the place of being passed on. Pure."""

from typing import Final

from hedgeserve.proxy.trials import is_their_fault

# Plain numbers: members of an enum are found anew each time, and these are looked at for every token.
EVENTS: Final = 0
"""A stream of events that is scanned as it passes."""
BLIND: Final = 1
"""A stream that cannot be read: its bytes pass as they are."""
PLAIN: Final = 2
"""An answer in one piece, held until it is whole or too large for that."""
CALL: Final = 3
"""A reply that a recovery needs."""
ERROR: Final = 4
"""What a replica says of its failure."""


def body_of(status: int, kind: str, encoding: str, *, resuming: bool, calling: bool) -> int:
    """Which of these bodies follows a head with such a status, content type and content encoding.

    ``resuming``: the replica was asked to go on with an answer that another one began; then anything but a stream
    that can be read is for the recovery to judge. ``calling``: it was asked for something beside the answer.
    """
    if calling:
        return CALL
    if is_their_fault(status) or status == 401:  # it refuses the key that we have for it, never one of a client
        return ERROR
    is_stream = status == 200 and kind == "text/event-stream"
    if is_stream and encoding in ("", "identity"):
        return EVENTS
    if resuming:
        return CALL
    return BLIND if is_stream else PLAIN  # compressed against our wish, nothing of it can be judged


class Held:
    """The pieces of a body that have come so far; ``size_bytes`` is theirs together."""

    __slots__ = ("_pieces", "size_bytes")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.size_bytes = 0

    def add(self, piece: bytes) -> None:
        """One more."""
        self._pieces.append(piece)
        self.size_bytes += len(piece)

    def whole(self) -> bytes:
        """All of them."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
