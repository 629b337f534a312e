"""Issuing keys from the command line: what is asked before."""

from pathlib import Path
from typing import Any

import pytest

from hedgeserve.console.admin import AdminClient
from hedgeserve.console.keys import add_key


def test_the_first_key_of_a_service_that_runs_is_asked_about(tmp_path: Path) -> None:
    """It shuts out whoever has none; a second one shuts out nobody."""

    class Client(AdminClient):
        issued: list[Any] = []  # noqa: RUF012

        def keys(self) -> tuple[list[dict[str, Any]], bool]:
            return self.issued, bool(self.issued)

        def add_key(self, key: Any) -> None:
            self.issued.append(key)

    def issue(*, agreed: bool) -> list[str]:
        asked: list[str] = []

        def answer(question: str) -> bool:
            asked.append(question)
            if not agreed:
                raise SystemExit(3)
            return True

        limits = {"lasts_s": None, "requests_per_second": None, "tokens_per_minute": None, "concurrency": None}
        add_key(client, f"key-{len(client.issued)}", **limits, agreed=answer, as_json=True)  # type: ignore[arg-type]
        return asked

    client = Client(tmp_path)
    with pytest.raises(SystemExit):
        issue(agreed=False)
    assert client.issued == []
    [question] = issue(agreed=True)
    assert "From now on every request needs a key" in question
    assert issue(agreed=False) == []
    assert len(client.issued) == 2
