"""A client's request, read within its bounds and understood as far as a balancer must: model, stream, choices."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hedgeserve.proxy.replies import Code, Refused
from hedgeserve.proxy.routes import Forwarded
from hedgeserve.units import format_bytes, format_duration

_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for a replica, as far as it is understood; ``body`` is passed on byte for byte."""

    route: Forwarded
    path: str
    headers: Mapping[str, str]
    body: bytes
    request_id: str
    stream: bool
    choices: int


class Readable(Protocol):
    """Where a body comes from."""

    async def readany(self) -> bytes:
        """The next bytes; empty at the end."""


async def read_body(content: Readable, *, declared: int | None, limit: int, stall_s: float) -> bytes:
    """The whole body, at most ``limit`` bytes of it, no pause longer than ``stall_s``.

    Raises:
        Refused: It is larger (said before it is read where its length is declared), or did not come.
    """
    if declared is not None and declared > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    try:
        while True:
            async with asyncio.timeout(stall_s):
                chunk = await content.readany()
            if not chunk:
                return b"".join(chunks)
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            chunks.append(chunk)
    except TimeoutError:
        raise Refused(
            Code.REQUEST_TIMEOUT,
            f"The request body stopped coming for {format_duration(stall_s)}; send it again.",
            close=True,
        ) from None


def understand(
    route: Forwarded, path: str, headers: Mapping[str, str], body: bytes, request_id: str, names: Sequence[str]
) -> Ask:
    """The request that these bytes are; ``names`` are the names under which the model may be asked for.

    Raises:
        Refused: Not a JSON object, a value of the wrong type, or another model.
    """
    fields = _object(body)
    stream = fields.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise _wrong_type("stream", "true or false", stream)
    model = fields.get("model")
    if model is not None:
        if not isinstance(model, str):
            raise _wrong_type("model", "a string", model)
        require_model(model, names)
    return Ask(route, path, headers, body, request_id, bool(stream), _choices(fields))


def require_model(model: str, names: Sequence[str]) -> None:
    """Raises ``Refused`` for a model that is not served here, with what is."""
    if model not in names:
        served = ", ".join(f'"{name}"' for name in names)
        raise Refused(
            Code.MODEL_NOT_FOUND,
            f'The model "{model[:_SHOWN]}" is not served here; ask for {served}.',
            param="model",
        )


def _object(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except json.JSONDecodeError as error:
        what = "is empty" if not body.strip() else f"is not valid JSON: {error}"
        raise Refused(Code.INVALID_JSON, f"The request body {what}; send a JSON object.") from None
    except UnicodeDecodeError as error:
        raise Refused(
            Code.INVALID_JSON, f"The request body is not UTF-8 (byte {error.start}); send a JSON object."
        ) from None
    except (ValueError, RecursionError):
        raise Refused(
            Code.INVALID_JSON, "The request body is JSON that nests too deep or holds a number too long to read."
        ) from None
    if not isinstance(fields, dict):
        raise Refused(
            Code.INVALID_JSON, f"The request body is {_json_type(fields)}; send a JSON object, such as {{...}}."
        )
    return fields


def _choices(fields: Mapping[str, Any]) -> int:
    """How many choices the answer will have: ``n`` for each prompt. One where that cannot be told."""
    n = fields.get("n")
    count = n if isinstance(n, int) and not isinstance(n, bool) and n > 0 else 1
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        count *= len(prompt)
    return count


def _wrong_type(key: str, wanted: str, value: object) -> Refused:
    return Refused(Code.INVALID_VALUE, f'"{key}" must be {wanted}, not {_json_type(value)}.', param=key)


def _json_type(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


def _too_large(limit: int) -> Refused:
    return Refused(
        Code.BODY_TOO_LARGE,
        f"The request body is larger than {format_bytes(limit)}, the most that is taken here.",
        close=True,
    )
