"""How a request is asked for so that its answer can survive its replica: classified from its fields. Pure.

Measured against vLLM 0.32 (1,756 cuts): continuing by token ids is exact where the next token depends on the ids
so far and on nothing else. Penalties that count output tokens, grammars, seeds and parsers have a state beside
the ids, which a continuation would begin anew: such an answer can only be repeated from its start, and only where
it comes out the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from hedgeserve.proxy.collect import as_stream
from hedgeserve.proxy.routes import Forwarded

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
_COMPLETION_TOKENS = 16
"""What vLLM's ``/v1/completions`` generates where ``max_tokens`` is not said, or null."""
_LARGEST_COLLECTED_BYTES = 2**20
"""A body that is asked of the replica as a stream is written anew, and other streams must not wait for that."""
_GREEDY_BELOW = 1e-5
"""Temperatures below this are none to vLLM."""


@dataclass(frozen=True, slots=True)
class FailoverPolicy:
    """What may be done so that answers survive; ``token_ids`` says whether the engine can be asked for ids."""

    enabled: bool = True
    token_ids: bool = True
    seed: bool = True
    collect_above: int = 256
    max_kept_per_stream: int = 4 * 2**20


class Way(StrEnum):
    """How an answer that was cut goes on."""

    CONTINUE = "continue"  # from its token ids, by another replica
    REPLAY = "replay"  # repeated from its start, what was told is swallowed
    NONE = "none"  # not at all, once it has begun


class Approach:
    """How one request is asked for, and what can be done should its replica fail.

    A class and no tuple or dataclass: one is made for each request, and compiled it takes a tenth of the time.
    """

    __slots__ = (
        "asks_ids", "body", "collect", "expects_tokens", "greedy", "prompt_tokens_estimate", "repeatable", "way",
        "why",
    )  # fmt: skip

    def __init__(
        self,
        way: Way,
        why: str,
        body: bytes,
        collect: bool = False,
        expects_tokens: int | None = None,
        prompt_tokens_estimate: int = 1,
        asks_ids: bool = False,
        repeatable: bool = False,
        greedy: bool = False,
    ) -> None:
        self.way = way
        self.why = why
        """Why no better way: a sentence for logs."""
        self.body = body
        """What the first attempt sends: the client's own bytes wherever that is possible."""
        self.collect = collect
        """The client wants one piece, the replica is asked for a stream."""
        self.expects_tokens = expects_tokens
        """The most tokens that the answer may have; None: until the context is full."""
        self.prompt_tokens_estimate = prompt_tokens_estimate
        self.asks_ids = asks_ids
        """Token ids were asked for by us: they are kept from the client."""
        self.repeatable = repeatable
        """Asked again from the start, the answer is the same."""
        self.greedy = greedy
        """The same ids are followed by the same ids: nothing is drawn by chance."""


_NONE: Final = Way.NONE  # found once: a member of an enum is looked for anew each time that it is named


def approach(
    route: Forwarded, fields: Mapping[str, Any], body: bytes, policy: FailoverPolicy, *, dice: Callable[[], float]
) -> Approach:
    """How to ask for this request; ``dice`` gives numbers from 0 up to 1, for a seed where one is needed."""
    estimate = len(body) // 4 + 1
    path = route.path
    if path != CHAT and path != COMPLETIONS:
        expects = _tokens(fields, "max_output_tokens", "max_tokens") if route.generates else 0
        return Approach(_NONE, "only completions and chats can go on elsewhere", body, False, expects, estimate)
    chat = path == CHAT
    expects = _most_tokens(fields, chat=chat)
    if not policy.enabled:
        return Approach(_NONE, "failover is switched off", body, False, expects, estimate)
    streams = fields.get("stream") is True
    if not streams and expects is not None and expects <= policy.collect_above:
        return Approach(_NONE, "a short answer in one piece is asked for anew", body, False, expects, estimate)
    if not streams and (feature := _uncollectable(fields, chat=chat)):
        why = f"an answer in one piece with {feature} is asked for anew"
        return Approach(_NONE, why, body, False, expects, estimate)

    feature = _stateful(fields, chat=chat)
    temperature = fields.get("temperature")
    greedy = isinstance(temperature, int | float) and temperature < _GREEDY_BELOW
    seeded = fields.get("seed") is not None
    if not feature and not greedy:
        feature = _sampling_state(fields, seeded=seeded, may_seed=policy.seed and policy.token_ids)
    repeatable = greedy or seeded
    extra: dict[str, Any] = {}
    if not feature and policy.token_ids:
        way, why = Way.CONTINUE, ""
        if fields.get("return_token_ids") is not True:
            extra["return_token_ids"] = True
    else:
        why = f"{feature} cannot be continued by token ids" if feature else "the engine gives no token ids"
        way = Way.REPLAY
        if not repeatable:
            if policy.seed and policy.token_ids:
                extra["seed"] = int(dice() * 2**31)
                repeatable = True
            else:
                way, why = _NONE, why + ", and sampling without a seed does not repeat itself"
    collect = not streams and way is not _NONE and len(body) <= _LARGEST_COLLECTED_BYTES
    if not streams and not collect:
        return Approach(
            _NONE, why or "an answer to a large body is asked for anew", body, False, expects, estimate
        )
    if collect and way is Way.REPLAY and fields.get("return_token_ids") is True:
        # Their ids are not kept.
        return Approach(_NONE, why, body, False, expects, estimate)
    if collect:
        body = as_stream(fields, extra)
    elif extra:
        spliced = _splice(body, extra)
        if spliced is None:  # no UTF-8 or nothing to add to: left as it is
            return Approach(_NONE, "the request is not plain UTF-8 JSON", body, False, expects, estimate)
        body = spliced
    asks_ids = "return_token_ids" in extra
    return Approach(way, why, body, collect, expects, estimate, asks_ids, repeatable, greedy)


