"""How each verb is used: one to three lines that its ``--help`` begins with; a test parses them."""

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "init": ("hedgeserve init model.toml",),
    "check": ("hedgeserve check model.toml", "hedgeserve check model.toml --json | jq .problems"),
    "offers": ("hedgeserve offers model.toml",),
    "plan": ("hedgeserve plan model.toml",),
    "doctor": ("hedgeserve doctor model.toml", "hedgeserve doctor model.toml --offline"),
    "bake": ("hedgeserve bake model.toml --cloud aws > bake.sh",),
    "version": ("hedgeserve version",),
    "backtest": (
        "hedgeserve backtest model.toml --traces traces/aws-1 --poisson 0.5",
        "hedgeserve backtest --paper --traces traces/aws-1 --out report",
    ),
    "sweep": (
        "hedgeserve sweep model.toml --traces traces/aws-1 --vary overprovision=0..3",
        "hedgeserve sweep --paper --traces traces/aws-1 --vary cold-start=60s,8m --vary notice=0s,2m --csv",
    ),
    "replay": (
        "hedgeserve replay decisions.jsonl",
        "hedgeserve replay decisions.jsonl --policy spothedge  # what that one would have done",
    ),
    "serve": (
        "hedgeserve serve model.toml",
        "hedgeserve serve model.toml --listen 127.0.0.1:0 --log-format json",
    ),
    "apply": ("hedgeserve apply model.toml --dry-run", "hedgeserve apply model.toml --yes --why 'more context'"),
    "rollback": ("hedgeserve rollback", "hedgeserve rollback --to 3 --yes"),
    "versions": ("hedgeserve versions",),
    "status": ("hedgeserve status --watch", "hedgeserve status --json | jq .usd_per_hour"),
    "events": ("hedgeserve events --follow", "hedgeserve events --replica quickstart-3"),
    "explain": ("hedgeserve explain", "hedgeserve explain quickstart-4", "hedgeserve explain local/east/a"),
    "cost": ("hedgeserve cost --since 7d --by zone", "hedgeserve cost model.toml --by day --csv > cost.csv"),
    "report": ("hedgeserve report",),
    "logs": ("hedgeserve logs quickstart-3 --lines 50",),
    "drill": (
        "hedgeserve drill preempt --load 8",
        "hedgeserve drill refuse --zone us-east-1a --for 10m --preempt",
    ),
    "ui": ("hedgeserve ui --open",),
    "keys": ("hedgeserve keys add alice --expires 90d", "hedgeserve keys list"),
    "keys add": ("hedgeserve keys add alice --expires 90d --requests-per-second 5",),
    "keys list": ("hedgeserve keys list --json",),
    "keys revoke": ("hedgeserve keys revoke alice",),
    "pause": ("hedgeserve pause", "hedgeserve pause --for 2h --drain 10s --yes"),
    "resume": ("hedgeserve resume --wait",),
    "down": ("hedgeserve down", "hedgeserve down model.toml --dry-run"),
    "orphans": ("hedgeserve orphans model.toml", "hedgeserve orphans model.toml --remove --service old-name"),
    "traces": ("hedgeserve traces pull aws-1 --out traces/aws-1", "hedgeserve traces info traces/aws-1"),
    "traces pull": ("hedgeserve traces pull aws-1 --out traces/aws-1",),
    "traces info": ("hedgeserve traces info traces/aws-1",),
    "traces synth": ("hedgeserve traces synth --preset volatile --days 7 --out traces/bad-week",),
    "traces record": ("hedgeserve traces record model.toml --since 7d --out traces/mine",),
}
"""By verb, a verb of a verb with both words."""
