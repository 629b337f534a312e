"""What a model.toml may say of serving: of requests (bounds, routes, deadlines, cut answers) and of the operator's address."""

# ruff: noqa: RUF012 (pydantic copies mutable defaults for each instance)

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hedgeserve.spectable import Conflict, Duration, Shape, Size, Table, is_loopback, split_listen


def _check_listen_or_empty(text: str) -> str:
    if text:
        split_listen(text)
    return text


AdminListen = Annotated[str, AfterValidator(_check_listen_or_empty)]
"""An address to listen on, ``host:port``, or empty for none."""


class LimitsSpec(Table):
    """Bounds on what clients may ask for."""

    max_body: Size = Field(16 * 2**20, gt=0)
    """Largest request body; a larger one is answered 413."""
    max_held_response: Size = Field(8 * 2**20, ge=0)
    """A response that is not streamed is held back up to this size, so that it can be asked for again if a replica dies."""
    max_queue: int = Field(512, ge=0)
    """Requests that may wait while no replica is ready; further ones are answered 503."""
    max_attempts: int = Field(4, ge=1, le=20)
    """Replicas that may fail one request before it is given up; one that vanishes does not count."""
    max_concurrent_per_replica: int = Field(256, ge=1)
    """Requests that one replica is given at a time; more wait in the queue."""
    max_connections: int = Field(16384, ge=1)
    """Connections of clients at a time; further ones are closed at once."""
    max_head: Size = Field(64 * 2**10, ge=1024, le=2**20)
    """Largest request line and headers together; larger ones are answered 431."""
    requests_per_minute_per_key: int | None = Field(None, ge=1)
    """Requests that one API key may send in a minute, on average; further ones are answered 429. Without keys: all clients together."""
    tokens_per_minute_per_key: int | None = Field(None, ge=1)
    """Tokens, of prompts (estimated) and answers, that one API key may use in a minute, on average; then 429."""
    concurrent_per_key: int | None = Field(None, ge=1)
    """Requests that one API key may have under way or waiting at a time; further ones are answered 429."""


class RoutingSpec(Table):
    """Which replica takes a request."""

    policy: Literal["least_load", "round_robin", "p2c", "prefix", "session"] = "least_load"
    """`least_load` (fewest outstanding tokens), `round_robin`, `p2c` (the better of two drawn at random), `prefix` (where the beginning of the prompt is cached) or `session` (the same replica for the same session)."""
    load_bound: float = Field(1.25, ge=1, le=100)
    """For `prefix` and `session`: a replica with more than this many times the average load is passed over."""
    prefix_memory: Size = Field(16 * 2**20, ge=2**16)
    """For `prefix`: memory for the prompts' beginnings that are remembered; the oldest are forgotten first."""
    session_header: Annotated[
        str, Shape(r"[A-Za-z0-9-]{1,64}", "is not a header's name; write one such as x-session-id")
    ] = "x-session-id"
    """For `session`: header that names the session; where a request has none, its field `user` does."""
    urgent: Literal["any", "on_demand", "near"] = "any"
    """Requests with `x-priority: high` or an `x-deadline-ms` go first to `on_demand` replicas, to `near` ones (by round-trip time), or to `any`."""
    engine_metrics: Duration = Field(2.0, ge=0.1)
    """How often the engines are asked for their queue and cache use; older values than three times this are not believed."""


