"""Reading model.toml: what is accepted, and how every mistake is told."""

# ruff: noqa: E501 (messages stand here whole, as the reader sees them)

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hedgeserve.errors import SpecError, SpecProblem
from hedgeserve.modelfile.keys import Kind, objection, tables
from hedgeserve.modelfile.lines import key_lines
from hedgeserve.modelfile.problems import _in_quotes
from hedgeserve.replica import Market
from hedgeserve.spec import Cloud, EngineName, ModelSpec, PoolSpec, Spec, split_listen
from hedgeserve.specfile import load_api_keys, load_spec, parse_spec
from hedgeserve.spectable import is_loopback

MINIMAL = """\
[model]
engine = "demo"
[[pools]]
cloud = "local"
zones = ["east/a", "east/b"]
"""


def parse(text: str, environ: dict[str, str] | None = None, base_dir: str | Path = "/srv") -> Spec:
    return parse_spec(text, "model.toml", base_dir, environ or {})


def problems(text: str, environ: dict[str, str] | None = None) -> list[SpecProblem]:
    with pytest.raises(SpecError) as caught:
        parse(text, environ)
    return caught.value.problems


def told(text: str, environ: dict[str, str] | None = None) -> list[str]:
    return [problem.render("m") for problem in problems(text, environ)]


def minimal_with(text: str) -> str:
    return MINIMAL + text


# What is accepted


def test_a_minimal_file_has_the_defaults() -> None:
    """A model and one pool are enough; the rest is as documented, quantities in plain numbers."""
    spec = parse(MINIMAL)
    assert spec.model.engine is EngineName.DEMO
    assert spec.clouds() == {Cloud.LOCAL}
    assert spec.pools[0].markets == [Market.SPOT, Market.ON_DEMAND]
    assert (spec.replicas.lowest, spec.replicas.highest) == (1, 1)
    assert spec.timeouts.drain == 120.0
    assert spec.limits.max_body == 16 * 2**20


def test_quantities_are_read_with_their_units() -> None:
    """Durations, prices and sizes become seconds, dollars per hour and bytes."""
    spec = parse(
        minimal_with('max_usd_per_hour = "2.50 USD/h"\n[probe]\ninterval = "1m30s"\n[limits]\nmax_body = "1 MB"')
    )
    assert (spec.pools[0].max_usd_per_hour, spec.probe.interval, spec.limits.max_body) == (2.5, 90.0, 10**6)


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    """The same file means the same from whatever directory it is read."""
    (tmp_path / "trace.json").write_text("{}")
    text = (
        MINIMAL
        + '[service]\napi_keys_file = "keys.txt"\nstate_dir = "../state"\n[[local.zones]]\nzone = "east/a"\n'
    )
    spec = parse(text + 'trace = "trace.json"', base_dir=tmp_path)
    assert spec.service.api_keys_file == str(tmp_path / "keys.txt")
    assert spec.service.state_dir == str(tmp_path.parent / "state")
    assert spec.local.zones[0].trace == str(tmp_path / "trace.json")


def test_a_file_with_windows_line_ends_and_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    """Editors elsewhere write such files."""
    path = tmp_path / "model.toml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load_spec(path, {}).model.engine is EngineName.DEMO


def test_a_spec_knows_the_file_and_lines_it_came_from() -> None:
    """Rooms that find a mistake later (keys, trace contents) can still point at the line."""
    origin = parse(MINIMAL).origin
    assert origin.source == "model.toml"
    assert origin.line_of(("pools", 0, "zones")) == 5
    assert origin.line_of(("pools", 0, "markets")) == 3, "an unwritten key has the line of its table"
    assert origin.line_of(("probe",)) is None


# How mistakes are told


