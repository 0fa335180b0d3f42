"""A stand-in for a cluster: real TLS and HTTP, a small honest model of jobs, and mishaps on demand.

`Cluster` is what all nodes share: jobs, configuration, users, idempotency keys. `Node` is one
listening member. A node plays its `script`, one entry for each request, and answers from the
cluster when the script is empty.
"""

from __future__ import annotations

import base64
import copy
import json
import ssl
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Callable, Union

UNFINISHED = {
    "result_code": 5,
    "result_name": "UNFINISHED",
    "result_desc": "The job has not finished yet",
}
NAMES = ("OK", "FAILED", "DECLINED", "CANCELLED", "TIMEOUT", "UNFINISHED", "CONFLICT")
USER, PASSWORD = "admin", "pä:ss wörd"


@dataclass(frozen=True)
class Http:
    """Answer with this status."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Drop:
    """Read the request and break the connection, before or after carrying it out."""

    after: bool = False


@dataclass(frozen=True)
class Refuse:
    """Answer with a JSON-RPC error."""

    code: int
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)


Entry = Union[Http, Drop, Refuse]


@dataclass(frozen=True)
class Seen:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]
    method: str
    params: Any

    @property
    def kwargs(self) -> Any:
        """The second argument of a start."""
        return self.params[1]


class Refused(Exception):
    """Becomes a JSON-RPC error."""

    def __init__(self, code: int, name: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code, self.message = code, message
        self.details = {"name": name, "retryable": False, **details}


class Cluster:
    """The replicated part."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.tokens: set[str] = set()
        self.keys: dict[str, tuple[str, str]] = {}
        self.records: list[dict[str, Any]] = []
        self.results: dict[str, dict[str, Any]] = {}
        self.ran: list[str] = []
        self.polls_left: dict[str, int] = {}
        self.revisions: list[dict[str, Any]] = [{"app": {}, "users": {"admin": {"id": 0}}}]
        self.events: list[dict[str, Any]] = []
        self.subscriptions: dict[str, int] = {}
        self.unsubscribed: list[str] = []
        self.addresses: list[str] = []

    # Methods

    def answer(self, method: str, params: Sequence[Any]) -> Any:
        """The result of a method. Raises `Refused`."""
        with self.lock:
            known: Callable[..., Any] | None = getattr(
                self, "rpc_" + method.replace(".", "_"), None
            )
            if known is None:
                raise Refused(-32601, "unknown_method", f"no method {method}")
            return known(*params)

    def rpc_job_list(self) -> list[str]:
        return sorted(name[4:] for name in dir(self) if name.startswith("job_"))

    def rpc_job_help(self, job: str) -> str:
        self._known(job)
        return f"Description: {job}\nMandatory parameters: none\n"

    def rpc_job_desc(self, job: str) -> list[Any]:
        if not hasattr(self, f"job_{job}"):
            return [False, f"there is no job {job}"]
        mandatory = {"username": {"desc": "name", "type": "str"}}
        first = [f"does {job}", mandatory, {}, {"nid": ["node"]}, ["root"], ["root", "exaadm"]]
        return [True, [*first, [{"username": "alice"}], "modify", "users", {}, "0.1.0", "Long."]]

    def rpc_job_start(self, job: str, kwargs: Mapping[str, Any]) -> str:
        self._known(job)
        key = kwargs.get("request_id")
        said = json.dumps([job, kwargs.get("params")], sort_keys=True)
        if key in self.keys:
            before, job_id = self.keys[key]
            if before != said:
                raise Refused(
                    -32007, "conflict", "request_id was used for another call", field="request_id"
                )
            return job_id
        job_id = f"11.{len(self.records) + 1}"
        result = self._run(job, job_id, kwargs)
        if key is not None:
            self.keys[key] = (said, job_id)
        self.ran.append(job)
        self.results[job_id] = {**result, "result_jobid": job_id}
        self.records.append({"job": job_id, "name": job, "user": USER, "kind": "modify"})
        self._event(kind="stage", job=job_id, stage="finished")
        return job_id

    def rpc_job_exec(self, job: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return self.rpc_job_result(self.rpc_job_start(job, kwargs))

    def rpc_job_wait(self, job_id: str, timeout_s: int = 30) -> bool:
        self._known_id(job_id)
        if self.polls_left.get(job_id, 0) > 0:
            self.polls_left[job_id] -= 1
        return self.rpc_job_finished(job_id)

    def rpc_job_finished(self, job_id: str) -> bool:
        self._known_id(job_id)
        return self.polls_left.get(job_id, 0) == 0

    def rpc_job_result(self, job_id: str) -> dict[str, Any]:
        self._known_id(job_id)
        if not self.rpc_job_finished(job_id):
            return {**UNFINISHED, "result_jobid": job_id}
        return self.results[job_id]

    def rpc_job_info(self, job_id: str) -> dict[str, Any]:
        self._known_id(job_id)
        return next(record for record in self.records if record["job"] == job_id)

    def rpc_job_file(self, job_id: str, command: str | None = None) -> str:
        self._known_id(job_id)
        if command is not None:
            return f"{command} printed this"
        return f'format: 1\njob: "{job_id}"\n'

    def rpc_job_cancel(self, job_id: str) -> str:
        self._known_id(job_id)
        return "too_late"

    def rpc_job_history(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        unknown = wanted.keys() - {"name", "user", "limit", "cursor"}
        if unknown:
            raise Refused(-32002, "invalid_parameter", "unknown", field=min(unknown))
        records = [r for r in reversed(self.records) if wanted.get("name") in (None, r["name"])]
        first = int(wanted.get("cursor", 0))
        last = first + int(wanted["limit"])
        cursor = str(last) if last < len(records) else None
        return {"records": records[first:last], "cursor": cursor}

    def rpc_user_login(self, name: str, password: str, ttl_s: int = 0) -> dict[str, Any]:
        if (name, password) != (USER, PASSWORD):
            raise PermissionError
        token = f"tb1.1.{len(self.tokens)}.{ttl_s}"
        self.tokens.add(token)
        return {"token": token, "expires": "2026-11-20T12:00:00.000000Z"}

    def rpc_user_logout(self, token: str) -> bool:
        self.tokens.discard(token)
        return True

    def rpc_user_state(self) -> dict[str, Any]:
        return {"user": USER, "groups": ["exaadm"], "via": "basic", "expires": None}

    def rpc_user_init(self, name: str, one_time_secret: str, password: str) -> bool:
        return True

    def rpc_subscribe(self, wanted: Mapping[str, Any]) -> str:
        name = f"s{len(self.subscriptions) + 1}"
        index = (
            int(str(wanted["since"]).partition(".")[0]) if "since" in wanted else len(self.events)
        )
        self.subscriptions[name] = index
        return name

    def rpc_events(self, name: str, timeout_s: int) -> list[dict[str, Any]]:
        if name not in self.subscriptions:
            raise Refused(-32602, "invalid_arguments", "no such subscription", field="id")
        first, self.subscriptions[name] = self.subscriptions[name], len(self.events)
        return self.events[first:]

    def rpc_unsubscribe(self, name: str) -> bool:
        self.unsubscribed.append(name)
        return self.subscriptions.pop(name, None) is not None

    # Jobs

    def job_node_list(self, params: Mapping[str, Any]) -> Any:
        nodes = {"11": {"id": 11, "name": "n11", "role": "voter"}}
        for number, address in enumerate(self.addresses):
            nodes[str(11 + number)] = {"id": 11 + number, "name": "n", "address": address}
        return nodes

    def job_echo(self, params: Mapping[str, Any]) -> Any:
        return dict(params)

    def job_slow(self, params: Mapping[str, Any]) -> Any:
        return "done"

    def job_end(self, params: Mapping[str, Any]) -> Any:
        """Ends with the code that is asked for."""

    def job_user_create(self, params: Mapping[str, Any]) -> Any:
        if "username" not in params:
            raise Refused(
                -32002,
                "invalid_parameter",
                "a parameter is missing",
                field="username",
                hint="job_help user_create",
            )
        self._commit(f"users/{params['username']}", {"id": params.get("userid")})

    def job_user_delete(self, params: Mapping[str, Any]) -> Any:
        self._commit(f"users/{params['username']}", None)

    def job_config_set(self, params: Mapping[str, Any]) -> Any:
        if not str(params["path"]).startswith("app"):
            raise Refused(-32003, "forbidden", "config_set writes under app only", field="path")
        self._commit(params["path"], params["value"])

    def job_config_delete(self, params: Mapping[str, Any]) -> Any:
        self._commit(params["path"], None)

    def job_config_merge(self, params: Mapping[str, Any]) -> Any:
        self._commit(params["path"], {**self._get(params["path"], -1), **params["value"]})

    def job_config_get(self, params: Mapping[str, Any]) -> Any:
        return self._get(params.get("path"), int(params.get("revision", 0)) - 1)

    def job_config_diff(self, params: Mapping[str, Any]) -> Any:
        last = params.get("to", len(self.revisions))
        return [{"from": params["from"], "to": last}]

    def job_config_log(self, params: Mapping[str, Any]) -> Any:
        return [{"revision": number + 1} for number in range(len(self.revisions))]

    def job_config_blame(self, params: Mapping[str, Any]) -> Any:
        return {params["path"]: {"revision": len(self.revisions)}}

    def job_config_rollback(self, params: Mapping[str, Any]) -> Any:
        self.revisions.append(copy.deepcopy(self.revisions[params["revision"] - 1]))

    # Parts

    def _run(self, job: str, job_id: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        params = kwargs.get("params", {})
        before = len(self.revisions)
        output = getattr(self, f"job_{job}")(params)
        code = int(params.get("code", 0)) if job == "end" else 0
        if job == "slow":
            self.polls_left[job_id] = int(params.get("polls", 1))
        result: dict[str, Any] = {
            "result_code": code,
            "result_name": NAMES[code] if code < len(NAMES) else "INDETERMINATE",
            "result_desc": "Success" if code == 0 else "it went wrong",
        }
        if output is not None:
            result["result_output"] = output
        if len(self.revisions) > before:
            result["result_revision"] = len(self.revisions)
        return result

    def _commit(self, path: str, value: Any) -> None:
        tree = copy.deepcopy(self.revisions[-1])
        *way, last = path.split("/")
        place = tree
        for step in way:
            place = place.setdefault(step, {})
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
        self.revisions.append(tree)

    def _get(self, path: str | None, revision: int) -> Any:
        place: Any = self.revisions[revision]
        for step in path.split("/") if path else []:
            place = place[step]
        return place

    def _event(self, **fields: Any) -> None:
        self.events.append({"cursor": f"{len(self.events) + 1}.0", **fields})

    def _known(self, job: str) -> None:
        if not hasattr(self, f"job_{job}"):
            raise Refused(-32001, "unknown_job", f"there is no job {job!r}", field="name")

    def _known_id(self, job_id: str) -> None:
        if job_id not in self.results:
            raise Refused(-32004, "unknown_job_id", "there is no such job", field="id")


class Node:
    """One member, listening on a port of its own."""

    def __init__(self, cluster: Cluster, tls: ssl.SSLContext) -> None:
        self.cluster = cluster
        self.script: deque[Entry] = deque()
        self.always: Entry | None = None
        self.seen: list[Seen] = []
        self.date: str | None = None
        self._listener = _Listener(self, tls)
        self.port: int = self._listener.server_address[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.02,))
        self._thread.start()

    def redirect_to(self, other: Node, path: str = "/") -> Http:
        """What a node that is not the master says."""
        return Http(302, {"Location": other.url + path})

    def methods(self) -> list[str]:
        """The methods asked for, in order."""
        return [request.method for request in self.seen]

    def close(self) -> None:
        """Stops listening."""
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def authorized(self, headers: Mapping[str, str], method: str) -> bool:
        """Whether the request may come in."""
        kind, _, secret = headers.get("authorization", "").partition(" ")
        if kind == "Bearer":
            return secret in self.cluster.tokens
        if kind == "Basic":
            return base64.b64decode(secret).decode() == f"{USER}:{PASSWORD}"
        return method in ("user_login", "user_init")


class _Listener(ThreadingHTTPServer):
    # A connection that a client keeps open must not hold up the end of a test.
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, node: Node, tls: ssl.SSLContext) -> None:
        self.node = node
        self._tls = tls
        super().__init__(("127.0.0.1", 0), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            with self._tls.wrap_socket(request, server_side=True) as wrapped:
                super().finish_request(wrapped, client_address)
        except OSError:
            # A client that does not trust us breaks the handshake off; that is its right.
            pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one write for an answer: two would wait for each other's acknowledgement
    server: _Listener

    def do_POST(self) -> None:
        node = self.server.node
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        node.seen.append(Seen(self.path, headers, body["method"], body["params"]))
        entry = node.script.popleft() if node.script else node.always
        if isinstance(entry, Drop):
            if entry.after:
                node.cluster.answer(body["method"], body["params"])
            self.close_connection = True
        elif isinstance(entry, Http):
            self._send(entry)
        elif isinstance(entry, Refuse):
            error = {"code": entry.code, "message": entry.message, "data": dict(entry.details)}
            self._send_json({"jsonrpc": "2.0", "id": body["id"], "error": error})
        elif not node.authorized(headers, body["method"]):
            self._send(Http(401, {"WWW-Authenticate": 'Basic realm="tiebeam"'}))
        else:
            self._answer(body)

    def _answer(self, body: Mapping[str, Any]) -> None:
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": body["id"]}
        try:
            answer["result"] = self.server.node.cluster.answer(body["method"], body["params"])
        except PermissionError:
            self._send(Http(401, {"WWW-Authenticate": 'Basic realm="tiebeam"'}))
            return
        except Refused as refused:
            answer["error"] = {
                "code": refused.code,
                "message": refused.message,
                "data": refused.details,
            }
        self._send_json(answer)

    def _send_json(self, answer: Any) -> None:
        self._send(Http(200, {"Content-Type": "application/json"}, json.dumps(answer).encode()))

    def _send(self, answer: Http) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return self.server.node.date or super().date_time_string(timestamp)

    def log_message(self, format: str, *args: Any) -> None:
        pass
