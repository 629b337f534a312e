"""vLLM: installed where it is missing, started as its own documentation says, asked for one token."""

import shlex
from collections.abc import Mapping, Sequence

from hedgeserve.engines.arguments import refuse_arguments, refuse_variables
from hedgeserve.engines.base import EngineCommand, EngineContext, Upload
from hedgeserve.spec import ModelSpec

_KEY_VARIABLE = "VLLM_API_KEY"
_OURS = {
    "--host": "remove it",
    "--port": "remove it",
    "--uds": "remove it",
    "--api-key": "HedgeServe gives every replica a key of its own",
    "--served-model-name": "set model.id and model.aliases",
    "--ssl-keyfile": "requests reach the engine through SSH, which encrypts them",
    "--ssl-certfile": "requests reach the engine through SSH, which encrypts them",
}
_QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}

# The command line has to be known before the script has found out which interpreter has vLLM, hence the launcher.
# A venv whose making was interrupted cannot import anything and is made anew.
_INSTALL = """\
set -eu
python={python}
venv={venv}
launcher={launcher}
runs_vllm() {{ "$1" -c 'import vllm' >/dev/null 2>&1; }}
if ! runs_vllm "$python"; then
    system=$python
    python=$venv/bin/python
    if ! runs_vllm "$python"; then
        if command -v uv >/dev/null 2>&1; then
            "$python" -c '' 2>/dev/null || {{ rm -rf "$venv"; uv venv --python "$system" "$venv"; }}
            uv pip install --no-cache --python "$python" {requirement}
        else
            "$python" -m pip --version >/dev/null 2>&1 || "$system" -m venv --clear "$venv"
            "$python" -m pip install --no-cache-dir --disable-pip-version-check {requirement}
        fi
        "$python" -c 'import vllm'
    fi
fi
printf '#!/bin/sh\\nexec "%s" "$@"\\n' "$python" > "$launcher.new"
chmod 755 "$launcher.new"
mv "$launcher.new" "$launcher"
"""


class VllmEngine:
    """Starts vLLM's OpenAI server; ``model.args`` come last, so that they win over what they repeat.

    ``model.id`` is loaded and is the name for clients; ``args = ["--model", "/weights"]`` loads something else
    under that name. The server is started as a module and not by the ``vllm`` program, which fails where vLLM
    came from a distribution of another name (the wheels for CPUs, as of 0.32).
    """

    name = "vllm"
    health_path = "/health"
    tls = False
    needs_gpu = True
    metrics_path: str | None = "/metrics"

    def __init__(self, model: ModelSpec, secrets: Mapping[str, str]) -> None:
        refuse_arguments(model.args, _OURS)
        refuse_variables(
            [*model.env, *secrets], {_KEY_VARIABLE: "HedgeServe gives every replica a key of its own"}
        )
        self._model = model
        self._secrets = secrets

    def uploads(self) -> Sequence[Upload]:
        """Nothing: weights are vLLM's own business."""
        return ()

    def install_script(self, context: EngineContext) -> str | None:
        """A virtual environment with vLLM in the work directory, unless an interpreter has it already."""
        if self._model.python:
            return None
        version = self._model.version
        return _INSTALL.format(
            python=shlex.quote(context.python),
            venv=shlex.quote(f"{context.workdir}/venv"),
            launcher=shlex.quote(self._python(context)),
            requirement=shlex.quote(f"vllm=={version}" if version else "vllm"),
        )

    def _python(self, context: EngineContext) -> str:
        return self._model.python or f"{context.workdir}/vllm-python"

    def command(self, context: EngineContext, api_key: str) -> EngineCommand:
        """The server with usage reports off; the key goes by the environment, for all can read an argument."""
        model = self._model
        argv = [self._python(context), "-m", "vllm.entrypoints.openai.api_server", "--host", context.listen]
        argv += ["--port", str(context.port), "--model", model.id, "--served-model-name", model.id, *model.aliases]
        return EngineCommand(
            [*argv, *model.args], {**_QUIET, **model.env}, {**self._secrets, _KEY_VARIABLE: api_key}
        )

    def first_token_request(self) -> tuple[str, dict[str, object]]:
        """One token after one word."""
        return "/v1/completions", {"model": self._model.id, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