def test_all_mistakes_are_told_at_once_in_the_order_of_the_lines() -> None:
    """A typo, a wrong type, a wrong choice, a wrong unit and a conflict: five problems, five lines."""
    text = """\
[model]
engine = "dem"
[replicas]
min = 3
max = 2
upscale_dellay = "5m"
window = 60
[hedge]
overprovision = "1"
[[pools]]
cloud = "local"
zones = ["east/a", "East"]
"""
    assert told(text) == [
        'm:2: model.engine: must be one of "vllm", "command", "demo", but is "dem"; did you mean "demo"?',
        "m:5: replicas.max: `max` (2) is below `min` (3); raise it",
        "m:6: replicas.upscale_dellay: unknown key `upscale_dellay`; did you mean `upscale_delay`?",
        'm:7: replicas.window: 60 has no unit; write it in quotes with one, such as "90s"',
        'm:9: hedge.overprovision: must be a whole number, but is "1"; leave out the quotes: 1',
        'm:12: pools[0].zones[1]: "East" is not a zone; write "region/zone" in lower case, such as "east/a"',
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[replicas]\nmax_replica = 3",
            "m:7: replicas.max_replica: unknown key `max_replica`; did you mean `max`?",
        ),
        (
            "[service]\nmin = 1",
            "m:7: service.min: unknown key `min`; it belongs in [replicas] or [[schedule.scale]]",
        ),
        (
            "[service]\napi_key = 'sk-1'",
            "m:7: service.api_key: unknown key `api_key`; did you mean `api_keys_file`?",
        ),
        ("zone = ['a/b']", "m:6: pools[0].zone: unknown key `zone`; did you mean `zones`?"),
        ("[replica]\nmin = 2", "m:6: replica: unknown table `replica`; did you mean [replicas]?"),
        ("[[local.zone]]\nzone = 'east/a'", "m:6: local.zone: unknown key `zone`; did you mean `zones`?"),
    ],
)
def test_unknown_keys_come_with_the_near_miss(text: str, expected: str) -> None:
    """The reader learns what was probably meant, or where the key belongs; its value is not repeated."""
    assert told(minimal_with(text)) == [expected]


def test_a_misspelt_table_is_read_on_under_its_right_name() -> None:
    """One typo in a header does not hide the mistakes below it."""
    assert told(minimal_with('[hedg]\noverprovision = -1\n[timeout]\ndrain = "soon"')) == [
        "m:6: hedg: unknown table `hedg`; did you mean [hedge]?",
        "m:7: hedge.overprovision: must be at least 0, but is -1",
        "m:8: timeout: unknown table `timeout`; did you mean [timeouts]?",
        'm:9: timeouts.drain: \'soon\' is not a duration; write a number with a unit, such as "90s" or "1h30m"',
    ]