class FailoverSpec(Table):
    """What becomes of an answer whose replica is lost in the middle of it."""

    enabled: bool = True
    """Go on with it on another replica where that is exact; otherwise, or without this, it ends with an honest error."""
    token_ids: Literal["auto", "on", "off"] = "auto"
    """Ask engines for token ids, by which an answer is continued exactly: `auto` for vLLM and the demo engine, `on` or `off` for all."""
    seed: bool = True
    """Give requests that can only be repeated from their start, and would differ each time, a random seed, so that they can be repeated exactly."""
    collect_above: int = Field(256, ge=0)
    """An answer in one piece that may be longer than this many tokens is asked of the replica as a stream, so that it can be continued; shorter ones are asked for anew."""
    max_resumptions: int = Field(8, ge=0, le=100)
    """How often one answer may be taken up again by another replica."""
    max_kept_per_stream: Size = Field(4 * 2**20, ge=0)
    """Memory for what a stream needs in order to be continued; a longer one can no longer be."""
    max_kept: Size = Field(256 * 2**20, ge=0)
    """The same for all streams together; above it, streams that begin cannot be continued."""
    move_early: bool = True
    """Under a preemption notice, move the streams that would not end in time before the replica is taken."""
    move_margin: Duration = Field(3.0, ge=0)
    """How long before a replica's end its last streams must have been moved."""
    silence: Duration = Field(2.0, ge=0.1)
    """When a replica with open streams sends nothing at all for this long it is asked whether it is alive, and given up if it does not answer within `timeouts.connect`."""


class TimeoutsSpec(Table):
    """How long HedgeServe waits, for each thing that it waits for."""

    connect: Duration = Field(3.0, gt=0)
    """For a connection to a replica."""
    first_byte: Duration = Field(120.0, gt=0)
    """For the first byte of a streamed answer, and of all that generate no text; then another replica is asked. An answer in one piece has only `total`."""
    stall: Duration = Field(60.0, gt=0)
    """Between two chunks of an answer; a longer silence is a failure."""
    total: Duration = Field(3600.0, gt=0)
    """For one request in all."""
    queue: Duration = Field(600.0, gt=0)
    """For a replica to become ready, for a waiting request; then 503. With `replicas.min = 0` a boot must fit in."""
    request_head: Duration = Field(15.0, gt=0)
    """For the request line and headers of a request, once its first byte has come."""
    drain: Duration = Field(120.0, ge=0)
    """For the requests of a replica that is taken away, and of the service when it stops, to finish."""
    boot: Duration = Field(600.0, gt=0)
    """From the launch of a VM to its SSH server's answer."""
    cloud_call: Duration = Field(60.0, gt=0)
    """For one call to a cloud."""
    launch: Duration = Field(180.0, gt=0)
    """For a cloud to grant or refuse a VM, with the network that the first one in a region needs."""
    lease: Duration = Field(900.0, gt=0)
    """A VM whose controller has not been heard of for this long takes itself down."""


HostName = Annotated[
    str, Shape(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})", "is not the name of a host, such as gpu-desk.example.com")
]
"""A host's name, without scheme and port."""


class AdminSpec(Table):
    """The operator's address: the dashboard and the admin API, for whoever has the token."""

    listen: AdminListen = ""
    """Address and port of the dashboard and the admin API; port 0 takes a free one; empty: a Unix socket in the state directory alone."""
    hosts: list[HostName] = []
    """Names under which browsers may reach it, besides IP addresses and `localhost`."""
    tls_certificate: str = ""
    """File with its TLS certificate and chain (PEM); empty: plain HTTP. A relative path starts at model.toml."""
    tls_key: str = ""
    """File with the private key of `tls_certificate` (PEM), if it is not in the same file; a relative path starts at model.toml."""
    allow_public_without_tls: bool = False
    """Listen by plain HTTP on an address that others can reach: whoever can read the traffic has the token then."""

    def conflicts(self) -> Iterator[Conflict]:
        """A token that would travel where others can read it, and a key for no certificate."""
        if self.tls_key and not self.tls_certificate:
            yield Conflict(
                ("tls_key",), "`tls_key` belongs to no `tls_certificate`", "write the certificate's file"
            )
        if not self.listen or self.tls_certificate or self.allow_public_without_tls:
            return
        if not is_loopback(self.listen):
            yield Conflict(
                ("listen",),
                f'"{self.listen}" can be reached by others, and the token would travel there unprotected',
                "listen on 127.0.0.1 and forward the port by SSH, give a `tls_certificate`, or write "
                "`allow_public_without_tls = true`",
            )
