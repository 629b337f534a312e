"""The text of an answer as a real detokenizer gives it out, token by token."""

from __future__ import annotations

from .tokens import decode


class TextStream:
    """Token ids to text, as vLLM 0.32 does it: nothing is given out while the text ends inside a character."""

    def __init__(self, prompt: list[int], *, skip_special: bool) -> None:
        self._skip_special = skip_special
        before = decode(prompt, skip_special=skip_special)
        # vLLM's quirk: a prompt that ends inside a character comes out again, whole, with that character.
        self._held = before if before.decode("utf-8", "replace").endswith("\ufffd") else b""

    def step(self, number: int) -> str:
        """The text that this token completes, often empty."""
        self._held += decode([number], skip_special=self._skip_special)
        text = self._held.decode("utf-8", "replace")
        if text.endswith("\ufffd"):
            return ""
        self._held = b""
        return text
