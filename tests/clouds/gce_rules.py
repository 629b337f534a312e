"""What the fake Compute Engine goes by: requests, faults, what the documentation says of values and filters."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_TYPES = re.compile(r"(g2-standard|n1-standard|a2-highgpu|a2-ultragpu|a3-highgpu|a3-megagpu|g4-standard)-\w+")


@dataclass(slots=True)
class Fault:
    """Something that goes wrong with requests whose verb and path fit, and whose body has ``match`` in it.

    ``status`` 0 has the operation fail with ``code``; ``lost`` does the work and breaks the connection off.
    """

    verb: str
    path: str
    status: int = 0
    code: str = ""
    message: str = "as you wished"
    times: int = 1
    match: str = ""
    delay_s: float = 0.0
    lost: bool = False
    info: str = ""
    permission: str = ""
    raw: str = ""
    retry_after: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """One request."""

    verb: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Json | None
    method: str


class Refusal(Exception):
    """An error's answer."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        info: str = "",
        permission: str = "",
        retry_after: str = "",
    ) -> None:
        self.status = status
        self.retry_after = retry_after
        error: Json = {
            "code": status,
            "message": message,
            "errors": [{"message": message, "domain": "global", "reason": reason}],
        }
        if info:
            metadata = {"permission": permission} if permission else {"service": "compute.googleapis.com"}
            detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": info, "metadata": metadata}
            error |= {"status": "PERMISSION_DENIED", "details": [detail]}
        self.body: Json = {"error": error}


def image(name: str, family: str, **facts: Any) -> Json:
    """An image as the API lists it."""
    stamp = "2026-11-01T00:00:00.000-07:00"
    return {
        "name": name,
        "family": family,
        "creationTimestamp": stamp,
        "architecture": "X86_64",
        "status": "READY",
        "diskSizeGb": "50",
        **facts,
    }


def check_instance(zone: str, body: Json, images: Sequence[Json]) -> None:
    """What the documentation says of values, beyond the shapes that the discovery document describes."""

    def invalid(place: str, value: object, why: str) -> Refusal:
        return Refusal(400, "invalid", f"Invalid value for field 'resource.{place}': '{value}'. {why}")

    if not _NAME.fullmatch(body["name"]):
        raise invalid("name", body["name"], "Must be a match of regex '(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)'")
    machine = body["machineType"].rpartition("/")[2]
    if not _TYPES.fullmatch(machine):
        raise invalid(
            "machineType", machine, f"Machine type with name '{machine}' does not exist in zone '{zone}'."
        )
    for labels in (body.get("labels", {}), body["disks"][0]["initializeParams"].get("labels", {})):
        for key, value in labels.items():
            if not _LABEL.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
                raise invalid("labels", f"{key}={value}", "It is no label.")
    plan = body["scheduling"]
    spot = plan.get("provisioningModel") == "SPOT"
    if plan.get("onHostMaintenance") != "TERMINATE":
        raise invalid("scheduling.onHostMaintenance", "MIGRATE", "Instances with GPUs do not migrate.")
    if spot and plan.get("automaticRestart", True):
        raise invalid("scheduling.automaticRestart", True, "Spot instances cannot be restarted.")
    if not spot and ("instanceTerminationAction" in plan or "preemptionNoticeDuration" in plan):
        raise invalid("scheduling", plan, "This is for Spot instances only.")
    source = body["disks"][0]["initializeParams"]["sourceImage"]
    known = any(source.endswith((f"/{one['name']}", f"/{one['family']}")) for one in images)
    if not known:
        raise Refusal(404, "notFound", f"The resource '{source}' was not found")


def fits(thing: Json, chosen: str) -> bool:
    """Whether a list's filter lets this thing through."""
    if not chosen:
        return True
    if found := re.fullmatch(r"labels\.([a-z0-9_-]+):\*", chosen):
        return found[1] in thing.get("labels", {})
    if found := re.fullmatch(r"labels\.([a-z0-9_-]+)=([a-z0-9_-]+)", chosen):
        return bool(thing.get("labels", {}).get(found[1]) == found[2])
    if found := re.fullmatch(r"(\w+) eq (\S+)", chosen):
        return bool(re.fullmatch(found[2], thing.get(found[1], "")))
    raise Refusal(400, "invalid", f"Invalid value for field 'filter': '{chosen}'.")


def pruned(told: Any, tree: Json) -> Any:
    """What a mask leaves of an answer."""
    if isinstance(told, list):
        return [pruned(one, tree) for one in told]
    if not tree or not isinstance(told, dict):
        return told
    left = {}
    for key, value in told.items():
        branch = tree.get(key, tree.get("*"))
        if branch is not None:
            left[key] = pruned(value, branch)
    return left
