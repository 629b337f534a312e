"""What each engine is told to do: arguments, keys, installation; and what is refused before anything starts."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hedgeserve.engines import make_engine
from hedgeserve.engines.base import EngineCommand, EngineContext
from hedgeserve.engines.demo import PACKAGE
from hedgeserve.engines.demo_server.options import parser
from hedgeserve.spec import EngineName, ModelSpec

CONTEXT = EngineContext(listen="127.0.0.1", port=8123, python="python3", workdir="/home/vm/hedgeserve")
CLOUD = replace(
    CONTEXT,
    scratch="/nvme/hedgeserve",
    gpus=4,
    certfile="/home/vm/hedgeserve/tls/engine.crt",
    keyfile="/home/vm/hedgeserve/tls/engine.key",
)


def model(engine: str, **fields: Any) -> ModelSpec:
    given = {"id": "org/model", "engine": EngineName(engine), **fields}
    if engine == "command":
        given.setdefault("command", ["server", "--port", "{port}"])
    return ModelSpec(**given)


def command(spec: ModelSpec, **environ: str) -> EngineCommand:
    return make_engine(spec, environ).command(CONTEXT, "the-key")


def test_vllm_serves_the_model_under_its_id_and_aliases() -> None:
    """The module, not the `vllm` program; the user's arguments come last and win."""
    spec = model("vllm", aliases=["small"], python="/opt/venv/bin/python", args=["--max-model-len", "4096"])
    assert list(command(spec).argv) == [
        "/opt/venv/bin/python",
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--host",
        "127.0.0.1",
        "--port",
        "8123",
        "--model",
        "org/model",
        "--served-model-name",
        "org/model",
        "small",
        "--max-model-len",
        "4096",
    ]


def test_vllm_on_a_cloud_vm_uses_its_gpus_its_disk_and_our_certificate() -> None:
    """All GPUs share the model; what is downloaded and compiled lies on the fast disk; the user's words win."""
    told = make_engine(model("vllm", env={"HF_HOME": "/mine"}), {}).command(CLOUD, "the-key")
    argv = " ".join(told.argv)
    assert "--tensor-parallel-size 4" in argv
    assert f"--ssl-certfile {CLOUD.certfile} --ssl-keyfile {CLOUD.keyfile}" in argv
    assert (told.env["HF_HOME"], told.env["VLLM_CACHE_ROOT"]) == ("/mine", "/nvme/hedgeserve/vllm")
    for args in (["--tensor-parallel-size=2"], ["-tp", "2"], ["--data_parallel_size", "4"]):
        laid_out = make_engine(model("vllm", args=args), {}).command(CLOUD, "the-key")
        assert list(laid_out.argv)[-len(args) :] == args
        assert "--tensor-parallel-size 4" not in " ".join(laid_out.argv)


@pytest.mark.parametrize("bucket", ["s3://bucket/qwen", "gs://bucket/qwen", "az://bucket/qwen"])
def test_weights_in_a_bucket_are_streamed(bucket: str) -> None:
    """Under the model's name, by a reader that is installed too; another format may be asked for."""
    engine = make_engine(model("vllm", weights=bucket), {})
    argv = " ".join(engine.command(CONTEXT, "the-key").argv)
    assert f"--model {bucket} --served-model-name org/model --load-format runai_streamer" in argv
    assert "'vllm[runai]==0.32.0'" in str(engine.install_script(CONTEXT))
    other = make_engine(model("vllm", weights=bucket, args=["--load-format", "tensorizer"]), {})
    assert "runai_streamer" not in " ".join(other.command(CONTEXT, "the-key").argv)


def test_weights_on_the_vm_are_loaded_under_the_models_name() -> None:
    """A path needs no reader; saying the model twice is refused."""
    argv = " ".join(command(model("vllm", weights="/weights/qwen")).argv)
    assert "--model /weights/qwen --served-model-name org/model" in argv
    assert "load-format" not in argv
    with pytest.raises(ValueError, match=r"--model.*model\.weights"):
        make_engine(model("vllm", weights="/weights/qwen", args=["--model", "/other"]), {})


