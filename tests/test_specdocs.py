"""The generated reference, schema and starter file say what the code says."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hedgeserve.modelfile.effects import EFFECTS
from hedgeserve.modelfile.environ import OTHERS, variable_of
from hedgeserve.modelfile.keys import SCALARS, Kind, tables
from hedgeserve.modelfile.reference import configuration_markdown, json_schema, starter_toml, write_docs
from hedgeserve.specfile import load_spec, parse_spec

REPOSITORY = Path(__file__).parent.parent
EXAMPLES = sorted((REPOSITORY / "examples").glob("*.toml"))
KEYS = [key for info in tables() for key in info.keys]


def refuses(document: dict[str, Any]) -> bool:
    return not jsonschema.Draft202012Validator(json_schema()).is_valid(document)


def test_the_written_reference_and_schema_are_those_of_the_code(tmp_path: Path) -> None:
    """After a change to spec.py: `make docs`."""
    for fresh in write_docs(tmp_path):
        written = REPOSITORY / "docs" / fresh.name
        assert written.read_text() == fresh.read_text(), f"{written} is stale; run `make docs`"


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_every_key_is_documented(key: Any) -> None:
    """Help of one sentence or more, and a place in the reference that can be linked to."""
    assert key.help.endswith(".")
    assert f'<a id="{key.path}"></a>`{key.name}` |' in configuration_markdown()


def test_every_key_says_what_a_change_of_it_takes() -> None:
    """At once, new replicas, or a restart: a new key needs a row in modelfile/effects.py."""
    assert {key.path for key in KEYS} == set(EFFECTS)


def test_every_table_has_help_and_a_heading() -> None:
    """The overview links to each of them."""
    headings = re.findall(r"^## `(.+)`$", configuration_markdown(), re.MULTILINE)
    assert headings == [info.header for info in tables()]
    assert all(info.help for info in tables())


def test_every_default_is_written_as_the_file_would_have_it() -> None:
    """A reader can paste a default from the reference into the file."""
    for key in KEYS:
        if key.default_toml and key.kind is not Kind.TABLES:
            tomllib.loads(f"{key.name} = {key.default_toml}")


def test_every_scalar_of_a_plain_table_has_a_variable() -> None:
    """And no two keys share one."""
    arrays = {info.path for info in tables() if info.array}
    variables = [variable_of(key) for key in KEYS if key.kind in SCALARS and key.table not in arrays]
    assert None not in variables
    assert len(set(variables)) == len(variables)


def names_in(*places: str) -> set[str]:
    """Every whole name of a variable of ours in these files and folders of the repository."""
    found: set[str] = set()
    for place in places:
        path = REPOSITORY / place
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file() and file.suffix in {"", ".md", ".py", ".sh", ".toml", ".service", ".yml", ".yaml"}:
                found |= set(re.findall(r"\bHEDGESERVE_[A-Z][A-Z_]*[A-Z]\b", file.read_text(errors="replace")))
    return found


NAMED = names_in("README.md", "SECURITY.md", "docs", "hedgeserve", "scripts", "contrib", "Makefile", "setup.py")


def test_every_variable_that_is_named_anywhere_is_a_setting_or_one_that_is_known_to_be_none() -> None:
    """A new variable needs a row in `OTHERS` of modelfile/environ.py, or everything would stop at it."""
    settings = {variable_of(key) for key in KEYS}
    assert "HEDGESERVE_API_KEY" in NAMED
    assert (NAMED | names_in("benchmarks")) - settings <= set(OTHERS)
    assert not settings & set(OTHERS)


@pytest.mark.parametrize("variable", sorted(OTHERS))
def test_a_variable_that_is_no_setting_is_documented_and_breaks_nothing(variable: str) -> None:
    """Whoever sets what the docs say can still check, plan and serve."""
    assert f"| `{variable}` | " in configuration_markdown()
    example = EXAMPLES[0]
    text = example.read_text()
    assert parse_spec(text, example.name, example.parent, {variable: "x"}) == parse_spec(
        text, example.name, example.parent, {}
    )


def test_the_schema_is_a_schema() -> None:
    """Valid by its own draft."""
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_good_for_the_reader_and_the_schema(path: Path) -> None:
    """What we show works."""
    load_spec(path, {})
    assert not refuses(tomllib.loads(path.read_text()))


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"model": {}, "pools": []},
        {"model": {"engin": "demo"}, "pools": [{"cloud": "local"}]},
        {"model": {"engine": "dem"}, "pools": [{"cloud": "local"}]},
        {"model": {}, "pools": [{"cloud": "local", "zones": ["East"]}]},
        {"model": {}, "pools": [{"cloud": "local"}], "probe": {"interval": 3}},
        {"model": {}, "pools": [{"cloud": "local"}], "probe": {"interval": "soon"}},
        {"model": {}, "pools": [{"cloud": "local"}], "replicas": {"min": -1}},
        {"model": {}, "pools": [{"cloud": "local"}], "local": {"zones": [{"dialect": "aws"}]}},
    ],
    ids=json.dumps,
)
def test_the_schema_refuses_what_the_reader_refuses(document: dict[str, Any]) -> None:
    """An editor shows these before `hedgeserve check` is asked."""
    assert refuses(document)


def test_the_starter_file_works_as_it_is() -> None:
    """Local cloud, demo engine, no comment needed."""
    spec = parse_spec(starter_toml(), "model.toml", "/srv", {})
    assert (spec.model.engine, [pool.cloud for pool in spec.pools]) == ("demo", ["local"])
    assert not refuses(tomllib.loads(starter_toml()))


def test_the_commented_keys_of_the_starter_file_work_too() -> None:
    """Taking away a `# ` before a key gives another file that works."""
    text = re.sub(r"^# (?=\[\[?\w|[a-z_]+ = )", "", starter_toml(), flags=re.MULTILINE)
    spec = parse_spec(text, "model.toml", "/srv", {})
    assert spec.service.api_keys_file == "/srv/keys.txt"
    assert [pool.cloud for pool in spec.pools] == ["local", "aws", "static"]


def test_the_starter_file_fills_in_every_default() -> None:
    """No placeholder is left over."""
    assert "{" not in starter_toml()
