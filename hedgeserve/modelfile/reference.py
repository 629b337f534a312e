"""The reference of model.toml, its JSON Schema and the starter file, all made from the classes of spec.py.

``python -m hedgeserve.modelfile.reference`` (``make docs``) writes ``docs/configuration.md`` and
``docs/model.schema.json`` below the current directory; a test holds the files to what is made here.
"""

import json
import sys
from pathlib import Path
from typing import Any

from hedgeserve.modelfile.environ import OTHERS, variable_of
from hedgeserve.modelfile.keys import Key, Kind, TableInfo, tables, to_toml
from hedgeserve.modelfile.starter import starter_toml

__all__ = ["configuration_markdown", "json_schema", "starter_toml", "write_docs"]

_INTRODUCTION = """\
# Configuration: model.toml

One TOML file says what to serve and where. `hedgeserve init` writes a commented one to start from,
`hedgeserve check model.toml` says everything that is wrong in it, each mistake with its line and what was
probably meant.

- **Quantities are texts with a unit**: durations (`"250ms"`, `"90s"`, `"1h30m"`, `"2d"`), prices
  (`"2.50 USD/h"`), sizes (`"16 MiB"` counts in powers of two, `"10 MB"` in powers of ten).
- **A flag stands above the environment, the environment above the file, the file above the default.** The
  variable of a key is `HEDGESERVE_<TABLE>_<KEY>`, such as `HEDGESERVE_REPLICAS_MIN=3`; lists, tables and what
  is under double brackets can only be written in the file.
- **Unknown keys are mistakes**, never ignored, and so are variables that nearly name a setting. Some variables
  of ours are [no settings](#variables-that-are-no-settings).
- **Secrets never stand in this file**: it names variables and files that hold them.
- **Relative paths** start where the file is, not where the command runs; `~` is your home directory.

Editors that know JSON Schema (Taplo, VS Code's Even Better TOML) complete and check the file with this first
line, its path leading to [model.schema.json](model.schema.json):

```toml
#:schema ./docs/model.schema.json
```

This page is generated from the code. After a change there, run `make docs`.

| Table | What it says |
|---|---|
"""


def configuration_markdown() -> str:
    """The text of ``docs/configuration.md``: one heading per table, one anchor per key (``#replicas.min``)."""
    overview = "".join(f"| [`{info.header}`](#{_anchor(info)}) | {_cell(info.help)} |\n" for info in tables())
    return _INTRODUCTION + overview + "".join(_section(info) for info in tables()) + _others()


def _others() -> str:
    rows = "".join(f"| `{name}` | {_cell(help)} |\n" for name, help in OTHERS.items())
    return (
        "\n## Variables that are no settings\n\nThey may stand in the environment of any command.\n\n"
        f"| Variable | What it is for |\n|---|---|\n{rows}"
    )


def _anchor(info: TableInfo) -> str:
    return info.path.replace(".", "")


def _section(info: TableInfo) -> str:
    need = "Needed" if info.required else "May be left out"
    often = " May be repeated." if info.array else ""
    rows = "".join(_row(key) for key in info.keys)
    return (
        f"\n## `{info.header}`\n\n{info.help} {need}.{often}\n\n"
        f"| Key | Value | Default | What it says |\n|---|---|---|---|\n{rows}"
    )


def _row(key: Key) -> str:
    default = "*needed*" if key.required else f"`{key.default_toml}`" if key.default_toml else "*unset*"
    if key.kind is Kind.TABLES:
        default = "*none*"
    cells = (f'<a id="{key.path}"></a>`{key.name}`', _value_in_words(key), default, key.help)
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _value_in_words(key: Key) -> str:
    choices = ", ".join(f"`{to_toml(choice)}`" for choice in key.choices)
    match key.kind:
        case Kind.CHOICE:
            return choices
        case Kind.CHOICES:
            return f"list of {choices}"
        case Kind.SWITCH:
            return "`true`, `false`"
        case Kind.TABLES:
            return f"tables `[[{key.path}]]`"
        case _:
            return f"{key.kind}{_bounds_in_words(key)}"


def _bounds_in_words(key: Key) -> str:
    limits = {bound.sign: to_toml(bound.value, key.kind).strip('"') for bound in key.bounds}
    if set(limits) == {">=", "<="}:
        return f", {limits['>=']} to {limits['<=']}"
    words = {">": "above", ">=": "at least", "<": "below", "<=": "at most"}
    return "".join(f", {words[sign]} {limit}" for sign, limit in limits.items())