def test_a_misspelt_needed_key_is_told_once() -> None:
    """`url` for `urls` is one mistake, not an unknown key and a missing one."""
    text = '[model]\nengine = "demo"\n[[pools]]\ncloud = "static"\nurl = ["http://127.0.0.1:1"]'
    assert told(text) == ["m:5: pools[0].url: unknown key `url`; did you mean `urls`?"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[model]\nargs = '--x'",
            'model.args: must be a list of texts, but is "--x"; put it in brackets: ["--x"]',
        ),
        ("[model]\nargs = [8]", 'model.args[0]: must be text in quotes, but is 8; put it in quotes: "8"'),
        (
            "[service]\nlisten = 8000",
            "service.listen: must be text in quotes, but is 8000; put it in quotes, with the host before the "
            'port: "127.0.0.1:8000"',
        ),
        (
            "[admin]\nlisten = 80000",
            'admin.listen: must be text in quotes, but is 80000; "80000" is not an address to listen on; write host '
            'and port (0 to 65535), such as "127.0.0.1:8000" or "[::1]:8000"',
        ),
        (
            "[probe]\npath = 5",
            'probe.path: must be text in quotes, but is 5; and "5" is not a path; start it with a slash',
        ),
        ("[timeouts]\nboot = 30", 'timeouts.boot: 30 has no unit; write it in quotes with one, such as "90s"'),
        ("[model]\nenv = {TOKEN = 5}", "model.env.TOKEN: must be text in quotes"),
        ("[model]\nid = ''", "model.id: cannot be empty"),
        ("[replicas]\nmin = true", "replicas.min: must be a whole number, but is true; such as 3"),
        ("[replicas]\nmin = 1.5", "replicas.min: must be a whole number, but is 1.5; such as 3"),
        (
            "[hedge]\nfallback = 'True'",
            'hedge.fallback: must be `true` or `false`, but is "True"; leave out the quotes: true',
        ),
        ("[probe]\ntimeout = '0s'", 'probe.timeout: must be above "0s", but is "0s"'),
        ("[local]\ntrace_speed = inf", "local.trace_speed: must be a finite number, but is inf"),
        ("[local]\nlaunch_failure = 1.5", "local.launch_failure: must be at most 1, but is 1.5"),
        (
            "[limits]\nmax_body = '5'",
            'limits.max_body: \'5\' is not a size; write a number with a unit, such as "16 MiB" or "10 MB"',
        ),
        (
            "[service]\nname = 'A B'",
            'service.name: "A B" is not a service name; start with a lower-case letter, go on with up to 39 of them, digits, dashes',
        ),
        ("[probe]\npath = 'health'", 'probe.path: "health" is not a path; start it with a slash'),
        (
            "[[service]]\nname = 'x'",
            "service: must be written as [service]; its header has single brackets, its keys stand below",
        ),
        (
            "[local.zones]\nzone = 'x'",
            "local.zones: must be written as [[local.zones]]; its header has double brackets, its keys stand below",
        ),
        (
            "[[local.zones]]\ndialect = 'aws'",
            'local.zones[0].zone: `zone` is missing; write it, such as zone = "text"',
        ),
    ],
)
def test_wrong_values_are_told_in_our_words(text: str, expected: str) -> None:
    """What must stand there, what does stand there, and the smallest change that mends it."""
    base = {"[model]": MINIMAL.replace('[model]\nengine = "demo"\n', "")}.get(text.split("\n")[0], MINIMAL)
    if base is not MINIMAL:
        text = text.replace("[model]\n", '[model]\nengine = "demo"\n')
        text += "\n" if not text.endswith("\n") else ""
        rendered = told(text + base)
    else:
        rendered = told(base + text)
    assert [line.split(": ", 1)[1] for line in rendered] == [expected]


def test_an_empty_file_is_told_what_it_needs() -> None:
    """Both tables that have no default, in one go."""
    assert [problem.key for problem in problems("")] == ["model", "pools"]


def test_no_message_shows_the_library_or_a_password() -> None:
    """Neither the validation library's name, nor its addresses, nor a password in a URL, reach the reader."""
    text = 'x = 1\n[model]\nid = 3\nargs = 3\n[[pools]]\ncloud = "static"\nurls = ["http://u:hunter2@10.0.0.5:1"]'
    rendered = "\n".join(told(text))
    assert "hunter2" not in rendered
    assert "pydantic" not in rendered
    assert "Input should" not in rendered
    assert 'pools[0].urls[0]: "http://***@10.0.0.5:1" is not a base URL' in rendered


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[model\nid = 1", 1),
        ("[model]\nid = demo", 2),
        ("[model]\n\nid = 'x'\nid = 'y'", 4),
        ('[model]\nid = """never\nclosed', 3),
        ("a = " + "[" * 5000, None),
    ],
)
def test_broken_toml_is_told_with_its_line(text: str, line: int | None) -> None:
    """Syntax comes first: nothing else can be said of such a file."""
    (problem,) = problems(text)
    assert problem.line == line
    assert problem.message.startswith(("is not TOML", "is nested too deeply"))


