"""The paths that are served, and what each of them answers."""

from __future__ import annotations

import hmac
import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from . import VERSION, WHAT_I_AM
from .connection import SEND_TIMEOUT_S, Connection, json_bytes
from .dice import mixed
from .faults import HEADER, Fault, asked_fault, hard_error
from .fields import Fields
from .generation import Piece
from .job import Job, read_job
from .prompt import read_messages, read_prompts
from .refusal import Refusal
from .teller import Teller
from .tokens import VOCABULARY, decode
from .watch import ClientGone, Watch


class Handler(Connection):
    """Answers what is asked on one connection."""

    def _dispatch(self) -> None:
        self.connection.settimeout(SEND_TIMEOUT_S)
        self.watch = Watch(self.connection)
        try:
            try:
                body = self.read_body()
            except ValueError:
                self.close_connection = True
                raise Refusal(400, "the body's length or its chunks make no sense", "Bad Request") from None
            if self.server.engine.settings.hang:
                self.watch.wait(86400)
            self._route(body)
        except Refusal as refusal:
            self.send_json(refusal.status, refusal.error)
        except (ClientGone, OSError):
            self.close_connection = True

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _dispatch

    def _route(self, body: bytes) -> None:
        path = self.path.partition("?")[0]
        settings = self.server.engine.settings
        if path.startswith("/v1/") and settings.api_key and not self._authorized(settings.api_key):
            self.send_json(401, {"error": "Unauthorized"})
            return
        if path.startswith("/v1/") and not self.server.engine.loaded:
            raise Refusal(503, "the demo engine is still loading", "ServiceUnavailableError")
        methods = ROUTES.get(path)
        if methods is None:
            self.send_json(404, {"detail": "Not Found"})
        elif self.command not in methods:
            self.send_json(405, {"detail": "Method Not Allowed"}, {"Allow": ", ".join(methods)})
        else:
            methods[self.command](self, body)

    def _authorized(self, api_key: str) -> bool:
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), api_key.encode())

    def _request(self, raw: bytes) -> dict[str, Any]:
        body = self.json_body(raw)
        names = self.server.engine.settings.names
        if body.get("model") and body["model"] not in names:
            message = f"The model `{body['model']}` does not exist. Valid aliases: {', '.join(names)}."
            raise Refusal(404, message, "NotFoundError", "model")
        return body

    def health(self, _body: bytes) -> None:
        """Empty, 200 once the load time is over."""
        engine = self.server.engine
        status = engine.settings.health_status if engine.loaded else 503
        self.send(status, b"", "")

    def models(self, _body: bytes) -> None:
        """The model under each of its names."""
        settings, now = self.server.engine.settings, int(time.time())
        rights = {
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": False,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        data = [
            {
                "id": name,
                "object": "model",
                "created": now,
                "owned_by": "hedgeserve-demo-engine",
                "root": settings.names[0],
                "parent": None,
                "max_model_len": settings.max_model_len,
                "permission": [
                    {"id": f"modelperm-{_new_id()}", "object": "model_permission", "created": now, **rights}
                ],
            }
            for name in settings.names
        ]
        self.send_json(200, {"object": "list", "data": data})

    def version(self, _body: bytes) -> None:
        """What this is, in words too."""
        self.send_json(200, {"version": VERSION, "description": WHAT_I_AM})

    def load(self, _body: bytes) -> None:
        """How many requests are in hand."""
        self.send_json(200, {"server_load": self.server.engine.running + self.server.engine.waiting})

    def metrics(self, _body: bytes) -> None:
        """Prometheus metrics."""
        body = self.server.engine.metrics().encode()
        self.send(200, body, "text/plain; version=1.0.0; charset=utf-8")

    def tokenize(self, body: bytes) -> None:
        """Text or messages to ids."""
        fields = Fields(self._request(body))
        ids = (read_prompts(fields) if fields.get("messages") is None else read_messages(fields)[0])[0]
        texts = [VOCABULARY[number].decode("utf-8", "replace") for number in ids]
        answer = {"count": len(ids), "max_model_len": self.server.engine.settings.max_model_len, "tokens": ids}
        self.send_json(200, {**answer, "token_strs": texts if fields.get("return_token_strs") else None})

    def detokenize(self, body: bytes) -> None:
        """Ids to text, special tokens included."""
        tokens = Fields(self._request(body)).ids("tokens")
        self.send_json(200, {"prompt": decode(tokens).decode("utf-8", "replace")})

    def chat(self, body: bytes) -> None:
        """A chat completion."""
        self._generate(body, chat=True)

    def completion(self, body: bytes) -> None:
        """A text completion."""
        self._generate(body, chat=False)

    def _generate(self, raw: bytes, *, chat: bool) -> None:
        engine = self.server.engine
        settings = engine.settings
        body = self._request(raw)
        fault = settings.fault
        if settings.obeys_faults and HEADER in self.headers:
            fault = asked_fault(self.headers[HEADER])
        abilities, length = settings.abilities, settings.max_model_len
        job = read_job(body, chat=chat, max_model_len=length, seed=settings.seed, abilities=abilities)
        request_id = self.headers.get("X-Request-Id") or str(body.get("request_id") or _new_id())
        fingerprint = f"{VERSION}-{mixed(settings.seed):016x}"
        teller = Teller(job, request_id=request_id, model=settings.names[0], fingerprint=fingerprint)
        pieces = engine.run(job, self.watch, fault)
        try:
            if job.stream:
                self._stream(teller, job, pieces, fault)
                return
            whole = list(pieces)
        finally:
            pieces.close()
        if whole[-1].finish == "error":
            raise hard_error(fault)
        self.send_json(200, teller.whole(whole), self._load_header())

    def _load_header(self) -> dict[str, str]:
        form = self.headers.get("endpoint-load-metrics-format", "").lower()
        engine = self.server.engine
        named = {"num_requests_waiting": float(engine.waiting), "kv_cache_usage_perc": engine.cache_usage}
        if form == "json":
            return {"endpoint-load-metrics": "JSON " + json.dumps({"named_metrics": named})}
        if form == "text":
            listed = ", ".join(f"named_metrics.{name}={value}" for name, value in named.items())
            return {"endpoint-load-metrics": "TEXT " + listed}
        return {}

    def _stream(self, teller: Teller, job: Job, pieces: Iterator[Piece], fault: Fault | None) -> None:
        chunked = self.request_version != "HTTP/1.0"

        def event(data: bytes) -> bytes:
            line = b"data: " + data + b"\n\n"
            return b"%x\r\n%b\r\n" % (len(line), line) if chunked else line

        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.close_connection = True
        self.end()
        # The role is not told before the first token exists.
        opening = b"".join(event(json_bytes(role)) for role in teller.roles()) if job.chat else b""
        for piece in pieces:
            if piece.finish == "error":
                closing = event(json_bytes(hard_error(fault).error))
                break
            chunk = teller.chunk(piece)
            opening += b"" if chunk is None else event(json_bytes(chunk))
            if opening:
                self.wfile.write(opening)
            opening = b""
        else:
            closing = event(json_bytes(teller.usage())) if job.usage else b""
        self.wfile.write(closing + event(b"[DONE]") + (b"0\r\n\r\n" if chunked else b""))


ROUTES: dict[str, dict[str, Callable[[Handler, bytes], None]]] = {
    "/health": {"GET": Handler.health},
    "/ping": {"GET": Handler.health, "POST": Handler.health},
    "/version": {"GET": Handler.version},
    "/load": {"GET": Handler.load},
    "/metrics": {"GET": Handler.metrics},
    "/tokenize": {"POST": Handler.tokenize},
    "/detokenize": {"POST": Handler.detokenize},
    "/v1/models": {"GET": Handler.models},
    "/v1/chat/completions": {"POST": Handler.chat},
    "/v1/completions": {"POST": Handler.completion},
}


def _new_id() -> str:
    return uuid.uuid4().hex[:16]
