"""What is asked of a real vLLM and of the demo engine, and the shape in which their answers are held together."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


def chat(**fields: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": "Ring the bell"}],
        "temperature": 0,
        "max_tokens": 6,
        **fields,
    }


def completion(prompt: object = "Ring the bell", **fields: Any) -> dict[str, Any]:
    return {"prompt": prompt, "temperature": 0, "max_tokens": 6, **fields}


TOOL = {
    "type": "function",
    "function": {
        "name": "ring",
        "description": "x",
        "parameters": {
            "type": "object",
            "properties": {"bell": {"type": "string", "enum": ["big"]}},
            "required": ["bell"],
            "additionalProperties": False,
        },
    },
}
NAMED = {"type": "function", "function": {"name": "ring"}}
SCHEMA = {
    "type": "object",
    "properties": {"bell": {"type": "string", "enum": ["big"]}},
    "required": ["bell"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "bell", "schema": SCHEMA}}
CIRCLES = {"max_pattern_size": 2, "min_pattern_size": 1, "min_count": 2}
SAME_VALUES = {"object", "index", "role", "finish_reason", "type", "code", "param", "model", "parent", "error"}
SAME_VALUES |= {"detail", "logprobs", "max_model_len", "server_load", "token_strs", "id of a model"}


def shape(value: Any, key: str = "") -> Any:
    """A value with all that may differ between two models replaced by its type.

    Lists of ids and of texts become one word, since their length is the tokenizer's business.
    """
    if key == "bytes" or (key == "top_logprobs" and value and "token" not in value[0]):
        return key
    if key == "delta" and value in ({}, {"content": value.get("content", "")}):
        # Which tokens have no text yet is the tokenizer's business, too.
        return "delta of content"
    if isinstance(value, Mapping):
        return {name: shape(item, name) for name, item in value.items()}
    if isinstance(value, list):
        simple = bool(value) and isinstance(value[0], int | str)
        return f"list of {type(value[0]).__name__}" if simple else [shape(item) for item in value]
    return value if key in SAME_VALUES else type(value).__name__


def flat(value: Any, path: str = "") -> Iterator[str]:
    """The keys of a value in the order in which they are written."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield f"{path}.{name}"
            if isinstance(shape(item, name), str):
                continue
            yield from flat(item, f"{path}.{name}")
    elif isinstance(value, list) and value and isinstance(value[0], Mapping | list):
        for item in value:
            yield from flat(item, f"{path}[]")


def kinds(events: list[Any]) -> set[str]:
    """The different shapes of a stream's chunks, keys in their order."""
    return {json.dumps([shape(event), list(flat(event))]) for event in events}