def test_vllm_runs_from_a_container_that_shares_what_it_needs_and_no_more() -> None:
    """GPUs, network, the fast disk, the certificate, the weights; secrets by name alone; as root, for docker."""
    image = "vllm/vllm-openai@sha256:abc"
    engine = make_engine(
        model("vllm", container=image, weights="/weights/qwen", secret_env=["HF_TOKEN"]), {"HF_TOKEN": "hf_secret"}
    )
    told = engine.command(CLOUD, "the-key")
    docker, server = " ".join(told.argv).split(f" {image} ")
    assert docker.startswith("sh -c docker rm -f")
    for part in (
        "hedgeserve-engine --ipc=host --network=host --gpus all",
        "--volume /nvme/hedgeserve:/nvme/hedgeserve",
        "--volume /home/vm/hedgeserve/tls:/home/vm/hedgeserve/tls",
        "--volume /weights/qwen:/weights/qwen",
        "--env HF_TOKEN",
        "--env VLLM_API_KEY",
        "--env VLLM_CACHE_ROOT",
        "--entrypoint python3",
    ):
        assert part in docker
    assert server.startswith(
        "-m vllm.entrypoints.openai.api_server --host 127.0.0.1 --port 8123 --model /weights/qwen"
    )
    assert "hf_secret" not in docker + server
    assert told.as_root
    assert "--gpus" not in " ".join(engine.command(CONTEXT, "the-key").argv)


def test_the_demo_engine_is_handed_its_certificate() -> None:
    """By the options that vLLM has too."""
    argv = " ".join(make_engine(model("demo"), {}).command(CLOUD, "the-key").argv)
    assert f"--ssl-certfile {CLOUD.certfile} --ssl-keyfile {CLOUD.keyfile}" in argv


def test_a_command_answers_by_tls_where_it_takes_the_certificate() -> None:
    """Both places or none; and never without a certificate to put there."""
    engine = make_engine(model("command", command=["serve", "--cert={certfile}", "--key={keyfile}"]), {})
    assert engine.tls
    assert list(engine.command(CLOUD, "the-key").argv)[1:] == [
        f"--cert={CLOUD.certfile}",
        f"--key={CLOUD.keyfile}",
    ]
    with pytest.raises(ValueError, match=r'service\.transport to "tls"'):
        engine.command(CONTEXT, "the-key")
    with pytest.raises(ValueError, match=r"\{keyfile\} alone"):
        make_engine(model("command", command=["serve", "{keyfile}"]), {})
    assert not make_engine(model("command"), {}).tls


def test_vllm_is_told_to_report_to_nobody() -> None:
    """Usage reports are off, unless the user's own environment says otherwise."""
    assert command(model("vllm")).env["VLLM_NO_USAGE_STATS"] == "1"
    assert command(model("vllm", env={"VLLM_NO_USAGE_STATS": "0"})).env["VLLM_NO_USAGE_STATS"] == "0"


@pytest.mark.parametrize("engine", ["vllm", "demo", "command"])
def test_secrets_are_in_no_argument_and_no_repr(engine: str) -> None:
    """The replica's key and the user's secrets go by the secret environment only."""
    told = command(model(engine, secret_env=["HF_TOKEN"]), HF_TOKEN="hf_secret", OTHER="x")
    assert set(told.secret_env.values()) == {"the-key", "hf_secret"}
    assert "secret" not in " ".join(told.argv) + repr(told)
    assert "the-key" not in " ".join(told.argv) + repr(told)
    assert "OTHER" not in {**told.env, **told.secret_env}


@pytest.mark.parametrize("engine", ["vllm", "demo", "command"])
def test_a_secret_that_is_not_set_is_named(engine: str) -> None:
    """Better here than as a 401 on a VM, minutes later."""
    with pytest.raises(ValueError, match="HF_TOKEN, which the environment does not have"):
        make_engine(model(engine, secret_env=["HF_TOKEN"]), {})


@pytest.mark.parametrize(
    ("engine", "argument", "advice"),
    [
        ("vllm", "--host", "remove it"),
        ("vllm", "--port=9", "remove it"),
        ("vllm", "--api-key", "key of its own"),
        ("vllm", "--api_key=abc", "key of its own"),
        ("vllm", "--served-model-name", "model.aliases"),
        ("vllm", "--ssl-certfile", "service.transport"),
        ("demo", "--ssl-keyfile", "service.transport"),
        ("demo", "--port", "remove it"),
        ("demo", "--alias", "model.aliases"),
        ("demo", "--api-key-env", "remove it"),
    ],
)
def test_arguments_that_are_ours_are_refused_with_advice(engine: str, argument: str, advice: str) -> None:
    """An address, a key or a name set twice would leave a replica that nobody can reach."""
    with pytest.raises(ValueError, match=advice) as caught:
        make_engine(model(engine, args=[argument, "x"]), {})
    assert argument.partition("=")[0].replace("_", "-") in str(caught.value)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("engine", "variable"),
    [("vllm", "VLLM_API_KEY"), ("demo", "VLLM_API_KEY"), ("command", "HEDGESERVE_API_KEY")],
)
def test_the_variable_of_the_key_is_ours(engine: str, variable: str) -> None:
    """Neither the environment nor the secrets of a model.toml may set the key of a replica."""
    with pytest.raises(ValueError, match=variable):
        make_engine(model(engine, env={variable: "x"}), {})
    with pytest.raises(ValueError, match=variable):
        make_engine(model(engine, secret_env=[variable]), {variable: "x"})


