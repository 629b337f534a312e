"""Whether an event of a stream of choices has the types that the API says; else it is not understood. Pure."""

from typing import Any


def is_sound(event: dict[str, Any]) -> bool:
    """Whether everything that failover reads of an event is of the type that it should be, or not there."""
    choices = event.get("choices")
    return (
        _is(event.get("usage"), dict)
        and _is(event.get("id"), str)
        and _is(event.get("model"), str)
        and _is(event.get("created"), (int, float))
        and _are_ids(event.get("prompt_token_ids"))
        and (choices is None or (isinstance(choices, list) and all(map(_is_sound_choice, choices))))
    )


def _is_sound_choice(choice: object) -> bool:
    if not isinstance(choice, dict):
        return False
    delta = choice.get("delta")
    logprobs = choice.get("logprobs")
    return (
        isinstance(choice.get("index", 0), int)
        and _is(choice.get("text"), str)
        and _is(choice.get("finish_reason"), str)
        and _are_ids(choice.get("token_ids"))
        and _are_ids(choice.get("prompt_token_ids"))
        and (delta is None or (isinstance(delta, dict) and _are_calls(delta.get("tool_calls"))))
        and (logprobs is None or (isinstance(logprobs, dict) and _are_lists(logprobs)))
    )


def _are_calls(calls: object) -> bool:
    if calls is None:
        return True
    return isinstance(calls, list) and all(
        isinstance(call, dict) and isinstance(call.get("index", 0), int) and _is(call.get("function"), dict)
        for call in calls
    )


def _are_lists(logprobs: dict[str, Any]) -> bool:
    return all(_is(logprobs.get(key), list) for key in ("content", "tokens"))


def _are_ids(ids: object) -> bool:
    """Whether these are token ids; they are kept in 32 bits each."""
    if ids is None:
        return True
    return isinstance(ids, list) and all(isinstance(number, int) and 0 <= number < 2**32 for number in ids)


def _is(value: object, kind: type | tuple[type, ...]) -> bool:
    return value is None or isinstance(value, kind)
