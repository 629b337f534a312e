"""Who may ask: API keys, compared in constant time and kept only as digests."""

import hmac
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from hashlib import sha256

from hedgeserve.keyring import IssuedKey
from hedgeserve.proxy.headers import Header, value_of
from hedgeserve.proxy.replies import Code, Refused

_MOST_SEEN = 4096
_LONGEST_SEEN_BYTES = 512
_USED_EVERY_S = 60.0


class _Key:
    """One accepted key; ``expires_s`` and ``used_s`` are seconds since 1970, 0 for never."""

    __slots__ = ("digest", "expires_s", "issued", "used_s", "who")

    def __init__(self, digest: bytes, who: str, issued: bool, expires_s: float, used_s: float) -> None:
        self.digest = digest
        self.who = who
        self.issued = issued
        self.expires_s = expires_s
        self.used_s = used_s


class Keys:
    """The accepted API keys: those of variables and files, and those that were issued. With none of them,
    everybody may ask."""

    def __init__(self, keys: Iterable[str]) -> None:
        digests = [sha256(key.encode()).digest() for key in keys]
        self._given = [_Key(digest, digest[:6].hex(), False, 0.0, 0.0) for digest in digests]
        self._issued: dict[bytes, _Key] = {}
        self._asked_for = bool(self._given)
        self._seen: dict[bytes, _Key] = {}

    def __bool__(self) -> bool:
        return self._asked_for

    def __repr__(self) -> str:
        return f"<{len(self._given) + len(self._issued)} API keys>"

    def issue(self, keys: Iterable[IssuedKey]) -> None:
        """Accept these issued keys, and no other issued ones. From now on a key is asked for, were there none."""
        before, self._issued = self._issued, {}
        for key in keys:
            known = before.get(key.id.encode())
            self._issued[key.id.encode()] = _Key(
                bytes.fromhex(key.sha256),
                key.id,
                True,
                key.expires_at.timestamp() if key.expires_at is not None else 0.0,
                known.used_s if known is not None else 0.0,
            )
        self._seen = {}
        self._asked_for = True

    def used(self) -> dict[str, datetime]:
        """When each issued key that was used since our start was last used, to the minute, by its id."""
        return {key.who: datetime.fromtimestamp(key.used_s, UTC) for key in self._issued.values() if key.used_s}

    def who(self, headers: Sequence[Header]) -> str | None:
        """Whose key the request carries: a name that gives nothing away, the same for the same key.

        The key is that of ``Authorization: Bearer …``, or of ``x-api-key`` as clients of the messages API send
        it. None: it is missing, wrong or expired. With no keys configured everybody is the same.

        A key that was right is known again by its bytes. That gives nothing away by its timing: who does not have
        the key cannot hit upon its hash table's slot, whose place is random in each process.
        """
        if not self._asked_for:
            return ""
        given = _given(headers)
        key = self._seen.get(given)
        if key is None:
            key = self._look_up(given)
            if key is None:
                return None
            if len(given) <= _LONGEST_SEEN_BYTES:
                if len(self._seen) >= _MOST_SEEN:
                    self._seen.clear()
                self._seen[given] = key
        if key.issued:
            now_s = time.time()
            if key.expires_s and now_s >= key.expires_s:
                return None
            if now_s - key.used_s > _USED_EVERY_S:
                key.used_s = now_s
        return key.who

    def refusal(self, headers: Sequence[Header]) -> Refused:
        """What to tell somebody whose key is none; only who has an expired key learns that it is expired."""
        key = self._look_up(_given(headers))
        if key is not None:
            at = datetime.fromtimestamp(key.expires_s, UTC).isoformat(timespec="seconds")
            return Refused(
                Code.EXPIRED_API_KEY,
                f"The API key expired at {at}; ask whoever runs this service for a new one.",
                headers=(("WWW-Authenticate", 'Bearer error="invalid_token"'),),
            )
        return Refused(
            Code.INVALID_API_KEY,
            "The API key is missing or wrong; send one as `Authorization: Bearer <key>`.",
            headers=(("WWW-Authenticate", "Bearer"),),
        )

    def _look_up(self, given: bytes) -> _Key | None:
        """The key that this is, expired or not. Of those without a name in them all are compared, whichever
        matches."""
        given = given.strip()
        digest = sha256(given).digest()
        parts = given.split(b"-", 2)
        issued = self._issued.get(parts[1]) if len(parts) == 3 else None
        if issued is not None and hmac.compare_digest(digest, issued.digest):
            return issued
        found = None
        for key in self._given:
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found


def _given(headers: Sequence[Header]) -> bytes:
    scheme, _, given = value_of(headers, b"authorization").partition(b" ")
    return given if scheme.lower() == b"bearer" else value_of(headers, b"x-api-key")
