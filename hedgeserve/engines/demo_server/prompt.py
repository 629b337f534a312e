"""What a request wants continued: its prompt or its conversation, as token ids."""

from __future__ import annotations

from .fields import Fields
from .refusal import Refusal, invalid
from .tokens import IDS, TURN, TURN_END, VOCABULARY, encode
from .tools import NO_TOOLS, Tools


def render_chat(messages: list[tuple[str, str]], *, generation_prompt: bool, open_end: bool) -> list[int]:
    """Token ids of a conversation of (role, text); ``open_end`` leaves the last message to be continued."""
    ids: list[int] = []
    for role, text in messages:
        ids += [TURN, *encode(role), IDS[b"\n"], *encode(text), TURN_END, IDS[b"\n"]]
    if open_end:
        del ids[-2:]
    return [*ids, TURN, IDS[b"assistant"], IDS[b"\n"]] if generation_prompt else ids


def read_prompts(fields: Fields) -> list[list[int]]:
    """The ids of ``prompt``, given as a text, as ids or as a list of either; raises :class:`Refusal`."""
    prompt = fields.get("prompt")
    if prompt is None or prompt == "":
        message = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"
        raise Refusal(400, message, param="prompt")
    if not isinstance(prompt, (str, list)):
        raise invalid("prompt", "string_type", "Input should be a valid string")
    if not prompt:
        raise Refusal(400, "You must pass at least one prompt")
    kind = type(prompt[0])
    if isinstance(prompt, str) or kind not in (str, list):
        return [_ids(prompt, "prompt")]
    if not all(isinstance(one, kind) for one in prompt):
        raise invalid("prompt.0", "int_parsing", "Input should be a valid integer")
    return [_ids(one, f"prompt.{place}") for place, one in enumerate(prompt)]


def _ids(prompt: str | list[int], place: str) -> list[int]:
    if not prompt:
        raise Refusal(400, "The decoder prompt cannot be empty")
    if isinstance(prompt, str):
        return encode(prompt)
    for at, number in enumerate(prompt):
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise invalid(f"{place}.{at}", "greater_than_equal", "Input should be greater than or equal to 0")
        if number >= len(VOCABULARY):
            raise Refusal(400, f"Token id {number} is out of vocabulary")
    return prompt


def read_messages(fields: Fields, tools: Tools = NO_TOOLS) -> tuple[list[list[int]], str]:
    """The ids of ``messages``, as the only prompt, and the role of the answer; raises :class:`Refusal`."""
    messages = fields.get("messages")
    if messages is None:
        raise invalid("messages", "missing", "Field required")
    if not isinstance(messages, list):
        raise invalid("messages", "list_type", "Input should be a valid list")
    if not messages:
        message = "Cannot apply chat template to an empty conversation. Provide at least one message."
        raise Refusal(400, message)
    turns = []
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise invalid(f"messages.{place}.role", "missing", "Field required")
        content = message.get("content") or ""
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts if isinstance(parts, list) else [None]:
            if not isinstance(part, dict) or not isinstance(part.get("text"), str):
                raise Refusal(400, "the demo engine is not a multimodal model")
        turns.append((message["role"], "\n".join(part["text"] for part in parts)))
    add = fields.flag("add_generation_prompt", True)
    go_on = fields.flag("continue_final_message", False)
    if add and go_on:
        raise Refusal(400, "continue_final_message and add_generation_prompt are not compatible.")
    role = "assistant" if add else turns[-1][0]
    if tools.functions:
        turns.insert(0, ("system", tools.listing()))
    return [render_chat(turns, generation_prompt=add, open_end=go_on)], role
