"""One call against the cluster: redirects, retries, deadline, login. Does no I/O of its own.

A call is a generator. It yields what is to be done (`Send`, `Pause`), is sent what came of it
(`Reply`, `Broken`), and returns the call's result. `Client` and `AsyncClient` only perform these
steps, each in its own way; every decision is made here, once, and is tested without a network.

The rules. A member that answers 302 names the master: the same POST goes there, at most
`HOPS_MAX` times, and only over TLS that the cluster's CA vouches for. A member that cannot be
reached, breaks off or answers 503 is passed over; after each round over all members the call
pauses, longer each time, until its deadline. What was surely not begun may always be sent again.
What may have been begun is sent again only if `Call.resend` allows it.

After a call that was answered, once a minute, the master is asked for the other members, so that
the client survives the loss of all that it was given (`Target.learn`). That read leaves no record,
and its failure is nobody's concern.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Callable, TypeVar, Union

import httpx

from . import _errors as errors
from . import _jsonrpc
from ._members import Members
from ._request_id import ClusterClock
from ._results import Login, login_from_wire
from ._target import Target, member_url, origin
from ._version import __version__

T = TypeVar("T")

HOPS_MAX = 5
"""Redirects that one attempt follows: masters change, but not five times while we ask."""
CONNECT_S = 5.0
"""Time to connect and shake hands: more than any network in use needs."""
ATTEMPT_S = 12.0
"""Time for an answer that does not wait for a job: a node may take 10 s to learn the outcome of
what it proposed before it answers `outcome_unknown`."""
PAUSE_FIRST_S = 0.05
"""Pause after the first round in which no member answered; it doubles with each round."""
PAUSE_MAX_S = 1.0
"""Longest pause: an election takes about as long."""
LEARN_S = 2.0
"""Time to ask for the members: it comes on top of a call that was answered already."""
RETRY_AFTER_MAX_S = 5.0
"""Longest `Retry-After` that is obeyed, so that no answer can put a client to sleep."""


class Resend(Enum):
    """When a call may be sent again."""

    FREELY = "freely"
    """Always: it changes nothing, doing it twice is doing it once, or it has a `request_id`."""
    UNSENT = "unsent"
    """Only while it surely was not begun. If the answer is lost, `AnswerLost` is raised."""


@dataclass(frozen=True)
class Send:
    """A request to be sent. `headers` and `body` hold secrets and have no `repr`."""

    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    connect_s: float
    answer_s: float


@dataclass(frozen=True)
class Pause:
    """A time to wait."""

    seconds: float


Step = Union[Send, Pause]


@dataclass(frozen=True)
class Reply:
    """An HTTP answer. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Broken:
    """No HTTP answer."""

    reason: str
    sent: bool
    """Whether any byte of the request may have reached the member."""
    certificate: bool = False
    """Whether the member's certificate was the reason."""


Steps = Generator[Step, object, T]
"""A call in progress: takes the outcome of each step, returns the call's result."""


@dataclass
class Call:
    """One RPC."""

    method: str
    params: _jsonrpc.Params = field(default=(), repr=False)
    resend: Resend = Resend.UNSENT
    wait_s: float = 0.0
    """How long the node is asked to wait before it answers; added to the call's time."""
    login: bool = True
    """Whether the request carries the login."""
    request_id: str | None = None
    budget_s: float | None = None
    """Time for the whole call beyond `wait_s`; the client's own if `None`."""
    uncertain: bool = field(default=False, init=False)
    """Set once an attempt may have been carried out without the answer being seen."""
    renewed: bool = field(default=False, init=False)
    """Set once the login was renewed for this call."""


@dataclass(frozen=True)
class _Miss:
    """Why one attempt gave no final answer."""

    url: str
    reason: str
    pause_s: float = 0.0
    certificate: bool = False
    masterless: bool = False
    refusal: errors.RpcError | None = None
    """A retryable error of the master: no other member will say anything else now."""


@dataclass(frozen=True)
class _Answer:
    value: Any


