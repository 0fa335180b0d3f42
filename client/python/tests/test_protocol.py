"""The decisions of a call, step by step: no network, no clock but the one in the test."""

from __future__ import annotations

import json
import ssl
from collections.abc import Generator
from typing import Any

import pytest

from tiebeam import (
    AnswerLost,
    CertificateRejected,
    Forbidden,
    InsecureRedirect,
    LoginFailed,
    NoMaster,
    OutcomeUnknown,
    ProtocolError,
    TooBusy,
    TooLarge,
    Unreachable,
)
from tiebeam._protocol import (
    ATTEMPT_S,
    HOPS_MAX,
    PAUSE_MAX_S,
    Broken,
    Call,
    Pause,
    Protocol,
    Reply,
    Resend,
    Send,
)
from tiebeam._results import Login
from tiebeam._target import Credentials, Target

A, B = "https://a.test:20003", "https://b.test:20003"
REFUSED = Broken("connection refused", sent=False)
CUT = Broken("connection reset", sent=True)
NO_MASTER = Reply(503, {"retry-after": "1"}, b"")


class Bench:
    """One call, driven by hand. Pauses move the clock; so does `spend`."""

    def __init__(
        self, *urls: str, timeout_s: float = 10.0, credentials: Credentials | None = None
    ) -> None:
        self.time = 100.0
        login = credentials or Credentials("admin", "secret")
        target = Target(urls or (A, B), login, ssl.create_default_context(), timeout_s)
        self.protocol = Protocol(target, monotonic=lambda: self.time, jitter=lambda: 1.0)
        self.pauses: list[float] = []
        self.result: Any = None
        self._steps: Generator[Any, object, Any] | None = None

    def begin(self, call: Call) -> Send:
        """Starts the call and returns its first request."""
        self._steps = self.protocol.run(call)
        return self._to_request(None)

    def answer(self, outcome: object, *, spend: float = 0.0) -> Send:
        """Answers the last request and returns the next one."""
        self.time += spend
        return self._to_request(outcome)

    def finish(self, outcome: object) -> Any:
        """Answers the last request and returns the call's result."""
        assert self._steps is not None
        with pytest.raises(StopIteration) as end:
            self._steps.send(outcome)
        return end.value.value

    def _to_request(self, outcome: object) -> Send:
        assert self._steps is not None
        step = self._steps.send(outcome)
        while isinstance(step, Pause):
            self.pauses.append(step.seconds)
            self.time += step.seconds
            step = self._steps.send(None)
        assert isinstance(step, Send)
        return step


def ok(request: Send, value: Any = "fine") -> Reply:
    call_id = json.loads(request.body)["id"]
    return Reply(200, {}, json.dumps({"jsonrpc": "2.0", "id": call_id, "result": value}).encode())


def refusal(request: Send, code: int, **details: Any) -> Reply:
    error = {"code": code, "message": "no", "data": details}
    body = {"jsonrpc": "2.0", "id": json.loads(request.body)["id"], "error": error}
    return Reply(200, {}, json.dumps(body).encode())


def to(url: str) -> Reply:
    return Reply(302, {"location": url}, b"")


def read() -> Call:
    return Call("job_list", [], Resend.FREELY)


def once() -> Call:
    return Call("user_init", ["a", "b", "c"], Resend.UNSENT)


def test_the_next_member_is_asked_at_once_and_pauses_come_between_rounds() -> None:
    bench = Bench()
    asked = [bench.begin(read()).url]
    for _ in range(5):
        asked.append(bench.answer(REFUSED).url)
    assert asked == [f"{A}/", f"{B}/"] * 3
    assert bench.pauses == [0.05, 0.1]


def test_pauses_grow_to_a_limit_and_the_call_ends_at_its_deadline() -> None:
    bench = Bench(A)
    bench.begin(read())
    with pytest.raises(Unreachable, match="connection refused") as raised:
        for _ in range(1000):
            bench.answer(REFUSED)
    assert max(bench.pauses) == PAUSE_MAX_S
    assert 108.0 < bench.time <= 110.0
    assert [failure.url for failure in raised.value.failures] == [A]


