"""A zone may be named by its end, where that is one zone: alike for every verb."""

from hedgeserve.replica import zones_meant

ZONES = ["local/east/a", "local/east/b", "local/west/a", "aws/east/a/x"]


def test_a_zone_is_found_by_its_name_or_its_end() -> None:
    """Whole parts only: what several end with is all of them, and what none does is none."""
    assert zones_meant("local/east/a", ZONES) == ["local/east/a"]
    assert zones_meant("east/a", ZONES) == ["local/east/a"]
    assert zones_meant("b", ZONES) == ["local/east/b"]
    assert zones_meant("a", ZONES) == ["local/east/a", "local/west/a"]
    assert zones_meant("st/a", ZONES) == []
    assert zones_meant("nowhere", ZONES) == []


def test_a_whole_name_is_that_zone_though_another_ends_with_it() -> None:
    assert zones_meant("east/a", ["east/a", "local/east/a"]) == ["east/a"]
