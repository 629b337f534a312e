"""How much each API key may ask for: requests and tokens in a minute, requests at once. Pure.

Buckets refill all the time and hold one minute's worth. What a request will cost is not known when it comes: its
estimate is taken, and put right by :meth:`Quotas.settle`.
"""

from dataclasses import dataclass
from itertools import islice
from typing import Literal

Limit = Literal["requests", "tokens", "concurrent", ""]

_MINUTE_S = 60.0
_MOST_KEYS = 10_000
_LOOKED_AT = 64
_CONCURRENT_RETRY_S = 1.0
# Sums of floats: who comes back after exactly the seconds named must not be a billionth of a token short.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request may come in; where not, which ``limit`` is in its way, and for about how long."""

    ok: bool
    limit: Limit = ""
    retry_after_s: float = 0.0


_ADMITTED = Verdict(True)
_TOO_MANY_AT_ONCE = Verdict(False, "concurrent", _CONCURRENT_RETRY_S)


class _Account:
    """What one key has left, as of ``at_s``."""

    __slots__ = ("at_s", "requests", "tokens", "under_way")

    def __init__(self, requests: float, tokens: float, at_s: float) -> None:
        self.requests = requests
        self.tokens = tokens
        self.at_s = at_s
        self.under_way = 0


class Quotas:
    """Holds every key to the same limits, each of which may be None: no limit.

    A request dearer than a whole bucket is admitted when the bucket is full, and leaves it in debt. At most 10,000
    keys are kept, not counting those with requests under way. A key that is forgotten begins anew with full
    buckets: of those that have been silent the longest, the ones whose buckets are full go first.
    """

    def __init__(
        self, *, requests_per_minute: int | None, tokens_per_minute: int | None, concurrent: int | None
    ) -> None:
        self._unlimited = requests_per_minute is None and tokens_per_minute is None and concurrent is None
        self._requests = float("inf") if requests_per_minute is None else float(requests_per_minute)
        self._tokens = float("inf") if tokens_per_minute is None else float(tokens_per_minute)
        self._concurrent = float("inf") if concurrent is None else concurrent
        self._accounts: dict[str, _Account] = {}  # the one that asked last stands last

    def __len__(self) -> int:
        """Keys that are kept."""
        return len(self._accounts)

    def admit(self, key: str, tokens: int, now_s: float) -> Verdict:
        """Take a request's share, or nothing at all; every request admitted must :meth:`leave` once."""
        if self._unlimited:
            return _ADMITTED
        account = self._open(key, now_s)
        short_of_requests = 1.0 - account.requests
        short_of_tokens = min(tokens, self._tokens) - account.tokens
        if short_of_requests > _ROUNDING or short_of_tokens > _ROUNDING:
            requests_s = short_of_requests * _MINUTE_S / self._requests if short_of_requests > _ROUNDING else 0.0
            tokens_s = short_of_tokens * _MINUTE_S / self._tokens if short_of_tokens > _ROUNDING else 0.0
            if requests_s >= tokens_s:
                return Verdict(False, "requests", requests_s)
            return Verdict(False, "tokens", tokens_s)
        if account.under_way >= self._concurrent:
            return _TOO_MANY_AT_ONCE
        account.requests -= 1.0
        account.tokens -= tokens
        account.under_way += 1
        return _ADMITTED

    def leave(self, key: str) -> None:
        """A request that was admitted is over."""
        if self._unlimited:
            return
        account = self._accounts.get(key)
        if account is not None and account.under_way > 0:
            account.under_way -= 1

    def settle(self, key: str, estimated: int, used: int, now_s: float) -> None:
        """Put right what was taken for a request, now that it is known; the bucket may be in debt afterwards."""
        if self._unlimited or estimated == used:
            return
        account = self._open(key, now_s)
        account.tokens = min(account.tokens + estimated - used, self._tokens)

    def _open(self, key: str, now_s: float) -> _Account:
        """The key's account, refilled up to now."""
        account = self._accounts.pop(key, None)
        if account is None:
            if len(self._accounts) >= _MOST_KEYS:
                self._make_room(now_s)
            account = _Account(self._requests, self._tokens, now_s)
        else:
            self._refill(account, now_s)
        self._accounts[key] = account
        return account

    def _refill(self, account: _Account, now_s: float) -> None:
        minutes = (now_s - account.at_s) / _MINUTE_S
        if minutes > 0:
            account.at_s = now_s
            account.requests = min(account.requests + minutes * self._requests, self._requests)
            account.tokens = min(account.tokens + minutes * self._tokens, self._tokens)

    def _make_room(self, now_s: float) -> None:
        """Forget keys among those that have been silent the longest: the full ones, or else one of the others."""
        longest_silent = list(islice(self._accounts.items(), _LOOKED_AT))
        idle = None
        room = False
        for key, account in longest_silent:
            if account.under_way:
                # Next time others are looked at.
                self._accounts[key] = self._accounts.pop(key)
                continue
            self._refill(account, now_s)
            if account.requests >= self._requests and account.tokens >= self._tokens:
                del self._accounts[key]
                room = True
            elif idle is None:
                idle = key
        if not room and idle is not None:
            del self._accounts[idle]
