"""Settings from the environment: ``HEDGESERVE_<TABLE>_<KEY>`` stands above the same key of model.toml."""

import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from hedgeserve.modelfile.keys import SCALARS, Key, Kind, TableInfo, tables
from hedgeserve.modelfile.problems import nearest_key
from hedgeserve.spectable import Conflict, KeyPath

PREFIX = "HEDGESERVE_"
OTHERS: Mapping[str, str] = {
    "HEDGESERVE_API_KEY": "The API key that `hedgeserve drill --load` shows to the service; for an engine of "
    '`engine = "command"`, on its VM, the key that it is asked with.',
    "HEDGESERVE_API_KEYS": "The API keys that the service accepts, separated by commas, unless "
    "[`service.api_keys_env`](#service.api_keys_env) names another variable.",
    "HEDGESERVE_COMPILE": "`1` has `pip install` and `setup.py` compile the data path with mypyc.",
    "HEDGESERVE_DATA": "The folder of recorded data that benchmarks and tests look in.",
    "HEDGESERVE_FUZZ_SECONDS": "How long each fuzzer of the tests runs.",
    "HEDGESERVE_FUZZ_SEED": "The seed of what the fuzzers of the tests make up.",
    "HEDGESERVE_TESTBED": "Set inside the sandbox that some tests run in.",
    "HEDGESERVE_VLLM_MODEL": "The model that `make test-vllm` serves, in place of a tiny one made on the spot.",
    "HEDGESERVE_VLLM_PYTHON": "The interpreter that has vLLM, for `make test-vllm`.",
    "HEDGESERVE_VM": "Set in the processes of the make-believe cloud: the machine that they belong to.",
    "HEDGESERVE_WHEEL": "The wheel that `make install-service` installs, in place of the newest in `dist`.",
}
"""Our variables that are no settings, and what each is for: all of them, or they would be taken for mistakes."""
_NEARLY = 0.8


def variable_of(key: Key) -> str | None:
    """The variable that sets this key; None for lists and tables, which only a file can hold."""
    arrays = {info.path for info in tables() if info.array}
    if key.kind not in SCALARS or key.table in arrays:
        return None
    return f"{PREFIX}{key.path.replace('.', '_').upper()}"


def overlay(data: dict[str, Any], environ: Mapping[str, str]) -> tuple[dict[KeyPath, str], list[Conflict]]:
    """Write the environment's settings into ``data``; which keys came from which variable, and the mistakes.

    A variable of a known table that names no key of it is a mistake, like an unknown key in the file, and so is
    one that nearly names a setting, unless it is one of :data:`OTHERS` or the file itself gives that name to a
    secret. Variables of other names are none of our business.
    """
    origins: dict[KeyPath, str] = {}
    problems: list[Conflict] = []
    known = {*OTHERS, *_names_of_secrets(data)}
    for variable in sorted(environ):
        if variable in known or not variable.startswith(PREFIX):
            continue
        info = _table_of(variable)
        if info is None:
            for meant in get_close_matches(variable, _all_variables(), n=1, cutoff=_NEARLY):
                what = f"the environment variable {variable} names no setting"
                problems.append(Conflict((), what, f"did you mean {meant}?"))
            continue
        name = variable.removeprefix(f"{PREFIX}{info.path.upper()}_").lower()
        key = info.key(name)
        if key is None:
            near = nearest_key(name, info)
            hint = (
                f"did you mean {PREFIX}{info.path.upper()}_{near.upper()}?"
                if near
                else f"it is no key of {info.header}"
            )
            problems.append(Conflict((), f"the environment variable {variable} names no setting", hint))
        elif variable_of(key) is None:
            what = f"`{key.name}` of {info.header}"
            problems.append(
                Conflict((), f"the environment variable {variable} cannot set {what}", "write it in the file")
            )
        else:
            settings = data.setdefault(info.path, {})
            if isinstance(settings, dict):
                settings[name] = _value(environ[variable], key)
                origins[(info.path, name)] = variable
    return origins, problems


def _all_variables() -> list[str]:
    return [name for info in tables() for key in info.keys if (name := variable_of(key)) is not None]


def _table_of(variable: str) -> TableInfo | None:
    for info in tables():
        if "." not in info.path and variable.startswith(f"{PREFIX}{info.path.upper()}_"):
            return info
    return None


def _value(text: str, key: Key) -> Any:
    """The value as TOML where it is TOML, else the text itself; text stays text though it looks like a number."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    value = parsed["value"] if parsed.keys() == {"value"} else text
    return text if key.kind in (Kind.TEXT, Kind.CHOICE) and not isinstance(value, str) else value


def _names_of_secrets(data: Mapping[str, Any]) -> Iterator[str]:
    """Variables that the file names as holders of secrets; the file may still be wrong in any way."""
    service, model, pools = data.get("service"), data.get("model"), data.get("pools")
    if isinstance(service, dict):
        yield str(service.get("api_keys_env"))
    if isinstance(model, dict) and isinstance(model.get("secret_env"), list):
        yield from map(str, model["secret_env"])
    for pool in pools if isinstance(pools, list) else []:
        if isinstance(pool, dict):
            yield str(pool.get("api_key_env"))
