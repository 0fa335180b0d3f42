"""Both clients against a real cluster: the one whose `dev.json` is named by `TIEBEAM_DEV`.

Every test makes names and paths of its own, so the cluster may be in use and may be any size.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

import tiebeam
from tiebeam._target import arguments_from_environment

pytestmark = pytest.mark.skipif(
    not os.environ.get("TIEBEAM_DEV"),
    reason="TIEBEAM_DEV is not set: no cluster to test against (tiebeamd dev --exec sets it)",
)

Connect = Callable[..., Any]


@pytest.fixture
def client(connect: Connect) -> Any:
    """A client of the cluster, as its administrator."""
    return connect(**arguments_from_environment(os.environ))


@pytest.fixture
def path(client: Any) -> Iterator[str]:
    """A path of the configuration that is this test's own."""
    mine = f"app/python_client_{secrets.token_hex(4)}"
    yield mine
    client.exec("config_delete", {"path": mine}, check=False)


@pytest.fixture
def user(client: Any) -> Iterator[tuple[str, str]]:
    """Name and password of a user without rights to change anything."""
    name, password = f"py{secrets.token_hex(4)}", secrets.token_urlsafe(16)
    client.exec(
        "user_create",
        {
            "username": name,
            "userid": 20_000 + secrets.randbelow(40_000),
            "group": "exausers",
            "password": password,
            "login_enabled": True,
        },
        reason="a test of the Python client",
    )
    yield name, password
    client.exec("user_delete", {"username": name})


def dev() -> dict[str, Any]:
    """The cluster's `dev.json`."""
    found: dict[str, Any] = json.loads(Path(os.environ["TIEBEAM_DEV"]).read_text(encoding="utf-8"))
    return found


def test_reading(client: Any) -> None:
    nodes = client.exec("node_list").output
    assert set(nodes) == {str(node["id"]) for node in dev()["nodes"]}
    assert client.jobs.node_list().output == nodes
    assert client.exec("node_list", volatile=True).output == nodes
    assert client.state().user == dev()["user"]


def test_every_member_will_do(connect: Connect, path: str) -> None:
    arguments = arguments_from_environment(os.environ)
    for number, node in enumerate(dev()["nodes"]):
        client = connect(**{**arguments, "urls": node["url"]})
        client.config_set(path, number)
        assert client.config_get(path) == number


def test_the_catalogue(client: Any) -> None:
    jobs = client.job_list()
    assert jobs == sorted(jobs)
    assert {"node_list", "config_set", "user_create"} <= set(jobs)
    assert "Mandatory parameters" in client.job_help("user_create")
    description = client.job_desc("user_create")
    assert description.kind == "modify"
    assert {"username", "userid", "group"} <= set(description.mandatory)
    with pytest.raises(tiebeam.UnknownJob):
        client.job_desc("no_such_job")


def test_the_configuration(client: Any, path: str) -> None:
    first = client.config_set(path, {"port": 80}, reason="first").revision
    second = client.config_set(path, {"port": 81}).revision
    assert second > first
    assert client.config_get(path) == {"port": 81}
    assert client.config_get(path, revision=first) == {"port": 80}
    changes = client.config_diff(first, second)
    assert f"{path}/port" in json.dumps(changes)
    assert client.config_set(path, {"port": 81}).revision is None, "nothing was to change"
    with pytest.raises(tiebeam.ConflictOutcome):
        client.config_set(path, {"port": 82}, expect_revision=first)
    assert client.config_rollback(first, path).revision > second
    assert client.config_get(path) == {"port": 80}
    client.config_delete(path)
    with pytest.raises(tiebeam.TiebeamError):
        client.config_get(path)


def test_a_dry_run_changes_nothing(client: Any, path: str) -> None:
    plan = client.config_set(path, 1, dry_run=True).plan
    assert path in json.dumps(plan["diff"])
    with pytest.raises(tiebeam.TiebeamError):
        client.config_get(path)