# What cannot stand together


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[replicas]\ncount = 2\nmin = 1",
            ["m:8: replicas.min: `count` fixes the number of replicas; remove `min` or `count`"],
        ),
        (
            "[replicas]\nmin = 0",
            ["m:6: replicas.max: `min = 0` needs `max`, the most replicas that requests may wake"],
        ),
        (
            "[replicas]\nmax = 3",
            [
                "m:6: replicas.target_requests_per_second: `max` (3) above `min` (1) needs `target_requests_per_second` to scale by;"
                " write the requests per second that one replica is to carry"
            ],
        ),
        (
            "[probe]\npost_body = {a = 1}",
            ["m:6: probe.path: `post_body` needs `path`; write the path that it is to be sent to"],
        ),
        (
            '[probe]\npath = "/x"\npost_body = {a = 1979-05-27}',
            ["m:8: probe.post_body: cannot be sent as JSON, which has no dates, `inf` and `nan`"],
        ),
        (
            '[[pools]]\ncloud = "local"\nzones = ["west/a", "east/b"]',
            ['m:8: pools[1].zones[1]: "east/b" is already in `pools[0].zones`; remove one of the two'],
        ),
        (
            '[[local.zones]]\nzone = "east/q"',
            [
                'm:7: local.zones[0].zone: no pool with cloud = "local" has the zone "east/q"; did you mean "east/b"?'
            ],
        ),
        (
            '[[local.zones]]\nzone = "east/a"\n[[local.zones]]\nzone = "east/a"',
            ['m:9: local.zones[1].zone: "east/a" is there twice; merge the two'],
        ),
        (
            'markets = ["spot"]\n[hedge]\nfallback = true\nalways_on_demand = 1',
            [
                'm:8: hedge.fallback: no pool has on-demand VMs to fall back to; add "on_demand" to the `markets` of a pool',
                'm:9: hedge.always_on_demand: no pool has on-demand VMs; add "on_demand" to the `markets` of a pool',
            ],
        ),
        ("markets = []", ['m:6: pools[0].markets: holds "spot", "on_demand" or both']),
        ('urls = ["http://h:1"]', ['m:6: pools[0].urls: `urls` is only for cloud = "static"; remove `urls`']),
    ],
)
def test_impossible_combinations_are_mistakes(text: str, expected: list[str]) -> None:
    """Each well-formed in itself, and still no service."""
    assert told(minimal_with(text)) == expected


@pytest.mark.parametrize("host", ["foo..bar", ".foo", f"{'x' * 64}.example", ":80"])
def test_a_static_server_needs_a_host_that_can_be_looked_up(host: str) -> None:
    """What no resolver would take is told with its place, before anything starts."""
    text = f'[model]\nengine = "demo"\n[[pools]]\ncloud = "static"\nurls = ["http://10.0.0.5", "http://{host}"]'
    assert told(text) == [
        f'm:5: pools[0].urls[1]: "http://{host}" has no host that can be looked up; '
        "between its dots there must be 1 to 63 characters each time"
    ]


@pytest.mark.parametrize("host", ["a.b.", "[::1]:80", "10.0.0.5:8000", "x" * 63, "bücher.example"])
def test_other_hosts_are_taken(host: str) -> None:
    """Names, addresses, ports, a dot at the end."""
    text = f'[model]\nengine = "demo"\n[[pools]]\ncloud = "static"\nurls = ["http://{host}"]'
    assert parse_spec(text, "m", "/", {}).pools[0].urls == [f"http://{host}"]


def test_spot_only_pools_need_no_word_about_on_demand() -> None:
    """The default `fallback = true` is no mistake where nobody wrote it."""
    assert parse(minimal_with('markets = ["spot"]')).hedge.fallback


