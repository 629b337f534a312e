"""A real vLLM, started as our engine starts it, and the demo engine held against it, key for key.

What is needed for it is told in :mod:`tests.vllm_server`.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from hedgeserve.core import Service
from hedgeserve.engines import make_engine
from hedgeserve.spec import EngineName, ModelSpec
from hedgeserve.specfile import parse_spec
from tests.conftest import processes_of
from tests.demo_process import DemoProcess, demo_process
from tests.vllm_rows import CHAT, FORMAT, KINDS, REQUESTS, STREAMS, TEXT, chat, completion, flat, kinds, shape
from tests.vllm_server import ARGS, ENV, make_model, vllm_servers

pytestmark = [
    pytest.mark.vllm,
    # Loading takes a minute or two on two cores, and the first test waits for it.
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        "HEDGESERVE_VLLM_PYTHON" not in os.environ,
        reason="set HEDGESERVE_VLLM_PYTHON to the interpreter of an environment with vLLM",
    ),
]

KEY = "key-of-this-test"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def vllm(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoProcess]:
    """vLLM, started with the command of our engine, answering when the tests begin."""
    with vllm_servers(model_directory, tmp_path_factory.mktemp("work"), (), key=KEY) as [server]:
        yield server


@pytest.fixture(scope="module")
def demo() -> Iterator[DemoProcess]:
    options = ("--model", "tiny", "--alias", "small", "--max-model-len", "1024", "--enable-auto-tool-choice")
    with demo_process(*options, api_key=KEY) as process:
        yield process


@pytest.mark.parametrize("name", REQUESTS)
def test_the_demo_engine_answers_in_vllms_shape(vllm: DemoProcess, demo: DemoProcess, name: str) -> None:
    """Status, content type, keys and their order, types, and what does not depend on the model: all the same."""
    path, body = REQUESTS[name]
    real, ours = (server.ask(path, body, headers=AUTHORIZED) for server in (vllm, demo))
    assert ours.status == real.status
    assert ours.headers["content-type"] == real.headers["content-type"]
    if name == "not JSON":
        # vLLM names the place of the mistake; that is its parser's, not its interface.
        assert set(ours.json["error"]) == set(real.json["error"])
        return
    assert shape(ours.json) == shape(real.json)
    assert list(flat(ours.json)) == list(flat(real.json))


@pytest.mark.parametrize("name", STREAMS)
def test_the_demo_engine_streams_in_vllms_shape(vllm: DemoProcess, demo: DemoProcess, name: str) -> None:
    """Chunk for chunk the same keys in the same order, from the role to [DONE]."""
    path, body = STREAMS[name]
    body = {**body, "stream": True, "ignore_eos": True, "min_tokens": 6}
    real, ours = (server.ask(path, body, headers=AUTHORIZED) for server in (vllm, demo))
    assert ours.headers["content-type"] == real.headers["content-type"]
    assert ours.events[-1] == real.events[-1] == "[DONE]"
    # vLLM may put several tokens into a chunk: the middle of the stream is compared kind by kind.
    for at in (0, 1, -3, -2):
        assert shape(ours.events[at]) == shape(real.events[at])
        assert list(flat(ours.events[at])) == list(flat(real.events[at]))


@pytest.mark.parametrize("name", KINDS)
def test_the_demo_engine_streams_the_same_kinds_of_chunks(vllm: DemoProcess, demo: DemoProcess, name: str) -> None:
    """Every kind of chunk that vLLM sends comes from the demo engine, and no other."""
    path, body = KINDS[name]
    real, ours = (server.ask(path, {**body, "stream": True}, headers=AUTHORIZED).events for server in (vllm, demo))
    assert kinds(ours) == kinds(real)


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": FORMAT},
        {"temperature": 1, "seed": 7, "ignore_eos": True},
        {"presence_penalty": 2, "ignore_eos": True},
    ],
)
def test_what_a_continuation_cannot_keep_is_lost_with_both(
    vllm: DemoProcess, demo: DemoProcess, fields: dict[str, Any]
) -> None:
    """Grammar, seed and counts begin anew with each request's output: the same again from the start only."""
    for server in (vllm, demo):
        body = completion(max_tokens=40, return_token_ids=True, **fields)
        whole, again = (server.ask(TEXT, body, headers=AUTHORIZED).json["choices"][0] for _ in range(2))
        assert whole["token_ids"] == again["token_ids"]
        prompt, ids = whole["prompt_token_ids"], whole["token_ids"]
        rests = []
        for cut in range(2, len(ids) - 4, 3):
            rest = {**body, "prompt": prompt + ids[:cut], "max_tokens": len(ids) - cut}
            rests.append(server.ask(TEXT, rest, headers=AUTHORIZED).json["choices"][0]["token_ids"] == ids[cut:])
        assert not all(rests)


