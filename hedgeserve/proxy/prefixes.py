"""Which replica has the beginning of a prompt in its cache: the one that last served it. Pure.

A beginning is a chain of blocks of 256 bytes, each known by the hash of itself and all before it; so two prompts
share the hashes of as many blocks as they have in common. A collision of hashes costs a cache hit, no more.
"""

from collections.abc import Iterator
from sys import getsizeof

from hedgeserve.replica import ReplicaId

BLOCK_BYTES = 256
_MOST_BLOCKS = 128
_GENERATIONS = 4
# A hash is an int of its own, which takes 36 bytes, in a cell of 48 of the allocator's.
_HASH_BYTES = 48


def chain(prefix: bytes) -> list[int]:
    """The hashes of a beginning's whole blocks, the shortest beginning first; at most 128 of them."""
    hashes = []
    so_far = 0
    for end in range(BLOCK_BYTES, min(len(prefix), _MOST_BLOCKS * BLOCK_BYTES) + 1, BLOCK_BYTES):
        so_far = hash((so_far, prefix[end - BLOCK_BYTES : end]))
        hashes.append(so_far)
    return hashes


class Prefixes:
    """Remembers who last served which beginning, in at most ``max_bytes``: the longest unused are forgotten first.

    They are kept by generation: what is served goes into the youngest, and when that has its share of the memory
    a new one is begun and the oldest is dropped whole. (A linked list in order of use would forget one by one,
    and take three times the memory for each.)
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._young: dict[int, int] = {}
        self._older: list[dict[int, int]] = []  # the youngest first
        self._older_bytes = 0
        # A life, not an id, holds beginnings: what an id comes back with is an empty cache.
        self._lives: dict[ReplicaId, int] = {}
        self._replicas: dict[int, ReplicaId] = {}
        self._births = 0

    @property
    def memory_bytes(self) -> int:
        """What the hashes and their tables take now."""
        return self._older_bytes + _bytes(self._young)

    def holders(self, hashes: list[int]) -> Iterator[ReplicaId]:
        """Who last served these beginnings, that of the longest first; the same replica may come again."""
        young, older, replicas = self._young, self._older, self._replicas
        for each in reversed(hashes):
            life = young.get(each)
            if life is None:
                for generation in older:
                    life = generation.get(each)
                    if life is not None:
                        break
                else:
                    continue
            replica = replicas.get(life)
            if replica is not None:
                yield replica

    def remember(self, hashes: list[int], replica: ReplicaId) -> None:
        """This replica serves all these beginnings now."""
        life = self._lives.get(replica)
        if life is None:
            self._births += 1
            life = self._lives[replica] = self._births
            self._replicas[life] = replica
        self._young.update(dict.fromkeys(hashes, life))
        share = self._max_bytes // _GENERATIONS
        if _bytes(self._young) > share:
            self._older.insert(0, self._young)
            self._older_bytes += _bytes(self._young)
            self._young = {}
        while self._older and self.memory_bytes > self._max_bytes:
            self._older_bytes -= _bytes(self._older.pop())

    def forget(self, replica: ReplicaId) -> None:
        """It is gone, and its cache with it. Its hashes lead nowhere, and make room when they are the oldest."""
        life = self._lives.pop(replica, None)
        if life is not None:
            del self._replicas[life]


def _bytes(generation: dict[int, int]) -> int:
    return getsizeof(generation) + _HASH_BYTES * len(generation)