class Protocol:
    """The calls of one client: its members, its login, its idea of the time."""

    def __init__(
        self,
        target: Target,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.target = target
        self.credentials = target.credentials
        self.members = Members(target.urls)
        self.clock = ClusterClock()
        self._monotonic = monotonic
        self._jitter = jitter
        self._call_ids = itertools.count(1)

    def now(self) -> float:
        """Seconds on a clock that never jumps."""
        return self._monotonic()

    def run(self, call: Call) -> Steps[Any]:
        """Carries out one call and returns its result."""
        budget_s = self.target.timeout_s if call.budget_s is None else call.budget_s
        deadline = self._monotonic() + call.wait_s + budget_s
        misses: dict[str, _Miss] = {}
        for round_number in itertools.count():
            for url in self.members.in_order():
                outcome = yield from self._ask(call, url, deadline)
                if isinstance(outcome, _Answer):
                    if call.login:
                        yield from self._learn()
                    return outcome.value
                misses.pop(outcome.url, None)
                misses[outcome.url] = outcome
                if outcome.refusal is not None or self._monotonic() >= deadline:
                    break
            pause_s = self._pause_s(round_number, misses)
            hopeless = all(miss.certificate for miss in misses.values())
            if hopeless or self._monotonic() + pause_s >= deadline:
                raise _given_up(call, list(misses.values()))
            yield Pause(pause_s)
        raise AssertionError("the rounds never end by themselves")

    def login(
        self, user: str, password: str, ttl_s: int | None, budget_s: float | None = None
    ) -> Steps[Login]:
        """Asks for a token and uses it from now on. Asking twice leaves a token unused, no more."""
        params: list[Any] = [user, password] if ttl_s is None else [user, password, ttl_s]
        answer = yield from self.run(
            Call("user_login", params, Resend.FREELY, login=False, budget_s=budget_s)
        )
        login = login_from_wire(answer)
        self.credentials.adopt(login, ttl_s)
        return login

    def _learn(self) -> Steps[None]:
        """Asks for the members, if it is time to."""
        if not self.target.learn or not self.members.take_turn(self._monotonic()):
            return
        call = Call("job_exec", ["node_list", {"volatile": True}], Resend.FREELY, budget_s=LEARN_S)
        try:
            answer = yield from self.run(call)
        except errors.TiebeamError:
            return
        self.members.learn(_urls_of(answer))

    def _ask(self, call: Call, url: str, deadline: float) -> Steps[_Answer | _Miss]:
        """Asks one member, and whomever it redirects to."""
        address = f"{url}/"
        for _ in range(HOPS_MAX + 1):
            call_id = next(self._call_ids)
            reply = yield from self._send(call, address, call_id, deadline)
            member = origin(httpx.URL(address))
            if isinstance(reply, Broken):
                return self._broken(call, member, reply)
            self.clock.observe(reply.headers.get("date"))
            if reply.status == 302:
                address = _redirected(address, reply)
            elif reply.status == 401:
                yield from self._renew(call, deadline)
            elif reply.status == 503:
                self.members.avoid(member)
                return _Miss(member, "no master", _retry_after_s(reply), masterless=True)
            else:
                self.members.prefer(member)
                return self._answer(call, member, reply, call_id)
        return _Miss(url, f"more than {HOPS_MAX} redirects")

    def _send(
        self, call: Call, address: str, call_id: int, deadline: float
    ) -> Steps[Reply | Broken]:
        headers = {
            "accept": "application/json",
            "content-type": "application/json",
            "user-agent": f"tiebeam-python/{__version__}",
        }
        authorization = self.credentials.header() if call.login else None
        if authorization is not None:
            headers["authorization"] = authorization
        left_s = max(deadline - self._monotonic(), 0.001)
        answer_s = left_s
        if call.resend is Resend.FREELY:
            # A member that hangs must not use up the time in which another would answer.
            answer_s = min(left_s, call.wait_s + ATTEMPT_S)
        reply = yield Send(
            url=address,
            headers=headers,
            body=_jsonrpc.encode(call.method, call.params, call_id),
            connect_s=min(left_s, CONNECT_S),
            answer_s=answer_s,
        )
        if not isinstance(reply, (Reply, Broken)):
            raise TypeError("a Send is answered by a Reply or by Broken")
        return reply

    def _broken(self, call: Call, member: str, broken: Broken) -> _Miss:
        self.members.avoid(member)
        miss = _Miss(member, broken.reason, certificate=broken.certificate)
        if broken.sent:
            call.uncertain = True
            if call.resend is Resend.UNSENT:
                raise _given_up(call, [miss])
        return miss

    def _renew(self, call: Call, deadline: float) -> Steps[None]:
        """Logs in again after a 401 to a token of ours; else the login is wrong."""
        renewal = self.credentials.renewal()
        if renewal is None or call.renewed or not call.login:
            raise errors.LoginFailed("the login was not accepted")
        call.renewed = True
        yield from self.login(*renewal, budget_s=deadline - self._monotonic())

    def _answer(self, call: Call, member: str, reply: Reply, call_id: int) -> _Answer | _Miss:
        if reply.status != 200:
            raise _http_error(reply)
        try:
            return _Answer(_jsonrpc.decode(reply.body, call_id))
        except errors.RpcError as refusal:
            if isinstance(refusal, errors.OutcomeUnknown):
                call.uncertain = True
            # The node knows whether a repetition is safe: it says so in `retryable`.
            if not refusal.retryable:
                raise
            return _Miss(member, refusal.name, _retry_after_s(reply), refusal=refusal)

    def _pause_s(self, round_number: int, misses: dict[str, _Miss]) -> float:
        """Half of a growing pause, and a random part of the other half against herds."""
        longest_s = min(PAUSE_FIRST_S * 2.0 ** min(round_number, 16), PAUSE_MAX_S)
        pause_s = longest_s * (0.5 + self._jitter() / 2)
        # A member that answers 503 knows best, unless another one may still have a master.
        asked_s = min((miss.pause_s for miss in misses.values()), default=0.0)
        return max(pause_s, asked_s)


def _urls_of(answer: Any) -> list[str]:
    """The members' addresses in a result of `node_list`; what is none is left out."""
    output = answer.get("result_output") if isinstance(answer, dict) else None
    urls = []
    for node in output.values() if isinstance(output, dict) else ():
        address = node.get("address") if isinstance(node, dict) else None
        if isinstance(address, str):
            try:
                urls.append(member_url(address))
            except ValueError:
                continue
    return urls


def _redirected(address: str, reply: Reply) -> str:
    try:
        there = httpx.URL(address).join(reply.headers.get("location", ""))
    except httpx.InvalidURL:
        raise errors.ProtocolError("a redirect to something that is no URL") from None
    if there.scheme != "https" or not there.host:
        raise errors.InsecureRedirect("a redirect to an address that is not https")
    # A login in the address is not ours, and must not replace ours.
    return origin(there) + there.raw_path.decode("ascii")


def _retry_after_s(reply: Reply) -> float:
    text = reply.headers.get("retry-after", "")
    return min(float(text), RETRY_AFTER_MAX_S) if text.isdecimal() else 0.0


def _http_error(reply: Reply) -> errors.TiebeamError:
    said = " ".join(reply.body[:500].decode("utf-8", "replace").split())[:200]
    if reply.status == 403:
        return errors.Forbidden(said or "refused by the node")
    if reply.status == 413:
        return errors.TooLarge(said or "the request is too large")
    more = f": {said}" if said else ""
    return errors.ProtocolError(f"the node answered with HTTP status {reply.status}{more}")


def _given_up(call: Call, misses: list[_Miss]) -> errors.TiebeamError:
    """The error that tells most about a call that ran out of time or may not be repeated."""
    last = misses[-1]
    if last.refusal is not None:
        last.refusal.request_id = last.refusal.request_id or call.request_id
        return last.refusal
    failures = [errors.MemberFailure(miss.url, miss.reason) for miss in misses]
    told = "; ".join(f"{url}: {reason}" for url, reason in failures)
    if call.uncertain and (call.resend is Resend.UNSENT or call.request_id is not None):
        return errors.AnswerLost(
            f"{call.method} was sent, its answer did not come ({told})", failures, call.request_id
        )
    if all(miss.certificate for miss in misses):
        return errors.CertificateRejected(
            f"no member's certificate can be verified ({told})", failures
        )
    if any(miss.masterless for miss in misses):
        error = errors.NoMaster(f"the cluster has no master ({told})", retryable=True)
        error.failures = tuple(failures)
        return error
    return errors.Unreachable(f"no member answered ({told})", failures)
