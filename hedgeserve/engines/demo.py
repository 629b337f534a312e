"""The demo engine: a stand-in that speaks like vLLM on the wire, for people without a GPU."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hedgeserve.engines.arguments import ENCRYPTED, refuse_arguments, refuse_variables
from hedgeserve.engines.base import EngineCommand, EngineContext, Upload
from hedgeserve.spec import ModelSpec

PACKAGE = Path(__file__).with_name("demo_server")
"""The server: a package that needs nothing but Python's standard library."""

_KEY_VARIABLE = "VLLM_API_KEY"
_OURS = {
    "--host": "remove it",
    "--port": "remove it",
    "--model": "set model.id",
    "--alias": "set model.aliases",
    "--api-key-env": "remove it",
    "--ssl-certfile": ENCRYPTED,
    "--ssl-keyfile": ENCRYPTED,
}


class DemoEngine:
    """Starts the bundled demo server; ``model.args`` are its options, listed by its ``--help``."""

    name = "demo"
    health_path = "/health"
    tls = True
    needs_gpu = False
    metrics_path: str | None = "/metrics"

    def __init__(self, model: ModelSpec, secrets: Mapping[str, str]) -> None:
        refuse_arguments(model.args, _OURS)
        refuse_variables([*model.env, *secrets], {_KEY_VARIABLE: "remove it"})
        self._model = model
        self._secrets = secrets

    def uploads(self) -> Sequence[Upload]:
        """The server's package, file by file."""
        return [Upload(file, f"{PACKAGE.name}/{file.name}") for file in sorted(PACKAGE.glob("*.py"))]

    def install_script(self, context: EngineContext) -> str | None:
        """Nothing: the VM's own Python runs it."""
        return None

    def command(self, context: EngineContext, api_key: str) -> EngineCommand:
        """The server under the model's name and its aliases; found because it runs in the work directory."""
        model = self._model
        argv = [context.python, "-m", PACKAGE.name, "--host", context.listen]
        argv += ["--port", str(context.port), "--model", model.id]
        for alias in model.aliases:
            argv += ["--alias", alias]
        if context.certfile:
            argv += ["--ssl-certfile", context.certfile, "--ssl-keyfile", context.keyfile]
        return EngineCommand([*argv, *model.args], dict(model.env), {**self._secrets, _KEY_VARIABLE: api_key})

    def first_token_request(self) -> tuple[str, dict[str, object]]:
        """One token after one word."""
        return "/v1/completions", {"model": self._model.id, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
