"""Where replicas may run: the clouds and the pools of a model.toml."""

# ruff: noqa: RUF012 (pydantic copies mutable defaults for each instance)

import math
import re
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, Strict

from hedgeserve.replica import Market
from hedgeserve.spectable import ONE_OR_MANY, Conflict, Shape, Table, UsdPerHour, Zone


class Cloud(StrEnum):
    """Where VMs come from."""

    LOCAL = "local"
    STATIC = "static"
    AWS = "aws"
    GCP = "gcp"
    AZURE = "azure"


REMOTE = (Cloud.AWS, Cloud.GCP, Cloud.AZURE)
"""The clouds that are asked over the network and send bills."""

Gpu = Annotated[
    str,
    Shape(
        r"[A-Za-z0-9-]+(:[1-9][0-9]?)?",
        'is not a kind of GPU with a number, such as "L4:1" or "H100:8"',
    ),
]
"""A GPU model and how many of them one VM must have, ``L4:1``; without a number one."""

Region = Annotated[str, Shape(r"[a-z0-9-]+", 'is not a region, such as "us-east-1"')]

_ZONE_OF = {
    Cloud.AWS: (r"{region}(-[a-z0-9-]+)?[a-z]", "{region}/{region}a"),
    Cloud.GCP: (r"{region}-[a-z]", "{region}/{region}-a"),
    Cloud.AZURE: (r"[1-3]|none", "{region}/1"),
}
"""What a zone is called within its region, and an example of it written out."""


class PoolSpec(Table):
    """Where replicas may run; any number of pools."""

    cloud: Annotated[Cloud, Strict(False)]
    """`aws`, `gcp`, `azure`, `local` (processes of this machine, for trying things out) or `static` (servers that somebody else runs)."""
    zones: list[Zone] = []
    """Zones to use, as `region/zone`: `us-east-1/us-east-1a` (aws), `us-central1/us-central1-a` (gcp), `eastus/1` (azure), `east/a` (local)."""
    regions: list[Region] = []
    """Regions to use with every zone that the built-in catalogue knows of them, besides `zones`; for aws, gcp and azure."""
    instance_types: list[str] = []
    """Instance types that can run the model, such as `g6.xlarge`; empty: those with a `gpu` (for `local`: `small`)."""
    gpu: Annotated[list[Gpu], ONE_OR_MANY] = []
    """Kinds of GPU that can run the model, with their number in one VM, such as `"L4:1"` or `["L4:1", "A10G:1"]`; for aws, gcp and azure."""
    throughput: dict[str, float] = {}
    """Relative throughput of a kind of `gpu` or an instance type, such as `{"A10G:1" = 1.3}`; prices are compared per throughput, and 1 is what is left out."""
    markets: list[Literal[Market.SPOT, Market.ON_DEMAND]] = [Market.SPOT, Market.ON_DEMAND]
    """Markets to use: `spot`, `on_demand`."""
    max_usd_per_hour: UsdPerHour | None = Field(None, gt=0)
    """Offers above this price are not taken; where the cloud can be told a highest price for a spot VM, it is told this one."""
    urls: list[
        Annotated[
            str,
            Shape(
                r"https?://[^/\s?#@]+/?",
                'is not a base URL; write scheme, host and port only, such as "http://10.0.0.5:8000"',
            ),
        ]
    ] = []
    """For `cloud = "static"`: base URLs of the servers, such as `["http://10.0.0.5:8000"]`."""
    api_key_env: Annotated[
        str, Shape(r"([A-Za-z_][A-Za-z0-9_]*)?", "is not the name of an environment variable, such as RACK_KEY")
    ] = ""
    """For `cloud = "static"`: environment variable with the key that these servers ask for."""

    def conflicts(self) -> Iterator[Conflict]:
        """Keys that the pool's cloud needs or has no use for."""
        yield from self._out_of_place()
        if self.cloud is Cloud.STATIC:
            yield from self._urls()
            return
        if not self.markets:
            yield Conflict(("markets",), 'holds "spot", "on_demand" or both')
        for key in ("zones", "regions", "instance_types", "gpu", "markets"):
            for value, count in Counter(getattr(self, key)).items():
                if count > 1:
                    yield Conflict((key,), f'"{value}" is there {count} times', "once is enough")
        if "" in self.instance_types or ("instance_types" in self.model_fields_set and not self.instance_types):
            yield Conflict(("instance_types",), "names no instance type", 'write at least one, such as ["small"]')
        if self.cloud is Cloud.LOCAL:
            if not self.zones:
                yield Conflict(
                    ("zones",), 'cloud = "local" needs `zones`', 'write them, such as ["east/a", "east/b"]'
                )
            return
        yield from self._remote()

    def _out_of_place(self) -> Iterator[Conflict]:
        for key in ("regions", "gpu", "throughput"):
            if key in self.model_fields_set and self.cloud not in REMOTE:
                yield Conflict((key,), f"`{key}` is only for aws, gcp and azure", f"remove `{key}`")
        static = self.cloud is Cloud.STATIC
        for key in (
            ("zones", "instance_types", "markets", "max_usd_per_hour") if static else ("urls", "api_key_env")
        ):
            if key in self.model_fields_set:
                why = 'cloud = "static" launches nothing' if static else f'`{key}` is only for cloud = "static"'
                yield Conflict((key,), why, f"remove `{key}`")

    def _urls(self) -> Iterator[Conflict]:
        if not self.urls:
            yield Conflict(
                ("urls",), 'cloud = "static" needs `urls`', 'write them, such as ["http://10.0.0.5:8000"]'
            )
        for index, url in enumerate(self.urls):
            try:
                _, host = urlsplit(url).port, urlsplit(url).hostname
                _ = (host or ".").encode("idna")
            except UnicodeError:
                yield Conflict(
                    ("urls", index),
                    f'"{url}" has no host that can be looked up',
                    "between its dots there must be 1 to 63 characters each time",
                )
            except ValueError as error:
                yield Conflict(("urls", index), f'"{url}" is not a base URL', str(error))

    def _remote(self) -> Iterator[Conflict]:
        pattern, example = _ZONE_OF[self.cloud]
        if not self.zones and not self.regions:
            hint = f'write them, such as ["{example.format(region=_EXAMPLE_REGIONS[self.cloud])}"], or `regions`'
            yield Conflict(("zones",), f'cloud = "{self.cloud}" needs `zones` or `regions`', hint)
        for index, zone in enumerate(self.zones):
            region, _, name = zone.partition("/")
            if not re.fullmatch(pattern.format(region=re.escape(region)), name):
                hint = f'write it as "{example.format(region=region)}"'
                yield Conflict(("zones", index), f'"{zone}" is not a zone of {self.cloud}', hint)
        if not self.instance_types and not self.gpu:
            hint = 'write gpu = "L4:1", or instance_types = ["..."]'
            yield Conflict(("gpu",), f'cloud = "{self.cloud}" needs `gpu` or `instance_types`', hint)
        for name, factor in self.throughput.items():
            if not (math.isfinite(factor) and factor > 0):
                yield Conflict(("throughput", name), "is not a number above 0", "1 is the ordinary throughput")
            if name not in self.gpu and name not in self.instance_types:
                yield Conflict(
                    ("throughput", name), f'"{name}" is neither in `gpu` nor in `instance_types`', "remove it"
                )


_EXAMPLE_REGIONS = {Cloud.AWS: "us-east-1", Cloud.GCP: "us-central1", Cloud.AZURE: "eastus"}