def test_null_is_no_way_to_ask_for_all_tokens_of_a_completion(vllm: DemoProcess, demo: DemoProcess) -> None:
    """max_tokens null is the default of 16 with both: a continuation must say how far it is to go."""
    for server in (vllm, demo):
        answer = server.ask(TEXT, completion(max_tokens=None, ignore_eos=True), headers=AUTHORIZED)
        assert answer.json["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_ids_carry_the_request_id(vllm: DemoProcess, demo: DemoProcess, path: str) -> None:
    """Both make the answer's id out of X-Request-Id."""
    body = chat() if path == CHAT else completion()
    headers = {**AUTHORIZED, "X-Request-Id": "mine-7"}
    real, ours = (server.ask(path, body, headers=headers).json["id"] for server in (vllm, demo))
    assert real == ours == ("chatcmpl-mine-7" if path == CHAT else "cmpl-mine-7")


@pytest.mark.parametrize("path", ["/health", "/ping", "/load", "/v1/models", "/v1/nope", "/nope"])
def test_what_is_asked_for_without_a_key(vllm: DemoProcess, demo: DemoProcess, path: str) -> None:
    """Both guard /v1 and nothing else, and say the same."""
    for headers in ({}, AUTHORIZED):
        real, ours = (server.ask(path, headers=headers) for server in (vllm, demo))
        assert ours.status == real.status
        assert bool(ours.body) == bool(real.body)
        if ours.body:
            assert list(flat(ours.json)) == list(flat(real.json))


def test_the_demo_engines_metrics_are_among_vllms(vllm: DemoProcess, demo: DemoProcess) -> None:
    """Each metric of the demo engine is one of vLLM's, with the same labels."""

    def series(server: DemoProcess) -> set[str]:
        lines = server.ask("/metrics").body.decode().splitlines()
        return {line.rpartition(" ")[0] for line in lines if line.startswith("vllm:")}

    assert series(demo) <= series(vllm)


def test_the_load_header_is_the_same(vllm: DemoProcess, demo: DemoProcess) -> None:
    """endpoint-load-metrics of an idle server, word for word."""
    for form in ("json", "text"):
        headers = {**AUTHORIZED, "endpoint-load-metrics-format": form}
        real, ours = (
            server.ask(TEXT, completion(), headers=headers).headers["endpoint-load-metrics"]
            for server in (vllm, demo)
        )
        assert ours == real


def test_a_prompt_cut_inside_a_character_comes_out_again(vllm: DemoProcess, demo: DemoProcess) -> None:
    """Both have the quirk that a continuation must guard against; when vLLM loses it, so must the demo engine."""
    for server in (vllm, demo):
        *ids, last = server.ask("/tokenize", {"prompt": "Ring 🌊"}).json["tokens"]
        # The bias makes even a noise model finish the character; the demo engine does it by itself.
        body = completion(ids, max_tokens=1, logit_bias={str(last): 100})
        assert server.ask(TEXT, body, headers=AUTHORIZED).json["choices"][0]["text"].startswith("Ring ")


def test_vllm_streams_a_chat_to_the_official_client(vllm: DemoProcess) -> None:
    """The command of our engine gives a server that answers: a chat, streamed, with a real end and right sums."""
    with openai.OpenAI(base_url=vllm.url + "/v1", api_key=KEY, max_retries=0) as client:
        messages: list[Any] = chat()["messages"]
        options: Any = {"include_usage": True}
        with client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=12, temperature=0, stream=True, stream_options=options
        ) as stream:
            chunks = list(stream)
        ends = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
        assert ends[-1] in ("stop", "length")
        assert chunks[-1].usage is not None
        assert 1 <= chunks[-1].usage.completion_tokens <= 12


def test_vllm_answers_our_first_token_request(vllm: DemoProcess) -> None:
    """The second half of the readiness probe is one that vLLM understands, under id and key."""
    engine = make_engine(ModelSpec(id="tiny", engine=EngineName.VLLM), {})
    path, body = engine.first_token_request()
    answer = vllm.ask(path, body, headers=AUTHORIZED)
    assert answer.status == 200
    assert answer.json["usage"]["completion_tokens"] == 1


def test_vllm_keeps_the_key_out_of_its_log_and_its_arguments(vllm: DemoProcess) -> None:
    """Neither what it writes nor what `ps` shows has the key."""
    arguments = Path(f"/proc/{vllm.process.pid}/cmdline").read_text()
    assert KEY not in arguments
    assert KEY not in vllm.log.read_text()


# --- Through HedgeServe ----------------------------------------------------------------------------------------

SERVICE = """
[service]
name = "real"
listen = "127.0.0.1:0"
state_dir = {state}
transport = "tls"

[model]
id = "tiny"
engine = "vllm"
python = {python}
weights = {weights}
args = {args}

[model.env]
{env}

[replicas]
count = 1

[hedge]
overprovision = 0

[probe]
initial_delay = "6m"

[timeouts]
queue = "8m"
first_byte = "8m"

[[pools]]
cloud = "local"
zones = ["east/a"]
markets = ["on_demand"]

[local]
boot_time = "0s"
"""


async def test_vllm_is_bootstrapped_over_ssh_and_serves_by_tls_through_the_service(
    model_directory: Path, short_dir: Path
) -> None:
    """A VM with a real SSH server, vLLM started there by the bootstrap, asked by TLS, streamed to a client."""
    text = SERVICE.format(
        state=json.dumps(str(short_dir / "state")),
        python=json.dumps(os.environ["HEDGESERVE_VLLM_PYTHON"]),
        weights=json.dumps(str(model_directory)),
        args=json.dumps(ARGS),
        env="\n".join(f"{name} = {json.dumps(value)}" for name, value in ENV.items()),
    )
    spec = parse_spec(text, "real.toml", short_dir, {})
    async with (
        Service(spec, environ={}) as service,
        openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=500) as client,
    ):
        messages: list[Any] = chat()["messages"]
        stream = await client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=12, temperature=0, stream=True
        )
        ends = [chunk.choices[0].finish_reason async for chunk in stream if chunk.choices]
        assert ends[-1] in ("stop", "length")
        [replica] = service.status()["replicas"]
        assert replica["state"] == "ready"
        log = await service.logs(replica["id"], 200)
        assert "https://" in log
        key = next((short_dir / "state").glob("local/*/home/**/api_key")).read_text()
        assert key not in log
    assert processes_of(short_dir) == []
