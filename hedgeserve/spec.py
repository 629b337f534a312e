"""What a model.toml may say: every key with its type, unit, default and one line of help, in this one place.

``docs/configuration.md`` and the JSON Schema are generated from these classes. Reading a file (line numbers,
environment, near misses) is the work of :mod:`hedgeserve.specfile`; here only the words and what must hold
between them.
"""

# ruff: noqa: RUF012 (pydantic copies mutable defaults for each instance)

import json
from collections.abc import Iterator, Set
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, Strict

from hedgeserve.budgetspec import BudgetSpec
from hedgeserve.cloudspec import AwsSpec, AzureSpec, GcpSpec, VmSpec
from hedgeserve.poolspec import REMOTE, Cloud, PoolSpec
from hedgeserve.replica import Market
from hedgeserve.schedulespec import ScheduleScaleSpec, ScheduleSpec
from hedgeserve.servingspec import AdminSpec, FailoverSpec, LimitsSpec, RoutingSpec, TimeoutsSpec
from hedgeserve.spectable import (
    Conflict,
    Duration,
    EnvName,
    Listen,
    Origin,
    Shape,
    Share,
    Table,
    UsdPerHour,
    Zone,
    split_listen,
)
from hedgeserve.telemetryspec import TelemetrySpec
from hedgeserve.updatespec import UpdateSpec

__all__ = [
    "REMOTE",
    "AdminSpec",
    "AwsSpec",
    "AzureSpec",
    "BacktestSpec",
    "BudgetSpec",
    "Cloud",
    "EngineName",
    "FailoverSpec",
    "GcpSpec",
    "HedgeSpec",
    "LimitsSpec",
    "LocalSpec",
    "LocalZoneSpec",
    "ModelSpec",
    "OnExit",
    "PoolSpec",
    "ProbeSpec",
    "ReplicasSpec",
    "RoutingSpec",
    "ScheduleScaleSpec",
    "ScheduleSpec",
    "ServiceSpec",
    "Spec",
    "TelemetrySpec",
    "TimeoutsSpec",
    "Transport",
    "UpdateSpec",
    "VmSpec",
    "split_listen",
]


class OnExit(StrEnum):
    """What becomes of the VMs when the controller stops."""

    AUTO = "auto"
    KEEP = "keep"
    TERMINATE = "terminate"


class Transport(StrEnum):
    """How requests travel from the controller to an engine."""

    AUTO = "auto"
    TLS = "tls"
    SSH = "ssh"
    DIRECT = "direct"


class EngineName(StrEnum):
    """The inference servers that HedgeServe knows how to start."""

    VLLM = "vllm"
    COMMAND = "command"
    DEMO = "demo"


class ServiceSpec(Table):
    """The service as its clients and its operator see it."""

    name: Annotated[
        str,
        Shape(
            r"[a-z][a-z0-9-]{0,39}",
            "is not a service name; start with a lower-case letter, go on with up to 39 of them, digits, dashes",
        ),
    ] = "hedgeserve"
    """Name of the service: lower-case letters, digits, dashes. Names the VMs, their tags and the state directory."""
    listen: Listen = "127.0.0.1:8000"
    """Address and port of the endpoint; port 0 takes a free one."""
    state_dir: str = ""
    """Directory for the journal, keys and admin socket; empty: `$STATE_DIRECTORY`, else `$XDG_STATE_HOME/hedgeserve/<name>`; a relative path starts at model.toml."""
    api_keys_env: EnvName = "HEDGESERVE_API_KEYS"
    """Environment variable that holds the accepted API keys, separated by commas; unset: no keys from there."""
    api_keys_file: str = ""
    """File with one accepted API key a line (`#` starts a comment); a relative path starts at model.toml."""
    allow_public_without_keys: bool = False
    """Serve on an address that others can reach without asking for a key."""
    tls_certificate: str = ""
    """File with the endpoint's TLS certificate and its chain (PEM), read anew when it changes; empty: plain HTTP. A relative path starts at model.toml."""
    tls_key: str = ""
    """File with the private key of `tls_certificate` (PEM), if it is not in the same file; a relative path starts at model.toml."""
    on_exit: Annotated[OnExit, Strict(False)] = OnExit.AUTO
    """VMs when the controller stops: `keep` them, `terminate` them, or `auto` (terminate `local` ones, keep the clouds')."""
    transport: Annotated[Transport, Strict(False)] = Transport.AUTO
    """Requests go to engines by `tls` (with certificates of the service's own authority), through `ssh`, `direct` (plain HTTP, private addresses only), or `auto` (direct on loopback, else tls where the engine can, else ssh)."""


