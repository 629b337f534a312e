"""Any program that serves an OpenAI-shaped API on a port."""

import difflib
import re
from collections.abc import Mapping, Sequence

from hedgeserve.engines.arguments import refuse_variables
from hedgeserve.engines.base import EngineCommand, EngineContext, Upload
from hedgeserve.spec import ModelSpec

_KEY_VARIABLE = "HEDGESERVE_API_KEY"
# Only words in braces are places to fill in, so that JSON can stand in an argument.
_PLACE = re.compile(r"\{([A-Za-z_]+)\}")
_TLS_PLACES = ("certfile", "keyfile")
_PLACES = ("host", "port", "model", "api_key_file", *_TLS_PLACES)


class CommandEngine:
    """Starts ``model.command`` with its places filled in, then ``model.args``.

    The server finds its API key in the file ``{api_key_file}`` (readable by its user only) and in the environment
    variable ``HEDGESERVE_API_KEY``. It is asked by TLS where it takes ``{certfile}`` and ``{keyfile}``. Nothing is
    known of its metrics.
    """

    name = "command"
    needs_gpu = True
    metrics_path: str | None = None

    def __init__(self, model: ModelSpec, secrets: Mapping[str, str]) -> None:
        refuse_variables([*model.env, *secrets], {_KEY_VARIABLE: "remove it"})
        used: set[str] = set()
        for argument in (*model.command, *model.args):
            for name in _PLACE.findall(argument):
                if name not in _PLACES:
                    raise ValueError(_unknown(name, argument))
                used.add(name)
        of_tls = used & set(_TLS_PLACES)
        if len(of_tls) == 1:
            raise ValueError(
                f"model.command has {{{of_tls.pop()}}} alone; TLS needs both {{certfile}} and {{keyfile}}"
            )
        self.tls = bool(of_tls)
        self.health_path = model.health_path
        self._model = model
        self._secrets = secrets

    def uploads(self) -> Sequence[Upload]:
        """Nothing: the program is the VM's."""
        return ()

    def install_script(self, context: EngineContext) -> str | None:
        """Nothing: the program is the VM's."""
        return None

    def command(self, context: EngineContext, api_key: str) -> EngineCommand:
        """The user's command for this VM.

        Raises:
            ValueError: It wants a certificate, and requests go to this VM without TLS.
        """
        if self.tls and not context.certfile:
            raise ValueError(
                "model.command has {certfile} and {keyfile}, but requests go to this VM without TLS; "
                'set service.transport to "tls", or take them out'
            )
        values = {
            "host": context.listen,
            "port": str(context.port),
            "model": self._model.id,
            "api_key_file": f"{context.workdir}/api_key",
            "certfile": context.certfile,
            "keyfile": context.keyfile,
        }
        argv = [
            _PLACE.sub(lambda place: values[place[1]], argument)
            for argument in (*self._model.command, *self._model.args)
        ]
        return EngineCommand(argv, dict(self._model.env), {**self._secrets, _KEY_VARIABLE: api_key})

    def first_token_request(self) -> tuple[str, dict[str, object]]:
        """One token after one word."""
        return "/v1/completions", {"model": self._model.id, "prompt": "Hello", "max_tokens": 1, "temperature": 0}


def _unknown(name: str, argument: str) -> str:
    near = difflib.get_close_matches(name, _PLACES, n=1)
    hint = (
        f"did you mean {{{near[0]}}}?" if near else "there are " + ", ".join(f"{{{place}}}" for place in _PLACES)
    )
    return f"model.command: {{{name}}} in {argument!r} is nothing that can be filled in; {hint}"
