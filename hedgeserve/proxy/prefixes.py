"""Which replica has answered which beginnings of prompts, within a bound of bytes. Pure.

A prompt is cut into blocks, and each beginning that ends with a block is known by a hash of all of it: the longest
one that is known says where the engine's cache is warm, to a block's length. vLLM caches blocks of tokens so.
"""

from collections import OrderedDict
from collections.abc import Container

from hedgeserve.replica import ReplicaId

_BLOCK_BYTES = 256
_ENTRY_BYTES = 288
"""What an entry takes in memory at most, in the moment in which the map is copied since old entries have made room
for new ones; else half of it."""

Beginnings = list[int]
"""The beginnings of one prompt, the shortest first."""


def beginnings(prompt: bytes) -> Beginnings:
    """A hash for each beginning that ends with a whole block; a prompt shorter than a block has one of its own.

    Python's own hash, salted for each process: nobody can make prompts that meet by intent, and two that meet by
    chance cost one of them a cold cache.
    """
    whole = len(prompt) - len(prompt) % _BLOCK_BYTES or len(prompt)
    known_by: Beginnings = []
    so_far = 0
    for start in range(0, whole, _BLOCK_BYTES):
        so_far = hash((so_far, prompt[start : start + _BLOCK_BYTES]))
        known_by.append(so_far)
    return known_by


class _Home:
    """One incarnation of a replica, for as long as its cache lasts."""

    __slots__ = ("gone", "replica")

    def __init__(self, replica: ReplicaId) -> None:
        self.replica = replica
        self.gone = False


class Prefixes:
    """Beginnings of prompts and who answered them last; the ones not seen for longest are forgotten first."""

    def __init__(self, most_bytes: int) -> None:
        self._most = max(1, most_bytes // _ENTRY_BYTES)
        self._known: OrderedDict[int, _Home] = OrderedDict()
        self._homes: dict[ReplicaId, _Home] = {}

    @property
    def memory_bytes(self) -> int:
        """What is remembered takes no more than this."""
        return len(self._known) * _ENTRY_BYTES

    def longest(self, prompt: Beginnings, among: Container[ReplicaId]) -> ReplicaId | None:
        """Who of these has answered the longest beginning of this prompt; None where nobody has.

        A shorter beginning may be unknown, since whoever answered it last is gone: the longer ones count all the
        same.
        """
        for beginning in reversed(prompt):
            home = self._known.get(beginning)
            if home is not None and not home.gone and home.replica in among:
                return home.replica
        return None

    def answered(self, prompt: Beginnings, replica: ReplicaId) -> None:
        """This replica answers it: all its beginnings are in its cache now."""
        home = self._homes.get(replica)
        if home is None:
            home = self._homes[replica] = _Home(replica)
        known = self._known
        # The shortest last: it is of use to most, so that it goes last, too.
        for beginning in reversed(prompt):
            known[beginning] = home
            known.move_to_end(beginning)
        while len(known) > self._most:
            known.popitem(last=False)

    def forget(self, replica: ReplicaId) -> None:
        """This replica's cache is gone; what it has taken here makes room as the oldest does.

        At once, however much it is: streams of other replicas wait meanwhile.
        """
        home = self._homes.pop(replica, None)
        if home is not None:
            home.gone = True
        if not self._homes:
            self._known.clear()
