"""What the tables of the clouds' error codes are made of."""

from dataclasses import dataclass

from hedgeserve.errors import CloudError


class NoAnswerError(CloudError):
    """The cloud did not answer, or broke down over the answer: what was asked may have been done."""


@dataclass(frozen=True, slots=True)
class Group:
    """Codes that mean the same to us; ``source`` documents them, ``hint`` says what a person may do."""

    error: type[CloudError]
    codes: frozenset[str]
    source: str
    hint: str = ""
