"""One checked request of ``/v1/chat/completions`` or ``/v1/completions``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from .dice import mixed
from .fields import Fields
from .logprobs import read_logprobs
from .prompt import read_messages, read_prompts
from .refusal import Refusal, invalid, refuse_value
from .sampling import Penalties, Repetition, read_penalties, read_repetition
from .structure import Structure, read_structure
from .tools import NO_TOOLS, Tools, read_tools

_MOST_CHOICES = 16384


@dataclass(frozen=True)
class Share:
    """One of the choices of an answer: what it continues, how far, and with which dice."""

    index: int
    prompt: list[int]
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Job:
    """One request, checked: what to continue, when to stop and how to tell it."""

    chat: bool
    shares: tuple[Share, ...]
    prompt_tokens: int
    min_tokens: int
    ignore_eos: bool
    stop: tuple[str, ...]
    stop_ids: frozenset[int]
    keep_stop: bool
    skip_special: bool
    seeded: bool
    penalties: Penalties
    repetition: Repetition | None
    structure: Structure | None
    tools: Tools
    thinks: bool
    reasoning: bool
    include_reasoning: bool
    parser: bool
    parses_calls: bool
    logprobs: int | None
    stream: bool
    usage: bool
    continuous_usage: bool
    token_ids: bool
    prompt_text: bool
    echo: bool
    role: str

    @property
    def prompt(self) -> list[int]:
        """The ids that the first choice continues; a chat has no others."""
        return self.shares[0].prompt


@dataclass(frozen=True)
class Abilities:
    """What the server can do beyond plain answers, and how it takes chance."""

    tools: bool = False
    reasoning: bool = False
    sample: bool = False


_CANNOT = ("prompt_logprobs", "use_beam_search", "suffix")


def read_job(
    body: dict[str, Any], *, chat: bool, max_model_len: int, seed: int, abilities: Abilities = Abilities()
) -> Job:
    """Check a body of ``/v1/chat/completions`` or ``/v1/completions``; raises :class:`Refusal`."""
    fields = Fields(body)
    for name in _CANNOT:
        if fields.get(name) not in (None, False, 0):
            raise Refusal(400, f"the demo engine has no {name}; leave it out or use a real engine", param=name)
    structure = read_structure(fields)
    tools = read_tools(fields, enabled=abilities.tools) if chat else NO_TOOLS
    logprobs = read_logprobs(fields, chat=chat)
    echo = not chat and fields.flag("echo", False)
    if echo and logprobs is not None:
        raise Refusal(
            400, "the demo engine has no logprobs of a prompt; leave out echo or logprobs", param="logprobs"
        )
    temperature = fields.number("temperature", 1.0)
    if temperature < 0:
        refuse_value("temperature", "must be non-negative", temperature)
    if temperature > 2:
        refuse_value("temperature", "must be in [0, 2]", temperature)
    samples = temperature >= 1e-5
    count = _count(fields.integer("n", 1), samples=samples)
    options = fields.table("stream_options")
    stream = fields.flag("stream", False)
    if options and not stream:
        message = "Stream options can only be defined when `stream=True`. (parameter=stream_options)"
        raise Refusal(400, message, param="stream_options")
    prompts, role = read_messages(fields, tools) if chat else (read_prompts(fields), "assistant")
    keep = fields.integer("truncate_prompt_tokens", None)
    if keep is not None and keep > 0:
        prompts = [prompt[-keep:] for prompt in prompts]
    own_seed = fields.integer("seed", None)
    seeded = samples and own_seed not in (None, -1)
    if seeded:
        seed = mixed(seed + (own_seed or 0) + 1)
    elif samples and abilities.sample:
        seed = int.from_bytes(os.urandom(8), "big")
    wanted, least = _wanted(fields, chat=chat), fields.integer("min_tokens", 0) or 0
    shares: list[Share] = []
    for prompt in prompts:
        allowed = _max_tokens(wanted, len(prompt), max_model_len)
        if least > allowed:
            message = f"min_tokens must be less than or equal to max_tokens={allowed}, got {least}."
            raise Refusal(400, message)
        for place in range(count):
            shares.append(Share(len(shares), prompt, allowed, mixed(seed + place) if place else seed))
    return Job(
        chat=chat,
        shares=tuple(shares),
        prompt_tokens=sum(map(len, prompts)),
        min_tokens=least,
        ignore_eos=fields.flag("ignore_eos", False),
        stop=_read_stop(fields.get("stop")),
        stop_ids=frozenset(fields.ids("stop_token_ids")),
        keep_stop=fields.flag("include_stop_str_in_output", False),
        skip_special=fields.flag("skip_special_tokens", True),
        seeded=seeded,
        penalties=read_penalties(fields),
        repetition=read_repetition(fields),
        structure=None if tools.forced else structure,
        tools=tools,
        thinks=abilities.reasoning,
        reasoning=abilities.reasoning and chat,
        include_reasoning=fields.flag("include_reasoning", True),
        parser=chat and (abilities.tools or abilities.reasoning),
        parses_calls=chat and abilities.tools and fields.get("tool_choice") != "none",
        logprobs=logprobs,
        stream=stream,
        usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("include_usage") and options.get("continuous_usage_stats")),
        token_ids=fields.flag("return_token_ids", False),
        prompt_text=chat and fields.flag("return_prompt_text", False),
        echo=echo,
        role=role,
    )


def _count(count: int | None, *, samples: bool) -> int:
    """How many choices each prompt is to have."""
    if count is None:
        return 1
    if count < 1:
        raise Refusal(400, f"n must be at least 1, got {count}.")
    if count > 1 and not samples:
        raise Refusal(400, f"n must be 1 when using greedy sampling, got {count}.")
    if count > _MOST_CHOICES:
        message = f"n must be at most {_MOST_CHOICES}, got {count}. To increase this limit, set the "
        raise Refusal(400, message + "VLLM_MAX_N_SEQUENCES environment variable.")
    return count


def _wanted(fields: Fields, *, chat: bool) -> int | None:
    """The limit of tokens that was asked for; an explicit null is the default, as if it were missing."""
    wanted = fields.integer("max_tokens", None)
    if chat:
        return fields.integer("max_completion_tokens", wanted)
    return 16 if wanted is None else wanted


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