def test_a_command_has_its_places_filled_in() -> None:
    """Host, port, model and the key's file, within arguments too; other braces are left alone."""
    spec = model(
        "command",
        command=["serve", "--bind={host}:{port}", "{model}", "--keys", "{api_key_file}", '{"a": {"b": 1}}'],
        args=["--port-again", "{port}"],
    )
    assert list(command(spec).argv) == [
        "serve",
        "--bind=127.0.0.1:8123",
        "org/model",
        "--keys",
        "/home/vm/hedgeserve/api_key",
        '{"a": {"b": 1}}',
        "--port-again",
        "8123",
    ]


@pytest.mark.parametrize(("place", "hint"), [("prot", r"did you mean \{port\}\?"), ("gpu", "there are {host}")])
def test_an_unknown_place_in_a_command_is_refused_with_a_hint(place: str, hint: str) -> None:
    """A typo must not be handed to the server as it stands."""
    with pytest.raises(ValueError, match=f"{{{place}}}.*{hint}"):
        make_engine(model("command", command=["serve", f"--port={{{place}}}"]), {})


def test_a_command_is_probed_where_the_user_says() -> None:
    """health_path is the user's; of metrics nothing is known."""
    engine = make_engine(model("command", health_path="/ready"), {})
    assert (engine.health_path, engine.metrics_path) == ("/ready", None)


def test_the_demo_engine_is_a_package_run_by_the_vms_python() -> None:
    """Its uploads are the whole package, and the command starts it by the name under which it was uploaded."""
    engine = make_engine(model("demo", aliases=["a", "b"], args=["--load-time", "1s"]), {})
    uploads = {upload.name: upload.source for upload in engine.uploads()}
    assert list(uploads.values()) == sorted(PACKAGE.rglob("*.py"))
    assert set(uploads) == {f"demo_server/{source.name}" for source in uploads.values()}
    assert list(engine.command(CONTEXT, "the-key").argv) == [
        "python3",
        *("-m", "demo_server"),
        *("--host", "127.0.0.1", "--port", "8123", "--model", "org/model"),
        *("--alias", "a", "--alias", "b", "--load-time", "1s"),
    ]
    assert engine.install_script(CONTEXT) is None


@pytest.mark.parametrize("engine", ["vllm", "demo", "command"])
def test_the_first_token_request_asks_for_one_token_of_the_model(engine: str) -> None:
    """The smallest real completion."""
    path, body = make_engine(model(engine), {}).first_token_request()
    assert path == "/v1/completions"
    assert (body["model"], body["max_tokens"]) == ("org/model", 1)


# --- The installation of vLLM, run for real with a make-believe package -----------------------------------------