def _most_tokens(fields: Mapping[str, Any], *, chat: bool) -> int | None:
    if chat:
        return _tokens(fields, "max_completion_tokens", "max_tokens")
    most = _tokens(fields, "max_tokens")
    return _COMPLETION_TOKENS if most is None else most


def _tokens(fields: Mapping[str, Any], *keys: str) -> int | None:
    for key in keys:
        most = fields.get(key)
        if isinstance(most, int) and not isinstance(most, bool):
            return most
    return None


def _splice(body: bytes, extra: Mapping[str, Any]) -> bytes | None:
    """The client's bytes with these keys added at the end, where they win over earlier ones."""
    end = body.rfind(b"}")
    if end < 0 or b"\0" in body[:4] or b":" not in body:  # json.loads would take UTF-16 too
        return None
    added = b"".join(
        b',"%b":%b' % (key.encode(), b"true" if value is True else b"%d" % value) for key, value in extra.items()
    )
    return body[:end] + added + body[end:]


def _given(value: Any) -> bool:
    return value is not None


def _above_one(value: Any) -> bool:
    return isinstance(value, int) and value > 1


def _formatted(value: Any) -> bool:
    return bool(value) and not (isinstance(value, dict) and value.get("type") == "text")


def _thinks(value: Any) -> bool:
    return isinstance(value, dict) and any(bool(value.get(key)) for key in ("enable_thinking", "thinking"))


# Each key under which a request may ask for something with a state beside the ids, and when it does.
_STATEFUL: dict[str, Callable[[Any], bool]] = {
    "n": _above_one,
    "best_of": _above_one,
    "presence_penalty": bool,
    "frequency_penalty": bool,
    "bad_words": bool,  # one of several tokens may have begun before the cut, and vLLM looks at new tokens only
    "repetition_detection": _given,
    "thinking_token_budget": _given,
    "vllm_xargs": bool,  # for processors of somebody's own, which may count what they like
    "kv_transfer_params": bool,
    "ec_transfer_params": bool,
    "response_format": _formatted,
    "structured_outputs": _given,
    "structural_tag": _given,
    "guided_json": _given,
    "guided_regex": _given,
    "guided_choice": _given,
    "guided_grammar": _given,
    "guided_whitespace_pattern": _given,
    "functions": bool,
    "reasoning_effort": _given,
    "reasoning": _given,
    "include_reasoning": lambda value: value is False,
    "chat_template_kwargs": _thinks,
    "echo": bool,
    "prompt_logprobs": _given,
    "prompt_embeds": _given,
    "use_beam_search": bool,
    "suffix": bool,
    "logits_processors": bool,
    "modalities": bool,
    "audio": bool,
}
# What the pieces of a stream tell otherwise than an answer in one piece, or not at all.
_UNCOLLECTABLE: dict[str, Callable[[Any], bool]] = {
    **{
        key: _STATEFUL[key]
        for key in (
            "echo",
            "prompt_logprobs",
            "use_beam_search",
            "reasoning_effort",
            "reasoning",
            "include_reasoning",
            "chat_template_kwargs",
            "thinking_token_budget",
            "functions",
            "modalities",
            "audio",
            "suffix",
            "best_of",
            "prompt_embeds",
        )
    },
    "stream_options": _given,
    "return_prompt_text": bool,
}


def _stateful(fields: Mapping[str, Any], *, chat: bool) -> str:
    """The feature because of which the ids so far do not tell all; empty where they do."""
    for key in fields:
        if key in _STATEFUL and _STATEFUL[key](fields[key]):
            return f'"{key}"'
    if _logprobs(fields, chat=chat):
        return '"logprobs"'
    if chat:
        return _chat_feature(fields)
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        return "a list of prompts"
    return "" if prompt else "a request without a prompt"


def _chat_feature(fields: Mapping[str, Any]) -> str:
    if fields.get("tools") and fields.get("tool_choice") != "none":
        return '"tools"'
    messages = fields.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list) and not all(
            isinstance(part, dict) and part.get("type") in ("text", "refusal") for part in content
        ):
            return "content that is not text"
    return ""


def _sampling_state(fields: Mapping[str, Any], *, seeded: bool, may_seed: bool) -> str:
    if seeded:
        return '"seed"'  # the generator's state is not in the ids
    if may_seed and fields.get("return_token_ids") is True:
        return '"return_token_ids" with sampling'  # ids of half a character were told, and would be drawn anew
    return ""


def _uncollectable(fields: Mapping[str, Any], *, chat: bool) -> str:
    for key in fields:
        if key in _UNCOLLECTABLE and _UNCOLLECTABLE[key](fields[key]):
            return f'"{key}"'
    if _logprobs(fields, chat=chat):
        return '"logprobs"'
    if chat and fields.get("tools") and fields.get("tool_choice") != "none":
        return '"tools"'
    return ""


def _logprobs(fields: Mapping[str, Any], *, chat: bool) -> bool:
    value = fields.get("logprobs")
    return bool(value) if chat else value is not None and value is not False
