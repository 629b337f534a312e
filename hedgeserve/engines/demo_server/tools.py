"""Tools: what a request offers, and the text in which a call is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .document import Document
from .fields import Fields
from .refusal import Refusal, invalid, refuse_together

_MOST = 8  # functions that are ever called
_VARIANTS = 2  # of the arguments of each
_RIGHT = 'Correct usage: `{"type": "function", "function": {"name": "my_function"}}`'


@dataclass(frozen=True)
class Tools:
    """The functions that may be called; ``choice`` is "auto", "none", "required" or the name of one of them."""

    functions: tuple[dict[str, Any], ...]
    choice: str
    several: bool

    @property
    def forced(self) -> bool:
        """Whether the answer must be a call."""
        return bool(self.functions) and self.choice not in ("auto", "none")

    @property
    def named(self) -> bool:
        """Whether one function was asked for by its name; vLLM then says that it stopped, not that it called."""
        return self.forced and self.choice != "required"

    def listing(self) -> str:
        """What the conversation's beginning says about them."""
        lines = "".join(json.dumps(function, ensure_ascii=False) + "\n" for function in self.functions)
        return f"<tools>\n{lines}</tools>"

    def call(self, dice: int, throw: int) -> str:
        """The text of a call that ``choice`` demands: ``throw`` takes one of those that :func:`calls` lists."""
        wanted = [one for one in self.functions if self.choice in ("required", one["name"])]
        likely = calls(wanted, dice, several=self.several)
        return likely[throw % len(likely)]


NO_TOOLS = Tools((), "none", False)


def call_text(function: dict[str, Any], dice: int) -> str:
    """A call of the function with arguments that fit its parameters."""
    arguments = Document(dice).of(function.get("parameters") or {"type": "object"})
    call = {"name": function["name"], "arguments": arguments}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


def calls(functions: Sequence[dict[str, Any]], dice: int, *, several: bool = True) -> list[str]:
    """What may be called: each function in turn, with one arguments or others, or the first two at once."""
    likely = [
        call_text(function, dice + variant) for function in functions[:_MOST] for variant in range(_VARIANTS)
    ]
    if several and len(functions) > 1:
        likely.append(likely[0] + "\n" + likely[_VARIANTS])
    return likely


def listed(text: str) -> list[dict[str, Any]]:
    """The functions of a listing; empty where it is none."""
    functions = []
    for line in text.splitlines():
        try:
            function = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            functions.append(function)
    return functions


def read_tools(fields: Fields, *, enabled: bool) -> Tools:
    """The tools of a chat; ``enabled`` tells whether the server parses calls. Raises :class:`Refusal`."""
    given, choice = fields.get("tools"), fields.get("tool_choice")
    if given == []:
        message = (
            "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely."
        )
        refuse_together("tools", message)
    if choice == "none":
        return NO_TOOLS
    if not given:
        if choice is not None:
            refuse_together("tool_choice", "When using `tool_choice`, `tools` must be set.")
        return NO_TOOLS
    functions = _functions(given)
    choice = _choice("auto" if choice is None else choice, {function["name"] for function in functions})
    if not enabled:
        if choice == "auto":
            words = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
        else:
            wanted = '"required"' if choice == "required" else f'function "{choice}"'
            words = f"tool_choice={wanted} requires --tool-call-parser to be set"
        raise Refusal(400, words)
    return Tools(functions, choice, fields.flag("parallel_tool_calls", True))


def _functions(given: object) -> tuple[dict[str, Any], ...]:
    if not isinstance(given, list):
        raise invalid("tools", "list_type", "Input should be a valid list")
    functions = []
    for place, tool in enumerate(given):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict):
            raise invalid(f"tools.{place}.function", "missing", "Field required")
        if not isinstance(function.get("name"), str):
            raise invalid(f"tools.{place}.function.name", "missing", "Field required")
        functions.append(function)
    return tuple(functions)


def _choice(choice: object, names: set[str]) -> str:
    if choice in ("auto", "required"):
        return str(choice)
    if not isinstance(choice, dict):
        message = f'Invalid value for `tool_choice`: {choice}! Only named tools, "none", "auto" or "required" are '
        refuse_together("tool_choice", message + "supported.")
    function = choice.get("function")
    if not isinstance(function, dict):
        message = f"Invalid value for `function`: `{function}` in `tool_choice`! {_RIGHT}"
        refuse_together("tool_choice.function", message)
    if "name" not in function:
        message = f"Expected field `name` in `function` in `tool_choice`! {_RIGHT}"
        refuse_together("tool_choice.function.name", message)
    if function["name"] not in names:
        message = "The tool specified in `tool_choice` does not match any of the specified `tools`"
        refuse_together("tool_choice", message)
    return str(function["name"])
