"""What becomes of half an answer: whether and how it goes on on another replica, and when it is over. Pure.

Made when the replica of an answer is lost in the middle of it, and asked again whenever something comes of that;
:mod:`hedgeserve.proxy.failover` knows by which requests an answer can be taken up.
"""

from dataclasses import dataclass

from hedgeserve.proxy.failover import Call, Finished, GiveUp, Recovery, Resume, Step, Stream, Telling
from hedgeserve.proxy.replies import Code
from hedgeserve.proxy.verdict import Dialect

_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another replica is to take it up; once there is one, :meth:`Resumption.granted` says what to ask of it."""


@dataclass(frozen=True, slots=True)
class Anew:
    """It is begun again from the start, as if nothing of it had come: none of it has been told."""


@dataclass(frozen=True, slots=True)
class CutOff:
    """It ends here, with this error; ``why`` is a sentence for the client."""

    code: Code
    why: str


Next = Call | Resume | Finished | Elsewhere | Anew | CutOff


class Resumption:
    """One answer's way from its first cut to its end.

    ``calling`` says that the replica has been asked for something beside the answer: its reply, whatever it is, is
    for :meth:`got`. An answer that is collected is told only when it is whole; of any other, a part has been told.
    """

    __slots__ = ("_collects", "_dialect", "_recovery", "_telling", "calling")

    def __init__(self, telling: Telling, dialect: Dialect, *, collects: bool) -> None:
        self._telling = telling
        self._dialect = dialect
        self._collects = collects
        self._recovery: Recovery | None = None
        self.calling = False

    def cut(self, code: Code, said: str, stream: Stream | None, *, may_resume: bool, elsewhere: bool) -> Next:
        """Its replica has failed, as ``said`` and counted by ``code``; ``stream`` is what came of it.

        ``may_resume``: it has not been resumed too often. ``elsewhere``: there is, or will be, another replica
        that could go on in the same words.
        """
        self.calling = False
        whole = stream if stream is not None and stream.complete else None
        recovery = self._telling.recover()
        if isinstance(recovery, GiveUp):
            return self._cannot(code, said, recovery.why) if whole is None else self.settled(whole)
        if whole is not None and isinstance(step := recovery.start(), Finished):
            return step  # no replica is needed for it
        if not may_resume:
            return CutOff(code, said) if whole is None else self.settled(whole)
        if not elsewhere:
            # Another version would go on in words that this one would not have found.
            why = "no other replica runs the version that began it"
            return self._cannot(code, said, why) if whole is None else self.settled(whole)
        if whole is not None:  # the one at hand has been started
            again = self._telling.recover()
            assert not isinstance(again, GiveUp)
            recovery = again
        self._recovery = recovery
        return Elsewhere()

    def granted(self) -> Next:
        """There is a replica to take it up."""
        assert self._recovery is not None
        return self._after(self._recovery.start())

    def got(self, status: int, body: bytes) -> Next:
        """The replica has replied, and not with a stream that goes on."""
        assert self._recovery is not None
        return self._after(self._recovery.got(status, body))

    def settled(self, stream: Stream) -> Finished:
        """Nothing is missing of what this stream brought, but perhaps the word that nothing is."""
        said = stream.done or self._dialect is not Dialect.CHOICES
        return Finished(b"" if said else _DONE)

    def _after(self, step: Step) -> Next:
        if isinstance(step, GiveUp):
            lost = "the answer's replica was lost in the middle of it"
            return self._cannot(Code.UPSTREAM_ERROR, lost, step.why)
        self.calling = isinstance(step, Call)
        return step

    def _cannot(self, code: Code, said: str, why: str) -> Next:
        return Anew() if self._collects else CutOff(code, f"{said}; it cannot be continued: {why}")


def unsaid_end(telling: Telling, dialect: Dialect) -> Finished | None:
    """What a stream that ended after its last token, and not with ``[DONE]``, has left unsaid; None: nothing."""
    if dialect is not Dialect.CHOICES:
        return None
    recovery = telling.recover()
    step = None if isinstance(recovery, GiveUp) else recovery.start()
    return step if isinstance(step, Finished) else None
