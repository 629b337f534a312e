"""The admin API: what ``hedgeserve status`` and its sisters ask, over a Unix socket only for its owner.

Where ``admin.listen`` names an address, the dashboard and programs ask there too, for whoever has the token. Both
ways lead to :meth:`Admin._find`.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from socket import socket as Listener
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from hedgeserve.errors import (
    BootstrapError,
    HedgeServeError,
    LimitError,
    SpecError,
    StateDirectoryError,
    UnknownSubjectError,
)
from hedgeserve.listening import Certificate, server_tls
from hedgeserve.spec import AdminSpec, split_listen
from hedgeserve.web.stream import Bell
from hedgeserve.web.unixhttp import Answer, Request, UnixHttp, error_answer

if TYPE_CHECKING:
    from hedgeserve.web.site import Site

_log = structlog.get_logger(__name__)

_DEFAULT_EVENTS = 100
_MOST_EVENTS = 1000
_DEFAULT_LOG_LINES = 100
_MOST_LOG_LINES = 10_000
_DEFAULT_HISTORY_S = 3600
_DEFAULT_POINTS = 500
_MOST_POINTS = 3000
_CLOSING_S = 0.5
_LINK_LASTS_S = 3600.0
_LONGEST_S = 10 * 365 * 86400.0


class Drilled(Protocol):
    """What may be asked of drills; all three answer in JSON-able objects."""

    async def rehearse(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """What this drill would do; ValueError where it cannot be done."""

    async def start(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin it; LimitError where one goes on, or nobody would be left to serve."""

    def report(self) -> Mapping[str, Any]:
        """What goes on, and what came of the last one."""


class Entrance(Protocol):
    """Who may come in, as the operator decides it."""

    def keys(self) -> Sequence[Mapping[str, Any]]:
        """The issued keys, oldest first, without what would let anybody in."""

    @property
    def asks_for_issued(self) -> bool:
        """Whether a key was ever issued, so that every request needs one."""

    async def add_key(self, given: Mapping[str, Any]) -> object:
        """Let in who has this key; ValueError or LookupError where that is none."""

    async def revoke_key(self, name: str) -> object:
        """Let in nobody with this key any more."""


class Updated(Protocol):
    """What may be asked of updates; all answer in JSON-able objects, and LimitError is a no."""

    async def applied(
        self, path: str | None, *, who: str, why: str, dry: bool, digest: str | None
    ) -> Mapping[str, Any]:
        """What this file (None: the one that is served) does, with ``dry`` would do; SpecError if it is bad."""

    async def roll_back(self, to: int | None, *, who: str, why: str) -> Mapping[str, Any]:
        """Go back to a version, or to the one before."""

    async def listing(self) -> Mapping[str, Any]:
        """All versions and the last roll-outs."""


class Operated(Protocol):
    """The service as its operator may see and handle it."""

    def status(self) -> Mapping[str, Any]:
        """Everything at a glance, JSON-able."""

    async def explain(self, subject: str) -> Mapping[str, Any]:
        """Why a replica, a zone or ``now`` is as it is; UnknownSubjectError where there is no such thing."""

    def running_spec(self) -> Mapping[str, Any]:
        """The model file as it is served, and what the policy has learnt; JSON-able, without a secret."""

    async def events(self, *, after: int, limit: int, replica: str | None) -> Sequence[Mapping[str, Any]]:
        """Events of the journal with an id above ``after``, oldest first; with 0 the newest ``limit`` ones."""

    async def logs(self, replica: str, lines: int) -> str:
        """The end of a replica's engine log; KeyError when there is no such replica."""

    def history(self, *, since_s: float, points: int) -> Mapping[str, Any]:
        """What the service was like since then (Unix seconds), in about so many points at most."""

    async def cost(self, since: datetime | None) -> Mapping[str, Any]:
        """What was spent since then (None: since the month began, UTC), split in every way."""

    @property
    def updates(self) -> Updated:
        """Another model.toml, or a version back."""

    @property
    def drills(self) -> Drilled:
        """Trouble that is made on purpose."""

    def request_down(self) -> None:
        """Stop, and terminate every VM."""

    @property
    def entrance(self) -> Entrance:
        """Who may come in."""

    async def pause(self, *, for_s: float | None, drain_s: float | None) -> Mapping[str, Any]:
        """Rest from now on, for so long or until somebody resumes; the standing then."""

    async def resume(self) -> Mapping[str, Any]:
        """Run again; the standing then, and ``was``, what it was before."""


class _Refused(Exception):
    """No, with a status and the reason."""

    def __init__(self, status: int, message: str, *, code: str | None = None, **more: str) -> None:
        super().__init__(message)
        self.status, self.code, self.more = status, code, more