def test_static_servers_count_as_on_demand_to_fall_back_to() -> None:
    """A rack of one's own is on-demand that is always there."""
    text = (
        'markets = ["spot"]\n[hedge]\nfallback = true\n[[pools]]\ncloud = "static"\nurls = ["http://127.0.0.1:1"]'
    )
    assert parse(minimal_with(text)).clouds() == {Cloud.LOCAL, Cloud.STATIC}


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        ('engine = "demo"\npython = "python3"\nversion = "1"', ["model.python", "model.version"]),
        ('engine = "demo"\ncommand = ["x"]\nhealth_path = "/x"', ["model.command", "model.health_path"]),
        ('engine = "command"', ["model.command"]),
        ('engine = "vllm"', ["model.id"]),
        ('id = "a"\naliases = ["a", "b", "b", ""]', ["model.aliases[0]", "model.aliases[2]", "model.aliases[3]"]),
    ],
)
def test_keys_that_the_engine_has_no_use_for_are_mistakes(model: str, keys: list[str]) -> None:
    """A key that would be ignored was meant to do something."""
    assert [problem.key for problem in problems(MINIMAL.replace('engine = "demo"', model))] == keys


def test_a_local_table_without_a_local_pool_is_a_mistake() -> None:
    """The table would configure a cloud that nothing uses."""
    text = (
        '[model]\nengine = "demo"\n[[pools]]\ncloud = "static"\nurls = ["http://127.0.0.1:1"]\n[local]\nseed = 1'
    )
    assert told(text) == ['m:6: local: no pool has cloud = "local"; remove the [local] tables or add such a pool']


def test_the_same_conflicts_stop_a_spec_built_in_python() -> None:
    """Embedders get no weaker a check than files."""
    pool = PoolSpec(cloud=Cloud.LOCAL, zones=["east/a"])
    with pytest.raises(ValidationError, match="already in"):
        Spec(model=ModelSpec(id="m"), pools=[pool, pool])


@pytest.mark.parametrize("listen", ["127.0.0.1:8000", "[::1]:8000", "localhost:0", "0.0.0.0:65535"])
def test_an_address_to_listen_on_has_host_and_port(listen: str) -> None:
    """IPv6 addresses stand in brackets; port 0 takes a free one."""
    host, port = split_listen(parse(minimal_with(f'[service]\nlisten = "{listen}"')).service.listen)
    assert f"{host}:{port}" == listen.replace("[", "").replace("]", "")


@pytest.mark.parametrize(
    "listen", ["", "8000", ":8000", "::1:8000", "127.0.0.1", "1.2.3:80", "h:65536", "[x]:1", "h:-1"]
)
def test_other_addresses_to_listen_on_are_mistakes(listen: str) -> None:
    """Nothing is guessed about where a service shall be reachable."""
    assert [problem.key for problem in problems(minimal_with(f'[service]\nlisten = "{listen}"'))] == [
        "service.listen"
    ]


# Files


def test_a_missing_file_is_told_how_to_get_one(tmp_path: Path) -> None:
    """The next step stands in the message."""
    with pytest.raises(SpecError, match="no such file; write one with `hedgeserve init"):
        load_spec(tmp_path / "model.toml", {})


def test_a_directory_is_told_of_the_file_in_it(tmp_path: Path) -> None:
    """Naming the directory is a near miss of naming the file."""
    (tmp_path / "model.toml").write_text(MINIMAL)
    with pytest.raises(SpecError, match=r"is a directory, not a file; did you mean .*/model\.toml\?"):
        load_spec(tmp_path, {})


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A model's weights, say, or a file in another encoding."""
    path = tmp_path / "model.toml"
    path.write_bytes(b"[model]\nid = '\xff'\n")
    with pytest.raises(SpecError, match=r"model\.toml:2: is not UTF-8 text \(byte 0xff\)"):
        load_spec(path, {})


def test_an_endless_file_is_not_read_to_its_end() -> None:
    """A device or a disk image in place of a model.toml costs no memory."""
    with pytest.raises(SpecError, match="larger than 1 MiB"):
        load_spec("/dev/zero", {})


# The environment


