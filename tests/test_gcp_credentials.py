"""Whose credentials the GCP driver uses, how it keeps them, and what is said where they do not do."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from hedgeserve.drivers.gcpcloud.credentials import Login
from hedgeserve.errors import AuthError, CloudError
from tests.clouds.fake_gce import FakeGce
from tests.clouds.gce_bench import *  # noqa: F403
from tests.clouds.gce_bench import Make, launch_request

DOCUMENT = Path(__file__).parent.parent / "docs" / "clouds" / "gcp.md"


def write(path: Path, **told: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told))
    return path


def user_file(path: Path, gce: FakeGce, **more: object) -> Path:
    """What `gcloud auth application-default login` leaves behind."""
    told = {"type": "authorized_user", "client_id": "client", "client_secret": "hush", "refresh_token": "refresh"}
    return write(path, **told, token_uri=f"{gce.url}/token", **more)


@pytest.fixture
def google_is_the_fake(gce: FakeGce, monkeypatch: pytest.MonkeyPatch) -> None:
    """google-auth takes some addresses from nothing but its own constants."""
    monkeypatch.setattr("google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT", f"{gce.url}/token")
    host = gce.url.removeprefix("http://")
    monkeypatch.setattr("google.auth.compute_engine._metadata._GCE_METADATA_HOST", host)


# Where they are found


@pytest.mark.usefixtures("google_is_the_fake")
async def test_what_gcloud_has_left_in_the_home_is_used(gce: FakeGce, make: Make, tmp_path: Path) -> None:
    """The environment that the driver is given says where home is; the quota project is told to Google."""
    user_file(tmp_path / ".config/gcloud/application_default_credentials.json", gce, quota_project_id="bills")
    driver = make(environ={"HOME": str(tmp_path), "GOOGLE_CLOUD_PROJECT": "proj"})
    assert await driver.list() == []
    assert gce.tokens.asked == ["refresh_token"]
    assert gce.seen[-1].headers["x-goog-user-project"] == "bills"


@pytest.mark.usefixtures("google_is_the_fake")
async def test_a_directory_of_gclouds_own_comes_before_the_home(gce: FakeGce, make: Make, tmp_path: Path) -> None:
    user_file(tmp_path / "sdk/application_default_credentials.json", gce)
    environ = {
        "CLOUDSDK_CONFIG": str(tmp_path / "sdk"),
        "HOME": "/nowhere",
        "GOOGLE_CLOUD_PROJECT": "proj",
        "GOOGLE_CLOUD_QUOTA_PROJECT": "other",
    }
    assert await make(environ=environ).list() == []
    assert gce.seen[-1].headers["x-goog-user-project"] == "other"


async def test_a_key_file_in_model_toml_comes_first(gce: FakeGce, make: Make, tmp_path: Path) -> None:
    key = gce.key_file(tmp_path / "mine.json")
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": "/not/there.json"}
    assert await make(gcp=f'credentials_file = "{key}"', environ=environ).list() == []


@pytest.mark.usefixtures("google_is_the_fake")
async def test_the_machines_own_account_is_the_last_resort(gce: FakeGce, make: Make) -> None:
    driver = make(environ={"GCE_METADATA_HOST": gce.url.removeprefix("http://")})
    assert await driver.list() == []
    assert gce.tokens.asked == ["metadata"]


async def test_a_foreign_token_is_exchanged(gce: FakeGce, make: Make, tmp_path: Path) -> None:
    """Workload identity federation: the file says where the token is and who exchanges it."""
    (tmp_path / "token").write_text("foreign")
    file = write(
        tmp_path / "federation.json",
        type="external_account",
        audience="//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/p",
        subject_token_type="urn:ietf:params:oauth:token-type:jwt",
        token_url=f"{gce.url}/token",
        credential_source={"file": str(tmp_path / "token")},
    )
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(file), "GOOGLE_CLOUD_PROJECT": "proj"}
    assert await make(environ=environ).list() == []
    assert gce.tokens.asked == ["urn:ietf:params:oauth:grant-type:token-exchange"]


# Keeping them


async def test_all_threads_share_one_token(gce: FakeGce, make: Make) -> None:
    driver = make()
    await asyncio.gather(*(driver.everyone() for _ in range(8)))
    assert len(gce.tokens.asked) == 1


async def test_a_token_is_renewed_before_it_expires(gce: FakeGce, make: Make) -> None:
    gce.tokens.lifetime_s = 60.0
    driver = make()
    await driver.list()
    await driver.list()
    assert len(gce.tokens.asked) == 2


async def test_a_new_key_file_is_noticed(gce: FakeGce, make: Make, tmp_path: Path) -> None:
    driver = make()
    await driver.list()
    key = gce.key_file(tmp_path / "key.json")
    os.utime(key, ns=(1, 1))
    await driver.list()
    assert len(gce.tokens.asked) == 2


async def test_no_token_is_written_into_the_home(gce: FakeGce, make: Make, tmp_path: Path) -> None:
    """Libcloud would keep one there."""
    driver = make()
    before = set(Path.home().glob(".google_libcloud*"))
    await driver.list()
    assert set(Path.home().glob(".google_libcloud*")) == before


# What is said when there are none


async def test_nothing_anywhere_says_how_to_log_in(make: Make) -> None:
    with pytest.raises(AuthError, match="gcloud auth application-default login"):
        await make(environ={"NO_GCE_CHECK": "true"}).list()


async def test_a_login_that_was_withdrawn_says_so(gce: FakeGce, make: Make) -> None:
    gce.tokens.refused = "invalid_grant"
    with pytest.raises(AuthError, match=r"no token could be had: .*invalid_grant.*gcloud auth"):
        await make().list()


def test_credentials_without_a_project_ask_for_one(tmp_path: Path) -> None:
    told = {"type": "authorized_user", "client_id": "c", "client_secret": "hush", "refresh_token": "r"}
    with pytest.raises(AuthError, match=r"write gcp\.project, or set GOOGLE_CLOUD_PROJECT") as error:
        Login(str(write(tmp_path / "adc.json", **told)), "", {}).project()
    assert "hush" not in str(error.value)


def test_a_broken_key_does_not_end_up_in_the_message(tmp_path: Path) -> None:
    told = {"type": "service_account", "private_key": "hush", "client_email": "a@b", "token_uri": "http://x"}
    with pytest.raises(AuthError, match="holds no usable credentials") as error:
        Login(str(write(tmp_path / "key.json", **told)), "", {}).project()
    assert "hush" not in str(error.value)


# What they may not do


async def test_prices_need_a_permission_that_the_documentation_names(gce: FakeGce, make: Make) -> None:
    """Without it there are none, and nothing else fails."""
    needed = "compute.advice.capacityHistory"
    assert f"`{needed}`" in DOCUMENT.read_text("utf-8")
    gce.fault(
        "POST", "capacityHistory", status=403, code="forbidden", info="IAM_PERMISSION_DENIED", permission=needed
    )
    assert await make().prices("us-central1", ["g2-standard-8"]) == {}


async def test_an_operation_that_may_not_be_looked_at_is_no_refusal(gce: FakeGce, make: Make) -> None:
    """Its permission is missing, but the VM was granted: to say otherwise would leak it."""
    driver = make()
    await driver.launch(launch_request("chat-0"))
    gce.fault("GET", "/zones/.*/operations/", status=403, code="forbidden", info="IAM_PERMISSION_DENIED", times=9)
    assert (await driver.launch(launch_request())).name == "chat-1"


async def test_a_vm_that_is_still_being_made_is_ended_a_moment_later(gce: FakeGce, make: Make) -> None:
    driver = make()
    machine = await driver.launch(launch_request())
    vm = gce.world.instances["us-central1-a", "chat-1"]
    vm["status"] = "PROVISIONING"
    with pytest.raises(CloudError, match="still being made"):
        await driver.terminate(machine.id)
    vm["status"] = "RUNNING"
    await driver.terminate(machine.id)
