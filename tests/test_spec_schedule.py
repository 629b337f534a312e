"""[schedule] in a model file: what is refused, where, and with what to do."""

from pathlib import Path

import pytest

from hedgeserve.errors import SpecError
from hedgeserve.specfile import parse_spec

HEAD = '[model]\nid = "m"\nengine = "demo"\n[[pools]]\ncloud = "local"\nzones = ["east/a"]\n'
RATE = "[replicas]\nmin = 1\nmax = 4\ntarget_requests_per_second = 1\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[schedule]\ntimezone = "Europe/Berln"',
            '"Europe/Berln" is not a time zone; did you mean "Europe/Berlin"?',
        ),
        ('[schedule]\ntimezone = "../etc"', '"../etc" is not a time zone'),
        ('[schedule]\nsleep = "Mo 3"', 'schedule.sleep[0]: "Mo 3": "Mo 3" is no day'),
        ('[schedule]\nsleep = ["Mon-Sun"]', "schedule.sleep: the service would never be awake"),
        ("[[schedule.scale]]\ncount = 3", "schedule.scale[0].when: `when` is missing"),
        ('[[schedule.scale]]\nwhen = "Mon"', "no bound is written for these hours"),
        ('[[schedule.scale]]\nwhen = "Mon"\ncount = 3\nmax = 4', "`count` fixes the number of replicas"),
        ('[[schedule.scale]]\nwhen = "Mon"\nmin = 5\nmax = 4', "`max` (4) is below `min` (5)"),
        (
            '[[schedule.scale]]\nwhen = "Mon"\nmax = 3',
            "1 to 3 replicas need `replicas.target_requests_per_second`",
        ),
        ('[replicas]\nidle_after = "5m"', "`idle_after` needs `min = 0`"),
    ],
)
def test_mistakes_are_told_with_what_to_do(text: str, said: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse_spec(HEAD + text, "m.toml", Path("/"), {})
    assert said in str(refused.value)


def test_one_window_may_stand_for_a_list_of_one() -> None:
    text = '[schedule]\nsleep = "22:00-07:00"\n[[schedule.scale]]\nwhen = "Mon"\nmin = 2\n'
    schedule = parse_spec(HEAD + RATE + text, "m.toml", Path("/"), {}).schedule
    assert schedule.sleep == ["22:00-07:00"]
    assert schedule.scale[0].when == ["Mon"]


def test_a_service_may_always_sleep_where_a_request_wakes_it() -> None:
    text = '[schedule]\nsleep = "Mon-Sun"\nwake_on_request = true\n'
    assert parse_spec(HEAD + text, "m.toml", Path("/"), {}).schedule.wake_on_request
