"""Reading what a model.toml says of AWS, GCP and Azure."""

# ruff: noqa: E501 (messages stand here whole, as the reader sees them)

import pytest

from hedgeserve.errors import SpecError
from hedgeserve.spec import Cloud, Spec
from hedgeserve.specfile import parse_spec

HEAD = '[model]\nengine = "demo"\n'


def parse(text: str) -> Spec:
    return parse_spec(HEAD + text, "m", "/srv", {})


def told(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse(text)
    return [problem.render("m") for problem in caught.value.problems]


def pool(cloud: str, rest: str) -> str:
    return f'[[pools]]\ncloud = "{cloud}"\n{rest}\n'


@pytest.mark.parametrize(
    ("cloud", "zone"),
    [
        ("aws", "us-east-1/us-east-1a"),
        ("aws", "us-west-2/us-west-2-lax-1a"),
        ("gcp", "us-central1/us-central1-a"),
        ("azure", "eastus/1"),
        ("azure", "westus/none"),
    ],
)
def test_zones_are_named_as_their_cloud_names_them(cloud: str, zone: str) -> None:
    spec = parse(pool(cloud, f'zones = ["{zone}"]\ngpu = "L4:1"'))
    assert spec.clouds() == {Cloud(cloud)}
    assert (spec.pools[0].zones, spec.pools[0].gpu) == ([zone], ["L4:1"])


@pytest.mark.parametrize(
    ("cloud", "zone", "hint"),
    [
        ("aws", "us-east-1/a", "us-east-1/us-east-1a"),
        ("aws", "us-east-1/us-west-2a", "us-east-1/us-east-1a"),
        ("gcp", "us-central1/a", "us-central1/us-central1-a"),
        ("azure", "eastus/a", "eastus/1"),
    ],
)
def test_a_zone_of_another_form_is_told_with_the_right_one(cloud: str, zone: str, hint: str) -> None:
    text = pool(cloud, f'gpu = "L4"\nzones = ["{zone}"]')
    assert told(text) == [f'm:6: pools[0].zones[0]: "{zone}" is not a zone of {cloud}; write it as "{hint}"']


def test_regions_stand_for_all_their_zones() -> None:
    assert parse(pool("aws", 'regions = ["us-east-1", "us-west-2"]\ngpu = ["L4:1", "A10G:1"]')).pools[0].regions


@pytest.mark.parametrize(
    ("cloud", "rest", "problem"),
    [
        (
            "aws",
            'gpu = "L4"',
            'm:3: pools[0].zones: cloud = "aws" needs `zones` or `regions`; write them, such as ["us-east-1/us-east-1a"], or `regions`',
        ),
        (
            "gcp",
            'regions = ["us-central1"]',
            'm:3: pools[0].gpu: cloud = "gcp" needs `gpu` or `instance_types`; write gpu = "L4:1", or instance_types = ["..."]',
        ),
        (
            "aws",
            'regions = ["us-east-1"]\ngpu = "L4 x 2"',
            'm:6: pools[0].gpu[0]: "L4 x 2" is not a kind of GPU with a number, such as "L4:1" or "H100:8"',
        ),
        (
            "local",
            'zones = ["east/a"]\ngpu = "L4"',
            "m:6: pools[0].gpu: `gpu` is only for aws, gcp and azure; remove `gpu`",
        ),
        (
            "local",
            'zones = ["east/a"]\nregions = ["east"]',
            "m:6: pools[0].regions: `regions` is only for aws, gcp and azure; remove `regions`",
        ),
    ],
)
def test_what_a_pool_lacks_or_has_too_much_is_told(cloud: str, rest: str, problem: str) -> None:
    assert told(pool(cloud, rest)) == [problem]


def test_throughput_speaks_of_what_the_pool_has() -> None:
    good = 'regions = ["us-east-1"]\ngpu = ["L4:1", "A10G:1"]\nthroughput = {"A10G:1" = 1.3}'
    assert parse(pool("aws", good)).pools[0].throughput == {"A10G:1": 1.3}
    bad = good.replace('"A10G:1" = 1.3', '"H100:1" = 3.0')
    assert told(pool("aws", bad)) == [
        'm:7: pools[0].throughput.H100:1: "H100:1" is neither in `gpu` nor in `instance_types`; remove it'
    ]
    none = good.replace("1.3", "0.0")
    assert "is not a number above 0" in told(pool("aws", none))[0]


@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
def test_a_clouds_table_without_a_pool_of_it_is_told(cloud: str) -> None:
    key = {"aws": 'profile = "p"', "gcp": 'project = "p"', "azure": 'subscription = "s"'}[cloud]
    text = f'[[pools]]\ncloud = "local"\nzones = ["east/a"]\n[{cloud}]\n{key}'
    assert told(text) == [
        f'm:6: {cloud}: no pool has cloud = "{cloud}"; remove the [{cloud}] table or add such a pool'
    ]


def test_networks_that_may_reach_the_vms_are_networks() -> None:
    aws = pool("aws", 'regions = ["us-east-1"]\ngpu = "L4"')
    assert parse(aws + '[vm]\nallow_from = ["203.0.113.7", "10.0.0.0/16"]').vm.allow_from
    problem = told(aws + '[vm]\nallow_from = ["203.0.113.7/24"]')[0]
    assert problem.startswith('m:8: vm.allow_from[0]: "203.0.113.7/24" is not an address or network:')


def test_secrets_have_no_key_in_a_model_file() -> None:
    text = pool("aws", 'regions = ["us-east-1"]\ngpu = "L4"') + '[aws]\nsecret_access_key = "x"'
    assert "unknown key `secret_access_key`" in told(text)[0]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ('container = "vllm/vllm-openai:v1"\nversion = "1"', "`container` brings its own `version`"),
        ('container = "vllm/vllm-openai:v1"\npython = "p"', "`container` brings its own `python`"),
    ],
)
def test_a_container_brings_its_own_engine(keys: str, problem: str) -> None:
    text = f'[model]\nid = "m"\n{keys}\n[[pools]]\ncloud = "local"\nzones = ["east/a"]'
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "m", "/", {})
    assert [one.message for one in caught.value.problems] == [problem]