class ModelSpec(Table):
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
    health_path: Annotated[str, Shape(r"/\S*", "is not a path; start it with a slash")] = "/health"
    """For `engine = "command"`: path that answers 200 when the server is up."""
    container: str = ""
    """For `engine = "vllm"`: container image to run it from, such as `vllm/vllm-openai:v0.32.0` (best pinned with `@sha256:`); empty: installed with uv or pip."""
    weights: str = ""
    """For `engine = "vllm"`: where the weights are, if not at `id` on the hub: a path on the VM, or `s3://`, `gs://` or `az://` of a bucket."""
    python: str = ""
    """Interpreter on the VM that has vLLM installed; empty: the VM's own, with vLLM installed by us where it is missing."""
    version: str = ""
    """vLLM version to install where it is missing, such as `0.32.0`; empty: the one that HedgeServe was tried with."""
    env: dict[EnvName, str] = {}
    """Environment variables for the engine; not for secrets."""
    secret_env: list[EnvName] = []
    """Names of the controller's environment variables to hand to the engine as secrets, such as `HF_TOKEN`."""

    def conflicts(self) -> Iterator[Conflict]:
        """Names that are taken twice, and keys that the engine has no use for."""
        given = self.model_fields_set
        for index, alias in enumerate(self.aliases):
            if not alias:
                yield Conflict(("aliases", index), "an alias cannot be empty")
            elif alias == self.id:
                yield Conflict(("aliases", index), f'"{alias}" is already the `id`', "remove it")
            elif alias in self.aliases[:index]:
                yield Conflict(("aliases", index), f'"{alias}" is there twice', "remove one of them")
        if self.engine is EngineName.COMMAND:
            if not self.command:
                yield Conflict(
                    ("command",),
                    'engine = "command" needs `command`',
                    'write what to run, such as ["llama-server", "--port", "{port}"]',
                )
        else:
            for key in ("command", "health_path"):
                if key in given:
                    yield Conflict(
                        (key,), f'`{key}` is only for engine = "command", not for "{self.engine}"', "remove it"
                    )
        if self.engine is EngineName.VLLM and "id" not in given:
            yield Conflict(
                ("id",), 'engine = "vllm" needs `id`', 'write a repository or path, such as "Qwen/Qwen3-8B"'
            )
        if self.engine is not EngineName.VLLM:
            for key in ("container", "weights", "python", "version"):
                if getattr(self, key):
                    yield Conflict(
                        (key,), f'`{key}` is only for engine = "vllm", not for "{self.engine}"', "remove it"
                    )
        if self.container:
            for key in ("python", "version"):
                if getattr(self, key):
                    yield Conflict((key,), f"`container` brings its own `{key}`", f"remove `{key}` or `container`")


class ReplicasSpec(Table):
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
    idle_after: Duration | None = Field(None, gt=0)
    """With `min = 0`: without any request for this long, all replicas go; unset: after `downscale_delay`, like any other step down."""

    def conflicts(self) -> Iterator[Conflict]:
        """Bounds that contradict each other or leave nothing to scale by."""
        if self.count is not None:
            for key in ("min", "max", "target_requests_per_second"):
                if key in self.model_fields_set:
                    yield Conflict((key,), "`count` fixes the number of replicas", f"remove `{key}` or `count`")
        elif self.max is not None and self.max < self.min:
            yield Conflict(("max",), f"`max` ({self.max}) is below `min` ({self.min})", "raise it")
        elif self.min == 0 and self.max is None:
            yield Conflict(("max",), "`min = 0` needs `max`, the most replicas that requests may wake")
        elif self.highest > self.lowest and self.target_requests_per_second is None:
            yield Conflict(
                ("target_requests_per_second",),
                f"`max` ({self.max}) above `min` ({self.min}) needs `target_requests_per_second` to scale by",
                "write the requests per second that one replica is to carry",
            )
        if self.idle_after is not None and self.lowest > 0:
            yield Conflict(
                ("idle_after",),
                f"`idle_after` needs `min = 0`, and at least {self.lowest} are wanted",
                "remove one",
            )

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

    def within(self, lowest: int | None, highest: int | None) -> tuple[int, int]:
        """Fewest and most where some hours say one or both: what they say wins, and the other bound gives way."""
        if lowest is None:
            most = self.highest if highest is None else highest
            return min(self.lowest, most), most
        return lowest, max(self.highest if highest is None else highest, lowest)


