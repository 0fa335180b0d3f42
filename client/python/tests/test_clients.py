"""Both clients against stand-in nodes over real TLS. Every test runs for each of them."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

import pytest

import tiebeam
from authority import Authority, Issued, accepting
from stub import PASSWORD, Cluster, Drop, Http, Node, Refuse
from tiebeam import Client, Event, Gap

Connect = Callable[..., Any]
Arguments = dict[str, Any]


def keys(node: Node) -> list[str]:
    """The idempotency keys of the starts that a node has seen."""
    starts = ("job_start", "job_exec")
    return [seen.kwargs["request_id"] for seen in node.seen if seen.method in starts]


# Following the master


def test_a_redirect_is_followed_by_the_same_post(
    connect: Connect, nodes: list[Node], arguments: Arguments
) -> None:
    follower, master = nodes
    follower.script.append(follower.redirect_to(master))
    client = connect(follower.url, **arguments)
    assert client.exec("node_list").output["11"]["name"] == "n11"
    assert [node.methods() for node in nodes] == [["job_exec"], ["job_exec"]]
    assert master.seen[0].headers["authorization"].startswith("Basic ")
    assert keys(follower) == keys(master)
    client.exec("node_list")
    assert len(follower.seen) == 1, "the master is remembered"


def test_a_start_whose_answer_is_lost_runs_once(
    connect: Connect, nodes: list[Node], cluster: Cluster, arguments: Arguments
) -> None:
    nodes[0].script.append(Drop(after=True))
    client = connect([node.url for node in nodes], **arguments)
    assert client.start("echo", {"a": 1}) == "11.1"
    assert cluster.ran == ["echo"]
    assert keys(nodes[0]) == keys(nodes[1])


def test_two_starts_are_two_jobs(
    connect: Connect, nodes: list[Node], cluster: Cluster, arguments: Arguments
) -> None:
    client = connect(nodes[0].url, **arguments)
    assert [client.start("echo"), client.start("echo")] == ["11.1", "11.2"]
    assert client.start("echo", request_id="mine") == client.start("echo", request_id="mine")
    assert len(cluster.ran) == 3
    with pytest.raises(tiebeam.Conflict) as raised:
        client.start("node_list", request_id="mine")
    assert raised.value.field == "request_id"


def test_a_node_without_a_master_is_passed_over(
    connect: Connect, nodes: list[Node], arguments: Arguments
) -> None:
    nodes[0].script.append(Http(503, {"Retry-After": "1"}))
    assert connect([node.url for node in nodes], **arguments).exec("echo").ok
    assert [len(node.seen) for node in nodes] == [1, 1]


def test_a_node_that_is_down_is_passed_over(
    connect: Connect, nodes: list[Node], arguments: Arguments
) -> None:
    nodes[0].close()
    client = connect([node.url for node in nodes], **arguments)
    assert client.job_list()
    assert client.jobs.echo(a=1).output == {"a": 1}


def test_the_members_that_a_client_was_given_may_all_go(
    connect: Connect, nodes: list[Node], cluster: Cluster, arguments: Arguments
) -> None:
    cluster.addresses = [node.url.removeprefix("https://") for node in nodes]
    client = connect(nodes[0].url, **{**arguments, "learn": True})
    assert client.exec("echo").ok
    assert client.exec("echo").ok
    assert nodes[0].methods() == ["job_exec", "job_exec", "job_exec"], "asked once a minute"
    assert nodes[0].seen[1].kwargs == {"volatile": True}
    # The listener goes, and then the connection that is open.
    nodes[0].close()
    nodes[0].script.append(Drop())
    assert client.exec("echo").ok
    assert nodes[1].methods() == ["job_exec"]
    assert cluster.ran == ["echo", "node_list", "echo", "echo"]


def test_a_learned_member_of_another_ca_gets_nothing(
    connect: Connect,
    nodes: list[Node],
    cluster: Cluster,
    arguments: Arguments,
    tmp_path: Path,
) -> None:
    other = Authority(tmp_path, "other-ca").issue("node")
    with Node(cluster, accepting(other)) as thief:
        cluster.addresses = [thief.url.removeprefix("https://"), "not an address", "[::"]
        client = connect(nodes[0].url, **{**arguments, "learn": True, "timeout": 0.5})
        assert client.exec("echo").ok
        nodes[0].close()
        nodes[0].script.append(Drop())
        with pytest.raises(tiebeam.Unreachable):
            client.job_list()
        assert thief.seen == []


def test_nobody_there(connect: Connect, nodes: list[Node], arguments: Arguments) -> None:
    for node in nodes:
        node.close()
    client = connect([node.url for node in nodes], **{**arguments, "timeout": 0.3})
    with pytest.raises(tiebeam.Unreachable) as raised:
        client.job_list()
    assert {failure.url for failure in raised.value.failures} == {node.url for node in nodes}


def test_a_call_that_must_not_be_repeated_is_not(
    connect: Connect, nodes: list[Node], arguments: Arguments
) -> None:
    nodes[0].script.append(Drop())
    client = connect([node.url for node in nodes], **arguments)
    with pytest.raises(tiebeam.AnswerLost):
        client.user_init("alice", "one-time", "new password")
    assert [node.methods() for node in nodes] == [["user_init"], []]
    nodes[0].script.append(Drop())
    with pytest.raises(tiebeam.AnswerLost):
        client.call("job_list")
    assert client.call("job_list", idempotent=True) == client.job_list()


def test_outcome_unknown_is_asked_again_with_the_same_key(
    connect: Connect, nodes: list[Node], cluster: Cluster, arguments: Arguments
) -> None:
    unknown = Refuse(-32010, "not known", {"name": "outcome_unknown", "retryable": True})
    nodes[0].script.append(unknown)
    assert connect(nodes[0].url, **arguments).start("echo") == "11.1"
    assert len(set(keys(nodes[0]))) == 1
    assert len(keys(nodes[0])) == 2


# Idempotency keys


def test_the_key_has_the_cluster_s_time(
    connect: Connect, nodes: list[Node], arguments: Arguments
) -> None:
    nodes[0].date = "Fri, 20 Nov 2099 04:05:06 GMT"
    client = connect(nodes[0].url, **arguments)
    client.job_list()
    client.start("echo")
    key = uuid.UUID(keys(nodes[0])[0])
    assert key.version == 7
    assert key.variant == uuid.RFC_4122
    assert (key.int >> 80) // 1000 - 4_098_830_706 in (0, 1, 2)


def test_a_key_refused_as_expired_is_replaced_once(
    connect: Connect, nodes: list[Node], arguments: Arguments
) -> None:
    expired = Refuse(-32007, "request_id expired", {"name": "conflict", "field": "request_id"})
    nodes[0].script.append(expired)
    client = connect(nodes[0].url, **arguments)
    assert client.start("echo") == "11.1"
    assert len(set(keys(nodes[0]))) == 2
    nodes[0].script.extend([expired, expired])
    with pytest.raises(tiebeam.Conflict):
        client.start("echo")
    nodes[0].script.append(expired)
    with pytest.raises(tiebeam.Conflict):
        client.start("echo", request_id="mine")


def test_a_key_that_may_have_run_is_never_replaced(
    connect: Connect, nodes: list[Node], cluster: Cluster, arguments: Arguments
) -> None:
    nodes[0].script.append(Drop(after=True))
    nodes[1].script.append(Refuse(-32007, "request_id expired", {"name": "conflict"}))
    with pytest.raises(tiebeam.Conflict):
        connect([node.url for node in nodes], **arguments).start("echo")
    assert cluster.ran == ["echo"]


# Results and errors


def test_exec_waits_and_start_does_not(
    connect: Connect, nodes: list[Node], arguments: Arguments
) -> None:
    client = connect(nodes[0].url, **arguments)
    assert client.exec("slow", {"polls": 1}).output == "done"
    assert nodes[0].methods() == ["job_exec", "job_wait", "job_result"]
    job_id = client.start("slow", {"polls": 2})
    assert not client.finished(job_id)
    assert not client.result(job_id).finished
    assert not client.wait(job_id, timeout=0)
    assert client.wait(job_id)
    assert client.finished(job_id)
    with pytest.raises(tiebeam.Unfinished) as raised:
        client.exec("slow", {"polls": 9}, timeout=0)
    assert raised.value.result.job_id == "11.3"
    assert client.exec("slow", {"polls": 9}, timeout=0, check=False).code == 5


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (1, tiebeam.Failed),
        (2, tiebeam.Declined),
        (3, tiebeam.Cancelled),
        (4, tiebeam.TimedOut),
        (6, tiebeam.ConflictOutcome),
        (7, tiebeam.Indeterminate),
        (8, tiebeam.JobFailed),
    ],
)
def test_outcomes_have_types(
    connect: Connect,
    nodes: list[Node],
    arguments: Arguments,
    code: int,
    error: type[tiebeam.JobFailed],
) -> None:
    client = connect(nodes[0].url, **arguments)
    with pytest.raises(error, match=r"job 11\.1: .*: it went wrong") as raised:
        client.exec("end", {"code": code})
    assert type(raised.value) is error
    assert raised.value.result.code == code
    assert client.exec("end", {"code": code}, check=False).code == code


def test_refusals_have_types(connect: Connect, nodes: list[Node], arguments: Arguments) -> None:
    client = connect(nodes[0].url, **arguments)
    for job in (client.exec, client.start, client.job_help, client.job_desc):
        with pytest.raises(tiebeam.UnknownJob):
            job("nonsense")
    with pytest.raises(tiebeam.InvalidParameter) as raised:
        client.exec("user_create", {})
    assert (raised.value.field, raised.value.hint) == ("username", "job_help user_create")
    assert raised.value.code == -32002
    with pytest.raises(tiebeam.Forbidden):
        client.config_set("users/root", {})
    with pytest.raises(tiebeam.UnknownJobId):
        client.info("11.999")
    with pytest.raises(tiebeam.UnknownMethod):
        client.call("nonsense")
    nodes[0].script.append(Refuse(-31999, "new in a later version"))
    with pytest.raises(tiebeam.RpcError) as later:
        client.job_list()
    assert later.value.code == -31999


def test_options_and_values_on_the_wire(
    connect: Connect, nodes: list[Node], arguments: Arguments
) -> None:
    client = connect(nodes[0].url, **arguments)
    client.start("echo", {"file": b"\x00\xff", "none": None}, reason="why", dry_run=True)
    kwargs = nodes[0].seen[0].kwargs
    assert kwargs["params"] == {"file": {"base64": "AP8="}, "none": None}
    assert (kwargs["reason"], kwargs["dry_run"]) == ("why", True)
    assert kwargs.keys() == {"params", "reason", "dry_run", "request_id"}
    with pytest.raises(TypeError, match="no such option: wait_s"):
        client.start("echo", wait_s=1)
    with pytest.raises(ValueError, match="JSON"):
        client.start("echo", {"number": float("nan")})
    with pytest.raises(TypeError, match="no form on the wire"):
        client.start("echo", {"number": object()})
    assert len(nodes[0].seen) == 1


def test_jobs_by_every_name(connect: Connect, nodes: list[Node], arguments: Arguments) -> None:
    client = connect(nodes[0].url, **arguments)
    assert "node_list" in client.job_list()
    assert client.job_help("node_list").startswith("Description:")
    description = client.job_desc("user_create")
    assert description.kind == "modify"
    assert description.mandatory["username"]["type"] == "str"
    assert description.substitutes == {"nid": ["node"]}
    job_id = client.jobs.user_create(username="alice", userid=1001).job_id
    assert client.info(job_id)["name"] == "user_create"
    assert client.file(job_id).startswith("format: 1")
    assert client.file(job_id, "run-n11") == "run-n11 printed this"
    assert client.cancel(job_id) == "too_late"


def test_the_configuration(connect: Connect, nodes: list[Node], arguments: Arguments) -> None:
    client = connect(nodes[0].url, **arguments)
    first = client.config_set("app/web", {"port": 80}).revision
    assert client.config_merge("app/web", {"host": "h"}).revision == first + 1
    assert client.config_get("app/web") == {"port": 80, "host": "h"}
    assert client.config_get("app/web", revision=first) == {"port": 80}
    assert client.config_diff(first) == [{"from": first, "to": first + 1}]
    assert client.config_log()[-1]["revision"] == first + 1
    assert client.config_blame("app/web") == {"app/web": {"revision": first + 1}}
    client.config_rollback(first)
    assert client.config_get("app/web") == {"port": 80}
    client.config_delete("app/web")
    assert client.config_get("app") == {}


def test_history_goes_page_by_page(
    connect: Connect, nodes: list[Node], arguments: Arguments
) -> None:
    client = connect(nodes[0].url, **arguments)
    for _ in range(5):
        client.exec("echo")
    client.exec("node_list")
    del nodes[0].seen[:]
    records = client.history(name="echo", page_size=2)
    assert [record["job"] for record in records] == ["11.5", "11.4", "11.3", "11.2", "11.1"]
    assert nodes[0].methods() == ["job_history"] * 3
    limited = list(client.history(limit=3, page_size=2))
    assert [record["job"] for record in limited] == ["11.6", "11.5", "11.4"]
    with pytest.raises(tiebeam.InvalidParameter):
        list(client.history(stage="executed"))


# Events


def test_events_survive_a_lost_poll_and_a_new_master(
    connect: Connect, nodes: list[Node], cluster: Cluster, arguments: Arguments
) -> None:
    client = connect([node.url for node in nodes], **arguments)
    client.start("echo")
    events = client.events(since="0.0")
    assert next(events) == Event("stage", "1.0", "11.1", "finished", None, cluster.events[0])
    cluster._event(kind="stage", job="11.2", stage="submitted")
    nodes[0].script.append(Drop(after=True))
    assert next(events).cursor == "2.0"
    cluster.subscriptions.clear()  # the node that knew them is gone
    cluster._event(kind="config", revision=2)
    assert next(events).revision == 2
    subscribed = [seen for node in nodes for seen in node.seen if seen.method == "subscribe"]
    assert [seen.params[0]["since"] for seen in subscribed] == ["0.0", "1.0", "2.0"]
    events.close()
    assert len(cluster.unsubscribed) == 1


def test_a_gap_is_handed_out(
    connect: Connect, nodes: list[Node], cluster: Cluster, arguments: Arguments
) -> None:
    cluster.events.append({"gap": {"from": "1.0", "to": "7.0"}})
    cluster.events.append({"cursor": "7.0", "kind": "stage"})
    cluster.events.append({"cursor": "8.0", "kind": "stage"})
    cluster.events.append({"kind": "progress", "job": "11.1"})
    events = connect(nodes[0].url, **arguments).events(since="0.0", kinds=["stage"])
    assert next(events) == Gap("1.0", "7.0")
    assert [next(events).cursor, next(events).cursor] == ["8.0", None]
    assert nodes[0].seen[0].params == [{"jobs": "mine", "kinds": ["stage"], "since": "0.0"}]


def test_a_connection_lost_before_any_cursor_is_a_gap_too(
    connect: Connect, nodes: list[Node], arguments: Arguments
) -> None:
    client = connect(nodes[0].url, **arguments)
    subscribe_then_drop(nodes[0])
    assert next(client.events()) == Gap(None, None)


def subscribe_then_drop(node: Node) -> None:
    """Lets the subscription through and breaks the first poll off."""
    ordinary = node.cluster.rpc_events

    def once(name: str, timeout_s: int) -> Any:
        node.cluster.rpc_events = ordinary  # type: ignore[method-assign]
        raise ConnectionAbortedError

    node.cluster.rpc_events = once  # type: ignore[method-assign]


def test_a_daemon_without_long_polls_says_so(
    connect: Connect, nodes: list[Node], arguments: Arguments
) -> None:
    nodes[0].script.append(Refuse(-32601, "no method subscribe"))
    with pytest.raises(tiebeam.UnknownMethod):
        next(connect(nodes[0].url, **arguments).events())


def test_events_end_when_idle(connect: Connect, nodes: list[Node], arguments: Arguments) -> None:
    events = connect(nodes[0].url, **arguments).events(idle_timeout=0.05)
    assert list(events) == []
    assert nodes[0].methods()[-1] == "unsubscribe"


# TLS and login


def test_a_certificate_of_another_authority_is_refused(
    connect: Connect, nodes: list[Node], arguments: Arguments, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other-ca")
    client = connect(nodes[0].url, **{**arguments, "ca": other.file})
    with pytest.raises(tiebeam.CertificateRejected):
        client.job_list()
    with pytest.raises(tiebeam.CertificateRejected):
        connect(nodes[0].url, **{**arguments, "ca": None}).job_list()
    assert nodes[0].seen == []


def test_a_certificate_for_another_address_is_refused(
    connect: Connect, cluster: Cluster, authority: Authority, arguments: Arguments
) -> None:
    wrong = authority.issue("elsewhere", "127.0.0.99")
    with Node(cluster, accepting(wrong)) as node:
        with pytest.raises(tiebeam.CertificateRejected):
            connect(node.url, **arguments).job_list()
        assert node.seen == []


def test_nothing_is_sent_to_a_redirect_s_stranger(
    connect: Connect, nodes: list[Node], cluster: Cluster, arguments: Arguments, tmp_path: Path
) -> None:
    stranger_cert = Authority(tmp_path, "other-ca").issue("stranger")
    with Node(cluster, accepting(stranger_cert)) as stranger:
        nodes[0].script.append(nodes[0].redirect_to(stranger))
        with pytest.raises(tiebeam.CertificateRejected):
            connect(nodes[0].url, **arguments).job_list()
        assert stranger.seen == []
        nodes[0].script.append(nodes[0].redirect_to(stranger))
        assert connect([node.url for node in nodes], **arguments).job_list()
        assert stranger.seen == []


def test_a_client_certificate_logs_in(
    connect: Connect,
    cluster: Cluster,
    certificate: Issued,
    authority: Authority,
) -> None:
    alice = authority.issue("alice", None)
    with Node(cluster, accepting(certificate, authority.file)) as node:
        node.always = Http(200, {}, b"{}")
        client = connect(node.url, ca=authority.file, cert=(alice.cert, alice.key), timeout=2)
        with pytest.raises(tiebeam.ProtocolError):
            client.job_list()
        assert "authorization" not in node.seen[0].headers


def test_a_wrong_password(connect: Connect, nodes: list[Node], arguments: Arguments) -> None:
    client = connect(nodes[0].url, **{**arguments, "password": "wrong"})
    with pytest.raises(tiebeam.LoginFailed):
        client.exec("node_list")
    with pytest.raises(tiebeam.LoginFailed):
        client.login()


def test_login_renewal_and_logout(
    connect: Connect, nodes: list[Node], cluster: Cluster, arguments: Arguments
) -> None:
    client = connect(nodes[0].url, **arguments)
    login = client.login(ttl_s=60)
    assert login.expires == "2026-11-20T12:00:00.000000Z"
    assert client.state().user == "admin"
    assert nodes[0].seen[-1].headers["authorization"] == f"Bearer {login.token}"
    cluster.tokens.clear()
    assert client.state().groups == ("exaadm",)
    assert nodes[0].methods()[-2:] == ["user_login", "user_state"]
    renewed = nodes[0].seen[-1].headers["authorization"]
    client.logout()
    assert cluster.tokens == set()
    client.state()
    assert nodes[0].seen[-1].headers["authorization"].startswith("Basic ")
    client.logout()
    assert nodes[0].methods()[-1] == "user_state"

    by_token = connect(nodes[0].url, ca=arguments["ca"], token=renewed.partition(" ")[2], timeout=2)
    with pytest.raises(tiebeam.LoginFailed):
        by_token.state()
    with pytest.raises(ValueError, match="login"):
        by_token.login()


# One client, many users


def test_a_client_is_safe_to_share_between_threads(
    nodes: list[Node], cluster: Cluster, arguments: Arguments
) -> None:
    at_once = threading.Barrier(8)
    with Client([node.url for node in nodes], **arguments) as client:

        def work(number: int) -> Any:
            at_once.wait()
            return [client.exec("echo", {"n": number, "i": i}).output for i in range(5)]

        with ThreadPoolExecutor(8) as pool:
            outputs = list(pool.map(work, range(8)))
    assert outputs == [[{"n": n, "i": i} for i in range(5)] for n in range(8)]
    assert len(cluster.ran) == 40


def test_an_abandoned_iteration_gives_its_subscription_back(
    nodes: list[Node], cluster: Cluster, arguments: Arguments
) -> None:
    cluster.events.append({"cursor": "1.0", "kind": "stage"})
    with Client(nodes[0].url, **arguments) as client:
        events: Iterator[Any] = client.events(since="0.0")
        for _event in events:
            break
        del events
    assert cluster.unsubscribed == ["s1"]


def test_nothing_secret_is_shown(connect: Connect, nodes: list[Node], arguments: Arguments) -> None:
    client = connect(nodes[0].url, **arguments)
    shown = [repr(getattr(client, "client", client))]
    login = client.login()
    result = client.exec("echo", {"password": "hidden-value"})
    shown += [repr(login), str(login), repr(result), repr(client.__dict__), repr(vars(client))]
    with pytest.raises(tiebeam.UnknownJob) as raised:
        client.exec("nonsense", {"password": "hidden-value"})
    shown += [str(raised.value), repr(raised.value)]
    for text in shown:
        assert PASSWORD not in text
        assert login.token not in text
        assert "hidden-value" not in text
