"""Every call of the client, once: the generators behind both `Client` and `AsyncClient`.

A method here yields steps (`_protocol.py`) and never does I/O. Its docstring is the one that the
user reads. Each says what a lost answer means for it, where that is not "it is asked again".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from . import _errors as errors
from ._events import EventStream
from ._flow import Emit, Flow, FlowSteps
from ._jsonrpc import Params
from ._protocol import PAUSE_MAX_S, Call, Pause, Protocol, Resend, Steps
from ._request_id import request_id as new_request_id
from ._results import (
    Event,
    Gap,
    Identity,
    JobDescription,
    JobRecord,
    JobResult,
    Login,
    identity_from_wire,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

WAIT_S = 25
"""How long a node is asked to wait for a job at a time: under the 30 s at which middle boxes begin
to cut connections, and the client asks again anyway."""
PAGE = 100
"""Records in a page of the history."""


class StartOptions(TypedDict, total=False):
    """How a job is to run; what is not given is left to the cluster."""

    dry_run: bool
    """Plan only: nothing changes, the result has a `plan`."""
    volatile: bool
    """Read jobs only: answer without keeping a record."""
    request_id: str
    """Idempotency key, at most 64 characters. One is made if none is given."""
    reason: str
    """Why this is done; kept in the record."""
    not_before: str
    """RFC 3339 time until which the job waits."""
    deadline_s: float
    """The cluster stops the job if it has not finished in this time."""
    confirm_within_s: float
    """The change is undone unless `config_confirm` comes in this time."""
    plan: str
    """The plan token of a dry run: do exactly that, or answer `Conflict`."""


class ExecOptions(StartOptions, total=False):
    """How a job is to run, and how its caller waits: see `exec`."""

    check: bool
    timeout: float | None


class Calls:
    """The calls of one client."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol

    def call(self, method: str, params: Params = (), *, idempotent: bool = False) -> Steps[Any]:
        """Calls any RPC method and returns its result as it came.

        Args:
            method: The method's name, such as `system.listMethods`.
            params: Its arguments by position (a sequence) or by name (a mapping).
            idempotent: Whether the call may be sent again after its answer was lost. Without it
                such a call raises `AnswerLost`.
        """
        resend = Resend.FREELY if idempotent else Resend.UNSENT
        return (yield from self.protocol.run(Call(method, params, resend)))

    # Jobs: the catalogue

    def job_list(self) -> Steps[list[str]]:
        """The names of all jobs that this cluster knows, sorted."""
        return [str(name) for name in (yield from self._read("job_list"))]

    def job_help(self, job: str) -> Steps[str]:
        """A job's help text. Raises `UnknownJob`."""
        return str((yield from self._read("job_help", job)))

    def job_desc(self, job: str) -> Steps[JobDescription]:
        """A job's declaration. Raises `UnknownJob`."""
        return JobDescription.from_wire(job, (yield from self._read("job_desc", job)))

    # Jobs: running them

    def exec(
        self,
        job: str,
        params: Mapping[str, Any] | None = None,
        *,
        check: bool = True,
        timeout: float | None = None,
        **options: Unpack[StartOptions],
    ) -> Steps[JobResult]:
        """Runs a job, waits until it has reached its last stage, and returns its result.

        The job carries a `request_id`, so it is sent again after any failure of the network
        without ever running twice.

        Args:
            job: The job's name.
            params: Its parameters.
            check: Raise the matching `JobFailed` unless the outcome is ok.
            timeout: How many seconds to wait for the job; `None`: as long as it takes. The job
                itself runs on (see `deadline_s`): `Unfinished` is raised, or returned as a
                result with code 5 if `check` is false.
            **options: See `StartOptions`.

        Raises:
            RpcError: The cluster refused the call (`UnknownJob`, `InvalidParameter`, …).
            JobFailed: The outcome is not ok, and `check` is true.
            AnswerLost: No answer came in time, and the job may run. It holds the `request_id`.
            Unreachable: No member answered, and the job does not run.
        """
        end = None if timeout is None else self.protocol.now() + timeout
        answer = yield from self._submit("job_exec", job, params, options, self._share_s(end))
        result = JobResult.from_wire(answer)
        if not result.finished and (yield from self._await_end(result.job_id, end)):
            result = yield from self.result(result.job_id)
        return result.check() if check else result

    def start(
        self,
        job: str,
        params: Mapping[str, Any] | None = None,
        **options: Unpack[StartOptions],
    ) -> Steps[str]:
        """Starts a job and returns its id, which the cluster has stored durably by then.

        Like `exec`, a start is sent again with the same `request_id` and never runs twice.
        """
        return str((yield from self._submit("job_start", job, params, options, None)))

    def wait(self, job_id: str, timeout: float | None = None) -> Steps[bool]:
        """Waits until the job has reached its last stage; false if `timeout` seconds pass first."""
        end = None if timeout is None else self.protocol.now() + timeout
        return (yield from self._await_end(job_id, end))

    def finished(self, job_id: str) -> Steps[bool]:
        """Whether the job has reached its last stage, at once."""
        return (yield from self._read("job_finished", job_id)) is True

    def result(self, job_id: str) -> Steps[JobResult]:
        """The job's result as it is now; while the job runs, one with `finished` false.

        It raises nothing for a bad outcome: call `check()` on it for that.
        """
        return JobResult.from_wire((yield from self._read("job_result", job_id)))

    def info(self, job_id: str) -> Steps[JobRecord]:
        """The job's record so far: stages with times, commands with their state, who, why."""
        return _record((yield from self._read("job_info", job_id)))

    def file(self, job_id: str, command: str | None = None) -> Steps[str]:
        """The job file: the record as YAML text, the same bytes on every node.

        With the name of one of its commands: all that this command printed, instead.
        """
        named = () if command is None else (command,)
        return str((yield from self._read("job_file", job_id, *named)))

    def cancel(self, job_id: str) -> Steps[str]:
        """Cancels a job: `cancelled`, `stopping` or `too_late`.

        Asking twice does no harm, so a lost answer is asked for again; then the second answer
        may be `stopping` or `too_late` although the first request did it.
        """
        return str((yield from self._read("job_cancel", job_id)))

    def history(
        self,
        *,
        name: str | None = None,
        user: str | None = None,
        node: int | None = None,
        outcome: str | None = None,
        stage: str | None = None,
        since: str | None = None,
        until: str | None = None,
        revision: int | None = None,
        text: str | None = None,
        limit: int | None = None,
        page_size: int = PAGE,
    ) -> Flow[JobRecord]:
        """Iterates over the records of jobs, newest first, fetching page by page.

        Args:
            name: Only jobs of this name.
            user: Only jobs that this user started.
            node: Only jobs with a command on this node.
            outcome: Only this outcome, such as `failed`.
            stage: Only jobs in this stage, such as `executed`.
            since: Only jobs submitted at or after this RFC 3339 time.
            until: Only jobs submitted before this RFC 3339 time.
            revision: Only the job that made this revision.
            text: Only records that contain this text.
            limit: Ends the iteration after this many records.
            page_size: Records asked for at a time.
        """
        filters = _given(
            name=name,
            user=user,
            node=node,
            outcome=outcome,
            stage=stage,
            since=since,
            until=until,
            revision=revision,
            text=text,
        )
        return Flow(self._history(page_size, limit, filters))

    def events(
        self,
        *,
        jobs: str | Sequence[str] = "mine",
        kinds: Sequence[str] = (),
        since: str | None = None,
        idle_timeout: float | None = None,
    ) -> Flow[Event | Gap]:
        """Iterates over events as they happen, without an end.

        After a lost connection or a change of master it goes on behind the last event that was
        seen. Where the cluster no longer keeps what is missing, a `Gap` stands in its place.

        Args:
            jobs: `mine`, `all`, or a list of job ids.
            kinds: Of `stage`, `command`, `progress`, `config`, `node`, `master`; none means all.
            since: A cursor; what followed it comes first.
            idle_timeout: Ends the iteration when nothing came for this many seconds.
        """
        stream = EventStream(
            self.protocol, jobs=jobs, kinds=kinds, since=since, idle_timeout=idle_timeout
        )
        return Flow(stream.steps(), stream.closing)

    # The caller

    def login(self, ttl_s: int | None = None) -> Steps[Login]:
        """Exchanges the password for a token and sends that from now on.

        Checking a password is slow on purpose; a token is checked at once. When it expires the
        client logs in again by itself.

        Args:
            ttl_s: The token's life in seconds; the cluster's default is 8 hours.

        Raises:
            ValueError: The client was made without a user and password.
        """
        user, password = self.protocol.credentials.password()
        return (yield from self.protocol.login(user, password, ttl_s))

    def logout(self) -> Steps[None]:
        """Ends the token in use, if there is one; a password is used again from now on."""
        token = self.protocol.credentials.current()
        if token is None:
            return
        try:
            yield from self._read("user_logout", token)
        finally:
            self.protocol.credentials.forget(token)

    def state(self) -> Steps[Identity]:
        """Who the cluster takes the caller for."""
        return identity_from_wire((yield from self._read("user_state")))

    def user_init(self, name: str, one_time_secret: str, password: str) -> Steps[None]:
        """Sets the first password of a user who was created without one.

        The secret works once, so this call is not repeated after its answer was lost: it raises
        `AnswerLost`, and a login with the new password shows what is true.
        """
        params = [name, one_time_secret, password]
        yield from self.protocol.run(Call("user_init", params, Resend.UNSENT, login=False))

    # The configuration

    def config_get(self, path: str | None = None, *, revision: int | None = None) -> Steps[Any]:
        """The configuration, or the part of it at `path` (`users/alice`), at any kept revision."""
        params = _given(path=path, revision=revision)
        return (yield from self.exec("config_get", params)).output

    def config_set(
        self,
        path: str,
        value: Any,
        *,
        expect_revision: int | None = None,
        **options: Unpack[ExecOptions],
    ) -> Steps[JobResult]:
        """Sets the value at a path under `app`; the result has the new revision.

        With `expect_revision` it raises `ConflictOutcome` if the path has changed since then.
        """
        # A value of None is a value (JSON null), so it is always sent.
        params = {"path": path, "value": value, **_given(expect_revision=expect_revision)}
        return (yield from self.exec("config_set", params, **options))

    def config_merge(
        self,
        path: str,
        value: Mapping[str, Any],
        *,
        expect_revision: int | None = None,
        **options: Unpack[ExecOptions],
    ) -> Steps[JobResult]:
        """Merges a mapping into the one at a path under `app`."""
        params = {"path": path, "value": value, **_given(expect_revision=expect_revision)}
        return (yield from self.exec("config_merge", params, **options))

    def config_delete(
        self,
        path: str,
        *,
        expect_revision: int | None = None,
        **options: Unpack[ExecOptions],
    ) -> Steps[JobResult]:
        """Removes what is at a path under `app`."""
        params = {"path": path, **_given(expect_revision=expect_revision)}
        return (yield from self.exec("config_delete", params, **options))

    def config_diff(self, first: int, last: int | None = None) -> Steps[Any]:
        """What changed between two revisions; `last` defaults to the newest."""
        return (yield from self.exec("config_diff", {"from": first, **_given(to=last)})).output

    def config_log(
        self,
        path: str | None = None,
        *,
        since: str | None = None,
        limit: int | None = None,
    ) -> Steps[Any]:
        """The revisions: number, time, user, job, reason, summary."""
        params = _given(path=path, since=since, limit=limit)
        return (yield from self.exec("config_log", params)).output

    def config_blame(self, path: str) -> Steps[Any]:
        """For each leaf below a path: the revision, job, user and time that wrote it."""
        return (yield from self.exec("config_blame", {"path": path})).output

    def config_rollback(
        self,
        revision: int,
        path: str | None = None,
        **options: Unpack[ExecOptions],
    ) -> Steps[JobResult]:
        """Makes a new revision with the content of an old one."""
        params = {"revision": revision, **_given(path=path)}
        return (yield from self.exec("config_rollback", params, **options))

    # What the calls above are made of

    def _read(self, method: str, *params: Any) -> Steps[Any]:
        return (yield from self.protocol.run(Call(method, params, Resend.FREELY)))

    def _submit(
        self,
        method: str,
        job: str,
        params: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        wait_s: int | None,
    ) -> Steps[Any]:
        unknown = options.keys() - StartOptions.__annotations__.keys()
        if unknown:
            raise TypeError(f"no such option: {', '.join(sorted(unknown))}")
        given = {key: value for key, value in options.items() if value is not None}
        own_key = "request_id" not in given
        for attempt in (1, 2):
            key = str(new_request_id(self.protocol.clock) if own_key else given["request_id"])
            kwargs = {"params": dict(params or {}), **given, "request_id": key}
            if wait_s is not None:
                kwargs["wait_s"] = wait_s
            call = Call(
                method, [job, kwargs], Resend.FREELY, wait_s=float(wait_s or 0), request_id=key
            )
            try:
                return (yield from self.protocol.run(call))
            except errors.Conflict as conflict:
                # The first key may carry this machine's time, and that may be far behind. Its
                # refusal taught us the cluster's. Surely nothing ran, so a new key is safe.
                expired = "expired" in conflict.message
                if attempt == 2 or not own_key or call.uncertain or not expired:
                    raise
        raise AssertionError("the second attempt returns or raises")

    def _share_s(self, end: float | None) -> int:
        """Whole seconds to ask a node to wait, of what is left until `end`."""
        if end is None:
            return WAIT_S
        return max(0, min(WAIT_S, math.ceil(end - self.protocol.now())))

    def _await_end(self, job_id: str, end: float | None) -> Steps[bool]:
        while True:
            wait_s = self._share_s(end)
            asked_at = self.protocol.now()
            call = Call("job_wait", [job_id, wait_s], Resend.FREELY, wait_s=wait_s)
            if (yield from self.protocol.run(call)) is True:
                return True
            if end is not None and self.protocol.now() >= end:
                return False
            if self.protocol.now() - asked_at < wait_s / 2:
                # A node that drains answers early; another one will take over in a moment.
                yield Pause(PAUSE_MAX_S)

    def _history(
        self, page_size: int, limit: int | None, wanted: dict[str, Any]
    ) -> FlowSteps[JobRecord]:
        left = math.inf if limit is None else limit
        while left > 0:
            page = yield from self._read("job_history", {**wanted, "limit": min(page_size, left)})
            if not isinstance(page, Mapping) or not isinstance(page.get("records"), list):
                raise errors.ProtocolError("not a page of the history")
            for record in page["records"][: None if limit is None else int(left)]:
                yield Emit(_record(record))
            left -= len(page["records"])
            if page.get("cursor") is None:
                return
            wanted["cursor"] = page["cursor"]


def _given(**params: Any) -> dict[str, Any]:
    return {key: value for key, value in params.items() if value is not None}


def _record(value: Any) -> JobRecord:
    if not isinstance(value, dict):
        raise errors.ProtocolError("not a record")
    record: JobRecord = value  # type: ignore[assignment]  # its fields are the node's to promise
    return record
