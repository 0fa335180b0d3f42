"""Every error that this package raises, as one tree under `TiebeamError`.

Three questions have an answer by type alone: did the cluster refuse the call (`RpcError`), did a
job that ran end badly (`JobFailed`), or was no answer to be had (`Unreachable`, `LoginFailed`,
`ProtocolError`). No message holds a parameter's value, a password or a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ._results import JobResult


class TiebeamError(Exception):
    """The root of all errors of this package."""


class ProtocolError(TiebeamError):
    """A node answered with something that Tiebeam's protocol does not have."""


class InsecureRedirect(ProtocolError):
    """A node redirected to an address that is not `https`; nothing was sent there."""


class LoginFailed(TiebeamError):
    """The cluster knows no such user, or the password, token or certificate is not accepted."""


class MemberFailure(NamedTuple):
    """Why one member gave no answer."""

    url: str
    """The member, as `https://host:port`."""
    reason: str
    """One phrase for a person."""


class Unreachable(TiebeamError):
    """No member answered within the call's time.

    Attributes:
        failures: What happened at each member that was tried, the last one last.
    """

    def __init__(self, message: str, failures: Sequence[MemberFailure] = ()) -> None:
        super().__init__(message)
        self.failures: tuple[MemberFailure, ...] = tuple(failures)


class CertificateRejected(Unreachable):
    """No member showed a certificate that chains to the cluster's CA and names its address."""


class AnswerLost(Unreachable):
    """The call was sent and its answer never came: whether it took effect is not known.

    Attributes:
        request_id: The call's idempotency key. Repeating the call with this key is safe: the
            cluster answers for the first job and runs nothing twice. `None` if the call had none.
    """

    def __init__(
        self,
        message: str,
        failures: Sequence[MemberFailure] = (),
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, failures)
        self.request_id = request_id


class RpcError(TiebeamError):
    """The cluster refused a call. No job was made, unless this is an `OutcomeUnknown`.

    Attributes:
        code: The stable integer code.
        name: The stable name of the code.
        message: One sentence for a person.
        field: The argument, parameter or key that is meant, if there is one.
        hint: The way out, if there is one.
        retryable: Whether the same call may succeed later.
        request_id: The call's idempotency key, if it had one.
    """

    code: int = 0
    name: str = "unknown"

    def __init__(
        self,
        message: str,
        *,
        code: int | None = None,
        name: str | None = None,
        field: str | None = None,
        hint: str | None = None,
        retryable: bool = False,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        if name is not None:
            self.name = name
        self.field = field
        self.hint = hint
        self.retryable = retryable
        self.request_id = request_id

    def __str__(self) -> str:
        notes = [f"field: {self.field}"] if self.field else []
        if self.hint:
            notes.append(f"hint: {self.hint}")
        more = f" ({'; '.join(notes)})" if notes else ""
        return f"{self.name}: {self.message}{more}"


class ParseError(RpcError):
    """The body was not JSON, or was nested too deeply."""

    code = -32700
    name = "parse_error"


class InvalidRequest(RpcError):
    """The body was JSON but not a request."""

    code = -32600
    name = "invalid_request"


class UnknownMethod(RpcError):
    """This version of the daemon has no such method."""

    code = -32601
    name = "unknown_method"


class InvalidArguments(RpcError):
    """The method's own arguments are wrong."""

    code = -32602
    name = "invalid_arguments"


class InternalError(RpcError):
    """A fault of the daemon."""

    code = -32603
    name = "internal"


class UnknownJob(RpcError):
    """There is no job of that name."""

    code = -32001
    name = "unknown_job"


class InvalidParameter(RpcError):
    """A job parameter is wrong, missing or unknown; `field` names it."""

    code = -32002
    name = "invalid_parameter"


class Forbidden(RpcError):
    """The caller may not do this."""

    code = -32003
    name = "forbidden"


class UnknownJobId(RpcError):
    """There is no job with that id, or the caller may not see it."""

    code = -32004
    name = "unknown_job_id"


class NoMaster(RpcError, Unreachable):
    """No member could name a master, and the cluster had none for the call's whole time."""

    code = -32005
    name = "no_master"


class TooBusy(RpcError):
    """A limit of the daemon is reached and stayed so for the call's whole time."""

    code = -32006
    name = "too_busy"


class Conflict(RpcError):
    """An idempotency key was used for another call or is too old, or a plan no longer fits."""

    code = -32007
    name = "conflict"


class LoginRequired(RpcError):
    """The login expired."""

    code = -32008
    name = "login_required"


class TooLarge(RpcError):
    """The body or a value is over its limit."""

    code = -32009
    name = "too_large"


class OutcomeUnknown(RpcError):
    """The call was proposed, and the node cannot tell whether it took effect.

    With a `request_id` the same call may be repeated safely; `Client.history` shows what ran.
    """

    code = -32010
    name = "outcome_unknown"


_BY_CODE: dict[int, type[RpcError]] = {
    cls.code: cls
    for cls in (
        ParseError,
        InvalidRequest,
        UnknownMethod,
        InvalidArguments,
        InternalError,
        UnknownJob,
        InvalidParameter,
        Forbidden,
        UnknownJobId,
        NoMaster,
        TooBusy,
        Conflict,
        LoginRequired,
        TooLarge,
        OutcomeUnknown,
    )
}


def rpc_error_from(error: Mapping[str, Any]) -> RpcError:
    """The typed error for a JSON-RPC `error` member; an unknown code gives a plain `RpcError`."""
    code = error.get("code")
    if not isinstance(code, int):
        raise ProtocolError("an error without an integer code")
    details = error.get("data")
    if not isinstance(details, Mapping):
        details = {}

    def text(key: str) -> str | None:
        value = details.get(key)
        return value if isinstance(value, str) else None

    return _BY_CODE.get(code, RpcError)(
        str(error.get("message", "")),
        code=code,
        name=text("name"),
        field=text("field"),
        hint=text("hint"),
        retryable=details.get("retryable") is True,
        request_id=text("request_id"),
    )


class JobFailed(TiebeamError):
    """A job was made and its outcome is not ok. The subclass says which outcome.

    Attributes:
        result: The job's whole result.
    """

    def __init__(self, result: JobResult) -> None:
        super().__init__(result)
        self.result = result

    def __str__(self) -> str:
        result = self.result
        return f"job {result.job_id}: {result.name}: {result.description}"


class Failed(JobFailed):
    """The job ran and did not do what it was asked."""


class Declined(JobFailed):
    """The scheduler refused the job before it began."""


class Cancelled(JobFailed):
    """Somebody cancelled the job."""


class TimedOut(JobFailed):
    """The job's own deadline passed and nothing of it runs any more."""


class ConflictOutcome(JobFailed):
    """What the job's plan had read changed underneath it."""


class Indeterminate(JobFailed):
    """Whether the job took effect cannot be told; the description says what is known."""


class Unfinished(JobFailed):
    """The job still runs: only the caller's own patience ended. `result.job_id` finds it again."""