def test_the_environment_stands_above_the_file() -> None:
    """Scalars of plain tables, read as TOML where they are TOML."""
    environ = {
        "HEDGESERVE_SERVICE_LISTEN": "127.0.0.1:9",
        "HEDGESERVE_REPLICAS_MIN": "2",
        "HEDGESERVE_HEDGE_FALLBACK": "false",
        "HEDGESERVE_MODEL_ID": "7",
        "HEDGESERVE_TIMEOUTS_DRAIN": "5s",
    }
    spec = parse(minimal_with("[replicas]\nmin = 1"), environ)
    assert (spec.service.listen, spec.replicas.min, spec.hedge.fallback) == ("127.0.0.1:9", 2, False)
    assert (spec.model.id, spec.timeouts.drain) == ("7", 5.0)


def test_mistakes_in_the_environment_name_the_variable() -> None:
    """A wrong value has no line; the reader is told which variable holds it."""
    assert told(MINIMAL, {"HEDGESERVE_REPLICAS_MIN": "-1", "HEDGESERVE_PROBE_TIMOUT": "1s"}) == [
        "m: the environment variable HEDGESERVE_PROBE_TIMOUT names no setting; did you mean HEDGESERVE_PROBE_TIMEOUT?",
        "m: replicas.min: must be at least 0, but is -1; the environment variable HEDGESERVE_REPLICAS_MIN says so",
    ]


def test_a_value_of_the_environment_is_not_blamed_on_a_line_when_it_is_judged_later(tmp_path: Path) -> None:
    """A key file that a variable names and that is not there: the variable is named, not the file's own key."""
    text = minimal_with('[service]\napi_keys_file = "good.txt"')
    spec = parse(text, {"HEDGESERVE_SERVICE_API_KEYS_FILE": "missing.txt"}, tmp_path)
    with pytest.raises(SpecError) as caught:
        load_api_keys(spec, {})
    (problem,) = caught.value.problems
    assert problem.line is None
    assert "the environment variable HEDGESERVE_SERVICE_API_KEYS_FILE says so" in problem.hint


def test_a_list_cannot_be_set_by_the_environment() -> None:
    """It is said, not ignored."""
    (line,) = told(MINIMAL, {"HEDGESERVE_MODEL_ARGS": "[]"})
    assert (
        line
        == "m: the environment variable HEDGESERVE_MODEL_ARGS cannot set `args` of [model]; write it in the file"
    )


def test_other_variables_are_none_of_our_business() -> None:
    """Keys, the data directory, and variables that the file itself names as secrets."""
    text = MINIMAL.replace("[model]", '[model]\nsecret_env = ["HEDGESERVE_MODEL_TOKEN"]')
    environ = {"HEDGESERVE_API_KEYS": "x", "HEDGESERVE_DATA": "y", "HEDGESERVE_MODEL_TOKEN": "z"}
    assert parse(text, environ).model.secret_env == ["HEDGESERVE_MODEL_TOKEN"]


# What the file names and must be there


def test_missing_secrets_and_traces_are_mistakes() -> None:
    """Better now than when the first VM has been paid for."""
    text = MINIMAL.replace("[model]", '[model]\nsecret_env = ["HF_TOKEN"]')
    text += '[[local.zones]]\nzone = "east/a"\ntrace = "no.json"\n'
    text += '[[pools]]\ncloud = "static"\nurls = ["http://127.0.0.1:1"]\napi_key_env = "RACK_KEY"'
    assert told(text) == [
        "m:2: model.secret_env[0]: the environment variable HF_TOKEN is not set; set it, or remove HF_TOKEN from `secret_env`",
        "m:9: local.zones[0].trace: there is no file /srv/no.json; a relative path starts where the model.toml is",
        "m:13: pools[1].api_key_env: the environment variable RACK_KEY is not set; set it, or remove `api_key_env`",
    ]
    assert parse_spec(text, "m", "/srv", {}, surroundings=False).model.secret_env == ["HF_TOKEN"]


# API keys


def spec_with(service: str, tmp_path: Path) -> Spec:
    return parse(minimal_with("[service]\n" + service), base_dir=tmp_path)