REQUESTS = {
    "chat": (CHAT, chat()),
    "chat with ids and prompt": (CHAT, chat(return_token_ids=True, return_prompt_text=True)),
    "chat in a row of parts": (
        CHAT,
        chat(messages=[{"role": "user", "content": [{"type": "text", "text": "Ring"}]}]),
    ),
    "completion": (TEXT, completion()),
    "completion with ids": (TEXT, completion(return_token_ids=True)),
    "completion of ids": (TEXT, completion([10, 11, 12], return_token_ids=True)),
    "completion with echo": (TEXT, completion(echo=True)),
    "completion by its alias": (TEXT, completion(model="small")),
    "tokens": ("/tokenize", {"prompt": "Ring"}),
    "tokens of a chat": ("/tokenize", {"messages": chat()["messages"]}),
    "text of tokens": ("/detokenize", {"tokens": [10, 11]}),
    "unknown model": (CHAT, chat(model="nope")),
    "no messages": (CHAT, {}),
    "empty messages": (CHAT, chat(messages=[])),
    "no prompt": (TEXT, {}),
    "empty list": (TEXT, completion([])),
    "no tokens": (TEXT, completion(max_tokens=0)),
    "more than the context": (TEXT, completion(max_tokens=5000)),
    "a prompt too long": (TEXT, completion([10] * 1025)),
    "a prompt as long as the context": (TEXT, completion([10] * 1024)),
    "an unknown token": (TEXT, completion([99999])),
    "too cold": (TEXT, completion(temperature=-1)),
    "too hot": (TEXT, completion(temperature=3)),
    "two choices": (TEXT, completion(n=2)),
    "no choices": (TEXT, completion(n=0)),
    "more tokens at least than at most": (TEXT, completion(min_tokens=9)),
    "stream options without a stream": (TEXT, completion(stream_options={"include_usage": True})),
    "empty stop": (TEXT, completion(stop="")),
    "json object": (CHAT, chat(max_tokens=200, response_format={"type": "json_object"})),
    "json schema": (CHAT, chat(max_tokens=200, response_format=FORMAT, return_token_ids=True)),
    "json schema of a completion": (TEXT, completion(max_tokens=200, response_format=FORMAT)),
    "json without its schema": (CHAT, chat(response_format={"type": "json_schema"})),
    "one of two words": (TEXT, completion(max_tokens=200, structured_outputs={"choice": ["big", "small"]})),
    "a tool that must be called": (CHAT, chat(max_tokens=200, tools=[TOOL], tool_choice="required")),
    "a tool called by name": (CHAT, chat(max_tokens=200, tools=[TOOL], tool_choice=NAMED, return_token_ids=True)),
    "a call cut short": (CHAT, chat(max_tokens=5, tools=[TOOL], tool_choice="required")),
    "a tool that must not be called": (CHAT, chat(tools=[TOOL], tool_choice="none", ignore_eos=True)),
    "an empty list of tools": (CHAT, chat(tools=[])),
    "a choice without tools": (CHAT, chat(tool_choice="required")),
    "an odd choice of tools": (CHAT, chat(tools=[TOOL], tool_choice="sometimes")),
    "an unknown tool by name": (CHAT, chat(tools=[TOOL], tool_choice={**NAMED, "function": {"name": "sing"}})),
    "a tool without a function": (CHAT, chat(tools=[{"type": "function"}])),
    "likely tokens": (TEXT, completion(logprobs=2)),
    "the token's own likelihood": (TEXT, completion(logprobs=0)),
    "likely tokens of a chat": (CHAT, chat(logprobs=True, top_logprobs=2, ignore_eos=True)),
    "the chat's own likelihood": (CHAT, chat(logprobs=True, ignore_eos=True)),
    "too many likely tokens": (TEXT, completion(logprobs=21)),
    "fewer than no likely tokens": (TEXT, completion(logprobs=-2)),
    "a word for likely tokens": (TEXT, completion(logprobs="many")),
    "likely tokens not asked for": (CHAT, chat(top_logprobs=2)),
    "several choices": (CHAT, chat(n=2, temperature=1, seed=1, ignore_eos=True, return_token_ids=True)),
    "several choices of a completion": (TEXT, completion(n=2, temperature=1, seed=1, ignore_eos=True)),
    "several choices without chance": (CHAT, chat(n=2)),
    "no choice": (CHAT, chat(n=0)),
    "more choices than anybody needs": (CHAT, chat(n=100000, temperature=1)),
    "two prompts": (TEXT, completion(["Ring", "The bell"], ignore_eos=True, return_token_ids=True)),
    "two prompts of ids": (TEXT, completion([[10, 11], [12]], n=2, temperature=1, seed=1, ignore_eos=True)),
    "an empty one of two prompts": (TEXT, completion(["Ring", ""])),
    "penalties": (TEXT, completion(presence_penalty=1, frequency_penalty=1, repetition_penalty=1.5)),
    "too much of a penalty": (TEXT, completion(presence_penalty=3)),
    "too little of a penalty": (TEXT, completion(frequency_penalty=-3)),
    "no penalty at all": (TEXT, completion(repetition_penalty=0)),
    "going in circles": (TEXT, completion("chorus", max_tokens=400, repetition_detection=CIRCLES)),
    "going in circles once": (TEXT, completion(repetition_detection={**CIRCLES, "min_count": 1})),
    "null tokens": (TEXT, completion(max_tokens=None, ignore_eos=True)),
    "not JSON": (CHAT, b"{nope"),
    "a list": (CHAT, b"[1]"),
    "nothing": (CHAT, b""),
    "unknown path": ("/nope", chat()),
    "wrong method": ("/health", chat()),
}


STREAMS = {
    "chat": (CHAT, chat()),
    "chat with ids": (CHAT, chat(return_token_ids=True)),
    "chat with prompt": (CHAT, chat(return_prompt_text=True)),
    "chat with sums": (CHAT, chat(stream_options={"include_usage": True})),
    "chat with all sums": (CHAT, chat(stream_options={"include_usage": True, "continuous_usage_stats": True})),
    "completion": (TEXT, completion()),
    "completion with ids": (TEXT, completion(return_token_ids=True)),
    "completion with echo": (TEXT, completion(echo=True)),
    "completion with echo and ids": (TEXT, completion(echo=True, return_token_ids=True)),
    "completion with all sums": (
        TEXT,
        completion(stream_options={"include_usage": True, "continuous_usage_stats": True}),
    ),
}


SUMS = {"stream_options": {"include_usage": True}}
KINDS = {
    "json": (CHAT, chat(max_tokens=200, response_format=FORMAT, return_token_ids=True)),
    "a call": (CHAT, chat(max_tokens=200, tools=[TOOL], tool_choice="required")),
    "a call with ids": (CHAT, chat(max_tokens=200, tools=[TOOL], tool_choice="required", return_token_ids=True)),
    "a call by name": (CHAT, chat(max_tokens=200, tools=[TOOL], tool_choice=NAMED)),
    "a call cut short": (CHAT, chat(max_tokens=5, tools=[TOOL], tool_choice="required", return_token_ids=True)),
    "no call": (CHAT, chat(tools=[TOOL], tool_choice="none", ignore_eos=True)),
    "likely tokens": (TEXT, completion(logprobs=2, ignore_eos=True)),
    "likely tokens of a chat": (CHAT, chat(logprobs=True, top_logprobs=2, ignore_eos=True)),
    "several choices": (CHAT, chat(n=2, temperature=1, seed=1, ignore_eos=True, return_token_ids=True, **SUMS)),
    "two prompts": (TEXT, completion(["Ring", "The bell"], ignore_eos=True, return_token_ids=True, **SUMS)),
    "going in circles": (TEXT, completion("chorus", max_tokens=400, repetition_detection=CIRCLES)),
}
