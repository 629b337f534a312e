"""Which headers pass, which stay: hop-by-hop ones end here, credentials of the client too."""

import re
import uuid
from collections.abc import Iterable, Mapping

Headers = list[tuple[str, str]]

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# Of the request, these are said anew: the length by the HTTP library, the key is the replica's, and what must be
# scanned must not be compressed. The body is already decompressed, hence no content-encoding either.
_NOT_TO_REPLICA = _HOP_BY_HOP | {
    "accept-encoding",
    "authorization",
    "content-encoding",
    "content-length",
    "expect",
    "host",
    "x-api-key",
    "x-request-id",
}
_NOT_TO_CLIENT = _HOP_BY_HOP | {"content-length", "date", "server", "x-request-id"}
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def to_replica(client: Mapping[str, str], *, request_id: str, api_key: str | None) -> Headers:
    """The headers of a request as the replica gets them."""
    passed = _end_to_end(client, _NOT_TO_REPLICA)
    passed += [("X-Request-Id", request_id), ("Accept-Encoding", "identity")]
    if api_key is not None:
        passed.append(("Authorization", f"Bearer {api_key}"))
    return passed


def to_client(upstream: Mapping[str, str]) -> Headers:
    """The headers of an answer as the client gets them, ours not yet among them."""
    return [
        (name, value)
        for name, value in _end_to_end(upstream, _NOT_TO_CLIENT)
        if not name.lower().startswith("x-hedgeserve-")
    ]


def request_id(client: Mapping[str, str]) -> str:
    """The client's ``x-request-id`` where it is sane (1 to 128 of ``A-Za-z0-9._:-``), else a new one."""
    given = client.get("X-Request-Id", "")
    return given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex


def _end_to_end(headers: Mapping[str, str], dropped: frozenset[str] | set[str]) -> Headers:
    named = (
        {name.strip().lower() for name in headers.get("Connection", "").split(",")}
        if "Connection" in headers
        else ()
    )
    return [
        (name, value)
        for name, value in _items(headers)
        if (lower := name.lower()) not in dropped and lower not in named and _can_be_sent(value)
    ]


def _items(headers: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    return headers.items()


def _can_be_sent(value: str) -> bool:
    """Bytes that are no UTF-8 cannot be said again; the header is dropped rather than the request."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
