"""A client's request, understood as far as a balancer must: model, stream, who asks, how urgent it is."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hedgeserve.proxy.failover import Approach
from hedgeserve.proxy.replies import Code, Refused
from hedgeserve.proxy.routes import Forwarded
from hedgeserve.proxy.routing import Wants
from hedgeserve.units import format_bytes, format_duration

_SHOWN = 100
_decode = json.JSONDecoder().raw_decode


class Understood:
    """What a body asks for, as far as a balancer must know."""

    __slots__ = ("choices", "fields", "stream")

    def __init__(self, fields: Mapping[str, Any], stream: bool, choices: int) -> None:
        self.fields = fields
        self.stream = stream
        self.choices = choices


class Ask:
    """A request for a replica, as far as it is understood.

    ``lines`` are the headers that go along, ``key`` names the client (no secret), ``patient`` is true where an
    answer comes in one piece when all of it is there, so that silence says nothing. ``source`` is its body as it
    came: read again only where an answer must be continued, for what was read of it takes ten times the memory.
    """

    __slots__ = (
        "approach", "choices", "deadline_s", "expects", "key", "lines", "patient", "priority", "raw_path",
        "request_id", "route", "source", "stream", "wants",
    )  # fmt: skip

    def __init__(
        self,
        route: Forwarded,
        raw_path: bytes,
        lines: bytes,
        request_id: str,
        source: bytes,
        stream: bool,
        choices: int,
        approach: Approach,
        wants: Wants,
        patient: bool,
        expects: int | None = None,
        key: str = "",
        priority: int = 1,
        deadline_s: float | None = None,
    ) -> None:
        self.route = route
        self.raw_path = raw_path
        self.lines = lines
        self.request_id = request_id
        self.source = source
        self.stream = stream
        self.choices = choices
        self.approach = approach
        self.wants = wants
        self.patient = patient
        self.expects = expects
        self.key = key
        self.priority = priority
        self.deadline_s = deadline_s


def understand(body: bytes, names: Sequence[str]) -> Understood:
    """What these bytes ask for; ``names`` are the names under which the model may be asked for.

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
    return Understood(fields, bool(stream), _choices(fields))


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
        text = body.decode()
        fields, end = _decode(text) if text[:1] == "{" else (None, -1)
        if end != len(text):  # something stands around it: white space, or a mistake to be told
            fields = json.loads(text)
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


def too_large(limit: int) -> Refused:
    """The answer to a body that is larger than this."""
    return Refused(
        Code.BODY_TOO_LARGE,
        f"The request body is larger than {format_bytes(limit)}, the most that is taken here.",
        close=True,
    )


def too_slow(stall_s: float, whole_s: float | None = None) -> Refused:
    """The answer to a body that stopped coming for this long, or was not whole after so much time in all."""
    if whole_s is not None:
        why = f"was not whole after {format_duration(whole_s)}"
    else:
        why = f"stopped coming for {format_duration(stall_s)}"
    return Refused(Code.REQUEST_TIMEOUT, f"The request body {why}; send it again.", close=True)
