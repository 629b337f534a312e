"""How much each API key may ask for: requests and tokens in a minute, requests at once. Pure.

Buckets refill all the time and hold one minute's worth. What a request will cost is not known when it comes: its
estimate is taken, and put right by :meth:`Quotas.settle`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal

Limit = Literal["requests", "tokens", "concurrent", ""]

_MINUTE_S = 60.0
_NO_LIMIT = float("inf")
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


class Allowance:
    """What one key may ask for: refilled ``..._per_minute``, at most ``requests`` and ``tokens`` of them at
    once."""

    __slots__ = ("concurrent", "requests", "requests_per_minute", "tokens", "unlimited")

    def __init__(self, *, requests: float, requests_per_minute: float, tokens: float, concurrent: float) -> None:
        self.requests = requests
        self.requests_per_minute = requests_per_minute
        self.tokens = tokens
        self.concurrent = concurrent
        self.unlimited = min(requests, requests_per_minute, tokens, concurrent) == _NO_LIMIT


class _Account:
    """What one key has left, as of ``at_s``."""

    __slots__ = ("allowance", "at_s", "requests", "tokens", "under_way")

    def __init__(self, allowance: Allowance, at_s: float) -> None:
        self.allowance = allowance
        self.requests = allowance.requests
        self.tokens = allowance.tokens
        self.at_s = at_s
        self.under_way = 0


class Quotas:
    """Holds every key to the same limits, each of which may be None: no limit; and some to limits of their own.

    A request dearer than a whole bucket is admitted when the bucket is full, and leaves it in debt. At most 10,000
    keys are kept, not counting those with requests under way. A key that is forgotten begins anew with full
    buckets: of those that have been silent the longest, the ones whose buckets are full go first.
    """

    def __init__(
        self, *, requests_per_minute: int | None, tokens_per_minute: int | None, concurrent: int | None
    ) -> None:
        per_minute = _NO_LIMIT if requests_per_minute is None else float(requests_per_minute)
        self._common = Allowance(
            requests=per_minute,
            requests_per_minute=per_minute,
            tokens=_NO_LIMIT if tokens_per_minute is None else float(tokens_per_minute),
            concurrent=_NO_LIMIT if concurrent is None else float(concurrent),
        )
        self._own: dict[str, Allowance] = {}
        self._accounts: dict[str, _Account] = {}  # the one that asked last stands last

    def __len__(self) -> int:
        """Keys that are kept."""
        return len(self._accounts)

    def allow(self, own: Mapping[str, Allowance]) -> None:
        """Hold these keys to limits of their own from now on, and all others to the common ones."""
        self._own = dict(own)

    def common_with(
        self, *, requests_per_second: float | None, tokens_per_minute: int | None, concurrent: int | None
    ) -> Allowance:
        """The common limits with some of them replaced. A second's worth of requests may come at once, at least
        one."""
        common, a_second = self._common, requests_per_second
        return Allowance(
            requests=common.requests if a_second is None else max(1.0, a_second),
            requests_per_minute=common.requests_per_minute if a_second is None else a_second * _MINUTE_S,
            tokens=common.tokens if tokens_per_minute is None else float(tokens_per_minute),
            concurrent=common.concurrent if concurrent is None else float(concurrent),
        )

    def _allowance(self, key: str) -> Allowance:
        return self._own.get(key, self._common) if self._own else self._common

    def admit(self, key: str, tokens: int, now_s: float) -> Verdict:
        """Take a request's share, or nothing at all; every request admitted must :meth:`leave` once."""
        allowance = self._allowance(key)
        if allowance.unlimited:
            return _ADMITTED
        account = self._open(key, allowance, now_s)
        short_of_requests = 1.0 - account.requests
        short_of_tokens = min(tokens, allowance.tokens) - account.tokens
        if short_of_requests > _ROUNDING or short_of_tokens > _ROUNDING:
            requests_s = (
                short_of_requests * _MINUTE_S / allowance.requests_per_minute
                if short_of_requests > _ROUNDING
                else 0.0
            )
            tokens_s = short_of_tokens * _MINUTE_S / allowance.tokens if short_of_tokens > _ROUNDING else 0.0
            if requests_s >= tokens_s:
                return Verdict(False, "requests", requests_s)
            return Verdict(False, "tokens", tokens_s)
        if account.under_way >= allowance.concurrent:
            return _TOO_MANY_AT_ONCE
        account.requests -= 1.0
        account.tokens -= tokens
        account.under_way += 1
        return _ADMITTED

    def leave(self, key: str) -> None:
        """A request that was admitted is over."""
        if not self._accounts:
            return
        account = self._accounts.get(key)
        if account is not None and account.under_way > 0:
            account.under_way -= 1

    def settle(self, key: str, estimated: int, used: int, now_s: float) -> None:
        """Put right what was taken for a request, now that it is known; the bucket may be in debt afterwards."""
        allowance = self._allowance(key)
        if allowance.unlimited or estimated == used:
            return
        account = self._open(key, allowance, now_s)
        account.tokens = min(account.tokens + estimated - used, allowance.tokens)

    def _open(self, key: str, allowance: Allowance, now_s: float) -> _Account:
        """The key's account, refilled up to now."""
        account = self._accounts.pop(key, None)
        if account is None:
            if len(self._accounts) >= _MOST_KEYS:
                self._make_room(now_s)
            account = _Account(allowance, now_s)
        else:
            self._refill(account, now_s)
            if account.allowance is not allowance:  # what is left stays, as far as the new limits allow
                account.allowance = allowance
                account.requests = min(account.requests, allowance.requests)
                account.tokens = min(account.tokens, allowance.tokens)
        self._accounts[key] = account
        return account

    def _refill(self, account: _Account, now_s: float) -> None:
        minutes = (now_s - account.at_s) / _MINUTE_S
        if minutes > 0:
            account.at_s = now_s
            limits = account.allowance
            account.requests = min(account.requests + minutes * limits.requests_per_minute, limits.requests)
            account.tokens = min(account.tokens + minutes * limits.tokens, limits.tokens)

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
            if account.requests >= account.allowance.requests and account.tokens >= account.allowance.tokens:
                del self._accounts[key]
                room = True
            elif idle is None:
                idle = key
        if not room and idle is not None:
            del self._accounts[idle]
