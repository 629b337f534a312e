"""What a policy would know if there had been no drill.

While a drill goes on the policy in charge is told everything, or it would not act as in earnest. A second one is
told all but what the drill has made happen, and its memory is the one that is kept: it is saved in the store, and
taken up by a fresh policy when the drill is over. The world's own news of that time is in both.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from hedgeserve.hedge import Policy, ZoneNews


class Lessons:
    """Keeps a drill out of what is learnt. One drill at a time."""

    def __init__(self) -> None:
        self._aside: Policy | None = None

    def begin(self, policy: Policy) -> None:
        """A drill begins: remember what the policy knows now."""
        self._aside = deepcopy(policy)

    def end(self, now_s: float) -> Mapping[str, Any] | None:
        """The drill is over: the memory without it; None where there was no drill."""
        aside, self._aside = self._aside, None
        return None if aside is None else aside.export_memory(now_s)

    def admit(self, news: ZoneNews) -> bool:
        """Whether the policy in charge is to hear this: not the aftermath of a drill that is over."""
        if not news.staged:
            if self._aside is not None:
                self._aside.observe(news)
            return True
        return self._aside is not None

    def kept(self, policy: Policy) -> Policy:
        """The policy whose memory is to be saved; the one in charge where an update has made it another kind."""
        return policy if self._aside is None or self._aside.name != policy.name else self._aside