def key_file(tmp_path: Path, text: str, mode: int = 0o600) -> str:
    path = tmp_path / "keys.txt"
    path.write_text(text)
    path.chmod(mode)
    return 'api_keys_file = "keys.txt"'


def test_keys_come_from_the_variable_and_the_file(tmp_path: Path) -> None:
    """Both together; comments and blank lines of the file are no keys."""
    spec = spec_with(key_file(tmp_path, "# of the team\n\nfile-key  \n"), tmp_path)
    assert load_api_keys(spec, {"HEDGESERVE_API_KEYS": "one, two"}) == {"one", "two", "file-key"}


def test_without_any_source_no_key_is_asked_for_on_loopback(tmp_path: Path) -> None:
    """The default for a person at their own machine."""
    assert load_api_keys(spec_with("", tmp_path), {}) == frozenset()


def test_a_public_address_without_keys_is_refused(tmp_path: Path) -> None:
    """Unless it is said explicitly; the message has all ways out."""
    public = 'listen = "0.0.0.0:8000"'
    with pytest.raises(SpecError, match=r"model\.toml:7: service\.listen: .* no API key would be asked for"):
        load_api_keys(spec_with(public, tmp_path), {})
    assert load_api_keys(spec_with(public + "\nallow_public_without_keys = true", tmp_path), {}) == frozenset()
    assert load_api_keys(spec_with(public, tmp_path), {"HEDGESERVE_API_KEYS": "k"}) == {"k"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "holds no key"),
        (" , ", "holds no key"),
        ("secret-1,,secret-2", r"holds a blank key \(number 2 of 3\)"),
        ("secret-1,se cret", r"number 2 of 2 has a blank or is not ASCII"),
    ],
)
def test_a_variable_with_blank_keys_is_refused(value: str, message: str, tmp_path: Path) -> None:
    """An empty variable is more likely a lost secret than a wish to serve everybody. No key is shown."""
    with pytest.raises(SpecError, match=message) as caught:
        load_api_keys(spec_with("", tmp_path), {"HEDGESERVE_API_KEYS": value})
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("# nothing\n", 0o600, "holds no key; write one key a line"),
        ("key\n", 0o644, r"can be read or changed by others; run `chmod 600 .*keys\.txt`"),
        ("two words\n", 0o600, "number 1 of 1 has a blank"),
    ],
)
def test_a_bad_key_file_is_refused(text: str, mode: int, message: str, tmp_path: Path) -> None:
    """No keys, a key for everybody to read, a key that no client can send."""
    with pytest.raises(SpecError, match=message):
        load_api_keys(spec_with(key_file(tmp_path, text, mode), tmp_path), {})


def test_a_missing_key_file_is_refused_even_with_keys_elsewhere(tmp_path: Path) -> None:
    """A source that was named and is not there is a mistake, not a fallback."""
    with pytest.raises(SpecError, match=r"keys\.txt cannot be read: No such file"):
        load_api_keys(spec_with('api_keys_file = "keys.txt"', tmp_path), {"HEDGESERVE_API_KEYS": "k"})


def test_only_loopback_counts_as_this_machine_alone() -> None:
    """A host name may resolve to anything, so it counts as public."""
    assert is_loopback("127.8.0.1:1")
    assert is_loopback("[::1]:1")
    assert is_loopback("localhost:1")
    assert not is_loopback("0.0.0.0:1")
    assert not is_loopback("[::]:1")
    assert not is_loopback("example.org:1")


# Lines


