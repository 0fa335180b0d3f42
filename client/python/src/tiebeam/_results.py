"""What calls return: the wire's objects as immutable, typed values.

Nothing here asks the cluster. Values that may be secret (a token, a job's output, which may be a
join token or a one-time password) are left out of every `repr`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypedDict

from . import _errors as errors


class ResultCode(IntEnum):
    """`result_code` on the wire."""

    OK = 0
    FAILED = 1
    DECLINED = 2
    CANCELLED = 3
    TIMEOUT = 4
    UNFINISHED = 5
    CONFLICT = 6
    INDETERMINATE = 7


_FAILURES: dict[int, type[errors.JobFailed]] = {
    ResultCode.FAILED: errors.Failed,
    ResultCode.DECLINED: errors.Declined,
    ResultCode.CANCELLED: errors.Cancelled,
    ResultCode.TIMEOUT: errors.TimedOut,
    ResultCode.UNFINISHED: errors.Unfinished,
    ResultCode.CONFLICT: errors.ConflictOutcome,
    ResultCode.INDETERMINATE: errors.Indeterminate,
}


class Plan(TypedDict, total=False):
    """What a dry run would do."""

    base_revision: int
    diff: list[dict[str, Any]]
    commands: list[dict[str, Any]]
    locks: list[str]


class JobRecord(TypedDict, total=False):
    """Everything that is kept of a job: the fields of its job file, absent ones left out."""

    format: int
    job: str
    name: str
    kind: str
    outcome: str
    user: str
    reason: str | None
    mode: str
    parameters: dict[str, Any]
    request: dict[str, Any]
    scheduling: dict[str, Any]
    stages: dict[str, str]
    commands: list[dict[str, Any]]
    result: dict[str, Any]
    change: list[dict[str, Any]]
    nodes: dict[str, Any]
    chain: dict[str, Any]


@dataclass(frozen=True)
class JobResult:
    """How a job ended, or that it has not ended yet."""

    code: int
    """0 is ok; see `ResultCode`."""
    name: str
    """The word for the code, such as `OK`."""
    description: str
    """`Success`, or the error text."""
    job_id: str
    """The job's id, such as `11.42`."""
    output: Any = field(default=None, repr=False)
    """What the job returned; `None` if it returned nothing. Not in `repr`: it may be secret."""
    revision: int | None = None
    """The revision of the configuration that the job made, if it made one."""
    warnings: tuple[str, ...] = ()
    nodes_pending: tuple[int, ...] = ()
    """Members that had not applied the change when it was committed."""
    plan: Plan | None = field(default=None, repr=False)
    """What a dry run would do."""

    @classmethod
    def from_wire(cls, value: Any) -> JobResult:
        """Reads a result object; raises `ProtocolError` if it is none."""
        result = _mapping(value, "a result object")
        try:
            return cls(
                code=int(result["result_code"]),
                name=str(result["result_name"]),
                description=str(result["result_desc"]),
                job_id=str(result["result_jobid"]),
                output=result.get("result_output"),
                revision=result.get("result_revision"),
                warnings=tuple(map(str, result.get("result_warnings") or ())),
                nodes_pending=tuple(map(int, result.get("result_nodes_pending") or ())),
                plan=result.get("result_plan"),
            )
        except (KeyError, TypeError, ValueError) as wrong:
            raise errors.ProtocolError("not a result object") from wrong

    @property
    def ok(self) -> bool:
        """Whether the job did what it was asked."""
        return self.code == ResultCode.OK

    @property
    def finished(self) -> bool:
        """Whether the job has reached its last stage."""
        return self.code != ResultCode.UNFINISHED

    def check(self) -> JobResult:
        """Returns itself if the outcome is ok; else raises the matching `JobFailed`."""
        if self.ok:
            return self
        raise _FAILURES.get(self.code, errors.JobFailed)(self)


