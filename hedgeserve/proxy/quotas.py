"""How much one API key may ask for: requests and tokens a minute, requests at a time. Pure.

Token buckets that refill all the time and hold a minute's worth. The tokens of a request are estimated when it
comes and corrected when they are known, so that a bucket may go below zero: then it has to refill first.
"""

from typing import NamedTuple

_MINUTE_S = 60.0
_MOST_KEYS = 10_000


class Verdict(NamedTuple):
    """Whether a request may go on; else which limit stands in its way, and for how long."""

    ok: bool
    limit: str = ""
    retry_after_s: float = 0.0


_OK = Verdict(True)
_CONCURRENT_RETRY_S = 1.0


class _Bucket:
    """So much a minute, at most a minute's worth at once."""

    __slots__ = ("_at_s", "_size", "left")

    def __init__(self, size: int, now_s: float) -> None:
        self._size = float(size)
        self._at_s = now_s
        self.left = float(size)

    def refill(self, now_s: float) -> None:
        """Time has passed."""
        self.left = min(self._size, self.left + max(0.0, now_s - self._at_s) * self._size / _MINUTE_S)
        self._at_s = max(self._at_s, now_s)

    def lacks_s(self, amount: float) -> float:
        """Seconds until so much is there; one that is larger than the bucket needs it full."""
        missing = min(amount, self._size) - self.left
        return max(0.0, missing * _MINUTE_S / self._size)

    @property
    def full(self) -> bool:
        """Whether nothing of it is used."""
        return self.left >= self._size


class _Account:
    """What one key has used."""

    __slots__ = ("requests", "running", "tokens")

    def __init__(self, requests: _Bucket | None, tokens: _Bucket | None) -> None:
        self.requests = requests
        self.tokens = tokens
        self.running = 0


class Quotas:
    """The accounts of all keys, at most 10,000 of them; without a limit nothing is kept."""

    def __init__(
        self, *, requests_per_minute: int | None, tokens_per_minute: int | None, concurrent: int | None
    ) -> None:
        self._requests = requests_per_minute
        self._tokens = tokens_per_minute
        self._concurrent = concurrent
        self._limited = any(limit is not None for limit in (requests_per_minute, tokens_per_minute, concurrent))
        self._accounts: dict[str, _Account] = {}

    def admit(self, key: str, tokens: int, now_s: float) -> Verdict:
        """Whether this key's request of about so many tokens may go on; if so it counts as running."""
        if not self._limited:
            return _OK
        account = self._accounts.get(key) or self._open(key, now_s)
        if self._concurrent is not None and account.running >= self._concurrent:
            return Verdict(False, "concurrent", _CONCURRENT_RETRY_S)
        asked = (("requests", account.requests, 1.0), ("tokens", account.tokens, float(tokens)))
        for name, bucket, amount in asked:
            if bucket is not None:
                bucket.refill(now_s)
                if lacks_s := bucket.lacks_s(amount):
                    return Verdict(False, name, lacks_s)
        for _, bucket, amount in asked:
            if bucket is not None:
                bucket.left -= amount
        account.running += 1
        return _OK

    def leave(self, key: str) -> None:
        """A request of this key has ended."""
        if self._limited and (account := self._accounts.get(key)) is not None and account.running:
            account.running -= 1

    def settle(self, key: str, estimated: int, used: int, now_s: float) -> None:
        """A request that was estimated to need so many tokens has used this many."""
        account = self._accounts.get(key) if self._limited else None
        if account is not None and account.tokens is not None:
            account.tokens.refill(now_s)
            account.tokens.left = min(account.tokens.left + estimated - used, float(self._tokens or 0))

    def _open(self, key: str, now_s: float) -> _Account:
        if len(self._accounts) >= _MOST_KEYS:
            self._close_idle(now_s)
        made = self._accounts[key] = _Account(
            None if self._requests is None else _Bucket(self._requests, now_s),
            None if self._tokens is None else _Bucket(self._tokens, now_s),
        )
        return made

    def _close_idle(self, now_s: float) -> None:
        """Forget keys that have used nothing lately; where there are none, the one known for longest."""
        idle = []
        for key, account in self._accounts.items():
            buckets = [bucket for bucket in (account.requests, account.tokens) if bucket is not None]
            for bucket in buckets:
                bucket.refill(now_s)
            if not account.running and all(bucket.full for bucket in buckets):
                idle.append(key)
        for key in idle or [next(iter(self._accounts))]:
            del self._accounts[key]
