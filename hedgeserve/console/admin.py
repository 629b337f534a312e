"""A running service as the command line reaches it: HTTP over the admin socket in its state directory.

Blocking and from the standard library alone: ``hedgeserve status`` should not wait for an HTTP stack either.
"""

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from hedgeserve.errors import HedgeServeError, JudgedError, LimitError, NotRunningError
from hedgeserve.statedir import admin_socket_in

_ANSWER_S = 30.0
_FOLLOW_EVERY_S = 0.5
_MOST_EVENTS = 1000


class AdminClient:
    """Asks the service that holds one state directory.

    Every method raises :class:`~hedgeserve.errors.NotRunningError` when none answers there, and
    :class:`~hedgeserve.errors.HedgeServeError` with the service's own words when it refuses.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def status(self) -> dict[str, Any]:
        """Everything at a glance."""
        found: dict[str, Any] = json.loads(self._ask("GET", "/admin/v1/status"))
        return found

    def explain(self, subject: str) -> dict[str, Any]:
        """Why a replica, a zone or ``now`` is as it is, and what would change it."""
        found: dict[str, Any] = json.loads(self._ask("GET", f"/admin/v1/explain/{quote(subject, safe='')}"))
        return found

    def cost(self, since_s: int | None) -> dict[str, Any]:
        """What was spent since then (Unix seconds; None: since the month began)."""
        query = "" if since_s is None else f"?{urlencode({'since': since_s})}"
        found: dict[str, Any] = json.loads(self._ask("GET", f"/admin/v1/cost{query}"))
        return found

    def spec(self) -> dict[str, Any]:
        """The model file as the service runs it, and what its policy has learnt."""
        found: dict[str, Any] = json.loads(self._ask("GET", "/admin/v1/spec"))
        return found

    def events(self, *, limit: int, replica: str | None = None, follow: bool = False) -> Iterator[dict[str, Any]]:
        """The newest ``limit`` events, oldest first; then, if wanted, each new one until the service ends."""
        after, wanted = 0, limit
        while True:
            query: dict[str, str | int] = {"after": after, "limit": wanted}
            if replica is not None:
                query["replica"] = replica
            try:
                page = json.loads(self._ask("GET", f"/admin/v1/events?{urlencode(query)}"))["events"]
            except NotRunningError:
                if after:
                    return
                raise
            yield from page
            if not follow:
                return
            if page:
                after, wanted = page[-1]["id"], _MOST_EVENTS
            time.sleep(_FOLLOW_EVERY_S)

    def logs(self, replica: str, lines: int) -> str:
        """The end of a replica's engine log."""
        return self._ask("GET", f"/admin/v1/logs/{quote(replica, safe='')}?{urlencode({'lines': lines})}")

    def down(self) -> None:
        """Tell the service to stop and to terminate every VM; returns when it has understood."""
        self._ask("POST", "/admin/v1/down")

    def pause(self, *, for_s: float | None, drain_s: float | None) -> dict[str, Any]:
        """Rest from now on; the standing then."""
        body = json.dumps({"for_s": for_s, "drain_s": drain_s}).encode()
        told: dict[str, Any] = json.loads(self._ask("POST", "/admin/v1/pause", body))
        return told

    def resume(self) -> dict[str, Any]:
        """Run again; the standing then, and what it ``was``."""
        told: dict[str, Any] = json.loads(self._ask("POST", "/admin/v1/resume"))
        return told

    def keys(self) -> tuple[list[dict[str, Any]], bool]:
        """The issued keys, oldest first, and whether there ever was one, so that requests need one."""
        found: dict[str, Any] = json.loads(self._ask("GET", "/admin/v1/keys"))
        keys: list[dict[str, Any]] = found["keys"]
        return keys, bool(found.get("issued", keys))

    def add_key(self, key: dict[str, Any]) -> list[dict[str, Any]]:
        """Have a key accepted, of which only its hash is told; all keys then."""
        return self._keys_after("POST", "/admin/v1/keys", json.dumps(key).encode())

    def revoke_key(self, name: str) -> list[dict[str, Any]]:
        """Have a key accepted no longer; all keys then."""
        return self._keys_after("POST", f"/admin/v1/keys/{quote(name, safe='')}/revoke")

    def _keys_after(self, method: str, path: str, body: bytes = b"") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self._ask(method, path, body))["keys"]
        return found

    def dashboard_link(self) -> str:
        """The address of its dashboard, with a word that signs one browser in; empty where it listens nowhere."""
        return str(json.loads(self._ask("POST", "/admin/v1/ticket"))["url"] or "")

    def rehearse(self, drill: Mapping[str, Any]) -> dict[str, Any]:
        """What a drill would do."""
        return self._drill({**drill, "dry": True})

    def start_drill(self, drill: Mapping[str, Any]) -> dict[str, Any]:
        """Begin it; LimitError where that is refused."""
        return self._drill(drill)

    def drills(self) -> dict[str, Any]:
        """What goes on, and what came of the last one."""
        found: dict[str, Any] = json.loads(self._ask("GET", "/admin/v1/drill"))
        return found

    def _drill(self, drill: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._ask("POST", "/admin/v1/drill", json.dumps(drill).encode()))
        return found

    def apply(
        self, path: str | None, *, dry: bool, digest: str | None = None, who: str = "", why: str = ""
    ) -> dict[str, Any]:
        """Have a model file applied, or with ``dry`` be told what that would do; JudgedError where it is bad."""
        asked = {"path": path, "dry": dry, "digest": digest, "who": who, "why": why}
        found: dict[str, Any] = json.loads(self._ask("POST", "/admin/v1/apply", json.dumps(asked).encode()))
        return found

    def roll_back(self, to: int | None, *, who: str, why: str) -> dict[str, Any]:
        """Have the service go back to a version; LimitError where that is refused."""
        asked = json.dumps({"to": to, "who": who, "why": why}).encode()
        found: dict[str, Any] = json.loads(self._ask("POST", "/admin/v1/rollback", asked))
        return found

    def versions(self) -> dict[str, Any]:
        """All versions and the last roll-outs."""
        found: dict[str, Any] = json.loads(self._ask("GET", "/admin/v1/versions"))
        return found

    def exchange(self, method: str, target: str, body: bytes = b"") -> tuple[int, str, bytes]:
        """Ask anything; the answer's status, kind and body, whatever they are."""
        connection = _UnixConnection(admin_socket_in(self.directory))
        try:
            connection.request(method, target, body or None)
            response = connection.getresponse()
            content = response.read()
        except TimeoutError:
            raise HedgeServeError(
                f"the service at {self.directory} did not answer within {_ANSWER_S:.0f} s"
            ) from None
        except PermissionError:
            raise HedgeServeError(
                f"this user may not ask the service at {self.directory}; run as the user who started it"
            ) from None
        except (OSError, http.client.HTTPException):
            from hedgeserve.console.stopped import left_running

            left = left_running([self.directory])
            raise NotRunningError(
                f"no service runs with the state directory {self.directory}; "
                f"{left or 'start it with `hedgeserve serve`'}"
            ) from None
        finally:
            connection.close()
        return response.status, response.getheader("content-type", "text/plain"), content

    def _ask(self, method: str, path: str, body: bytes = b"") -> str:
        status, _, content = self.exchange(method, path, body)
        text = content.decode("utf-8", "replace")
        if status >= 400:
            message = _error_message(text) or f"the service answered {status}"
            raise _ERRORS.get(_error_code(text), HedgeServeError)(message)
        return text


_ERRORS: Mapping[str, Callable[[str], HedgeServeError]] = {"limit": LimitError, "spec": JudgedError}


def _error_message(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return text.strip()


def _error_code(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["code"])
    except (ValueError, LookupError, TypeError):
        return ""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ANSWER_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_ANSWER_S)
        self.sock.connect(str(self._path))
