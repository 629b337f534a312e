"""Holds requests against Google's own description of Compute Engine: the discovery document of compute v1."""

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

Json = dict[str, Any]

_OUTPUT_ONLY = re.compile(r"\s*(\[Output Only\]|Output only\.)")


@dataclass(frozen=True, slots=True)
class Method:
    """One method of the API, as ``compute.instances.insert``."""

    id: str
    verb: str
    path: re.Pattern[str]
    about: Json


@cache
def document() -> Json:
    """The discovery document that google-api-python-client brings along."""
    place = files("googleapiclient") / "discovery_cache" / "documents" / "compute.v1.json"
    found: Json = json.loads(place.read_text("utf-8"))
    return found


@cache
def methods() -> tuple[Method, ...]:
    """All methods, those with the fewest placeholders first: ``images/family/x`` is no image called family."""
    found = [Method(one["id"], one["httpMethod"], _pattern(one["path"]), one) for one in _walk(document())]
    return tuple(sorted(found, key=lambda method: method.about["path"].count("{")))


def method_of(verb: str, path: str) -> Method | None:
    """The method of a request whose path starts at ``/compute/v1/``."""
    rest = path.partition("/compute/v1/")[2]
    return next((one for one in methods() if one.verb == verb and one.path.fullmatch(rest)), None)


def violations(verb: str, path: str, query: Mapping[str, str], body: object) -> list[str]:
    """Everything about a request that the description does not allow, each as a sentence; empty: all is well."""
    method = method_of(verb, path)
    if method is None:
        return [f"compute v1 has no method {verb} {path}"]
    problems = [f"{method.id}: {problem}" for problem in _query(method, query)]
    wanted = method.about.get("request")
    if wanted is None:
        if body:
            problems.append(f"{method.id}: takes no body")
    elif not isinstance(body, dict):
        problems.append(f"{method.id}: has no body")
    else:
        problems += [f"{method.id}: {problem}" for problem in _value(wanted, body, "body", method.id)]
    return problems


def _query(method: Method, query: Mapping[str, str]) -> Iterator[str]:
    known = {**document()["parameters"], **method.about.get("parameters", {})}
    for name, value in query.items():
        about = known.get(name)
        if about is None or about["location"] != "query":
            yield f"has no query parameter {name}"
        elif about["type"] == "integer":
            low, high = int(about.get("minimum", 0)), int(about.get("maximum", 2**31))
            if not re.fullmatch(r"\d+", value) or not low <= int(value) <= min(high, 500):
                yield f"{name}={value} is no number from {low} to 500"
        elif about["type"] == "boolean" and value not in ("true", "false"):
            yield f"{name}={value} is neither true nor false"
        elif name == "requestId" and not _is_uuid(value):
            yield f"requestId {value} is no UUID"
        elif name == "fields":
            yield from _mask(value, method.about.get("response", {}))
    for name, about in method.about.get("parameters", {}).items():
        if about["location"] == "query" and about.get("required") and name not in query:
            yield f"lacks {name}"


def _value(schema: Json, value: object, place: str, method: str) -> Iterator[str]:
    if schema.get("readOnly") or _OUTPUT_ONLY.match(schema.get("description", "")):
        yield f"{place} is output only"
        return
    if "$ref" in schema:
        schema = document()["schemas"][schema["$ref"]]
    kind = schema.get("type")
    if kind == "object":
        yield from _object(schema, value, place, method)
    elif kind == "array":
        if not isinstance(value, list):
            yield f"{place} is no list"
            return
        for index, one in enumerate(value):
            yield from _value(schema["items"], one, f"{place}[{index}]", method)
    elif kind == "string":
        yield from _string(schema, value, place)
    elif kind == "boolean" and not isinstance(value, bool):
        yield f"{place} = {value!r} is neither true nor false"
    elif kind == "integer" and (not isinstance(value, int) or isinstance(value, bool)):
        yield f"{place} = {value!r} is no integer"
    elif kind == "number" and (not isinstance(value, int | float) or isinstance(value, bool)):
        yield f"{place} = {value!r} is no number"


def _object(schema: Json, value: object, place: str, method: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{place} is no object"
        return
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name, one in value.items():
        about = known.get(name, others)
        if about is None:
            yield f"{place}.{name} does not exist"
        else:
            yield from _value(about, one, f"{place}.{name}", method)
    for name, about in known.items():
        if method in about.get("annotations", {}).get("required", ()) and name not in value:
            yield f"{place}.{name} is required"


def _string(schema: Json, value: object, place: str) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"{place} = {value!r} is no string"
        return
    if schema.get("format") in ("int64", "uint64") and not re.fullmatch(r"-?\d{1,20}", value):
        yield f"{place} = {value!r} is no number in a string"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{place} = {value!r} is none of {', '.join(schema['enum'])}"
    if "pattern" in schema and not re.fullmatch(schema["pattern"], value):
        yield f"{place} = {value!r} does not match {schema['pattern']}"


def mask_tree(mask: str) -> Json:
    """A mask for partial answers, ``a/b,c(d,e)``, as a tree of names; raises ValueError where it is none."""
    tree: Json = {}
    rest = _branch(mask, tree)
    if rest:
        raise ValueError(f"{rest!r} is too much")
    return tree


def _branch(mask: str, tree: Json) -> str:
    while True:
        found = re.match(r"[\w*]+", mask)
        if not found:
            raise ValueError(f"no name at {mask!r}")
        node = tree.setdefault(found[0], {})
        mask = mask[found.end() :]
        while mask.startswith("/"):
            found = re.match(r"/([\w*]+)", mask)
            if not found:
                raise ValueError(f"no name at {mask!r}")
            node = node.setdefault(found[1], {})
            mask = mask[found.end() :]
        if mask.startswith("("):
            mask = _branch(mask[1:], node)
            if not mask.startswith(")"):
                raise ValueError("a bracket is not closed")
            mask = mask[1:]
        if not mask.startswith(","):
            return mask
        mask = mask[1:]


def _mask(mask: str, response: Json) -> Iterator[str]:
    try:
        tree = mask_tree(mask)
    except ValueError as error:
        yield f"fields={mask}: {error}"
        return
    yield from _known(tree, response, "fields")


def _known(tree: Json, schema: Json, place: str) -> Iterator[str]:
    if "$ref" in schema:
        schema = document()["schemas"][schema["$ref"]]
    if schema.get("type") == "array":
        schema = schema["items"]
        schema = document()["schemas"][schema["$ref"]] if "$ref" in schema else schema
    for name, below in tree.items():
        others = schema.get("additionalProperties")
        about = others if name == "*" else schema.get("properties", {}).get(name, others)
        if about is None:
            yield f"{place}/{name} does not exist"
        elif below:
            yield from _known(below, about, f"{place}/{name}")


def _walk(resource: Json) -> Iterator[Json]:
    yield from resource.get("methods", {}).values()
    for below in resource.get("resources", {}).values():
        yield from _walk(below)


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{\+?\w+\}", "[^/]+", path))


def _is_uuid(text: str) -> bool:
    try:
        return uuid.UUID(text).int != 0
    except ValueError:
        return False