def test_retry_after_is_obeyed_and_no_master_has_a_type() -> None:
    bench = Bench()
    bench.begin(read())
    with pytest.raises(NoMaster) as raised:
        for _ in range(1000):
            bench.answer(NO_MASTER)
    assert set(bench.pauses) == {1.0}
    assert raised.value.retryable
    assert isinstance(raised.value, Unreachable)
    assert len(raised.value.failures) == 2


def test_a_member_that_refuses_does_not_hide_that_there_is_no_master() -> None:
    bench = Bench(timeout_s=1)
    bench.begin(read())
    with pytest.raises(NoMaster):
        for outcome in (NO_MASTER, REFUSED) * 100:
            bench.answer(outcome)


def test_a_redirect_is_followed_with_the_login_and_remembered() -> None:
    bench = Bench(A)
    first = bench.begin(read())
    second = bench.answer(to(f"{B}/rpc2"))
    assert (second.url, second.headers) == (f"{B}/rpc2", first.headers)
    assert "authorization" in second.headers
    assert bench.finish(ok(second)) == "fine"
    assert bench.begin(read()).url == f"{B}/"


def test_a_master_that_is_gone_is_forgotten() -> None:
    bench = Bench(A)
    bench.begin(read())
    bench.finish(ok(bench.answer(to(B))))
    assert bench.begin(read()).url == f"{B}/"
    assert bench.answer(REFUSED).url == f"{A}/"
    assert bench.protocol.members.in_order() == [A]


def test_redirects_in_a_circle_end_and_the_call_goes_on() -> None:
    bench = Bench(A, timeout_s=5)
    request = bench.begin(read())
    for hop in range(HOPS_MAX):
        request = bench.answer(to(B if hop % 2 == 0 else A))
    assert not bench.pauses
    request = bench.answer(to(A))
    assert bench.pauses == [0.05]
    assert bench.finish(ok(request)) == "fine"


@pytest.mark.parametrize("location", ["http://b.test:20003/", "ftp://b.test/", "https://b.test:x/"])
def test_a_redirect_that_is_not_https_is_refused(location: str) -> None:
    bench = Bench(A)
    bench.begin(read())
    with pytest.raises(ProtocolError):
        bench.answer(to(location))


def test_a_redirect_cannot_bring_a_login_of_its_own() -> None:
    bench = Bench(A)
    bench.begin(read())
    request = bench.answer(to("https://mallory:pw@b.test:20003/"))
    assert request.url == f"{B}/"
    with pytest.raises(InsecureRedirect):
        bench.answer(to("http://b.test:20003/"))


def test_what_may_have_begun_is_not_sent_twice_unless_it_may() -> None:
    bench = Bench()
    bench.begin(once())
    bench.answer(REFUSED)
    with pytest.raises(AnswerLost, match="user_init was sent") as raised:
        bench.answer(CUT)
    assert raised.value.request_id is None

    bench = Bench()
    bench.begin(read())
    assert bench.finish(ok(bench.answer(CUT))) == "fine"


def test_a_start_that_ran_out_of_time_hands_its_key_over() -> None:
    bench = Bench(A, timeout_s=1)
    bench.begin(Call("job_start", ["x", {}], Resend.FREELY, request_id="key-1"))
    with pytest.raises(AnswerLost) as raised:
        for outcome in (CUT, *[REFUSED] * 100):
            bench.answer(outcome)
    assert raised.value.request_id == "key-1"

    bench = Bench(A, timeout_s=1)
    bench.begin(Call("job_start", ["x", {}], Resend.FREELY, request_id="key-1"))
    with pytest.raises(Unreachable) as unsent:
        for _ in range(100):
            bench.answer(REFUSED)
    assert not isinstance(unsent.value, AnswerLost)


