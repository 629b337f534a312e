"""Chance that can be repeated: 64-bit hashes, the same on every machine."""

_MASK = 2**64 - 1


def chained(before: int, number: int) -> int:
    """The hash of a sequence that goes on with ``number``, from the hash of what stands before it."""
    return (before * 6364136223846793005 + number + 1442695040888963407) & _MASK


def mixed(value: int) -> int:
    """A 64-bit hash in which every one of the low 64 bits counts (the finaliser of SplitMix64)."""
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
