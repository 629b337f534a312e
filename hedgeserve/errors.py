"""Everything that HedgeServe raises on purpose, each a sentence: what is wrong, where, what to do.

The cloud errors are the one vocabulary in which every driver speaks (a driver maps its provider's codes to
it in one table); who plans launches reads the class, never the text.
"""

from dataclasses import dataclass
from typing import ClassVar


class HedgeServeError(Exception):
    """The root: catching it catches all that HedgeServe raises on purpose, and nothing else."""


@dataclass(frozen=True, slots=True)
class SpecProblem:
    """One mistake in a model.toml: where it stands, what is wrong, what to write instead."""

    key: str
    message: str
    line: int | None = None
    hint: str = ""

    def render(self, source: str) -> str:
        """The problem as ``file:line: key: message; hint``, the form that editors can jump to."""
        place = f"{source}:{self.line}" if self.line is not None else source
        key = f" {self.key}:" if self.key else ""
        return f"{place}:{key} {self.message}" + (f"; {self.hint}" if self.hint else "")


class SpecError(HedgeServeError):
    """A model.toml that cannot be used; carries every problem found, not only the first."""

    def __init__(self, source: str, problems: list[SpecProblem]) -> None:
        self.source = source
        self.problems = problems
        super().__init__("\n".join(problem.render(source) for problem in problems))


class JudgedError(SpecError):
    """A model.toml that a running service has found wrong, in its words."""

    def __init__(self, text: str) -> None:
        self.source = ""
        self.problems = []
        HedgeServeError.__init__(self, text)


class StateLockedError(HedgeServeError):
    """Another instance holds this state directory; two would launch and reap each other's VMs."""


class StateDirectoryError(HedgeServeError):
    """The state directory cannot be used: it cannot be made, read or written, or its disk is full."""


class NotRunningError(HedgeServeError):
    """No HedgeServe runs where one was looked for, or it went away while it was asked."""


class ListenError(HedgeServeError):
    """An address that HedgeServe was told to listen on cannot be had."""


class LimitError(HedgeServeError):
    """Refused by a limit that is there on purpose; says which, and how to go past it."""


class UpdateRefusedError(LimitError):
    """A change that a running service cannot make, or a version that it cannot go to; nothing has changed."""


class IllegalTransitionError(HedgeServeError):
    """A replica was asked to go from one state to another that its life does not allow: a bug of ours."""


class UnknownSubjectError(HedgeServeError):
    """Somebody asks for an explanation of what is not there; names what was probably meant."""


class TraceError(HedgeServeError):
    """Recorded capacity, or the record of it, cannot be read, used, fetched or written."""


class TranscriptError(HedgeServeError):
    """The record of a service's decisions cannot be written, read or replayed; says where."""


class BacktestError(HedgeServeError):
    """A back-test cannot be run as it was asked for; says which setting, zone or policy is in the way."""


class BootstrapError(HedgeServeError):
    """A VM did not become a ready replica; says in which phase and why."""

    def __init__(self, phase: str, reason: str) -> None:
        self.phase = phase
        self.reason = reason
        super().__init__(f"{phase}: {reason}")


class CloudError(HedgeServeError):
    """A cloud refused or failed; the subclasses say what a planner needs to know. Plain: anything else.

    ``staged`` where no cloud said it but a drill: it is acted on like any other, and nothing is learnt from it.
    """

    kind: ClassVar[str] = "other"
    staged = False


class CapacityError(CloudError):
    """The zone has no such VM now. The same news as a preemption: try elsewhere, come back later."""

    kind: ClassVar[str] = "capacity"


class QuotaError(CloudError):
    """The account may not have more of these. Stays so until a person raises the quota: rest the pool."""

    kind: ClassVar[str] = "quota"


class PriceError(CloudError):
    """A spot VM costs more now than it may: the same news as no capacity, until the price falls."""

    kind: ClassVar[str] = "price"


class AuthError(CloudError):
    """The credentials are missing, expired or lack a permission. No launch can work until that is mended."""

    kind: ClassVar[str] = "auth"


class ThrottledError(CloudError):
    """The cloud asks for fewer calls. Nothing is wrong with the zone: wait, with jitter, and ask again.

    ``retry_after_s`` is the pause that the cloud asked for, 0 where it named none.
    """

    kind: ClassVar[str] = "throttled"

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class UnsupportedError(CloudError):
    """This zone never has this kind of VM (or not in this market): do not ask again."""

    kind: ClassVar[str] = "unsupported"
