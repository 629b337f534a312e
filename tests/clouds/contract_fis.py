"""Is a request one that FIS would take? Held against botocore's model of the API: paths, queries and JSON bodies.

Needs neither network nor account. What the model does not tell (which parameters an action has) is held against
what AWS's reference of actions says of the one that is used.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from botocore.loaders import Loader
from botocore.model import ServiceModel

from tests.clouds.contract_ec2 import Received

# https://docs.aws.amazon.com/fis/latest/userguide/fis-actions-reference.html#send-spot-instance-interruptions
_SPOT_ACTION, _SPOT_TARGET, _SPOT_TYPE = (
    "aws:ec2:send-spot-instance-interruptions",
    "SpotInstances",
    "aws:ec2:spot-instance",
)


class Called(NamedTuple):
    """An operation by its name, with all that was given to it: from the path, the query and the body."""

    name: str
    given: Mapping[str, Any]


def called(request: Received) -> Called | None:
    """The operation that a request is for; None where there is none."""
    url = urlsplit(request.target)
    for name in model().operation_names:
        http = model().operation_model(name).http
        found = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", http["requestUri"]), url.path)
        if found is not None and http["method"] == request.method:
            query: dict[str, Any] = dict(parse_qsl(url.query))
            body = json.loads(request.body) if request.body else {}
            return Called(
                name, {**{key: unquote(text) for key, text in found.groupdict().items()}, **query, **body}
            )
    return None


def check(request: Received) -> list[str]:
    """What neither the model nor the reference allows."""
    found = called(request)
    if found is None:
        return [f"{request.method} {request.target}: there is no such operation"]
    shape = model().operation_model(found.name).input_shape
    given = dict(found.given)
    for name, member in shape.members.items():
        if (
            member.serialization.get("location") == "querystring"
            and member.type_name == "integer"
            and name in given
        ):
            given[name] = int(given[name])
    problems = list(_walk(given, shape, found.name))
    return problems or list(_rules(found))


@cache
def model() -> ServiceModel:
    """Botocore's, as AWS publishes it."""
    return ServiceModel(Loader().load_service_model("fis", "service-2"), "fis")


def _walk(given: Any, shape: Any, path: str) -> Iterator[str]:
    kind, limits = shape.type_name, shape.metadata
    low, high = limits.get("min"), limits.get("max")
    if kind in ("structure", "map") and not isinstance(given, dict):
        yield f"{path}: {given!r} is no object"
    elif kind == "structure":
        for name, value in given.items():
            if name in shape.members:
                yield from _walk(value, shape.members[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}: unknown parameter"
        yield from (f"{path}.{name}: required, missing" for name in shape.required_members if name not in given)
    elif kind == "map":
        for name, value in given.items():
            yield from _walk(name, shape.key, f"{path} key")
            yield from _walk(value, shape.value, f"{path}.{name}")
    elif kind == "list":
        if not isinstance(given, list):
            yield f"{path}: {given!r} is no list"
            return
        if high is not None and len(given) > high:
            yield f"{path}: {len(given)} are more than {high}"
        for index, value in enumerate(given):
            yield from _walk(value, shape.member, f"{path}[{index}]")
    elif kind == "string":
        if not isinstance(given, str):
            yield f"{path}: {given!r} is no text"
            return
        if not (low or 0) <= len(given) <= (high if high is not None else len(given)):
            yield f"{path}: {len(given)} characters are not within {low} and {high}"
        if shape.enum and given not in shape.enum:
            yield f"{path}: {given!r} is none of {', '.join(shape.enum)}"
        pattern = limits.get("pattern", "").replace(r"^[\p{L}\p{Z}\p{N}", "^[\\w ")
        if pattern and not re.fullmatch(f"(?:{pattern})*", given):
            yield f"{path}: {given!r} does not fit {pattern}"
    elif kind == "integer":
        if not isinstance(given, int) or not (low or 0) <= given <= (high or given):
            yield f"{path}: {given!r} is not a whole number within {low} and {high}"
    elif kind == "boolean" and not isinstance(given, bool):
        yield f"{path}: {given!r} is neither true nor false"


def _rules(found: Called) -> Iterator[str]:
    """What FIS refuses besides, of the action that is used."""
    if found.name != "CreateExperimentTemplate":
        return
    targets = found.given.get("targets", {})
    for name, action in found.given["actions"].items():
        if action["actionId"] != _SPOT_ACTION:
            yield f"actions.{name}: {action['actionId']!r} is not checked here"
            continue
        told = re.fullmatch(
            r"PT(?:(\d+)M)?(?:(\d+)S)?", action["parameters"].get("durationBeforeInterruption", "")
        )
        if not told or not 120 <= 60 * int(told[1] or 0) + int(told[2] or 0) <= 900:
            yield f"actions.{name}: {action['parameters']} is not within 2 and 15 minutes"
        if set(action["targets"]) != {_SPOT_TARGET} or action["targets"].get(_SPOT_TARGET) not in targets:
            yield f"actions.{name}: takes one target, {_SPOT_TARGET}"
    for name, target in targets.items():
        if target["resourceType"] != _SPOT_TYPE:
            yield f"targets.{name}: the action takes {_SPOT_TYPE}, not {target['resourceType']}"
        if bool(target.get("resourceArns")) == bool(target.get("resourceTags")):
            yield f"targets.{name}: either ARNs or tags"
        arns = target.get("resourceArns", [])
        if bad := [
            arn for arn in arns if not re.fullmatch(r"arn:aws:ec2:[a-z0-9-]+:\d{12}:instance/i-[0-9a-f]+", arn)
        ]:
            yield f"targets.{name}: {bad} are no instances"