def vllm_wheel(directory: Path, version: str) -> None:
    """A wheel called vllm that says its version when it is run as the server."""
    info = f"vllm-{version}.dist-info"
    files = {
        "vllm/__init__.py": f"__version__ = {version!r}\n",
        "vllm/entrypoints/__init__.py": "",
        "vllm/entrypoints/openai/__init__.py": "",
        "vllm/entrypoints/openai/api_server.py": "import sys, vllm\nprint(vllm.__version__, *sys.argv[1:])\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(directory / f"vllm-{version}-py3-none-any.whl", "w") as wheel:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(name, text)


def run_script(script: str, workdir: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    # A bare PATH: whatever tools this machine has beyond the system's, the script must do without.
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(workdir), "PIP_NO_INDEX": "1", **environ}
    return subprocess.run(
        ["sh", "-s"],
        input=script,
        cwd=workdir,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    path = tmp_path / "a work directory"
    path.mkdir()
    return path


def context_in(workdir: Path) -> EngineContext:
    return EngineContext(listen="127.0.0.1", port=1, python=sys.executable, workdir=str(workdir))


def test_vllm_is_installed_where_it_is_missing_and_only_there(workdir: Path, tmp_path: Path) -> None:
    """A failed installation says why and is taken up again; the pinned version comes; then nothing is fetched."""
    for version in ("0.1.0", "0.2.0"):
        vllm_wheel(tmp_path, version)
    engine = make_engine(model("vllm", version="0.1.0"), {})
    context = context_in(workdir)
    script = engine.install_script(context)
    assert script is not None
    failed = run_script(script, workdir)
    assert failed.returncode != 0
    assert "vllm==0.1.0" in failed.stderr
    assert not (workdir / "vllm-python").exists()
    done = run_script(script, workdir, PIP_FIND_LINKS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    argv = engine.command(context, "the-key").argv
    started = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert started.stdout.startswith("0.1.0 --host 127.0.0.1 --port 1 --model org/model")
    # Without any place to install from, only a script that installs nothing can succeed.
    again = run_script(script, workdir)
    assert (again.returncode, again.stdout) == (0, "")


def test_a_python_that_has_vllm_is_used_as_it_is(workdir: Path, tmp_path: Path) -> None:
    """No venv is made when the VM's own interpreter can import vLLM."""
    vllm_wheel(tmp_path, "0.3.0")
    engine = make_engine(model("vllm"), {})
    context = context_in(workdir)
    script = engine.install_script(context)
    assert script is not None
    path = str(tmp_path / "vllm-0.3.0-py3-none-any.whl")
    assert run_script(script, workdir, PYTHONPATH=path).returncode == 0
    assert not (workdir / "venv").exists()
    environ = {**os.environ, "PYTHONPATH": path}
    argv = engine.command(context, "the-key").argv
    started = subprocess.run(argv, capture_output=True, text=True, check=True, env=environ)
    assert started.stdout.startswith("0.3.0 --host")


DOCKER = """#!/bin/sh
echo "$@" >> "$HOME/docker.log"
case $1 in
    info) [ ! -f "$HOME/configured" ] || echo nvidia ;;
    image) [ -f "$HOME/pulled" ] ;;
    pull) touch "$HOME/pulled" ;;
esac
"""


def test_an_image_is_pulled_where_it_is_missing_and_only_there(workdir: Path) -> None:
    """Docker is taught of the GPUs where it knows none; without docker, what to do is said."""
    script = make_engine(model("vllm", container="vllm/vllm-openai:v0.32.0"), {}).install_script(CLOUD)
    assert script is not None
    programs = {
        "docker": DOCKER,
        "sudo": '#!/bin/sh\nshift\nexec "$@"\n',
        "systemctl": "#!/bin/sh\n",
        "nvidia-ctk": '#!/bin/sh\ntouch "$HOME/configured"\n',
    }
    for name, text in programs.items():
        (workdir / name).write_text(text)
        (workdir / name).chmod(0o755)
    path = f"{workdir}:/usr/bin:/bin"
    for _ in range(2):
        assert run_script(script, workdir, PATH=path).returncode == 0
    asked = (workdir / "docker.log").read_text()
    assert (workdir / "configured").exists()
    assert asked.count("pull -q vllm/vllm-openai:v0.32.0") == 1
    tools = workdir / "tools"
    tools.mkdir()
    (tools / "sh").symlink_to("/bin/sh")
    without = run_script(script, workdir, PATH=str(tools))
    assert without.returncode == 1
    assert "there is no docker on the VM; use an image that has it" in without.stderr


def test_nothing_is_installed_for_an_interpreter_that_the_user_names() -> None:
    """model.python has vLLM: that is what the key promises."""
    assert make_engine(model("vllm", python="/opt/venv/bin/python"), {}).install_script(CONTEXT) is None


# --- The documentation -------------------------------------------------------------------------------------------

DOCS = Path(__file__).parent.parent / "docs" / "engines.md"


def test_every_option_of_the_demo_engine_is_documented() -> None:
    """docs/engines.md has a row for each option that the program knows, and for no other."""
    rows = re.findall(r"^\| `(--[a-z-]+)", DOCS.read_text(), re.MULTILINE)
    actions = parser()._actions
    assert rows == [action.option_strings[-1] for action in actions if action.option_strings[-1] != "--help"]


def test_the_documented_examples_can_be_used() -> None:
    """Each [model] table in docs/engines.md makes an engine."""
    examples = re.findall(r"```toml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert examples
    for example in examples:
        spec = ModelSpec.model_validate(tomllib.loads(example)["model"])
        assert make_engine(spec, {"HF_TOKEN": "hf_secret"}).command(CONTEXT, "the-key").argv