class HedgeSpec(Table):
    """How preemptions are hedged."""

    policy: Literal["forecast", "spothedge"] = "forecast"
    """The policy that places replicas: `forecast`, which weighs price against the risk of each zone, or `spothedge` (EuroSys '25)."""
    availability: float = Field(0.999, ge=0.5, lt=1)
    """For `forecast`: the share of time with as many ready replicas as the load needs that is worth paying for."""
    overprovision: int = Field(1, ge=0, le=100)
    """Spot replicas above what the load needs (N_extra), so that a preemption is no outage; `forecast` keeps them only while the risk asks for it."""
    headroom: int | None = Field(None, ge=0, le=100)
    """For `forecast`: replicas kept above the target at all times, so that a rise of the load finds one ready; unset: `overprovision` where the load sets the target, else none."""
    fallback: bool = True
    """Launch on-demand replicas while spot ones are missing, and return to spot when they are back."""
    always_on_demand: int = Field(0, ge=0, le=100)
    """On-demand replicas that run at all times, counted in what the load needs."""
    on_demand_hold: Duration = Field(60.0, ge=0)
    """For `spothedge`: spot replicas must have been ready for this long before the on-demand ones that bridged are let go."""
    rebalance_below: int = Field(2, ge=1, le=100)
    """For `spothedge`: when fewer available zones than this are left, the preempted ones are tried again (the paper: 2; with three zones 1 is cheaper)."""
    retry_delay: Duration = Field(30.0, gt=0)
    """A zone that refused a launch is not asked again sooner; doubles with each refusal in a row, up to 16 times this."""
    notice_lead: Duration | None = Field(None, ge=0)
    """For `forecast`: how long before its end a VM is told of its preemption, until some have been; unset: what its cloud promises."""
    notice_poll: Duration = Field(1.0, gt=0)
    """How often a VM's metadata service is asked for a preemption notice (where it cannot be waited on)."""

    def with_headroom(self, *, scaled: bool) -> "HedgeSpec":
        """The same with a headroom that is said, for a target that the load sets (``scaled``) or a fixed one."""
        if self.headroom is not None:
            return self
        return self.model_copy(update={"headroom": self.overprovision if scaled else 0})


class ProbeSpec(Table):
    """When a replica counts as ready, and when no longer."""

    path: Annotated[str, Shape(r"(/\S*)?", "is not a path; start it with a slash")] = ""
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

    def conflicts(self) -> Iterator[Conflict]:
        """A body without a path to POST it to, or one that is no JSON."""
        if self.post_body is None:
            return
        if not self.path:
            yield Conflict(("path",), "`post_body` needs `path`", "write the path that it is to be sent to")
        try:
            json.dumps(self.post_body, allow_nan=False)
        except (TypeError, ValueError):
            yield Conflict(("post_body",), "cannot be sent as JSON, which has no dates, `inf` and `nan`")


class LocalZoneSpec(Table):
    """One zone of the local driver; what is left out is as in `[local]`."""

    zone: Zone
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
    vanish_share: Share | None = None
    """Share of those without a notice in which the VM falls silent with its connections open, as a real one does."""
    vanish_seen_after: Duration | None = Field(None, ge=0)
    """How long the cloud still lists a VM that has fallen silent."""

    def conflicts(self) -> Iterator[Conflict]:
        """Two sources for one capacity."""
        if self.trace and self.capacity is not None:
            yield Conflict(("capacity",), "`trace` already says how many VMs there are", "remove one of the two")


