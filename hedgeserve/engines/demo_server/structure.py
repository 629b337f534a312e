"""Structured output: what form an answer must have, and a text of that form."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .document import ANY_OBJECT, Document
from .fields import Fields
from .refusal import Refusal, refuse_together


@dataclass(frozen=True)
class Structure:
    """A form: one of some texts, or a JSON document of a schema."""

    choices: tuple[str, ...] = ()
    schema: Any = None

    def text(self, dice: int) -> str:
        """A text of this form."""
        if self.choices:
            return self.choices[dice % len(self.choices)]
        return json.dumps(Document(dice).of(self.schema), ensure_ascii=False)


def read_structure(fields: Fields) -> Structure | None:
    """What ``response_format`` or ``structured_outputs`` demand; raises :class:`Refusal`."""
    outputs = fields.table("structured_outputs")
    given = [name for name in ("json", "regex", "choice") if outputs.get(name) is not None]
    if len(given) > 1:
        message = "You can only use one kind of constraints for structured outputs ('json', 'regex' or 'choice')."
        raise Refusal(400, message)
    if outputs.get("choice"):
        return Structure(choices=tuple(str(choice) for choice in outputs["choice"]))
    if outputs.get("json") is not None:
        return _of_schema(outputs["json"])
    if outputs.get("json_object"):
        return Structure(schema=ANY_OBJECT)
    for name in ("regex", "grammar", "structural_tag"):
        if outputs.get(name) is not None:
            message = f"the demo engine has no {name} output; ask for a json schema or a choice"
            raise Refusal(400, message, param="structured_outputs")
    wanted = fields.table("response_format")
    kind = wanted.get("type", "text")
    if kind == "text":
        return None
    if kind == "json_object":
        return Structure(schema=ANY_OBJECT)
    if kind != "json_schema":
        message = f"the demo engine has no response_format {kind!r}; ask for text, json_object or json_schema"
        raise Refusal(400, message, param="response_format")
    if not isinstance(wanted.get("json_schema"), dict):
        message = "When response_format type is 'json_schema', the 'json_schema' field must be provided."
        refuse_together("response_format", message)
    return _of_schema(wanted["json_schema"].get("schema") or ANY_OBJECT)


def _of_schema(schema: object) -> Structure:
    try:
        return Structure(schema=json.loads(schema) if isinstance(schema, str) else schema)
    except (ValueError, RecursionError):
        raise Refusal(400, "Invalid JSON schema: it is no JSON", param="structured_outputs") from None
