"""Which replica has answered which beginnings of prompts, within a bound of bytes. Pure.

A prompt is cut into blocks, and each beginning that ends with a block is known by a hash of all of it: the longest
one that is known says where the engine's cache is warm, to a block's length. vLLM caches blocks of tokens so.
"""

from collections import OrderedDict
from collections.abc import Container
from hashlib import blake2b

from hedgeserve.replica import ReplicaId

_BLOCK_BYTES = 256
_ENTRY_BYTES = 200
"""What an entry takes in memory: a key of 16 bytes, a place in an ordered map, a reference."""


class Prefixes:
    """Beginnings of prompts and who answered them last; the ones not seen for longest are forgotten first."""

    def __init__(self, most_bytes: int) -> None:
        self._most = max(1, most_bytes // _ENTRY_BYTES)
        self._known: OrderedDict[bytes, ReplicaId] = OrderedDict()

    @property
    def memory_bytes(self) -> int:
        """What is remembered takes about this much."""
        return len(self._known) * _ENTRY_BYTES

    def longest(self, prompt: bytes, among: Container[ReplicaId]) -> ReplicaId | None:
        """Who of these has answered the longest beginning of this prompt; None where nobody has."""
        found: ReplicaId | None = None
        for key in _keys(prompt):
            replica = self._known.get(key)
            if replica is None:
                break
            if replica in among:
                found = replica
        return found

    def answered(self, prompt: bytes, replica: ReplicaId) -> None:
        """This replica answers it: all its beginnings are in its cache now."""
        for key in _keys(prompt):
            self._known[key] = replica
            self._known.move_to_end(key)
        while len(self._known) > self._most:
            self._known.popitem(last=False)

    def forget(self, replica: ReplicaId) -> None:
        """This replica's cache is gone."""
        for key in [key for key, known in self._known.items() if known == replica]:
            del self._known[key]


def _keys(prompt: bytes) -> list[bytes]:
    """A key for each beginning that ends with a whole block; a prompt shorter than a block has one of its own."""
    chain = blake2b(digest_size=16)
    keys = []
    whole = len(prompt) - len(prompt) % _BLOCK_BYTES or len(prompt)
    for start in range(0, whole, _BLOCK_BYTES):
        chain.update(prompt[start : min(start + _BLOCK_BYTES, whole)])
        keys.append(chain.digest())
    return keys
