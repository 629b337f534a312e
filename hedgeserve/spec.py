"""What a model.toml may say: every key with its type, unit, default and one line of help, in this one place.

``docs/configuration.md`` and the JSON Schema are generated from these classes. Reading a file (line numbers,
environment, near misses) is the work of :mod:`hedgeserve.specfile`; here only the words and what must hold
between them.
"""

import re
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, Strict, model_validator

from hedgeserve.replica import Market
from hedgeserve.units import (
    format_bytes,
    format_duration,
    format_usd_per_hour,
    parse_bytes,
    parse_duration_s,
    parse_usd_per_hour,
)


def _text_with_unit(parse: Any, example: str) -> BeforeValidator:
    """Text is parsed; a bare number is refused with an example, since its unit could only be guessed."""

    def convert(value: object) -> object:
        if isinstance(value, str):
            return parse(value)
        raise ValueError(f'{value!r} has no unit; write it in quotes with one, such as "{example}"')

    return BeforeValidator(convert, json_schema_input_type=str)


Duration = Annotated[
    float, _text_with_unit(parse_duration_s, "90s"), PlainSerializer(format_duration, return_type=str)
]
"""Seconds; written ``"90s"``, ``"5m"``, ``"1h30m"``, ``"250ms"``."""

UsdPerHour = Annotated[
    float,
    _text_with_unit(parse_usd_per_hour, "2.50 USD/h"),
    PlainSerializer(format_usd_per_hour, return_type=str),
]
"""US dollars per hour; written ``"2.50 USD/h"``."""

Size = Annotated[int, _text_with_unit(parse_bytes, "16 MiB"), PlainSerializer(format_bytes, return_type=str)]
"""Bytes; written ``"16 MiB"`` or ``"10 MB"``."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A part of the whole, 0 to 1."""