class Admin:
    """Serves the admin API on a Unix socket, mode 0600, and with :meth:`open_site` on an address."""

    def __init__(self, service: Operated, socket: Path) -> None:
        self._service = service
        self._socket = socket
        self._http = UnixHttp(self._respond)
        self._site: Site | None = None
        self.certificate: Certificate | None = None
        self.bell = Bell()
        """To be rung when something has happened: those who watch are told at once."""

    async def start(self) -> None:
        """Begin to answer.

        A socket that an earlier run left is replaced: whoever may start holds the state directory's lock.

        Raises:
            StateDirectoryError: The socket cannot be made.
        """
        try:
            await asyncio.to_thread(self._socket.unlink, missing_ok=True)
            await self._http.start(self._socket)
            await asyncio.to_thread(self._socket.chmod, 0o600)
        except OSError as error:
            await self._http.aclose(0.0)
            raise StateDirectoryError(f"the admin socket {self._socket} cannot be made: {error}") from None

    async def open_site(
        self, spec: AdminSpec, token: str, *, service: str, inherited: Sequence[Listener] = ()
    ) -> None:
        """Answer on ``admin.listen`` too, or on sockets that were ``inherited`` for it, and show the dashboard
        there.

        Raises:
            ListenError: The address, or its certificate, cannot be used.
        """
        # Some fifteen megabytes, which a service without an address for its operator does without.
        from hedgeserve.web.guard import Guard
        from hedgeserve.web.site import Site

        certificate = await asyncio.to_thread(server_tls, "admin", spec.tls_certificate, spec.tls_key)
        tls = certificate.context if certificate is not None else None
        host, _ = split_listen(spec.listen)
        guard = Guard(
            token, service=service, hosts=[*spec.hosts, host], tls=tls is not None, dice=secrets.token_urlsafe
        )
        site = Site(guard, self._respond, tls=tls, bell=self.bell)
        await site.start(spec.listen, inherited=inherited)
        self._site = site
        self.certificate = certificate

    @property
    def url(self) -> str:
        """The address of the dashboard, without a way in; empty where there is none."""
        return f"{self._site.url}/ui" if self._site is not None else ""

    def link(self) -> str:
        """The same with a ticket that signs one browser in; empty where there is no dashboard."""
        return self._site.link(lasts_s=_LINK_LASTS_S) if self._site is not None else ""

    async def aclose(self) -> None:
        """Stop answering and remove the socket."""
        if self._site is not None:
            await self._site.aclose()
        await self._http.aclose(_CLOSING_S)
        await asyncio.to_thread(self._socket.unlink, missing_ok=True)

    async def _respond(self, request: Request) -> Answer:
        """Answer; errors in the shape of the public endpoint's."""
        try:
            return await self._find(request)
        except _Refused as refused:
            return error_answer(refused.status, str(refused), refused.more, refused.code)
        except HedgeServeError as error:
            return error_answer(500, str(error))
        except Exception:
            _log.exception("a question of the operator failed through a mistake of ours", path=request.path)
            return error_answer(500, "HedgeServe failed to answer this request; its log says why")

    async def _find(self, request: Request) -> Answer:
        match request.parts():
            case ["admin", "v1", "status"]:
                _require(request, "GET", "HEAD")
                return _json(self._service.status())
            case ["admin", "v1", "explain", *subject] if any(subject):
                _require(request, "GET", "HEAD")
                return await self._explain("/".join(subject))
            case ["admin", "v1", "spec"]:
                _require(request, "GET", "HEAD")
                return _json(self._service.running_spec())
            case ["admin", "v1", "events"]:
                _require(request, "GET", "HEAD")
                return await self._events(request)
            case ["admin", "v1", "logs", replica] if replica:
                _require(request, "GET", "HEAD")
                return await self._logs(request, replica)
            case ["admin", "v1", "history"]:
                _require(request, "GET", "HEAD")
                return self._history(request)
            case ["admin", "v1", "cost"]:
                _require(request, "GET", "HEAD")
                return await self._cost(request)
            case ["admin", "v1", "drill"]:
                _require(request, "GET", "POST")
                return await self._drill(request)
            case ["admin", "v1", "down"]:
                _require(request, "POST")
                self._service.request_down()
                return _json({"status": "stopping"}, 202)
            case ["admin", "v1", "keys"]:
                _require(request, "GET", "HEAD", "POST")
                return await self._add_key(request) if request.method == "POST" else self._keys()
            case ["admin", "v1", "keys", name, "revoke"] if name:
                _require(request, "POST")
                await self._service.entrance.revoke_key(name)
                return self._keys()
            case ["admin", "v1", "versions"]:
                _require(request, "GET", "HEAD")
                return _json(await self._service.updates.listing())
            case ["admin", "v1", "apply" | "rollback" as verb]:
                _require(request, "POST")
                return await self._update(verb, request)
            case ["admin", "v1", "ticket"]:
                _require(request, "POST")
                return _json({"url": self.link() or None})
            case ["admin", "v1", "pause"]:
                _require(request, "POST")
                asked = _durations(request, "for_s", "drain_s")
                return _json(await self._service.pause(for_s=asked["for_s"], drain_s=asked["drain_s"]))
            case ["admin", "v1", "resume"]:
                _require(request, "POST")
                return _json(await self._service.resume())
        raise _Refused(404, f"there is nothing at {request.path[:200]}")

    def _keys(self) -> Answer:
        entrance = self._service.entrance
        return _json({"keys": list(entrance.keys()), "issued": entrance.asks_for_issued})

    async def _add_key(self, request: Request) -> Answer:
        try:
            await self._service.entrance.add_key(json.loads(request.body))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _Refused(400, f"the body is no key as `hedgeserve keys add` makes one: {error}") from None
        return self._keys()

    async def _events(self, request: Request) -> Answer:
        after = _number(request, "after", 0, 2**62)
        limit = _number(request, "limit", _DEFAULT_EVENTS, _MOST_EVENTS)
        events = await self._service.events(after=after, limit=limit, replica=request.query.get("replica"))
        return _json({"events": list(events)})

    def _history(self, request: Request) -> Answer:
        since_s = _number(request, "since", int(time.time()) - _DEFAULT_HISTORY_S, 2**40)
        points = _number(request, "points", _DEFAULT_POINTS, _MOST_POINTS)
        return _json(self._service.history(since_s=since_s, points=points))

    async def _cost(self, request: Request) -> Answer:
        since_s = _number(request, "since", 0, 2**40)
        try:
            since = datetime.fromtimestamp(since_s, UTC) if since_s else None
        except (ValueError, OverflowError):
            raise _Refused(400, f"since={since_s}: there is no such time") from None
        return _json(await self._service.cost(since))

    async def _drill(self, request: Request) -> Answer:
        if request.method == "GET":
            return _json(self._service.drills.report())
        try:
            asked = json.loads(request.body or b"{}")
            if not isinstance(asked, dict):
                raise ValueError("write a JSON object")
            if asked.pop("dry", False):
                return _json(await self._service.drills.rehearse(asked))
            return _json(await self._service.drills.start(asked), 202)
        except ValueError as error:
            raise _Refused(400, str(error)) from None
        except LimitError as error:
            raise _Refused(409, str(error), code="limit") from None

    async def _explain(self, subject: str) -> Answer:
        try:
            return _json(await self._service.explain(subject))
        except UnknownSubjectError as error:
            raise _Refused(404, str(error)) from None

    async def _update(self, verb: str, request: Request) -> Answer:
        try:
            asked = json.loads(request.body or b"{}")
            if not isinstance(asked, dict):
                raise ValueError("write a JSON object")
            who, why = str(asked.get("who") or "admin API"), str(asked.get("why") or "")
            updates = self._service.updates
            if verb == "rollback":
                to = asked.get("to")
                if to is not None and (not isinstance(to, int) or isinstance(to, bool)):
                    raise ValueError('"to" must be the number of a version')
                return _json(await updates.roll_back(to, who=who, why=why or "a person took it back"), 202)
            path, digest = asked.get("path"), asked.get("digest")
            if not isinstance(path, str | None) or not isinstance(digest, str | None):
                raise ValueError('"path" and "digest" must be texts')
            dry = bool(asked.get("dry"))
            done = await updates.applied(path, who=who, why=why or "asked for", dry=dry, digest=digest)
            return _json(done, 200 if dry else 202)
        except ValueError as error:
            raise _Refused(400, str(error)) from None
        except SpecError as error:
            raise _Refused(422, str(error), code="spec") from None
        except LimitError as error:
            raise _Refused(409, str(error), code="limit") from None

    async def _logs(self, request: Request, replica: str) -> Answer:
        lines = _number(request, "lines", _DEFAULT_LOG_LINES, _MOST_LOG_LINES)
        try:
            return Answer(200, "text/plain", (await self._service.logs(replica, lines)).encode())
        except KeyError:
            raise _Refused(
                404,
                f"there is no replica {replica} now; `hedgeserve status` lists those that are there. Of one that "
                f"is gone, `hedgeserve events --replica {replica}` has the last words, and `hedgeserve explain "
                f"{replica}` says why it went",
            ) from None
        except BootstrapError as error:
            raise _Refused(409, str(error)) from None


