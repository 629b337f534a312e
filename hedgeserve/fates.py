"""What becomes of requests, in a few counts: for whoever compares one moment with another."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fates:
    """What has become of requests so far; counts that only grow, so that the difference of two is what was
    between.

    ``lost`` ended with an error of ours or a replica's, ``turned_away`` with a 429 or 503 of ours. ``retried``
    counts attempts that failed before the client had been told anything, ``continued`` and ``replayed`` answers
    that another replica took up in their middle and brought to their end, ``moved`` streams that left a replica
    in time for that.
    """

    ended: int = 0
    lost: int = 0
    turned_away: int = 0
    retried: int = 0
    continued: int = 0
    replayed: int = 0
    moved: int = 0

    def since(self, before: "Fates") -> "Fates":
        """What was added to ``before``."""
        return Fates(
            ended=self.ended - before.ended,
            lost=self.lost - before.lost,
            turned_away=self.turned_away - before.turned_away,
            retried=self.retried - before.retried,
            continued=self.continued - before.continued,
            replayed=self.replayed - before.replayed,
            moved=self.moved - before.moved,
        )
