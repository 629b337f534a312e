"""One checked request of ``/v1/chat/completions`` or ``/v1/completions``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .dice import mixed
from .fields import Fields
from .prompt import read_messages, read_prompt
from .refusal import Refusal, invalid, refuse_value


@dataclass(frozen=True)
class Job:
    """One request, checked: what to continue, when to stop and how to tell it."""

    chat: bool
    prompt: list[int]
    max_tokens: int
    min_tokens: int
    ignore_eos: bool
    stop: tuple[str, ...]
    stop_ids: frozenset[int]
    keep_stop: bool
    skip_special: bool
    seed: int
    stream: bool
    usage: bool
    continuous_usage: bool
    token_ids: bool
    prompt_text: bool
    echo: bool
    role: str


_CANNOT = ("logprobs", "top_logprobs", "prompt_logprobs", "use_beam_search", "structured_outputs", "suffix")


def read_job(body: dict[str, Any], *, chat: bool, max_model_len: int, seed: int) -> Job:
    """Check a body of ``/v1/chat/completions`` or ``/v1/completions``; raises :class:`Refusal`."""
    fields = Fields(body)
    for name in _CANNOT:
        if fields.get(name) not in (None, False, 0):
            raise Refusal(400, f"the demo engine has no {name}; leave it out or use a real engine", param=name)
    if fields.table("response_format").get("type", "text") != "text":
        raise Refusal(400, "the demo engine writes plain text only", param="response_format")
    if fields.get("tools") and fields.get("tool_choice") != "none":
        message = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
        raise Refusal(400, message)
    count = fields.integer("n", 1)
    if count is not None and count < 1:
        raise Refusal(400, f"n must be at least 1, got {count}.")
    if count not in (None, 1):
        raise Refusal(400, f"n must be 1 when using greedy sampling, got {count}.")
    temperature = fields.number("temperature", 1.0)
    if temperature < 0:
        refuse_value("temperature", "must be non-negative", temperature)
    if temperature > 2:
        refuse_value("temperature", "must be in [0, 2]", temperature)
    options = fields.table("stream_options")
    stream = fields.flag("stream", False)
    if options and not stream:
        message = "Stream options can only be defined when `stream=True`. (parameter=stream_options)"
        raise Refusal(400, message, param="stream_options")
    prompt, role = read_messages(fields) if chat else (read_prompt(fields), "assistant")
    wanted = fields.integer("max_tokens", None if chat else 16)
    if chat:
        wanted = fields.integer("max_completion_tokens", wanted)
    keep = fields.integer("truncate_prompt_tokens", None)
    if keep is not None and keep > 0:
        prompt = prompt[-keep:]
    allowed = _max_tokens(wanted, len(prompt), max_model_len)
    least = fields.integer("min_tokens", 0) or 0
    if least > allowed:
        message = f"min_tokens must be less than or equal to max_tokens={allowed}, got {least}."
        raise Refusal(400, message)
    own_seed = fields.integer("seed", None)
    return Job(
        chat=chat,
        prompt=prompt,
        max_tokens=allowed,
        min_tokens=least,
        ignore_eos=fields.flag("ignore_eos", False),
        stop=_read_stop(fields.get("stop")),
        stop_ids=frozenset(fields.ids("stop_token_ids")),
        keep_stop=fields.flag("include_stop_str_in_output", False),
        skip_special=fields.flag("skip_special_tokens", True),
        seed=seed if own_seed is None or temperature == 0 else mixed(seed + own_seed + 1),
        stream=stream,
        usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("include_usage") and options.get("continuous_usage_stats")),
        token_ids=fields.flag("return_token_ids", False),
        prompt_text=chat and fields.flag("return_prompt_text", False),
        echo=not chat and fields.flag("echo", False),
        role=role,
    )


def _max_tokens(wanted: int | None, prompt_len: int, max_model_len: int) -> int:
    if prompt_len > max_model_len:
        raise Refusal(
            400,
            f"This model's maximum context length is {max_model_len} tokens. However, your prompt contains at "
            f"least {prompt_len} input tokens, which exceeds this limit even without any output tokens. Please "
            f"reduce the length of the input prompt. (parameter=input_tokens, value={prompt_len})",
            param="input_tokens",
        )
    if wanted is not None and wanted > max_model_len:
        raise Refusal(
            400,
            f"max_tokens={wanted} cannot be greater than max_model_len={max_model_len}. Please request fewer "
            f"output tokens. (parameter=max_tokens, value={wanted})",
            param="max_tokens",
        )
    allowed = max_model_len - prompt_len if wanted is None else min(wanted, max_model_len - prompt_len)
    if allowed < 1:
        refuse_value("max_tokens", "must be at least 1", allowed)
    return allowed


def _read_stop(value: object) -> tuple[str, ...]:
    stops = () if value is None else (value,) if isinstance(value, str) else value
    if not isinstance(stops, (tuple, list)) or not all(isinstance(item, str) for item in stops):
        raise invalid("stop", "string_type", "Input should be a valid string")
    if len(stops) > 4:
        raise invalid("stop", "too_long", "List should have at most 4 items after validation")
    if "" in stops:
        raise Refusal(400, "stop cannot contain an empty string.")
    return tuple(stops)