def test_lines_are_found_through_strings_arrays_and_inline_tables() -> None:
    """Brackets and hashes inside of strings, arrays over lines, dotted and quoted keys, tables in arrays."""
    text = '''\
a.b = """x
[not.a.table]
y"""  # c
"q\\"k" = 1
[[pools]]
zones = [ # hi
  "a#b",

  'c[d',
]
inline = {x = 1, y = {z = [1, {w = "}"}]}}
[[pools]]
[pools.sub]
when = 1979-05-27T07:32:00Z
[[local.zones]]
zone = 'x'
[local]
seed = 1
'''
    lines = key_lines(text)
    assert lines[("a", "b")] == 1
    assert lines[('q"k',)] == 4
    assert (lines[("pools", 0)], lines[("pools", 1)]) == (5, 12)
    assert (lines[("pools", 0, "zones", 0)], lines[("pools", 0, "zones", 1)]) == (7, 9)
    assert lines[("pools", 0, "inline", "y", "z", 1, "w")] == 11
    assert lines[("pools", 1, "sub", "when")] == 14
    assert lines[("local", "zones", 0, "zone")] == 16
    assert lines[("local",)] == 17, "its own header counts, not the first mention"


_BARE = st.text("abcXYZ-_019", min_size=1, max_size=5)
_QUOTABLE = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), max_size=8)
_LEAVES = st.integers() | st.booleans() | _QUOTABLE
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_BARE, inner, max_size=3)
)


def _write(value: Any, newline: str) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, list):
        return (
            "["
            + newline
            + f",{newline}# ] comment\n".join(_write(item, newline) for item in value)
            + newline
            + "]"
        )
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{key} = {_write(item, '')}".replace("# ] comment\n", "") for key, item in value.items())
            + "}"
        )
    return str(value).lower()


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    found = {path} if path else set()
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            found |= _paths(item, (*path, key))
    return found


@given(tables=st.dictionaries(_BARE, st.dictionaries(_BARE, _VALUES, max_size=4), max_size=4))
def test_every_key_of_any_file_has_a_line(tables: dict[str, dict[str, Any]]) -> None:
    """The scanner finds exactly the keys that the parser finds, whatever stands in their values."""
    text = ""
    for name, table in tables.items():
        text += f"[{name}]\n" + "".join(f"{key} = {_write(value, chr(10))}\n" for key, value in table.items())
    assert set(key_lines(text)) == _paths(tomllib.loads(text))


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_problems(text: str) -> None:
    """Whatever the file holds, the answer is a spec or a list of sentences, never a traceback."""
    with pytest.raises(SpecError) as caught:
        parse(text)
    assert caught.value.problems


@given(
    tables=st.dictionaries(
        st.sampled_from(["service", "model", "replicas", "pools", "local", "probe", "nonsense"]),
        st.dictionaries(
            st.sampled_from(
                ["name", "listen", "id", "min", "count", "zones", "cloud", "post_body", "seed", "mni"]
            ),
            _VALUES,
            max_size=5,
        ),
    )
)
def test_any_wrong_value_anywhere_is_told(tables: dict[str, dict[str, Any]]) -> None:
    """Values of every type under keys of every table: a spec or sentences, and none of them the library's."""
    text = ""
    for name, table in tables.items():
        header = f"[[{name}]]" if name == "pools" else f"[{name}]"
        text += header + "\n" + "".join(f"{key} = {_write(value, chr(10))}\n" for key, value in table.items())
    told_of = ""
    try:
        parse(text)
    except SpecError as error:
        told_of = str(error)
    assert "Input should" not in told_of


def test_the_process_environment_is_used_where_none_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`load_spec(path)` is all that an embedder needs."""
    monkeypatch.setitem(os.environ, "HEDGESERVE_SERVICE_NAME", "from-env")
    (tmp_path / "model.toml").write_text(MINIMAL)
    assert load_spec(tmp_path / "model.toml").service.name == "from-env"


def test_no_advice_to_put_a_number_in_quotes_leads_to_another_mistake() -> None:
    """Of every key that takes text: where `"7"` is advised, the key takes it."""
    for one in (key for info in tables() for key in info.keys if key.kind is Kind.TEXT):
        hint = _in_quotes(one, "7")
        assert (hint == 'put it in quotes: "7"') == (not objection(one, "7")), one.path
