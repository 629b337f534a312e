"""What the soak asks: every kind of answer that promises to survive the loss of its replica."""

from dataclasses import dataclass
from random import Random
from typing import Any

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
_USAGE = {"stream_options": {"include_usage": True}}
_SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
_TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
_LENGTHS = (20, 45, 80, 120, 160, 200)


@dataclass(frozen=True, slots=True)
class Question:
    """A request; those of one kind and variant are equal, so that they have one twin."""

    kind: str
    variant: int
    path: str
    body: dict[str, Any]

    @property
    def streamed(self) -> bool:
        """Whether the answer is a stream."""
        return bool(self.body.get("stream"))


def _chat(text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "demo", "messages": messages, "stream": True, "temperature": 0, **fields}


def _completion(prompt: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "demo", "prompt": prompt, "stream": True, "temperature": 0, **fields}


def _of(variant: int, length: int) -> dict[str, tuple[str, dict[str, Any]]]:
    fox = f"Tell me of fox number {variant}."
    long = {"max_tokens": length, "ignore_eos": True}
    in_one_piece = {"stream": False, "ignore_eos": True}
    return {
        "plain": (CHAT, _chat(fox, **long, **_USAGE)),
        "emoji": (CHAT, _chat(f"Show emoji, {variant} emoji.", **long, **_USAGE)),
        "Chinese": (CHAT, _chat(f"Speak Chinese, fox {variant}.", **long)),
        "Hindi": (CHAT, _chat(f"Speak Hindi and Korean, fox {variant}.", **long, **_USAGE)),
        "sampled": (CHAT, _chat(f"Anything on {variant}?", **long) | {"temperature": 0.8}),
        "completion": (TEXT, _completion(f"The quick brown fox {variant} emoji", **long, **_USAGE)),
        "ids as the prompt": (TEXT, _completion([10, 11, 300, 301 + variant], **long, return_token_ids=True)),
        "stop strings": (CHAT, _chat(fox, max_tokens=200, stop=["the harbour", " window", "song "], **_USAGE)),
        "stop strings that are kept": (
            CHAT,
            _chat(f"emoji foxes {variant}.", max_tokens=200, stop=[" the", "ri"], include_stop_str_in_output=True),
        ),
        "natural end": (CHAT, _chat(fox, min_tokens=length // 2, max_tokens=200, **_USAGE)),
        "a seed": (CHAT, _chat(f"Emoji {variant}.", seed=7 + variant, **long) | {"temperature": 0.9}),
        "JSON": (CHAT, _chat(f"JSON {variant}.", max_tokens=200, response_format={"type": "json_object"})),
        "a schema": (CHAT, _chat(f"JSON {variant}.", max_tokens=200, response_format=_SCHEMA, **_USAGE)),
        "a tool": (CHAT, _chat(f"Weather {variant}?", max_tokens=200, tools=_TOOLS, tool_choice="required")),
        "two choices": (CHAT, _chat(f"Emoji {variant}.", n=2, seed=variant, **long) | {"temperature": 0.9}),
        "log-probabilities": (CHAT, _chat(fox, logprobs=True, top_logprobs=1, **long)),
        "in one piece, short": (CHAT, _chat(fox, max_tokens=length) | in_one_piece),
        "in one piece, long": (CHAT, _chat(f"Show emoji {variant}.", max_tokens=260 + length // 4) | in_one_piece),
    }


QUESTIONS = tuple(
    Question(kind, variant, path, body)
    for variant, length in enumerate(_LENGTHS)
    for kind, (path, body) in _of(variant, length).items()
)


def draw(dice: Random) -> Question:
    """The next question: each kind and length as likely as the others."""
    return dice.choice(QUESTIONS)
