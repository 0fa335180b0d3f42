"""The constructor's arguments, the environment, and the public face."""

from __future__ import annotations

import inspect
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

import tiebeam
from authority import Authority
from tiebeam import AsyncClient, Client
from tiebeam._errors import _BY_CODE, RpcError
from tiebeam._request_id import ClusterClock, request_id
from tiebeam._target import arguments_from_environment, target


@pytest.mark.parametrize(
    ("given", "members"),
    [
        ("https://n11", ["https://n11:20003"]),
        ("n11", ["https://n11:20003"]),
        ("https://n11:443", ["https://n11:443"]),
        ("https://N11:20003/", ["https://n11:20003"]),
        ("https://[::1]:1", ["https://[::1]:1"]),
        ("127.0.0.11:20003", ["https://127.0.0.11:20003"]),
        (["n11", "https://n11:20003", "n12:5"], ["https://n11:20003", "https://n12:5"]),
    ],
)
def test_urls_have_one_spelling(given: Any, members: list[str]) -> None:
    assert list(target(given).urls) == members


@pytest.mark.parametrize(
    ("urls", "arguments"),
    [
        ("http://n11:20003", {}),
        ("https://admin:hidden@n11", {}),
        ("https://n11/path", {}),
        ("https://", {}),
        ("https://n11:notaport", {}),
        ([], {}),
        ("n11", {"user": "a", "password": "hidden", "token": "hidden"}),
        ("n11", {"password": "hidden"}),
        ("n11", {"timeout": 0}),
    ],
)
def test_contradictions_are_found_and_not_repeated(urls: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+") as raised:
        target(urls, **arguments)
    assert "hidden" not in str(raised.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nothing"):
        target("n11", user="a", password_file=tmp_path / "nothing")
    with pytest.raises(OSError, match=r".+"):
        target("n11", ca=tmp_path / "nothing")


def dev_file(folder: Path) -> Path:
    """A `dev.json`."""
    nodes = [{"id": n, "name": f"n{n}", "url": f"https://127.0.0.{n}:20003"} for n in (11, 12)]
    dev = {"ca": "dev-ca", "user": "dev", "password_file": "dev-password", "nodes": nodes}
    file = folder / "dev.json"
    file.write_text(json.dumps(dev), encoding="utf-8")
    return file


def test_the_environment(tmp_path: Path) -> None:
    assert arguments_from_environment(
        {"TIEBEAM_URL": "n11, n12", "TIEBEAM_CA": "ca", "TIEBEAM_USER": "u"}
    ) == {"urls": ["n11", "n12"], "ca": "ca", "user": "u"}
    dev = {"TIEBEAM_DEV": str(dev_file(tmp_path))}
    members = ["https://127.0.0.11:20003", "https://127.0.0.12:20003"]
    everything = {"ca": "dev-ca", "user": "dev", "password_file": "dev-password"}
    assert arguments_from_environment(dev) == {"urls": members, **everything}
    second = arguments_from_environment(
        {**dev, "TIEBEAM_URL": "https://127.0.0.12:20003", "TIEBEAM_USER": "me"}
    )
    assert second["urls"][0] == members[1]
    assert second["user"] == "me"
    elsewhere = arguments_from_environment({**dev, "TIEBEAM_URL": "https://elsewhere:20003"})
    assert elsewhere == {"urls": ["https://elsewhere:20003"]}
    with pytest.raises(ValueError, match="TIEBEAM_URL"):
        arguments_from_environment({})


def test_arguments_come_before_the_environment(tmp_path: Path, authority: Authority) -> None:
    environ = {"TIEBEAM_URL": "n11", "TIEBEAM_USER": "u", "TIEBEAM_PASSWORD_FILE": "nowhere"}
    with Client.from_environment(environ, password="hidden", ca=authority.file) as client:
        assert repr(client) == "Client(['https://n11:20003'], user='u')"


def test_both_clients_have_the_same_operations() -> None:
    names = [name for name in dir(Client) if not name.startswith("_")]
    assert set(names) - set(dir(AsyncClient)) == {"close"}
    assert set(dir(AsyncClient)) - set(dir(Client)) >= {"aclose"}
    for name in names:
        if name in ("asynchronous", "close", "jobs", "from_environment"):
            continue
        plain, awaitable = getattr(Client, name), getattr(AsyncClient, name)
        assert plain.__name__ == awaitable.__name__ == name
        seen, other = inspect.signature(plain), inspect.signature(awaitable)
        assert seen.parameters == other.parameters
        assert "Steps" not in str(seen)
        assert "Flow" not in str(seen)
        assert inspect.getdoc(plain)
        assert inspect.iscoroutinefunction(awaitable) is (name not in ("history", "events"))


def test_jobs_have_no_private_names(authority: Authority) -> None:
    with Client("n11", ca=authority.file) as client:
        assert client.jobs.node_list.__name__ == "node_list"
        assert not hasattr(client.jobs, "__wrapped__")


def test_errors_survive_pickling() -> None:
    codes = [code for code in _BY_CODE if code]
    assert len(codes) == 15
    for error in (
        RpcError("no", code=-1, name="x", field="f", hint="h", retryable=True, request_id="r"),
        tiebeam.AnswerLost("lost", [tiebeam.MemberFailure("https://n11:20003", "cut")], "key"),
        tiebeam.Failed(tiebeam.JobResult(1, "FAILED", "no", "11.1")),
        *(_BY_CODE[code]("no") for code in codes),
    ):
        again = pickle.loads(pickle.dumps(error))  # noqa: S301
        assert type(again) is type(error)
        assert vars(again) == vars(error)
        assert str(again) == str(error)


def test_keys_are_ordered_and_random() -> None:
    seconds = iter(range(1000))
    clock = ClusterClock(wall=lambda: 1_700_000_000.0, monotonic=lambda: next(seconds))
    assert clock.now_ms() == 1_700_000_000_000
    clock.observe("not a date")
    assert clock.now_ms() == 1_700_000_000_000
    clock.observe("Fri, 20 Nov 2026 04:05:06 GMT")
    made = [request_id(clock) for _ in range(100)]
    assert made == sorted(made)
    assert len({key[-12:] for key in made}) == 100
    assert all(len(key) == 36 for key in made)
