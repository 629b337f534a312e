"""The commented model.toml that ``hedgeserve init`` writes: works as it is, shows what people change most."""

from hedgeserve.modelfile.keys import table

_STARTER = """\
# What to serve, and where. `hedgeserve check model.toml` finds mistakes, `hedgeserve serve model.toml` serves.
# As it stands it needs no GPU and no cloud account: the `local` cloud is made of processes of this machine,
# and the `demo` engine makes text up. Commented keys show their defaults. Everything: docs/configuration.md.

[service]
name = "hedgeserve"
# Another address than loopback needs API keys, from a variable (separated by commas) or a file (one a line).
# listen = {service.listen}
# api_keys_env = {service.api_keys_env}
# api_keys_file = "keys.txt"

[model]
id = "demo"                     # for vLLM: a repository or a path, such as "Qwen/Qwen3-8B"
engine = "demo"                 # "vllm", "command" (any OpenAI-shaped server) or "demo"
# args = []                     # further arguments for the engine, such as ["--max-model-len", "8192"]
# secret_env = []               # variables to hand to the engine as secrets, such as ["HF_TOKEN"]

[replicas]
min = 1
max = 3
target_requests_per_second = 5  # what one replica is to carry
# How long the load must have asked for more, or for fewer, before anything is done about it.
# upscale_delay = {replicas.upscale_delay}
# downscale_delay = {replicas.downscale_delay}

[hedge]
# What is kept in spare follows from the risk of each zone, and from the share of time with enough ready replicas
# that is worth paying for.
# policy = {hedge.policy}
# availability = {hedge.availability}
# fallback = {hedge.fallback}               # on-demand replicas bridge while spot ones are missing

# One [[pools]] for each cloud. Replicas are spread over the zones, so that they are not preempted together.
[[pools]]
cloud = "local"
zones = ["east/a", "east/b", "west/a"]
# markets = {pools.markets}
# max_usd_per_hour = "2.50 USD/h"

# The make-believe cloud of this machine. Remove this table when you leave it.
[local]
spot_price = "0.30 USD/h"
on_demand_price = "1.00 USD/h"
preempt_every = "5m"            # mean time between two preemptions of one spot VM
# notice = {local.notice}

# A pool in a real cloud, whose credentials are found where its own tools find them. `hedgeserve offers` shows
# what it may launch and for how much. Any number of pools, in one cloud or more:
# [[pools]]
# cloud = "aws"                   # "aws", "gcp" or "azure"
# regions = ["us-east-1", "us-west-2"]
# gpu = ["L4:1", "A10G:1"]        # or instance_types = ["g6.xlarge"]
# max_usd_per_hour = "1.50 USD/h"

# Servers that somebody else runs can stand in for on-demand replicas:
# [[pools]]
# cloud = "static"
# urls = ["http://10.0.0.5:8000"]
"""


def starter_toml() -> str:
    """A short model.toml with comments, valid as it is; its commented defaults are those of the classes."""
    text = _STARTER
    for path in ("service", "replicas", "hedge", "pools", "local"):
        info = table(path)
        for key in info.keys if info else ():
            text = text.replace("{" + key.path + "}", key.default_toml)
    return text
