"""Requests of every kind that failover must cope with, and what a client makes of their streams."""

import json
from dataclasses import dataclass, field
from typing import Any

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


@dataclass
class Told:
    """What a client makes of a stream, as the openai client would."""

    texts: dict[int, str] = field(default_factory=dict)
    finish: dict[int, str] = field(default_factory=dict)
    calls: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    ids: dict[int, list[int]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    names: set[tuple[str, int]] = field(default_factory=set)
    roles: int = 0
    done: int = 0
    tokens: int = 0

    @property
    def same(self) -> tuple[Any, ...]:
        """What must be equal to the twin's: all but ids and times of the answer itself."""
        calls = {place: call[1:] for place, call in self.calls.items()}
        return self.texts, self.finish, calls, self.usage, self.ids, self.errors, self.roles, self.done


def read(body: bytes) -> Told:
    """Read a whole stream."""
    told = Told()
    for line in body.decode().split("\n"):
        if not line.startswith("data: "):
            assert line == "", line
            continue
        if line == "data: [DONE]":
            told.done += 1
            continue
        event = json.loads(line[6:])
        if "error" in event:
            told.errors.append(event["error"]["message"])
            continue
        told.names.add((event["id"], event["created"]))
        told.usage = event.get("usage") or told.usage
        for choice in event["choices"]:
            index = choice["index"]
            delta = choice.get("delta", choice)
            text = (delta.get("content") if "delta" in choice else choice.get("text")) or ""
            told.texts[index] = told.texts.get(index, "") + text + (delta.get("reasoning") or "")
            told.roles += delta.get("role") is not None
            told.ids.setdefault(index, []).extend(choice.get("token_ids") or [])
            for call in delta.get("tool_calls") or ():
                known = told.calls.setdefault((index, call["index"]), [call.get("id") or "", "", ""])
                known[1] += call["function"].get("name") or ""
                known[2] += call["function"].get("arguments") or ""
            if choice.get("finish_reason"):
                told.finish[index] = choice["finish_reason"]
    return told


def chat(text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "demo", "messages": messages, "stream": True, "temperature": 0, "max_tokens": 40, **fields}


def completion(prompt: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "demo", "prompt": prompt, "stream": True, "temperature": 0, "max_tokens": 40, **fields}


USAGE = {"stream_options": {"include_usage": True}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
BY_IDS = {
    "plain": (CHAT, chat("Tell me of foxes.", **USAGE)),
    "emoji": (CHAT, chat("Show emoji, many emoji.", **USAGE)),
    "Chinese": (CHAT, chat("Speak Chinese.", **USAGE)),
    "Hindi": (CHAT, chat("Speak Hindi and Korean.")),
    "a long prompt": (CHAT, chat("hello demo " * 40, **USAGE)),
    "sampled": (CHAT, chat("Anything?", temperature=0.8, **USAGE)),
    "completion": (TEXT, completion("The quick brown", **USAGE)),
    "completion in Chinese": (TEXT, completion("你好，Chinese emoji", **USAGE)),
    "ids as the prompt": (TEXT, completion([10, 11, 300, 301], **USAGE)),
    "the client's own ids": (TEXT, completion("emoji Hindi", return_token_ids=True)),
    "stop strings": (CHAT, chat("Tell me of foxes.", stop=["the harbour", " window", "song "], **USAGE)),
    "stop strings that are kept": (
        CHAT,
        chat("emoji foxes.", stop=[" the", "ri"], include_stop_str_in_output=True),
    ),
    "least tokens": (CHAT, chat("Be brief.", min_tokens=30, **USAGE)),
    "continuous usage": (
        TEXT,
        completion("emoji", stream_options={"include_usage": True, "continuous_usage_stats": True}),
    ),
}
BY_REPLAY = {
    "JSON": (CHAT, chat("Give JSON.", response_format={"type": "json_object"}, **USAGE)),
    "a schema": (CHAT, chat("Give JSON.", response_format=SCHEMA)),
    "a tool": (CHAT, chat("Weather?", tools=TOOLS, tool_choice="required", **USAGE)),
    "penalties": (CHAT, chat("Repeat.", presence_penalty=1.5, frequency_penalty=0.5, **USAGE)),
    "a seed": (CHAT, chat("Emoji.", seed=7, temperature=0.9, **USAGE)),
    "two choices": (CHAT, chat("Emoji.", n=2, seed=7, temperature=0.9, max_tokens=20)),
    "two prompts": (TEXT, completion(["The quick", "emoji emoji"], max_tokens=20)),
    "log-probabilities": (CHAT, chat("Hello.", logprobs=True, top_logprobs=1, max_tokens=16)),
}
