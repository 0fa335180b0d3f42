"""Fixtures: a CA, a cluster of stand-in nodes, and both clients behind one face.

Tests that take `connect` run twice, with `Client` and with `AsyncClient`; the latter is driven on
an event loop of the test's own, so that each test is written once.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable

import pytest

from authority import Authority, Issued, accepting
from stub import PASSWORD, USER, Cluster, Node
from tiebeam import AsyncClient, Client

Connect = Callable[..., Any]


class Blocking:
    """An `AsyncClient` whose calls block."""

    def __init__(self, client: AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        self.client, self._loop = client, loop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.client, name)
        if name == "jobs":
            return _BlockingJobs(found, self._loop)
        return self._blocking(found) if callable(found) else found

    def _blocking(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            answer = method(*args, **kwargs)
            if inspect.isasyncgen(answer):
                return self._iterate(answer)
            return self._loop.run_until_complete(answer) if inspect.isawaitable(answer) else answer

        return call

    def _iterate(self, values: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._loop.run_until_complete(values.__anext__())
                except StopAsyncIteration:
                    return
        finally:
            self._loop.run_until_complete(values.aclose())


class _BlockingJobs:
    def __init__(self, jobs: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._jobs, self._loop = jobs, loop

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda **params: self._loop.run_until_complete(getattr(self._jobs, name)(**params))


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Makes clients of one kind, and closes them."""
    with ExitStack() as stack:
        if request.param == "sync":
            yield lambda *args, **kwargs: stack.enter_context(Client(*args, **kwargs))
            return
        loop = asyncio.new_event_loop()
        stack.callback(loop.close)

        def make(*args: Any, **kwargs: Any) -> Blocking:
            client = AsyncClient(*args, **kwargs)
            stack.callback(lambda: loop.run_until_complete(client.aclose()))
            return Blocking(client, loop)

        yield make


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The cluster's CA."""
    return Authority(tmp_path_factory.mktemp("ca"), "cluster-ca")


@pytest.fixture(scope="session")
def certificate(authority: Authority) -> Issued:
    """A node's certificate."""
    return authority.issue("node")


@pytest.fixture
def cluster() -> Cluster:
    """What the nodes of one test share."""
    return Cluster()


@pytest.fixture
def nodes(cluster: Cluster, certificate: Issued) -> Iterator[list[Node]]:
    """Two members of one cluster."""
    with ExitStack() as stack:
        yield [stack.enter_context(Node(cluster, accepting(certificate))) for _ in range(2)]


@pytest.fixture
def arguments(authority: Authority) -> dict[str, Any]:
    """What a client of the stand-in cluster is made with."""
    return {"ca": authority.file, "user": USER, "password": PASSWORD, "timeout": 5, "learn": False}


@pytest.fixture
def environment(
    nodes: list[Node], authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The `TIEBEAM_*` variables for the stand-in cluster."""
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n", encoding="utf-8")
    monkeypatch.delenv("TIEBEAM_DEV", raising=False)
    monkeypatch.setenv("TIEBEAM_URL", nodes[0].url)
    monkeypatch.setenv("TIEBEAM_CA", str(authority.file))
    monkeypatch.setenv("TIEBEAM_USER", USER)
    monkeypatch.setenv("TIEBEAM_PASSWORD_FILE", str(secret))
