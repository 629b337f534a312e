"""Who may ask: API keys, compared in constant time and kept only as digests."""

import hmac
from collections.abc import Iterable, Mapping
from hashlib import sha256


class Keys:
    """The accepted API keys. With none of them, everybody may ask."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __repr__(self) -> str:
        return f"<{len(self._digests)} API keys>"

    def accept(self, headers: Mapping[str, str]) -> bool:
        """Whether the request carries an accepted key: ``Authorization: Bearer …``, or ``x-api-key`` as
        clients of the messages API send it. All keys are compared, whichever matches."""
        if not self._digests:
            return True
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = headers.get("X-Api-Key", "")
        digest = sha256(given.strip().encode(errors="surrogateescape")).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches)