def _require(request: Request, *methods: str) -> None:
    if request.method not in methods:
        allowed = ", ".join(methods)
        raise _Refused(405, f"{request.method} is not allowed on {request.path}; use {allowed}", Allow=allowed)


def _durations(request: Request, *names: str) -> dict[str, float | None]:
    """Numbers of seconds from a JSON body; what is missing or null is None."""
    try:
        given = json.loads(request.body or b"{}")
    except ValueError:
        raise _Refused(400, "the body is no JSON") from None
    if not isinstance(given, dict):
        raise _Refused(400, "the body must be a JSON object")
    if strange := sorted(given.keys() - set(names)):
        raise _Refused(400, f"unknown key {strange[0]!r}; there are {', '.join(names)}")
    for name, value in given.items():
        sound = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LONGEST_S
        if value is not None and not sound:
            raise _Refused(400, f"{name}: write a number of seconds from 0 to {_LONGEST_S:.0f}")
    return {name: None if given.get(name) is None else float(given[name]) for name in names}


def _number(request: Request, name: str, default: int, most: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isdecimal() or int(text) > most:
        raise _Refused(400, f"{name}={text!r}: write a whole number from 0 to {most}")
    return int(text)


def _json(answer: Mapping[str, Any], status: int = 200) -> Answer:
    return Answer(status, "application/json", json.dumps(answer).encode())