class LocalSpec(Table):
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
    vanish_share: Share = 0.0
    """Share of those without a notice in which the VM falls silent with its connections open, as a real one does; in the others it is killed."""
    vanish_seen_after: Duration = Field(15.0, ge=0)
    """How long the cloud still lists a VM that has fallen silent."""
    trace_speed: float = Field(1.0, gt=0)
    """How many times faster than recorded the zones' traces are played."""
    zones: list[LocalZoneSpec] = []
    """What differs in single zones."""


class BacktestSpec(Table):
    """The world that `hedgeserve backtest` plays recorded capacity in; a service that runs reads nothing here."""

    tick: Duration = Field(30.0, gt=0)
    """Time between two moments at which the policy may act."""
    cold_start: Duration = Field(120.0, ge=0)
    """From the launch of a VM to a ready replica."""
    cold_starts: list[Duration] = []
    """Cold starts that were measured, such as `["95s", "2m", "4m"]`, each equally likely; in place of `cold_start`."""
    launch_latency: Duration = Field(0.0, ge=0)
    """From the policy's decision to the cloud's answer."""
    notice: Duration | None = Field(None, ge=0)
    """Time from a preemption notice to the end of the VM; unset: as the cloud has it (`local`: as `[local]` says)."""
    no_notice_share: Share | None = None
    """Share of preemptions that come without a notice; unset: as `[local]` says for `local`, else 0."""
    on_demand_available: Share = 1.0
    """Share of on-demand launches that are granted."""
    preemption_order: Literal["newest", "oldest", "random"] = "newest"
    """Which spot VMs of a zone a falling capacity takes first."""
    concurrency: int = Field(32, ge=1)
    """Requests that one replica answers at a time; more wait before it."""
    prefill_tokens_per_second: float = Field(4000.0, gt=0)
    """Tokens of its prompt that are read in a second, for one request among `concurrency`."""
    tokens_per_second: float = Field(30.0, gt=0)
    """Tokens of its answer that are written in a second, for one request among `concurrency`."""
    on_loss: Literal["retry", "continue", "lost"] = "retry"
    """Requests on a replica that is taken away: they start anew elsewhere (`retry`), go on where they were (`continue`), or fail (`lost`)."""

    def conflicts(self) -> Iterator[Conflict]:
        """Two answers to one question."""
        if self.cold_starts and "cold_start" in self.model_fields_set:
            yield Conflict(
                ("cold_start",), "`cold_starts` already says how long it takes", "remove one of the two"
            )


