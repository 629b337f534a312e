"""Who may ask: API keys, compared in constant time and kept only as digests."""

import hmac
from collections.abc import Iterable, Sequence
from hashlib import sha256

from hedgeserve.proxy.headers import Header, value_of


class Keys:
    """The accepted API keys. With none of them, everybody may ask."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __repr__(self) -> str:
        return f"<{len(self._digests)} API keys>"

    def who(self, headers: Sequence[Header]) -> str | None:
        """Whose key the request carries: a name that gives nothing away, the same for the same key.

        The key is that of ``Authorization: Bearer …``, or of ``x-api-key`` as clients of the messages API send
        it. None: it is missing or wrong. All keys are compared, whichever matches. With no keys configured
        everybody is the same.
        """
        if not self._digests:
            return ""
        scheme, _, given = value_of(headers, b"authorization").partition(b" ")
        if scheme.lower() != b"bearer":
            given = value_of(headers, b"x-api-key")
        digest = sha256(given.strip()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return digest[:6].hex() if any(matches) else None
