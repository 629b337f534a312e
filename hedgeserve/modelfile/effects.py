"""What a change of each key of model.toml asks of a service that runs: nothing, new replicas, or a restart.

The one table of it, :data:`EFFECTS`; a test holds it to the keys that there are. A key that is in no row is taken
for the dearest kind, so that what nobody has thought of is refused and not half applied.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hedgeserve.modelfile.keys import Key, Kind, TableInfo, tables, to_toml
from hedgeserve.spec import Cloud, Spec
from hedgeserve.spectable import KeyPath


class Effect(StrEnum):
    """What it takes for a changed key to hold."""

    LIVE = "live"
    """It holds at once; no request and no replica notices."""
    VERSION = "version"
    """It is part of what replicas run: a new version, which a roll-out brings in."""
    RESTART = "restart"
    """It is settled when the service starts; a running one refuses it."""


# Table, effect, keys. One row per line of thought, not per table.
_ROWS: tuple[tuple[str, Effect, str], ...] = (
    ("service", Effect.RESTART, "name listen state_dir"),
    ("service", Effect.RESTART, "api_keys_env api_keys_file allow_public_without_keys tls_certificate tls_key"),
    ("service", Effect.LIVE, "on_exit"),
    ("service", Effect.VERSION, "transport"),
    ("model", Effect.VERSION, "id aliases engine args command health_path container weights python version"),
    ("model", Effect.VERSION, "env secret_env"),
    ("replicas", Effect.LIVE, "count min max target_requests_per_second window upscale_delay downscale_delay"),
    ("replicas", Effect.LIVE, "idle_after"),
    ("schedule", Effect.LIVE, "timezone sleep wake_on_request awake_for lead scale"),
    ("schedule.scale", Effect.LIVE, "when count min max"),
    ("budget", Effect.LIVE, "usd_per_hour usd_per_day usd_per_month horizon"),
    ("hedge", Effect.LIVE, "policy availability overprovision headroom fallback always_on_demand on_demand_hold"),
    ("hedge", Effect.LIVE, "rebalance_below retry_delay notice_lead notice_poll"),
    # Which clouds there are is settled at the start (a driver for each, with its login); where in them is not.
    ("pools", Effect.RESTART, "cloud urls api_key_env"),
    ("pools", Effect.LIVE, "zones regions instance_types gpu throughput markets max_usd_per_hour"),
    ("probe", Effect.LIVE, "path post_body completion initial_delay interval timeout failure_threshold"),
    ("telemetry", Effect.RESTART, "traces endpoint sample"),
    # Its socket, its token and its certificate are there from the start.
    ("admin", Effect.RESTART, "listen hosts tls_certificate tls_key allow_public_without_tls"),
    # The listening side keeps the sizes of its connections; what bounds requests is asked for each of them.
    ("limits", Effect.LIVE, "max_body max_head max_connections max_held_response max_queue max_attempts"),
    ("limits", Effect.LIVE, "max_concurrent_per_replica requests_per_minute_per_key"),
    ("limits", Effect.LIVE, "tokens_per_minute_per_key concurrent_per_key"),
    ("routing", Effect.LIVE, "policy load_bound prefix_memory session_header urgent engine_metrics"),
    ("failover", Effect.LIVE, "enabled token_ids seed collect_above max_resumptions max_kept_per_stream max_kept"),
    ("failover", Effect.LIVE, "move_early move_margin silence"),
    ("timeouts", Effect.LIVE, "connect first_byte stall total queue request_head drain boot cloud_call launch"),
    # VMs are told their lease when they are launched, and their controller keeps to the same.
    ("timeouts", Effect.RESTART, "lease"),
    ("update", Effect.LIVE, "strategy max_surge max_unavailable ready_timeout bake_time max_failures"),
    ("update", Effect.LIVE, "error_margin"),
    ("vm", Effect.VERSION, "disk"),
    ("vm", Effect.LIVE, "driver_wait"),
    ("vm", Effect.RESTART, "address allow_from whoami call_threads"),
    ("aws", Effect.VERSION, "images instance_profile"),
    ("aws", Effect.LIVE, "fis_role"),
    ("aws", Effect.RESTART, "profile user subnets security_groups placement_scores endpoint"),
    ("gcp", Effect.VERSION, "image service_account"),
    ("gcp", Effect.RESTART, "project credentials_file user network subnetworks notice endpoint"),
    ("azure", Effect.VERSION, "image"),
    ("azure", Effect.RESTART, "subscription resource_group user subnets endpoint"),
    ("local", Effect.LIVE, "seed ssh_server spot_price on_demand_price boot_time launch_failure preempt_every"),
    ("local", Effect.LIVE, "notice no_notice_share vanish_share vanish_seen_after trace_speed zones"),
    ("local.zones", Effect.LIVE, "zone dialect spot_price on_demand_price capacity trace boot_time"),
    ("local.zones", Effect.LIVE, "launch_failure preempt_every notice no_notice_share vanish_share"),
    ("local.zones", Effect.LIVE, "vanish_seen_after"),
    ("backtest", Effect.LIVE, "tick cold_start cold_starts launch_latency notice no_notice_share"),
    ("backtest", Effect.LIVE, "on_demand_available preemption_order concurrency prefill_tokens_per_second"),
    ("backtest", Effect.LIVE, "tokens_per_second on_loss"),
)

EFFECTS: Mapping[str, Effect] = {f"{table}.{key}": effect for table, effect, keys in _ROWS for key in keys.split()}
"""The effect of each key, by its path, such as ``"replicas.min"``."""

_SHOWN = 60


def effect_of(path: str) -> Effect:
    """What a change of this key takes; the dearest for one that the table does not know."""
    return EFFECTS.get(path, Effect.RESTART)


@dataclass(frozen=True, slots=True)
class Change:
    """One key that is another now. ``before`` and ``after`` are as TOML has them; empty where there was none."""

    key: str
    before: str
    after: str
    effect: Effect
    line: int | None = None

    def __str__(self) -> str:
        where = f" (line {self.line})" if self.line else ""
        return f"{self.key}: {self.before or 'nothing'} → {self.after or 'nothing'}{where}"


def changes(old: Spec, new: Spec) -> tuple[Change, ...]:
    """What is different, key by key, in the order of the documentation."""
    return tuple(change for info in tables() if "." not in info.path for change in _in_table(info, old, new))


def _in_table(info: TableInfo, old: Spec, new: Spec) -> Iterator[Change]:
    before, after = getattr(old, info.path), getattr(new, info.path)
    if not info.array:
        yield from _in_keys(info, before, after, (info.path,), info.path, new)
        return
    # A pool more or less is a place more or less, as long as its cloud is known.
    same_clouds = old.clouds() == new.clouds()
    for number in range(max(len(before), len(after))):
        path, name = (info.path, number), f"{info.path}[{number}]"
        if number < len(before) and number < len(after):
            for change in _in_keys(info, before[number], after[number], path, name, new):
                live = change.key.endswith(".cloud") and same_clouds
                yield Change(change.key, change.before, change.after, Effect.LIVE, change.line) if live else change
            continue
        pool = before[number] if number < len(before) else after[number]
        effect = Effect.LIVE if same_clouds and pool.cloud is not Cloud.STATIC else Effect.RESTART
        told = to_toml(str(pool.cloud))
        gone = number >= len(after)
        yield Change(name, told if gone else "", "" if gone else told, effect, new.origin.line_of(path))


def _in_keys(info: TableInfo, before: Any, after: Any, path: KeyPath, name: str, new: Spec) -> Iterator[Change]:
    for key in info.keys:
        was, now = getattr(before, key.name), getattr(after, key.name)
        if was != now:
            line = new.origin.line_of((*path, key.name))
            effect = effect_of(key.path)
            yield Change(f"{name}.{key.name}", _shown(key, was), _shown(key, now), effect, line)


def _shown(key: Key, value: Any) -> str:
    """The value as one would write it; of variables only the names, for a careless person's sake."""
    if value is None:
        return ""
    if key.path == "model.env":
        return to_toml(sorted(value), limit=_SHOWN)
    if key.kind is Kind.TABLES:
        return f"{len(value)} tables"
    return to_toml(value, key.kind, limit=_SHOWN)