def test_a_retryable_refusal_is_asked_again_at_the_same_member() -> None:
    bench = Bench()
    request = bench.begin(once())
    request = bench.answer(refusal(request, -32006, retryable=True))
    assert (request.url, bench.pauses) == (f"{A}/", [0.05])
    with pytest.raises(TooBusy):
        for _ in range(100):
            request = bench.answer(refusal(request, -32006, retryable=True))


def test_outcome_unknown_is_repeated_only_if_the_node_says_that_it_may_be() -> None:
    bench = Bench()
    call = Call("job_start", ["x", {}], Resend.FREELY, request_id="key-1")
    request = bench.begin(call)
    request = bench.answer(refusal(request, -32010, name="outcome_unknown", retryable=True))
    assert call.uncertain
    assert bench.finish(ok(request, "11.1")) == "11.1"

    request = bench.begin(once())
    with pytest.raises(OutcomeUnknown) as raised:
        bench.answer(refusal(request, -32010, retryable=False, hint="job_history"))
    assert raised.value.hint == "job_history"


def test_certificates_that_cannot_be_verified_end_the_call_at_once() -> None:
    wrong = Broken("certificate: self-signed", sent=False, certificate=True)
    bench = Bench()
    bench.begin(read())
    bench.answer(wrong)
    with pytest.raises(CertificateRejected, match="self-signed"):
        bench.answer(wrong)
    assert not bench.pauses


def test_one_bad_certificate_does_not_stop_the_others() -> None:
    bench = Bench()
    bench.begin(read())
    request = bench.answer(Broken("certificate", sent=False, certificate=True))
    assert bench.finish(ok(request)) == "fine"


def test_a_wrong_login_is_not_tried_twice() -> None:
    bench = Bench()
    bench.begin(read())
    with pytest.raises(LoginFailed):
        bench.answer(Reply(401, {}, b""))


def test_an_expired_token_is_renewed_once() -> None:
    credentials = Credentials("admin", "secret")
    credentials.adopt(Login("old"), 60)
    bench = Bench(A, credentials=credentials)
    assert bench.begin(read()).headers["authorization"] == "Bearer old"
    login = bench.answer(Reply(401, {}, b""))
    assert json.loads(login.body)["params"] == ["admin", "secret", 60]
    assert "authorization" not in login.headers
    again = bench.answer(ok(login, {"token": "new"}))
    assert again.headers["authorization"] == "Bearer new"
    with pytest.raises(LoginFailed):
        bench.answer(Reply(401, {}, b""))


def test_a_token_from_outside_is_never_replaced_by_the_password() -> None:
    bench = Bench(A, credentials=Credentials("admin", None, "given"))
    bench.begin(read())
    with pytest.raises(LoginFailed):
        bench.answer(Reply(401, {}, b""))


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(403, {}, b"origin not allowed"), Forbidden),
        (Reply(413, {}, b""), TooLarge),
        (Reply(400, {}, b"TLS only"), ProtocolError),
        (Reply(200, {}, b"<html>"), ProtocolError),
        (Reply(200, {}, b"[]"), ProtocolError),
        (Reply(200, {}, b'{"jsonrpc":"2.0","id":999,"result":1}'), ProtocolError),
    ],
)
def test_answers_that_are_none(reply: Reply, error: type[Exception]) -> None:
    bench = Bench()
    bench.begin(read())
    with pytest.raises(error):
        bench.answer(reply)


def test_a_hanging_member_does_not_use_up_a_read_s_time() -> None:
    bench = Bench(timeout_s=60)
    assert bench.begin(read()).answer_s == ATTEMPT_S
    waiting = Call("job_wait", ["11.1", 25], Resend.FREELY, wait_s=25)
    assert bench.begin(waiting).answer_s == 25 + ATTEMPT_S
    assert bench.begin(once()).answer_s == 60
    assert bench.answer(REFUSED, spend=59.5).answer_s == pytest.approx(0.5)


def test_steps_show_no_secrets() -> None:
    bench = Bench()
    request = bench.begin(Call("user_login", ["admin", "secret"]))
    assert "secret" not in repr(request)
    assert "secret" not in repr(Call("user_login", ["admin", "secret"]))
    assert "Basic" not in repr(request)