class Spec(Table):
    """A whole model.toml."""

    service: ServiceSpec = ServiceSpec()
    admin: AdminSpec = AdminSpec()
    model: ModelSpec
    replicas: ReplicasSpec = ReplicasSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    budget: BudgetSpec = BudgetSpec()
    hedge: HedgeSpec = HedgeSpec()
    pools: list[PoolSpec] = Field(min_length=1)
    probe: ProbeSpec = ProbeSpec()
    limits: LimitsSpec = LimitsSpec()
    routing: RoutingSpec = RoutingSpec()
    failover: FailoverSpec = FailoverSpec()
    timeouts: TimeoutsSpec = TimeoutsSpec()
    telemetry: TelemetrySpec = TelemetrySpec()
    update: UpdateSpec = UpdateSpec()
    vm: VmSpec = VmSpec()
    aws: AwsSpec = AwsSpec()
    gcp: GcpSpec = GcpSpec()
    azure: AzureSpec = AzureSpec()
    local: LocalSpec = LocalSpec()
    backtest: BacktestSpec = BacktestSpec()

    _origin: Origin | None = PrivateAttr(None)

    def hedge_for_load(self) -> HedgeSpec:
        """``[hedge]`` with the headroom that this service's kind of target asks for."""
        scaled = self.replicas.lowest < self.replicas.highest
        return self.hedge.with_headroom(scaled=scaled)

    def clouds(self) -> frozenset[Cloud]:
        """The clouds that the pools name."""
        return frozenset(pool.cloud for pool in self.pools)

    @property
    def origin(self) -> Origin:
        """Where the words of this spec stand, for messages about them."""
        return self._origin or Origin("model.toml", {})

    def with_origin(self, origin: Origin) -> Self:
        """The same spec, with messages that point into this file."""
        spec = self.model_copy()
        spec._origin = origin
        return spec

    def conflicts(self) -> Iterator[Conflict]:
        """Every way in which the tables cannot stand together."""
        yield from self.conflicts_among(type(self).model_fields.keys())

    def conflicts_among(self, tables: Set[str]) -> Iterator[Conflict]:
        """The conflicts that involve these tables only: the others may be wrong in themselves."""
        if "pools" in tables:
            yield from self._places_twice()
            yield from self._clouds_without_pool(tables)
        if {"pools", "local"} <= tables and "local" in self.model_fields_set:
            yield from self._local_without_pool()
        if {"pools", "hedge"} <= tables:
            yield from self._no_on_demand()
        if {"replicas", "schedule"} <= tables:
            yield from self._hours_without_scale()

    def _places_twice(self) -> Iterator[Conflict]:
        first_pool: dict[tuple[Cloud, str], int] = {}
        for number, pool in enumerate(self.pools):
            for key, places in (("zones", pool.zones), ("urls", [url.rstrip("/") for url in pool.urls])):
                for index, place in enumerate(places):
                    first = first_pool.setdefault((pool.cloud, place), number)
                    if first != number or (key == "urls" and place in places[:index]):
                        yield Conflict(
                            ("pools", number, key, index),
                            f'"{place}" is already in `pools[{first}].{key}`',
                            "remove one of the two",
                        )

    def _clouds_without_pool(self, tables: Set[str]) -> Iterator[Conflict]:
        for cloud in REMOTE:
            if cloud in tables and cloud in self.model_fields_set and cloud not in self.clouds():
                hint = f"remove the [{cloud}] table or add such a pool"
                yield Conflict((str(cloud),), f'no pool has cloud = "{cloud}"', hint)

    def _local_without_pool(self) -> Iterator[Conflict]:
        if Cloud.LOCAL not in self.clouds():
            yield Conflict(
                ("local",), 'no pool has cloud = "local"', "remove the [local] tables or add such a pool"
            )
            return
        known = [zone for pool in self.pools if pool.cloud is Cloud.LOCAL for zone in pool.zones]
        seen: set[str] = set()
        for index, local_zone in enumerate(self.local.zones):
            zone = local_zone.zone
            if zone not in known:
                close = get_close_matches(zone, known, n=1)
                yield Conflict(
                    ("local", "zones", index, "zone"),
                    f'no pool with cloud = "local" has the zone "{zone}"',
                    f'did you mean "{close[0]}"?' if close else f"zones there: {', '.join(known)}",
                )
            elif zone in seen:
                yield Conflict(("local", "zones", index, "zone"), f'"{zone}" is there twice', "merge the two")
            seen.add(zone)

    def _hours_without_scale(self) -> Iterator[Conflict]:
        if self.replicas.target_requests_per_second is not None:
            return
        for number, hours in enumerate(self.schedule.scale):
            lowest, highest = self.replicas.within(hours.lowest, hours.highest)
            if lowest < highest:
                key = "max" if hours.max is not None else "min"
                yield Conflict(
                    ("schedule", "scale", number, key),
                    f"{lowest} to {highest} replicas need `replicas.target_requests_per_second` to scale by",
                    "write that, or `count` for a fixed number",
                )

    def _no_on_demand(self) -> Iterator[Conflict]:
        if any(pool.cloud is Cloud.STATIC or Market.ON_DEMAND in pool.markets for pool in self.pools):
            return
        hint = 'add "on_demand" to the `markets` of a pool'
        if self.hedge.fallback and "fallback" in self.hedge.model_fields_set:
            yield Conflict(("hedge", "fallback"), "no pool has on-demand VMs to fall back to", hint)
        if self.hedge.always_on_demand:
            yield Conflict(("hedge", "always_on_demand"), "no pool has on-demand VMs", hint)
