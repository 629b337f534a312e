"""Whether a spec can be served, as far as that can be told without asking a cloud."""

from collections.abc import Mapping

from hedgeserve.drivers.catalogue import unknown_words
from hedgeserve.engines import make_engine
from hedgeserve.engines.base import Engine
from hedgeserve.errors import SpecError, SpecProblem
from hedgeserve.modelfile.problems import dotted
from hedgeserve.spec import Cloud, Spec, Transport


def engine_for(spec: Spec, environ: Mapping[str, str]) -> Engine:
    """The engine of a spec that can be served.

    Raises:
        SpecError: The engine cannot be started or reached as the spec says, the catalogue does not know a word of
            a pool.
    """
    try:
        engine = make_engine(spec.model, environ)
    except ValueError as error:
        problem = SpecProblem("model", str(error), spec.origin.line_of(("model",)))
        raise SpecError(spec.origin.source, [problem]) from None
    if spec.service.transport is Transport.TLS and not engine.tls:
        problem = SpecProblem(
            "service.transport",
            f'the engine "{engine.name}" cannot answer by TLS',
            spec.origin.line_of(("service", "transport")),
            'set it to "ssh" or "auto"',
        )
        raise SpecError(spec.origin.source, [problem])
    _refuse_unknown_words(spec)
    return engine


def refuse_bad_traces(spec: Spec) -> None:
    """Raise ``SpecError`` where a trace of a local zone cannot be used; reads them."""
    if Cloud.LOCAL in spec.clouds():
        from hedgeserve.drivers.localcloud.weather import climates_of  # only who has such zones needs it

        climates_of(spec.local, (zone for pool in spec.pools if pool.cloud is Cloud.LOCAL for zone in pool.zones))


def _refuse_unknown_words(spec: Spec) -> None:
    """Refuse kinds of GPU and regions that the catalogue does not know: nothing could be launched by them."""
    problems = [
        spec.origin.problem(path, dotted(path), found.message, found.hint)
        for number, pool in enumerate(spec.pools)
        for found in unknown_words(pool)
        for path in [("pools", number, *found.path)]
    ]
    if problems:
        raise SpecError(spec.origin.source, problems)
