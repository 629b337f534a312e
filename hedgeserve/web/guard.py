"""Who may ask the admin API over TCP: by the token, the cookie that stands for it, or a one-time ticket.

A Unix socket is guarded by its mode. An address is not: any program of this machine can reach it, and so can any
web page that somebody has open, with the person's cookies. So three things are judged, the place first: the
request must name this server by an IP address or a name that was told us (else a foreign name was made to point
here: DNS rebinding), it must not come from another site's page, and it must show that its sender was let in.

A page that was let in holds a cookie, made of the time and a signature by the token: it outlives a restart, and a
new token ends it. Cookies are sent to every port of a host, so it is not the token itself.
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus

COOKIE_LASTS_S = 24 * 3600
"""How long a browser stays signed in."""

HEADER = "x-hedgeserve"
"""What a page must send with all that changes something: no form and no foreign page can."""

_TICKETS = 32
_SAFE = frozenset({"GET", "HEAD"})
_ASK = (
    "`hedgeserve ui` prints a link that signs a browser in; programs send `Authorization: Bearer` with the token, "
    "which is in the file `admin_token` of the service's state directory"
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """No, with a status and the reason."""

    status: HTTPStatus
    why: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says of itself; the names of ``headers`` in lower case."""

    method: str
    headers: Mapping[str, str]

    def header(self, name: str) -> str:
        """The header of this name, or empty."""
        return self.headers.get(name, "")

    @property
    def changes(self) -> bool:
        """Whether it may change something."""
        return self.method not in _SAFE


class Guard:
    """Judges requests to one address; times are seconds of the wall clock, for cookies outlive the process."""

    def __init__(
        self,
        token: str,
        *,
        service: str,
        hosts: Collection[str] = (),
        tls: bool = False,
        dice: Callable[[], str],
    ) -> None:
        self._token = token.encode()
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self._scheme = "https" if tls else "http"
        self._cookie_name = "hedgeserve_" + re.sub(r"[^A-Za-z0-9_-]", "_", service)
        self._secure = "; Secure" if tls else ""
        self._dice = dice
        self._tickets: dict[str, float] = {}

    # The place

    def judge_place(self, asked: Asked, *, page: bool) -> Refusal | None:
        """Whether it was sent to us, and not by another site's page; ``page``: a page to look at is asked for."""
        host = asked.header("host")
        if not self._is_ours(host):
            return Refusal(
                HTTPStatus.FORBIDDEN,
                f"this server does not go by {host[:100]!r}; use its IP address, or add the name to admin.hosts",
            )
        origin = asked.header("origin")
        if origin and origin.lower() != f"{self._scheme}://{host.lower()}":
            return Refusal(HTTPStatus.FORBIDDEN, "pages of other sites may not ask here")
        if asked.header("sec-fetch-site") in ("", "same-origin", "none"):
            return None
        # A link on another page may be followed: what it leads to shows nothing by itself.
        link = asked.header("sec-fetch-mode") == "navigate" and asked.header("sec-fetch-dest") == "document"
        if page and link and not asked.changes:
            return None
        return Refusal(HTTPStatus.FORBIDDEN, "pages of other sites may not ask here")

    def _is_ours(self, host: str) -> bool:
        found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+))(?::[0-9]{1,5})?", host)
        if found is None:
            return False
        name = (found[1] or found[2]).lower().rstrip(".")
        if name == "localhost" or name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    # The sender

    def judge_sender(self, asked: Asked, now_s: float) -> Refusal | None:
        """Whether its sender was let in, by the token or, from our own page, by the cookie."""
        if given := asked.header("authorization"):
            if self.is_bearer(given):
                return None
            return Refusal(HTTPStatus.UNAUTHORIZED, f"this is not the admin token; {_ASK}")
        if not self._is_signed_in(asked, now_s):
            return Refusal(HTTPStatus.UNAUTHORIZED, f"the admin API asks for a token; {_ASK}")
        if asked.changes and not (asked.header(HEADER) and asked.header("origin")):
            return Refusal(HTTPStatus.FORBIDDEN, f"with a cookie only our own page may do this, with {HEADER}: 1")
        return None

    def is_bearer(self, authorization: str) -> bool:
        """Whether this header shows the token."""
        kind, _, given = authorization.partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token)

    def _is_signed_in(self, asked: Asked, now_s: float) -> bool:
        for crumb in asked.header("cookie").split(";"):
            name, _, value = crumb.strip().partition("=")
            if name == self._cookie_name:
                begun, _, signature = value.partition(".")
                whole = hmac.compare_digest(signature.encode(), self._sign(begun).encode())
                return whole and begun.isdecimal() and int(begun) <= now_s < int(begun) + COOKIE_LASTS_S
        return False

    def cookie(self, now_s: float) -> str:
        """The ``Set-Cookie`` that signs a browser in."""
        begun = str(int(now_s))
        return (
            f"{self._cookie_name}={begun}.{self._sign(begun)}; Max-Age={COOKIE_LASTS_S}; Path=/; HttpOnly; "
            f"SameSite=Strict{self._secure}"
        )

    def no_cookie(self) -> str:
        """The ``Set-Cookie`` that signs it out."""
        return f"{self._cookie_name}=; Max-Age=0; Path=/; HttpOnly; SameSite=Strict{self._secure}"

    def _sign(self, begun: str) -> str:
        return hmac.new(self._token, f"cookie of {self._cookie_name} {begun}".encode(), hashlib.sha256).hexdigest()

    # Tickets

    def issue_ticket(self, now_s: float, lasts_s: float) -> str:
        """A word that signs one browser in, once; of too many the oldest are forgotten."""
        while len(self._tickets) >= _TICKETS:
            del self._tickets[next(iter(self._tickets))]
        ticket = self._dice()
        self._tickets[_digest(ticket)] = now_s + lasts_s
        return ticket

    def redeem(self, ticket: str, now_s: float) -> bool:
        """Whether this is a ticket that nobody has used yet; from now on somebody has."""
        # Found by its digest: how long the search takes tells nothing of the ticket.
        ends_s = self._tickets.pop(_digest(ticket), None)
        return ends_s is not None and now_s < ends_s


def _digest(ticket: str) -> str:
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).hexdigest()
