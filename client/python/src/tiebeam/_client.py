"""The two clients: the same operations, driven with blocking I/O or with asyncio.

A driver performs the steps that a call yields, and nothing else: whatever is decided is decided in
`_protocol.py`. This is the only module that opens connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Callable, ClassVar, Generic, TypeVar

import httpx

from ._binding import operation, stream
from ._calls import Calls
from ._errors import TiebeamError
from ._flow import Done, Emit, Flow, advance
from ._protocol import Broken, Pause, Protocol, Reply, Send, Steps
from ._results import JobResult
from ._target import Authority, Certificate, PathText, arguments_from_environment, target

T = TypeVar("T")
R = TypeVar("R")
AnyClient = TypeVar("AnyClient", bound="_Operations")

_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""Failures that come before the first byte of a request."""


class Jobs(Generic[R]):
    """Jobs as methods: `client.jobs.node_list()` is `client.exec("node_list", {})`.

    Keywords are the job's parameters; use `exec` for options such as `reason`.
    """

    def __init__(self, execute: Callable[[str, Mapping[str, Any]], R]) -> None:
        self._execute = execute

    def __getattr__(self, name: str) -> Callable[..., R]:
        if name.startswith("_"):
            raise AttributeError(name)

        def job(**params: Any) -> R:
            return self._execute(name, params)

        job.__name__ = job.__qualname__ = name
        return job


class _Operations:
    """What both clients have: the cluster they belong to, and every operation."""

    asynchronous: ClassVar[bool] = False

    def __init__(
        self,
        urls: str | Iterable[str],
        *,
        ca: Authority = None,
        user: str | None = None,
        password: str | None = None,
        password_file: PathText | None = None,
        token: str | None = None,
        cert: Certificate | None = None,
        timeout: float = 30.0,
        learn: bool = True,
    ) -> None:
        """A client of one cluster. Nothing is sent yet.

        Args:
            urls: One or more members, as `https://host:port`. Any will do: the client finds the
                master. More than one keeps it working while a member is down.
            ca: The file with the cluster's CA, or an `ssl.SSLContext`. Without it the system's
                authorities are trusted. Certificates are always verified.
            user: The user's name.
            password: The user's password.
            password_file: A file that holds the password and nothing else.
            token: A token from an earlier login, in place of a password.
            cert: A client certificate: a PEM file with its key, or `(cert, key)`, or
                `(cert, key, password)`.
            timeout: Seconds for one call with all its redirects and retries. Waiting for a job
                is not counted: see the `timeout` of `exec` and `wait`.
            learn: Whether the client asks the cluster, after a call and once a minute at most, for
                its other members, and goes on with them when those in `urls` are gone. They are
                verified like all others, with the same `ca`.

        Proxies and other settings of the environment are not used; `from_environment` reads the
        `TIEBEAM_*` variables.

        Raises:
            ValueError: The arguments contradict each other, or a URL is not one of a member.
            OSError: A file cannot be read (`ssl.SSLError`: it holds no certificate).
        """
        self._target = target(
            urls,
            ca=ca,
            user=user,
            password=password,
            password_file=password_file,
            token=token,
            cert=cert,
            timeout=timeout,
            learn=learn,
        )
        self._calls = Calls(Protocol(self._target))
        self._open(self._target.tls)

    def _open(self, tls: ssl.SSLContext) -> None:
        """Makes the driver's connection pool; connects to nobody yet."""
        raise NotImplementedError

    @classmethod
    def from_environment(
        cls: type[AnyClient], environ: Mapping[str, str] | None = None, **arguments: Any
    ) -> AnyClient:
        """A client for the cluster that the `TIEBEAM_*` variables name.

        `TIEBEAM_URL` (several are separated by commas), `TIEBEAM_CA`, `TIEBEAM_USER`,
        `TIEBEAM_PASSWORD_FILE`, and `TIEBEAM_DEV`, the `dev.json` of a development cluster.
        Arguments given here come before the variables.
        """
        found = arguments_from_environment(os.environ if environ is None else environ)
        if arguments.keys() & {"password", "password_file", "token"}:
            found.pop("password_file", None)
        return cls(**{**found, **arguments})

    def __repr__(self) -> str:
        user = self._target.credentials.user
        return f"{type(self).__name__}({list(self._target.urls)!r}, user={user!r})"

    call = operation(Calls.call)
    job_list = operation(Calls.job_list)
    job_help = operation(Calls.job_help)
    job_desc = operation(Calls.job_desc)
    exec = operation(Calls.exec)
    start = operation(Calls.start)
    wait = operation(Calls.wait)
    finished = operation(Calls.finished)
    result = operation(Calls.result)
    info = operation(Calls.info)
    file = operation(Calls.file)
    cancel = operation(Calls.cancel)
    history = stream(Calls.history)
    events = stream(Calls.events)
    login = operation(Calls.login)
    logout = operation(Calls.logout)
    state = operation(Calls.state)
    user_init = operation(Calls.user_init)
    config_get = operation(Calls.config_get)
    config_set = operation(Calls.config_set)
    config_merge = operation(Calls.config_merge)
    config_delete = operation(Calls.config_delete)
    config_diff = operation(Calls.config_diff)
    config_log = operation(Calls.config_log)
    config_blame = operation(Calls.config_blame)
    config_rollback = operation(Calls.config_rollback)


