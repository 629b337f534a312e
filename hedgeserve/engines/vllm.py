"""vLLM: from a container image or installed where it is missing, started as its own documentation says."""

from collections.abc import Mapping, Sequence

from hedgeserve.engines.arguments import ENCRYPTED, refuse_arguments, refuse_variables
from hedgeserve.engines.base import EngineCommand, EngineContext, Upload
from hedgeserve.engines.vllmscripts import install_script, pull_script
from hedgeserve.spec import ModelSpec

VERSION = "0.32.0"
"""The version that is installed where model.toml names none: the one that all of HedgeServe was tried with."""

CONTAINER = "hedgeserve-engine"
"""Name of the container on its VM."""

_SERVER = "vllm.entrypoints.openai.api_server"
_KEY_VARIABLE = "VLLM_API_KEY"
_OURS = {
    "--host": "remove it",
    "--port": "remove it",
    "--uds": "remove it",
    "--api-key": "HedgeServe gives every replica a key of its own",
    "--served-model-name": "set model.id and model.aliases",
    "--ssl-keyfile": ENCRYPTED,
    "--ssl-certfile": ENCRYPTED,
}
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
_BUCKETS = ("s3://", "gs://", "az://")
# Whoever says one of these has thought of how the model is to be laid out over the GPUs.
_LAYOUTS = {
    *("--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp"),
    *("--data-parallel-size", "-dp", "--distributed-executor-backend"),
}


class VllmEngine:
    """Starts vLLM's OpenAI server; ``model.args`` come last, so that they win over what they repeat.

    ``model.id`` is loaded and is the name for clients; with ``model.weights``, these are loaded under that name.
    All GPUs of a VM share the model unless an argument lays it out. The server is started as a module and not by
    the ``vllm`` program, which fails where vLLM came from a distribution of another name (the wheels for CPUs,
    as of 0.32).
    """

    name = "vllm"
    health_path = "/health"
    tls = True
    needs_gpu = True
    metrics_path: str | None = "/metrics"

    def __init__(self, model: ModelSpec, secrets: Mapping[str, str]) -> None:
        refuse_arguments(model.args, _OURS)
        if model.weights:
            refuse_arguments(model.args, {"--model": "remove it, or model.weights"})
        refuse_variables(
            [*model.env, *secrets], {_KEY_VARIABLE: "HedgeServe gives every replica a key of its own"}
        )
        self._model = model
        self._secrets = secrets
        self._from_bucket = model.weights.startswith(_BUCKETS)
        self._options = {argument.partition("=")[0].replace("_", "-") for argument in model.args}

    def uploads(self) -> Sequence[Upload]:
        """Nothing: weights are vLLM's own business."""
        return ()

    def install_script(self, context: EngineContext) -> str | None:
        """Pulls the image, or makes a virtual environment with vLLM, unless it is there already."""
        if self._model.container:
            return pull_script(self._model.container, gpus=context.gpus)
        if self._model.python:
            return None
        return install_script(
            python=context.python,
            venv=f"{context.scratch or context.workdir}/venv",
            launcher=self._python(context),
            version=self._model.version or VERSION,
            streamer=self._from_bucket,
        )

    def command(self, context: EngineContext, api_key: str) -> EngineCommand:
        """The server with usage reports off; the key goes by the environment, for all can read an argument."""
        env = {**_QUIET, **_caches(context), **self._model.env}
        secret_env = {**self._secrets, _KEY_VARIABLE: api_key}
        arguments = ["-m", _SERVER, *self._arguments(context)]
        if not self._model.container:
            return EngineCommand([self._python(context), *arguments], env, secret_env)
        argv = self._docker(context, sorted({**env, **secret_env}))
        return EngineCommand([*argv, self._model.container, *arguments], env, secret_env, as_root=True)

    def first_token_request(self) -> tuple[str, dict[str, object]]:
        """One token after one word."""
        return "/v1/completions", {"model": self._model.id, "prompt": "Hello", "max_tokens": 1, "temperature": 0}

    def _python(self, context: EngineContext) -> str:
        return self._model.python or f"{context.workdir}/vllm-python"

    def _arguments(self, context: EngineContext) -> list[str]:
        model = self._model
        arguments = ["--host", context.listen, "--port", str(context.port)]
        arguments += ["--model", model.weights or model.id, "--served-model-name", model.id, *model.aliases]
        if self._from_bucket and "--load-format" not in self._options:
            arguments += ["--load-format", "runai_streamer"]
        if context.gpus > 1 and not self._options & _LAYOUTS:
            arguments += ["--tensor-parallel-size", str(context.gpus)]
        if context.certfile:
            arguments += ["--ssl-certfile", context.certfile, "--ssl-keyfile", context.keyfile]
        return [*arguments, *model.args]

    def _docker(self, context: EngineContext, variables: Sequence[str]) -> list[str]:
        """``docker run`` up to the image. What it shares with the VM has the same path inside."""
        # Whatever a start before has left would keep the name.
        fresh = 'docker rm -f "$0" > /dev/null 2>&1; exec docker run --rm --name "$0" "$@"'
        argv = ["sh", "-c", fresh, CONTAINER, "--ipc=host", "--network=host"]
        if context.gpus:
            argv += ["--gpus", "all"]
        shared = [context.scratch or context.workdir]
        if context.certfile:
            shared.append(f"{context.workdir}/tls")
        shared += [path for path in (self._model.id, self._model.weights) if path.startswith("/")]
        for path in shared:
            argv += ["--volume", f"{path}:{path}"]
        for name in variables:  # by name alone: docker takes the values from its own environment
            argv += ["--env", name]
        return [*argv, "--entrypoint", "python3"]


def _caches(context: EngineContext) -> dict[str, str]:
    """Weights and compiled kernels on the VM's large fast disk, where it has one."""
    if not context.scratch or context.scratch == context.workdir:
        return {}
    return {"HF_HOME": f"{context.scratch}/huggingface", "VLLM_CACHE_ROOT": f"{context.scratch}/vllm"}
