"""The hands that replicas of each version live by: one engine to start and to ask for each version that runs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from hedgeserve.engines.base import Engine
from hedgeserve.machines.hands import Hands
from hedgeserve.machines.probe import Prober
from hedgeserve.spec import Spec


@dataclass(frozen=True, slots=True)
class Edition:
    """A version as it can be launched: the whole spec with that version's own words, and its engine."""

    spec: Spec
    engine: Engine


class Editions:
    """Hands by version; what they share is the same in all of them."""

    def __init__(self, shared: Hands) -> None:
        self._shared = shared
        self._of: dict[int, Hands] = {}

    def adopt(self, editions: Mapping[int, Edition]) -> None:
        """Let the lives of these versions go by these words, those that live already too; forget the others."""
        for version, edition in editions.items():
            prober = Prober(edition.spec.probe, edition.engine)
            known = self._of.get(version)
            if known is None:
                self._of[version] = replace(self._shared, spec=edition.spec, engine=edition.engine, prober=prober)
            else:  # the engine stays: it is what the version is
                known.spec, known.prober = edition.spec, Prober(edition.spec.probe, known.engine)
        self._of = {version: hands for version, hands in self._of.items() if version in editions}

    def of(self, version: int) -> Hands:
        """The hands for this version; KeyError for one that was not adopted."""
        return self._of[version]