class _Table(BaseModel):
    """A table of model.toml. Unknown keys are mistakes, values are not coerced, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class OnExit(StrEnum):
    """What becomes of the VMs when the controller stops."""

    AUTO = "auto"
    KEEP = "keep"
    TERMINATE = "terminate"


class Transport(StrEnum):
    """How requests travel from the controller to an engine."""

    AUTO = "auto"
    DIRECT = "direct"
    SSH = "ssh"


class Cloud(StrEnum):
    """Where VMs come from."""

    LOCAL = "local"
    STATIC = "static"


class EngineName(StrEnum):
    """The inference servers that HedgeServe knows how to start."""

    VLLM = "vllm"
    COMMAND = "command"
    DEMO = "demo"


class ServiceSpec(_Table):
    """The service as its clients and its operator see it."""

    name: str = Field("hedgeserve", pattern=r"^[a-z][a-z0-9-]{0,39}$")
    """Name of the service: lower-case letters, digits, dashes. Names the VMs, their tags and the state directory."""
    listen: str = "127.0.0.1:8000"
    """Address and port of the endpoint; port 0 takes a free one."""
    state_dir: str = ""
    """Directory for the journal, keys and admin socket; empty: `$STATE_DIRECTORY`, else `$XDG_STATE_HOME/hedgeserve/<name>`."""
    api_keys_env: str = "HEDGESERVE_API_KEYS"
    """Environment variable that holds the accepted API keys, separated by commas; unset: no keys from there."""
    api_keys_file: str = ""
    """File with one accepted API key a line (`#` starts a comment); a relative path starts at model.toml."""
    allow_public_without_keys: bool = False
    """Serve on an address that others can reach without asking for a key."""
    on_exit: Annotated[OnExit, Strict(False)] = OnExit.AUTO
    """VMs when the controller stops: `keep` them, `terminate` them, or `auto` (terminate `local` ones, keep the clouds')."""
    transport: Annotated[Transport, Strict(False)] = Transport.AUTO
    """Requests go to engines `direct` (plain HTTP, private addresses only), through `ssh`, or `auto` (direct on loopback, else ssh)."""


class ModelSpec(_Table):
    """The model and the engine that runs it."""

    id: str = Field("demo", min_length=1)
    """The model's name for clients and, for vLLM, the repository or path that it is loaded from."""
    aliases: list[str] = []
    """Other names under which clients may ask for it."""
    engine: Annotated[EngineName, Strict(False)] = EngineName.VLLM
    """`vllm`, `command` (any OpenAI-shaped server) or `demo` (a small stand-in that needs no GPU)."""
    args: list[str] = []
    """Further arguments for the engine, one string each."""
    command: list[str] = []
    """For `engine = "command"`: what to run; `{host}`, `{port}`, `{model}` and `{api_key_file}` are filled in."""
    health_path: str = Field("/health", pattern="^/")
    """For `engine = "command"`: path that answers 200 when the server is up."""
    python: str = ""
    """Interpreter on the VM that has vLLM installed; empty: the VM's own, with vLLM installed by us where it is missing."""
    version: str = ""
    """vLLM version to install where it is missing, such as `0.32.0`; empty: the newest."""
    env: dict[str, str] = {}
    """Environment variables for the engine; not for secrets."""
    secret_env: list[str] = []
    """Names of the controller's environment variables to hand to the engine as secrets, such as `HF_TOKEN`."""

    @model_validator(mode="after")
    def _command_is_there(self) -> Self:
        if self.engine is EngineName.COMMAND and not self.command:
            raise ValueError('engine = "command" needs `command`, such as ["llama-server", "--port", "{port}"]')
        if self.engine is not EngineName.COMMAND and self.command:
            raise ValueError(f'`command` is only for engine = "command", not for "{self.engine}"')
        return self


class ReplicasSpec(_Table):
    """How many replicas: fixed, or following the load between two bounds."""

    count: int | None = Field(None, ge=1, le=1000)
    """A fixed number of replicas; leave out `min`, `max` and `target_requests_per_second` then."""
    min: int = Field(1, ge=0, le=1000)
    """Fewest replicas; 0 lets an idle service scale to zero, and the first request waits for a boot."""
    max: int | None = Field(None, ge=1, le=1000)
    """Most replicas that the load may ask for (over-provisioned ones come on top); unset: the same as `min`."""
    target_requests_per_second: float | None = Field(None, gt=0)
    """Requests per second that one replica is to carry; needed when `max` is above `min`."""
    window: Duration = Field(60.0, gt=0)
    """Time over which the request rate is measured."""
    upscale_delay: Duration = Field(300.0, ge=0)
    """The load must have asked for more for this long before replicas are added (from zero: at once)."""
    downscale_delay: Duration = Field(1200.0, ge=0)
    """The load must have asked for fewer for this long before replicas are taken away."""

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        given = self.model_fields_set
        if self.count is not None:
            if clash := sorted(given & {"min", "max", "target_requests_per_second"}):
                raise ValueError(f"`count` fixes the number of replicas; remove {', '.join(clash)} or `count`")
            return self
        if self.max is not None and self.max < self.min:
            raise ValueError(f"`max` ({self.max}) is below `min` ({self.min})")
        if self.min == 0 and self.max is None:
            raise ValueError("`min = 0` needs `max`, the most replicas that requests may wake")
        if self.highest > self.lowest and self.target_requests_per_second is None:
            raise ValueError("`max` above `min` needs `target_requests_per_second` to scale by")
        return self

    @property
    def lowest(self) -> int:
        """Fewest replicas wanted at any time."""
        return self.count if self.count is not None else self.min

    @property
    def highest(self) -> int:
        """Most replicas that the load may ask for."""
        if self.count is not None:
            return self.count
        return self.max if self.max is not None else self.min


class HedgeSpec(_Table):
    """How preemptions are hedged."""

    policy: Literal["spothedge"] = "spothedge"
    """The policy that places replicas: `spothedge` (EuroSys '25)."""
    overprovision: int = Field(1, ge=0, le=100)
    """Spot replicas above what the load needs (N_extra), so that a preemption is no outage."""
    fallback: bool = True
    """Launch on-demand replicas while spot ones are missing, and return to spot when they are back."""
    always_on_demand: int = Field(0, ge=0, le=100)
    """On-demand replicas that run at all times, counted in what the load needs."""
    on_demand_hold: Duration = Field(60.0, ge=0)
    """Spot replicas must have been ready for this long before the on-demand ones that bridged are let go."""
    rebalance_below: int = Field(2, ge=1, le=100)
    """When fewer available zones than this are left, the preempted ones are tried again (the paper: 2; with three zones 1 is cheaper)."""
    retry_delay: Duration = Field(30.0, gt=0)
    """A zone that refused a launch is not asked again sooner; doubles with each refusal in a row, up to 16 times this."""
    notice_poll: Duration = Field(1.0, gt=0)
    """How often a VM's metadata service is asked for a preemption notice (where it cannot be waited on)."""


class PoolSpec(_Table):
    """Where replicas may run; any number of pools."""

    cloud: Annotated[Cloud, Strict(False)]
    """`local` (processes of this machine, for trying things out) or `static` (servers that somebody else runs)."""
    zones: list[str] = []
    """Zones to use, as `region/zone`, such as `["east/a", "east/b"]`."""
    instance_types: list[str] = ["small"]
    """Instance types that can run the model."""
    markets: list[Annotated[Market, Strict(False)]] = [Market.SPOT, Market.ON_DEMAND]
    """Markets to use: `spot`, `on_demand`."""
    max_usd_per_hour: UsdPerHour | None = Field(None, gt=0)
    """Offers above this price are not taken."""
    urls: list[str] = []
    """For `cloud = "static"`: base URLs of the servers, such as `["http://10.0.0.5:8000"]`."""
    api_key_env: str = ""
    """For `cloud = "static"`: environment variable with the key that these servers ask for."""

    @model_validator(mode="after")
    def _fits_its_cloud(self) -> Self:
        given = self.model_fields_set
        if self.cloud is Cloud.STATIC:
            if not self.urls:
                raise ValueError('cloud = "static" needs `urls`, such as ["http://10.0.0.5:8000"]')
            if extra := sorted(given & {"zones", "instance_types", "markets", "max_usd_per_hour"}):
                raise ValueError(f'cloud = "static" launches nothing; remove {", ".join(extra)}')
            for url in self.urls:
                if not re.fullmatch(r"https?://[^/\s]+", url.rstrip("/")):
                    raise ValueError(
                        f"{url!r} is not a base URL; write scheme, host and port only, such as "
                        '"http://10.0.0.5:8000"'
                    )
            return self
        if extra := sorted(given & {"urls", "api_key_env"}):
            raise ValueError(f'{", ".join(extra)} is only for cloud = "static"')
        if not self.zones:
            raise ValueError(f'cloud = "{self.cloud}" needs `zones`, such as ["east/a", "east/b"]')
        for zone in self.zones:
            if not re.fullmatch(r"[a-z0-9-]+/[a-z0-9-]+", zone):
                raise ValueError(f'{zone!r} is not a zone; write "region/zone", such as "east/a"')
        if not self.markets or Market.EXTERNAL in self.markets:
            raise ValueError('`markets` holds "spot", "on_demand" or both')
        return self


class ProbeSpec(_Table):
    """When a replica counts as ready, and when no longer."""

    path: str = Field("", pattern="^(/.*)?$")
    """Path that must answer 200; empty: the engine's own."""
    post_body: dict[str, Any] | None = None
    """JSON body to POST to `path` in place of a GET."""
    completion: bool = True
    """Also ask for one token of a real completion before a replica counts as ready."""
    initial_delay: Duration = Field(1200.0, gt=0)
    """From start of the engine to the first success; a replica that takes longer has failed."""
    interval: Duration = Field(10.0, gt=0)
    """Time between two probes of a ready replica (while it loads: a tenth, at least 0.2 s)."""
    timeout: Duration = Field(15.0, gt=0)
    """Time for one probe to answer."""
    failure_threshold: int = Field(3, ge=1)
    """Probes that a ready replica may fail in a row before it is replaced."""


class LimitsSpec(_Table):
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


class TimeoutsSpec(_Table):
    """How long HedgeServe waits, for each thing that it waits for."""

    connect: Duration = Field(3.0, gt=0)
    """For a connection to a replica."""
    first_byte: Duration = Field(120.0, gt=0)
    """For the first byte of a replica's answer; then another replica is asked."""
    stall: Duration = Field(60.0, gt=0)
    """Between two chunks of an answer; a longer silence is a failure."""
    total: Duration = Field(3600.0, gt=0)
    """For one request in all."""
    queue: Duration = Field(120.0, gt=0)
    """For a replica to become ready, for a waiting request; then 503."""
    drain: Duration = Field(120.0, ge=0)
    """For the requests of a replica that is taken away, and of the service when it stops, to finish."""
    boot: Duration = Field(600.0, gt=0)
    """From the launch of a VM to its SSH server's answer."""
    cloud_call: Duration = Field(60.0, gt=0)
    """For one call to a cloud."""
    lease: Duration = Field(900.0, gt=0)
    """A VM whose controller has not been heard of for this long takes itself down."""


class LocalZoneSpec(_Table):
    """One zone of the local driver; what is left out is as in `[local]`."""

    zone: str = Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")
    """The zone, as `region/zone`."""
    dialect: Literal["aws", "gcp", "azure"] = "aws"
    """Whose metadata service its VMs have, and so how a preemption is announced."""
    spot_price: UsdPerHour | None = Field(None, ge=0)
    """Price of a spot VM."""
    on_demand_price: UsdPerHour | None = Field(None, ge=0)
    """Price of an on-demand VM."""
    capacity: int | None = Field(None, ge=0)
    """Spot VMs that there are at a time; unset: no end of them."""
    trace: str = ""
    """File with a recorded spot capacity (`{"metadata": {"gap_seconds": 300}, "data": [3, 2, ...]}`) in place of `capacity`; a relative path starts at model.toml."""
    boot_time: Duration | None = Field(None, ge=0)
    """From launch to a listening SSH server."""
    launch_failure: Share | None = None
    """Share of spot launches that are refused for want of capacity."""
    preempt_every: Duration | None = Field(None, gt=0)
    """Mean time between preemptions of one spot VM."""
    notice: Duration | None = Field(None, ge=0)
    """Time from a preemption notice to the end of the VM."""
    no_notice_share: Share | None = None
    """Share of preemptions that come without a notice."""


class LocalSpec(_Table):
    """The local driver: a make-believe cloud of this machine's processes, with real SSH, HTTP and preemptions."""

    seed: int = 0
    """Seed of all that is random in it."""
    ssh_server: Literal["auto", "sshd", "asyncssh"] = "auto"
    """SSH server of the VMs: OpenSSH's `sshd`, the one in asyncssh, or `auto` (sshd where it can run)."""
    spot_price: UsdPerHour = Field(0.3, ge=0)
    """Price of a spot VM."""
    on_demand_price: UsdPerHour = Field(1.0, ge=0)
    """Price of an on-demand VM."""
    boot_time: Duration = Field(1.0, ge=0)
    """From launch to a listening SSH server."""
    launch_failure: Share = 0.0
    """Share of spot launches that are refused for want of capacity."""
    preempt_every: Duration | None = Field(None, gt=0)
    """Mean time between preemptions of one spot VM; unset: none at random."""
    notice: Duration = Field(10.0, ge=0)
    """Time from a preemption notice to the end of the VM."""
    no_notice_share: Share = 0.0
    """Share of preemptions that come without a notice."""
    trace_speed: float = Field(1.0, gt=0)
    """How many times faster than recorded the zones' traces are played."""
    zones: list[LocalZoneSpec] = []
    """What differs in single zones."""


class Spec(_Table):
    """A whole model.toml."""

    service: ServiceSpec = ServiceSpec()
    model: ModelSpec
    replicas: ReplicasSpec = ReplicasSpec()
    hedge: HedgeSpec = HedgeSpec()
    pools: list[PoolSpec] = Field(min_length=1)
    probe: ProbeSpec = ProbeSpec()
    limits: LimitsSpec = LimitsSpec()
    timeouts: TimeoutsSpec = TimeoutsSpec()
    local: LocalSpec = LocalSpec()

    def clouds(self) -> frozenset[Cloud]:
        """The clouds that the pools name."""
        return frozenset(pool.cloud for pool in self.pools)
