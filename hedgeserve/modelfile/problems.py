"""Sentences for what can be wrong with a value: what is wrong, which value, what was probably meant.

The validation library's own words and addresses never reach the reader; every error type that the classes of
spec.py can raise has its sentence here, and an unforeseen one gets a plain sentence about the key's kind.
"""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from hedgeserve.modelfile.keys import EXAMPLES, Key, Kind, TableInfo, objection, table, tables, to_toml
from hedgeserve.spectable import Conflict, KeyPath

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_SHOWN_CHARACTERS = 60

_WORDS = {
    Kind.TEXT: "text in quotes",
    Kind.WHOLE: "a whole number",
    Kind.NUMBER: "a number",
    Kind.SWITCH: "`true` or `false`",
    Kind.DURATION: "a duration in quotes",
    Kind.PRICE: "a price in quotes",
    Kind.DAILY: "a sum for a day in quotes",
    Kind.MONTHLY: "a sum for a month in quotes",
    Kind.SIZE: "a size in quotes",
    Kind.TEXTS: "a list of texts",
    Kind.TEXT_TABLE: "a table of texts",
    Kind.JSON: "a table",
}

_FROM_ELSEWHERE = {
    "api_key": "api_keys_file",
    "host": "listen",
    "port": "listen",
    "api_keys": "api_keys_file",
    "regions": "zones",
    "dynamic_ondemand_fallback": "fallback",
    "num_overprovision": "overprovision",
    "target_qps_per_replica": "target_requests_per_second",
    "qps": "target_requests_per_second",
}
"""What other tools, and first guesses, call a key of ours."""