class Client(_Operations):
    """A cluster, with blocking calls. Safe to share between threads."""

    asynchronous = False

    _http: httpx.Client

    def _open(self, tls: ssl.SSLContext) -> None:
        self._http = httpx.Client(verify=tls, follow_redirects=False, trust_env=False)

    @property
    def jobs(self) -> Jobs[JobResult]:
        """Jobs as methods."""
        return Jobs(self.exec)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _drive(self, steps: Steps[T]) -> T:
        step = advance(steps, None)
        while not isinstance(step, Done):
            step = advance(steps, self._perform(step))
        return step.value

    def _iterate(self, flow: Flow[T]) -> Iterator[T]:
        try:
            step = advance(flow.steps, None)
            while not isinstance(step, Done):
                if isinstance(step, Emit):
                    yield step.value
                    step = advance(flow.steps, None)
                else:
                    step = advance(flow.steps, self._perform(step))
        finally:
            with contextlib.suppress(TiebeamError, RuntimeError):
                self._drive(flow.closing())

    def _perform(self, step: Send | Pause) -> object:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            answer = self._http.post(**_request(step))
        except httpx.TransportError as error:
            return _broken(error)
        return _reply(answer)


class AsyncClient(_Operations):
    """A cluster, with awaitable calls, on asyncio. For one event loop."""

    asynchronous = True

    _http: httpx.AsyncClient

    def _open(self, tls: ssl.SSLContext) -> None:
        self._http = httpx.AsyncClient(verify=tls, follow_redirects=False, trust_env=False)

    @property
    def jobs(self) -> Jobs[Awaitable[JobResult]]:
        """Jobs as methods."""
        return Jobs(self.exec)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _drive(self, steps: Steps[T]) -> T:
        step = advance(steps, None)
        while not isinstance(step, Done):
            step = advance(steps, await self._perform(step))
        return step.value

    async def _iterate(self, flow: Flow[T]) -> AsyncIterator[T]:
        try:
            step = advance(flow.steps, None)
            while not isinstance(step, Done):
                if isinstance(step, Emit):
                    yield step.value
                    step = advance(flow.steps, None)
                else:
                    step = advance(flow.steps, await self._perform(step))
        finally:
            with contextlib.suppress(TiebeamError, RuntimeError):
                await self._drive(flow.closing())

    async def _perform(self, step: Send | Pause) -> object:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            answer = await self._http.post(**_request(step))
        except httpx.TransportError as error:
            return _broken(error)
        return _reply(answer)


def _request(step: Send) -> dict[str, Any]:
    timeout = httpx.Timeout(step.answer_s, connect=step.connect_s, pool=step.connect_s)
    return {"url": step.url, "headers": step.headers, "content": step.body, "timeout": timeout}


def _reply(answer: httpx.Response) -> Reply:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Reply(answer.status_code, headers, answer.content)


def _broken(error: httpx.TransportError) -> Broken:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Broken(f"certificate: {cause.verify_message}", sent=False, certificate=True)
        cause = cause.__cause__ or cause.__context__
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Broken(reason, sent=not isinstance(error, _UNSENT))
