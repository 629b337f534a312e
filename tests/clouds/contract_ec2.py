"""Is a request one that EC2 would take? Held against botocore's model of the API, and its signature recomputed.

Needs neither network nor account. What the model does not tell (rules between parameters) is not checked.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from botocore.loaders import Loader
from botocore.model import ServiceModel

_OPEN = {"InstanceType"}
"""Enumerations that are out of date by nature."""
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([a-z0-9-]+)/([a-z0-9]+)/aws4_request, "
    r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})"
)
_SIGNED_AT_LEAST = {"host", "x-amz-date"}
_CLOCK_S = 300.0


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came in."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def parameters(self) -> list[tuple[str, str]]:
        """The form's, in their order."""
        return parse_qsl(self.body.decode(), keep_blank_values=True)

    @property
    def access_key(self) -> str:
        """Who says that he sends it."""
        found = _AUTHORIZATION.fullmatch(self.headers.get("authorization", ""))
        return found[1] if found else ""


def check_parameters(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """What the model does not allow: unknown names, wrong nesting, indices, types, values; what it misses."""
    given = dict(pairs)
    problems = [f"{name}: given twice" for name in given if [key for key, _ in pairs].count(name) > 1]
    model = _model()
    if (version := given.pop("Version", None)) != model.api_version:
        problems.append(f"Version: {version!r} is not {model.api_version!r}")
    action = given.pop("Action", "")
    if action not in model.operation_names:
        return [*problems, f"Action: there is no {action!r}"]
    shape = model.operation_model(action).input_shape
    try:
        tree = _tree(given)
    except ValueError as error:
        return [*problems, str(error)]
    return [*problems, *_walk(tree, shape, action)]


def check_signature(request: Received, secret: str, service: str = "ec2") -> list[str]:
    """Whether the request is signed with this secret key, by SigV4, over what matters, at the right time."""
    if service == "ec2" and request.method != "POST":
        return [f"{request.method} in place of POST"]
    authorization = request.headers.get("authorization", "")
    found = _AUTHORIZATION.fullmatch(authorization)
    if found is None or found[4] != service:
        return [f"Authorization: {authorization[:40]!r} is not SigV4 for {service}"]
    _, day, region, _, names, signature = found.groups()
    signed = names.split(";")
    if missing := _SIGNED_AT_LEAST - set(signed):
        return [f"not signed: {', '.join(sorted(missing))}"]
    if "x-amz-security-token" in request.headers and "x-amz-security-token" not in signed:
        return ["not signed: x-amz-security-token"]
    moment = request.headers["x-amz-date"]
    at = datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    if abs((datetime.now(UTC) - at).total_seconds()) > _CLOCK_S or not moment.startswith(day):
        return [f"signed at {moment}"]
    payload = hashlib.sha256(request.body).hexdigest()
    url = urlsplit(request.target)
    canonical = "\n".join(
        [
            request.method,
            quote(url.path, safe="/~-_."),
            "&".join(
                f"{quote(key, safe='~-_.')}={quote(value, safe='~-_.')}"
                for key, value in sorted(parse_qsl(url.query, keep_blank_values=True))
            ),
            *(f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in signed),
            "",
            names,
            payload,
        ]
    )
    scope = f"{day}/{region}/{service}/aws4_request"
    told = "\n".join(["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    right = hmac.new(key, told.encode(), hashlib.sha256).hexdigest()
    return [] if hmac.compare_digest(right, signature) else ["Signature: not of this request"]


@cache
def _model() -> ServiceModel:
    return ServiceModel(Loader().load_service_model("ec2", "service-2"), "ec2")


def _tree(flat: Mapping[str, str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        node = tree
        *path, last = name.split(".")
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ValueError(f"{name}: {part} is a value already")
        if last in node:
            raise ValueError(f"{name}: is a structure already")
        node[last] = value
    return tree


def _walk(given: Any, shape: Any, path: str) -> Iterator[str]:
    if shape is None:
        yield from (f"{path}.{name}: takes no parameters" for name in given)
    elif shape.type_name == "structure":
        if not isinstance(given, dict):
            yield f"{path}: a value in place of a structure"
            return
        members = {_wire_name(name, member): member for name, member in shape.members.items()}
        for name, value in given.items():
            if name in members:
                yield from _walk(value, members[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}: unknown parameter"
        for name in shape.required_members:
            if _wire_name(name, shape.members[name]) not in given:
                yield f"{path}.{name}: required, missing"
    elif shape.type_name == "list":
        if not isinstance(given, dict) or sorted(given) != sorted(str(n) for n in range(1, len(given) + 1)):
            yield f"{path}: a list is numbered .1, .2 and so on"
            return
        for index, value in given.items():
            yield from _walk(value, shape.member, f"{path}.{index}")
    elif isinstance(given, dict):
        yield f"{path}: a structure in place of a value"
    else:
        yield from _scalar(given, shape, path)


def _scalar(value: str, shape: Any, path: str) -> Iterator[str]:
    kind = shape.type_name
    if kind == "boolean" and value not in ("true", "false"):
        yield f"{path}: {value!r} is neither true nor false"
    if kind in ("integer", "long"):
        if not re.fullmatch(r"-?\d+", value):
            yield f"{path}: {value!r} is not a whole number"
            return
        low, high = shape.metadata.get("min"), shape.metadata.get("max")
        if (low is not None and int(value) < low) or (high is not None and int(value) > high):
            yield f"{path}: {value} is not within {low} and {high}"
    if kind in ("double", "float") and not re.fullmatch(r"-?\d+(\.\d+)?", value):
        yield f"{path}: {value!r} is not a number"
    if kind == "timestamp" and not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", value):
        yield f"{path}: {value!r} is not a time"
    if kind == "blob" or path.endswith(".UserData"):
        try:
            base64.b64decode(value, validate=True)
        except binascii.Error:
            yield f"{path}: not base64"
    if kind == "string":
        enum = getattr(shape, "enum", None)
        if enum and shape.name not in _OPEN and value not in enum:
            yield f"{path}: {value!r} is none of {', '.join(enum)}"
        pattern = shape.metadata.get("pattern")
        if pattern and not re.search(pattern, value):
            yield f"{path}: {value!r} does not fit {pattern}"
        low, high = shape.metadata.get("min", 0), shape.metadata.get("max")
        if len(value) < low or (high is not None and len(value) > high):
            yield f"{path}: {len(value)} characters are not within {low} and {high}"


def _wire_name(name: str, shape: Any) -> str:
    # How botocore's own serializer names a member in EC2's dialect of the query protocol.
    told = shape.serialization
    if "queryName" in told:
        return str(told["queryName"])
    own = str(told.get("name", name))
    return own[:1].upper() + own[1:]