_BOUNDS = {
    "greater_than": ("gt", "must be above"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be below"),
    "less_than_equal": ("le", "must be at most"),
}


def dotted(path: KeyPath) -> str:
    """A key path as messages show it: ``pools[1].zones``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def shown(value: Any) -> str:
    """A value as messages show it: as TOML, cut when long, without passwords."""
    return to_toml(value, limit=_SHOWN_CHARACTERS)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that was probably meant, if any is near enough."""
    plain = word.strip().lower().replace("-", "_").replace(" ", "_")
    close = get_close_matches(plain, list(choices), n=1, cutoff=0.6)
    return close[0] if close else None


def nearest_key(word: str, info: TableInfo) -> str | None:
    """The key of a table that was probably meant: ``max_replica`` in ``[replicas]`` is ``max``."""
    names = {key.name for key in info.keys}
    if (known := _FROM_ELSEWHERE.get(word.lower())) in names:
        return known
    spellings = {name: name for name in names}
    spellings |= {f"{name}_{info.path}": name for name in names} | {f"{info.path}_{name}": name for name in names}
    found = nearest(word, spellings)
    return spellings[found] if found else None


def unknown_key(path: KeyPath, info: TableInfo, near: str | None) -> Conflict:
    """The sentence for a key that its table does not have. The value stays unsaid: it may be a secret."""
    name = str(path[-1])
    elsewhere = [other.header for other in tables() if other.key(name)]
    if near:
        hint = f"did you mean `{near}`?"
    elif elsewhere:
        hint = f"it belongs in {' or '.join(elsewhere)}"
    else:
        hint = f"{info.header} has {', '.join(key.name for key in info.keys)}"
    return Conflict(path, f"unknown key `{name}`", hint)


def unknown_at_top(name: str, value: Any, near: str | None) -> Conflict:
    """The sentence for a table, or a key outside all tables, that model.toml does not have."""
    if not isinstance(value, dict | list):
        homes = [info.header for info in tables() if info.key(name)]
        hint = (
            f"it belongs in {' or '.join(homes)}" if homes else "every key belongs in a table, such as [service]"
        )
        return Conflict((name,), f"unknown key `{name}` outside of all tables", hint)
    headers = [info.header for info in tables() if "." not in info.path]
    near_info = table(near) if near else None
    hint = f"did you mean {near_info.header}?" if near_info else f"there are {', '.join(headers)}"
    return Conflict((name,), f"unknown table `{name}`", hint)


def sentences(error: "ErrorDetails", data: Mapping[str, Any]) -> Iterator[Conflict]:
    """What one validation error means for the reader, with its path from the top of the file.

    ``data`` is what was validated: its values are shown as they were written, not as they were read.
    """
    path: KeyPath = tuple(part for part in error["loc"] if part != "[key]")
    info, key = locate(path)
    value, context, kind = _written(data, error), error.get("ctx", {}), error["type"]
    if kind == "conflict":
        for conflict in context["conflicts"]:
            yield Conflict(path + conflict.path, conflict.message, conflict.hint)
    elif kind == "shape":
        yield Conflict(path, f"{shown(value)} {context['sentence']}")
    elif kind == "value_error":
        yield Conflict(path, str(context["error"]))
    elif kind == "missing":
        yield _missing(path, info, key)
    elif kind in ("enum", "literal_error") and key is not None:
        yield _no_choice(path, key, value)
    elif kind in _BOUNDS and key is not None:
        name, words = _BOUNDS[kind]
        yield Conflict(path, f"{words} {to_toml(context[name], key.kind)}, but is {shown(value)}")
    elif kind in ("too_short", "string_too_short"):
        yield Conflict(path, f"needs at least one {info.header}" if info and not key else "cannot be empty")
    elif kind == "finite_number":
        yield Conflict(path, f"must be a finite number, but is {shown(value)}")
    elif key is None or key.kind is Kind.TABLES:
        yield _no_table(path, info, key)
    else:
        yield _wrong_kind(path, key, value)


def _written(data: Mapping[str, Any], error: "ErrorDetails") -> Any:
    value: Any = data
    for part in error["loc"]:
        try:
            # A text that stands for a list of one is its own first item.
            value = value if isinstance(value, str) and part == 0 else value[part]
        except (LookupError, TypeError):
            return error.get("input")
    return value


def locate(path: KeyPath) -> tuple[TableInfo | None, Key | None]:
    """The table in which a path ends, and its key if the path leads to one."""
    names = [part for part in path if isinstance(part, str)]
    for depth in (2, 1):
        info = table(".".join(names[:depth]))
        if info is None or (depth == 2 and len(names) == 2 and not isinstance(path[-1], int)):
            continue
        return info, info.key(names[depth]) if len(names) > depth else None
    return None, None


def _missing(path: KeyPath, info: TableInfo | None, key: Key | None) -> Conflict:
    if key is not None:
        example = to_toml(key.choices[0]) if key.choices else EXAMPLES[key.kind]
        return Conflict(path, f"`{key.name}` is missing", f"write it, such as {key.name} = {example}")
    header = info.header if info else dotted(path)
    firsts = {
        "model": " with `id` and `engine`",
        "pools": " with `cloud` and `zones`, one for each place to run in",
    }
    return Conflict(path, f"there is no {header}", f"add {header}{firsts.get(dotted(path), '')}")


def _no_choice(path: KeyPath, key: Key, value: Any) -> Conflict:
    choices = ", ".join(to_toml(choice) for choice in key.choices)
    among = f"one of {choices}" if len(key.choices) > 1 else choices
    near = nearest(value, key.choices) if isinstance(value, str) else None
    return Conflict(path, f"must be {among}, but is {shown(value)}", f'did you mean "{near}"?' if near else "")


def _no_table(path: KeyPath, info: TableInfo | None, key: Key | None) -> Conflict:
    if key is not None:
        info = table(key.path)
    if info is None:
        return Conflict(path, "must be a table")
    brackets = "double brackets" if info.array else "single brackets"
    return Conflict(path, f"must be written as {info.header}", f"its header has {brackets}, its keys stand below")


def _wrong_kind(path: KeyPath, key: Key, value: Any) -> Conflict:
    inside = isinstance(path[-1], int) or path[-1] != key.name
    kind = Kind.TEXT if inside and key.kind in (Kind.TEXTS, Kind.TEXT_TABLE) else key.kind
    if key.kind is Kind.TEXT_TABLE:  # a value there may be a secret in the wrong place
        return Conflict(path, f"must be {_WORDS[kind]}")
    if key.choices:
        listed = ", ".join(to_toml(choice) for choice in key.choices)
        example = f"[{listed}]"
        message = f"must be a list of {listed}, but is {shown(value)}"
    else:
        example = EXAMPLES[kind]
        message = f"must be {_WORDS[kind]}, but is {shown(value)}"
    if kind in (Kind.TEXTS, Kind.CHOICES) and isinstance(value, str):
        return Conflict(path, message, f"put it in brackets: [{shown(value)}]")
    if kind is Kind.TEXT and not isinstance(value, list | dict):
        return Conflict(path, message, _in_quotes(key, shown(value)))
    if isinstance(value, str) and _is_written(value, kind):
        return Conflict(path, message, f"leave out the quotes: {value.strip().lower()}")
    return Conflict(path, message, "" if kind is Kind.SWITCH else f"such as {example}")


def _in_quotes(key: Key, text: str) -> str:
    """The advice to put this in quotes, in the form that its key has: following it must not lead to a mistake."""
    several = key.kind is Kind.TEXTS

    def wrong(text: str) -> str:
        return objection(key, [text] if several else text)

    if not (why := wrong(text)):
        return f'put it in quotes: "{text}"'
    if key.name == "listen" and not wrong(address := f"127.0.0.1:{text}"):
        return f'put it in quotes, with the host before the port: "{address}"'
    return why if text in why else f'and "{text}" {why}'


def _is_written(text: str, kind: Kind) -> bool:
    """Whether a text in quotes would be right without them."""
    if kind is Kind.SWITCH:
        return text.strip().lower() in ("true", "false")
    try:
        _ = int(text) if kind is Kind.WHOLE else float(text)
    except ValueError:
        return False
    return kind in (Kind.WHOLE, Kind.NUMBER)