def test_a_key_runs_once(client: Any, path: str) -> None:
    key = f"test-{secrets.token_hex(8)}"
    params = {"path": path, "value": 1}
    first = client.start("config_set", params, request_id=key)
    assert client.start("config_set", params, request_id=key) == first
    assert client.exec("config_set", params, request_id=key).job_id == first
    with pytest.raises(tiebeam.Conflict):
        client.start("config_set", {"path": path, "value": 2}, request_id=key)
    assert client.config_get(path) == 1


def test_the_life_of_a_job(client: Any, path: str) -> None:
    job_id = client.start("config_set", {"path": path, "value": 1}, reason="look at me")
    assert client.wait(job_id, timeout=30)
    assert client.finished(job_id)
    result = client.result(job_id)
    assert result.ok
    record = client.info(job_id)
    assert (record["name"], record["reason"]) == ("config_set", "look at me")
    assert f'job: "{job_id}"' in client.file(job_id)
    assert client.cancel(job_id) == "too_late"


def test_history_pages(client: Any, path: str) -> None:
    jobs = [client.config_set(path, number).job_id for number in range(5)]
    client.jobs.node_list()
    found = [r["job"] for r in client.history(name="config_set", page_size=2, limit=5)]
    assert found == jobs[::-1]
    mine = list(client.history(user=dev()["user"], limit=3))
    assert {record["user"] for record in mine} == {dev()["user"]}


def test_refusals(client: Any, connect: Connect, user: tuple[str, str], path: str) -> None:
    with pytest.raises(tiebeam.UnknownJob):
        client.exec("no_such_job")
    with pytest.raises(tiebeam.InvalidParameter) as raised:
        client.exec("config_set", {"path": path, "value": 1, "colour": "red"})
    assert raised.value.field == "colour"
    with pytest.raises(tiebeam.UnknownJobId):
        client.result("11.999999999")
    with pytest.raises(tiebeam.UnknownMethod):
        client.call("no_such_method")
    with pytest.raises(tiebeam.Forbidden):
        client.config_set("users/root", {})
    job_id = client.config_set(path, 1).job_id
    name, password = user
    arguments = arguments_from_environment(os.environ)
    del arguments["password_file"]
    other = connect(**{**arguments, "user": name, "password": password})
    assert other.state().user == name
    with pytest.raises(tiebeam.Forbidden):
        other.config_set(path, 2)
    with pytest.raises(tiebeam.UnknownJobId):
        other.info(job_id)
    with pytest.raises(tiebeam.LoginFailed):
        connect(**{**arguments, "user": name, "password": "wrong"}).state()


def test_users_and_logins(client: Any, connect: Connect, user: tuple[str, str]) -> None:
    name, password = user
    assert name in json.dumps(client.exec("user_list").output)
    assert client.exec("user_info", {"username": name}).ok
    arguments = arguments_from_environment(os.environ)
    del arguments["password_file"]
    other = connect(**{**arguments, "user": name, "password": password})
    login = other.login(ttl_s=600)
    assert other.state().via != client.state().via
    by_token = connect(urls=arguments["urls"], ca=arguments["ca"], token=login.token)
    assert by_token.state().user == name
    other.logout()
    with pytest.raises(tiebeam.LoginFailed):
        by_token.state()
    assert other.state().user == name


def test_events(client: Any, path: str) -> None:
    if "subscribe" not in client.call("system.listMethods", idempotent=True):
        pytest.skip("this daemon has no long-polled events yet")
    events = client.events(jobs="all", kinds=["stage"], since="0.0", idle_timeout=20)
    job_id = client.config_set(path, 1).job_id
    stages = []
    for event in events:
        if isinstance(event, tiebeam.Event) and event.job == job_id:
            stages.append(event.stage)
            if event.stage == "committed":
                break
    events.close()
    assert stages[0] == "submitted"
    assert stages[-1] == "committed"


def test_another_ca_is_not_trusted(connect: Connect) -> None:
    arguments = {**arguments_from_environment(os.environ), "ca": None}
    with pytest.raises(tiebeam.CertificateRejected):
        connect(**arguments).job_list()