_DURATION_PATTERN = r"^\s*(\d+(\.\d+)?\s*(ms|s|m|h|d)\s*)+$"
_PRICE_PATTERN = r"^\s*\$?\s*\d+(\.\d+)?\s*([uU][sS][dD]\s*/\s*[hH]|[uU][sS][dD]/[hH][oO][uU][rR]|/\s*[hH])\s*$"
_DAILY_PATTERN = r"^\s*\$?\s*\d+(\.\d+)?\s*([uU][sS][dD])?\s*/\s*[dD]([aA][yY])?\s*$"
_MONTHLY_PATTERN = r"^\s*\$?\s*\d+(\.\d+)?\s*([uU][sS][dD])?\s*/\s*[mM][oO]([nN][tT][hH])?\s*$"
_SIZE_PATTERN = r"^\s*\d+(\.\d+)?\s*(B|kB|MB|GB|KiB|MiB|GiB)\s*$"


def json_schema() -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of model.toml, for editors: types, choices, bounds, units, help.

    What must hold between keys it does not say; ``hedgeserve check`` does.
    """
    top: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "HedgeServe's model.toml",
        "type": "object",
        "additionalProperties": False,
        "required": [info.path for info in tables() if info.required],
        "properties": {},
    }
    objects: dict[str, dict[str, Any]] = {"": top}
    for info in tables():
        this: dict[str, Any] = {
            "type": "object",
            "description": info.help,
            "additionalProperties": False,
            "properties": {key.name: _key_schema(key) for key in info.keys},
        }
        if needed := [key.name for key in info.keys if key.required]:
            this["required"] = needed
        objects[info.path] = this
        parent, _, name = info.path.rpartition(".")
        whole = this
        if info.array:
            least = {"minItems": 1} if info.required else {}
            whole = {"type": "array", "description": info.help, **least, "items": this}
        objects[parent]["properties"][name] = whole
    return top


def _key_schema(key: Key) -> dict[str, Any]:
    schema: dict[str, Any] = {"description": key.help, **_type_schema(key)}
    if key.default_toml and key.kind is not Kind.TABLES:
        plain = to_toml(key.default, key.kind)
        schema["default"] = json.loads(plain) if key.kind is not Kind.TEXT_TABLE else {}
    if (variable := variable_of(key)) is not None:
        schema["description"] += f" Variable: {variable}."
    return schema


def _type_schema(key: Key) -> dict[str, Any]:
    text: dict[str, Any] = {"type": "string"}
    if key.pattern:
        text["pattern"] = f"^(?:{key.pattern})$"
    match key.kind:
        case Kind.TEXT:
            return text
        case Kind.DURATION:
            return {"type": "string", "pattern": _DURATION_PATTERN}
        case Kind.PRICE:
            return {"type": "string", "pattern": _PRICE_PATTERN}
        case Kind.DAILY:
            return {"type": "string", "pattern": _DAILY_PATTERN}
        case Kind.MONTHLY:
            return {"type": "string", "pattern": _MONTHLY_PATTERN}
        case Kind.SIZE:
            return {"type": "string", "pattern": _SIZE_PATTERN}
        case Kind.SWITCH:
            return {"type": "boolean"}
        case Kind.WHOLE | Kind.NUMBER:
            words = {">": "exclusiveMinimum", ">=": "minimum", "<": "exclusiveMaximum", "<=": "maximum"}
            bounds = {words[bound.sign]: _plain_number(bound.value) for bound in key.bounds}
            return {"type": "integer" if key.kind is Kind.WHOLE else "number", **bounds}
        case Kind.CHOICE:
            return {"type": "string", "enum": list(key.choices)}
        case Kind.CHOICES:
            return {"type": "array", "uniqueItems": True, "items": {"type": "string", "enum": list(key.choices)}}
        case Kind.TEXTS:
            many = {"type": "array", "items": text}
            return {"anyOf": [text, many]} if key.one_or_many else many
        case Kind.TEXT_TABLE:
            return {"type": "object", "additionalProperties": {"type": "string"}}
        case Kind.JSON:
            return {"type": "object"}
        case Kind.TABLES:
            return {"type": "array"}


def _plain_number(value: float) -> int | float:
    return int(value) if value.is_integer() else value


def write_docs(directory: Path) -> list[Path]:
    """Write the reference and the schema into a directory; the files written."""
    texts = {
        directory / "configuration.md": configuration_markdown(),
        directory / "model.schema.json": json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n",
    }
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return list(texts)


if __name__ == "__main__":
    sys.stdout.writelines(f"{path}\n" for path in write_docs(Path("docs")))