@dataclass(frozen=True)
class JobDescription:
    """A job's declaration."""

    name: str
    summary: str
    mandatory: Mapping[str, Mapping[str, str]]
    """Parameters that must be given: `{name: {desc, type}}`."""
    optional: Mapping[str, Mapping[str, str]]
    substitutes: Mapping[str, Sequence[str]]
    """Parameters that may stand for another: `{name: [other, …]}`."""
    allowed_users: tuple[str, ...]
    allowed_groups: tuple[str, ...]
    examples: tuple[Mapping[str, Any], ...]
    kind: str = ""
    """`read`, `modify` or `act`."""
    group: str = ""
    schema: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """JSON Schema of the parameters."""
    since: str = ""
    """The version that brought the job."""
    text: str = field(default="", repr=False)
    """The long description, Markdown."""

    @classmethod
    def from_wire(cls, name: str, value: Any) -> JobDescription:
        """Reads the answer of `job_desc`; raises `UnknownJob` for `[false, message]`."""
        if not isinstance(value, list) or len(value) != 2:
            raise errors.ProtocolError("not a job description")
        known, details = value
        if known is not True:
            raise errors.UnknownJob(str(details))
        if not isinstance(details, list) or len(details) < 7:
            raise errors.ProtocolError("not a job description")
        # ConfD describes a job with the first seven; the others are Tiebeam's own.
        details = details + ["", "", {}, "", ""][len(details) - 7 :]
        return cls(
            name=name,
            summary=str(details[0]),
            mandatory=details[1],
            optional=details[2],
            substitutes=details[3],
            allowed_users=tuple(details[4]),
            allowed_groups=tuple(details[5]),
            examples=tuple(details[6]),
            kind=str(details[7]),
            group=str(details[8]),
            schema=details[9],
            since=str(details[10]),
            text=str(details[11]),
        )


@dataclass(frozen=True)
class Login:
    """A token that stands for a login. Neither `repr` nor `str` shows it."""

    token: str = field(repr=False)
    expires: str | None = None
    """RFC 3339 time."""


@dataclass(frozen=True)
class Identity:
    """Who the cluster takes the caller for."""

    user: str
    groups: tuple[str, ...]
    via: str
    """How the caller proved it, such as `basic` or `token`."""
    expires: str | None = None


@dataclass(frozen=True)
class Event:
    """Something that happened in the cluster."""

    kind: str
    """`stage`, `command`, `progress`, `config`, `node` or `master`."""
    cursor: str | None
    """Its place among all events; `None` for progress, which is not kept."""
    job: str | None
    stage: str | None
    revision: int | None
    fields: Mapping[str, Any] = field(repr=False)
    """The whole event as it came."""


@dataclass(frozen=True)
class Gap:
    """A place in the stream where events are missing: they are no longer kept.

    Both ends are `None` if the client lost its connection before it had seen any cursor, so that
    nobody can say what was missed, or whether anything was.
    """

    first: str | None
    last: str | None


def event_from_wire(value: Any) -> Event | Gap:
    """Reads one member of an `events` answer."""
    event = _mapping(value, "an event")
    gap = event.get("gap")
    if isinstance(gap, Mapping):
        return Gap(first=_text(gap.get("from")), last=_text(gap.get("to")))
    revision = event.get("revision")
    return Event(
        kind=str(event.get("kind", "")),
        cursor=_text(event.get("cursor")),
        job=_text(event.get("job")),
        stage=_text(event.get("stage")),
        revision=revision if isinstance(revision, int) else None,
        fields=event,
    )


def login_from_wire(value: Any) -> Login:
    """Reads the answer of `user_login`."""
    answer = _mapping(value, "a login")
    token = answer.get("token")
    if not isinstance(token, str):
        raise errors.ProtocolError("a login without a token")
    return Login(token=token, expires=_text(answer.get("expires")))


def identity_from_wire(value: Any) -> Identity:
    """Reads the answer of `user_state`."""
    answer = _mapping(value, "a user state")
    return Identity(
        user=str(answer.get("user", "")),
        groups=tuple(map(str, answer.get("groups") or ())),
        via=str(answer.get("via", "")),
        expires=_text(answer.get("expires")),
    )


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    raise errors.ProtocolError(f"not {what}")


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
