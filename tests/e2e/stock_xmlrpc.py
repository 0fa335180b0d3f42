"""What Python's own XML-RPC client sees of a node: no package of ours, no patch of its.

Arguments: HOST:PORT, the CA file, the password of admin. Prints one line per path that was
walked; an assertion that fails is the test's failure.
"""

import ssl
import sys
import xmlrpc.client
from xmlrpc.client import Binary, DateTime, Fault, MultiCall, ServerProxy

ADDRESS, CA_FILE, PASSWORD = sys.argv[1:4]
PATHS = ["", "/", "/rpc2", "/RPC2"]
KINDS = {"read", "modify", "act"}
TYPES = {"str", "int", "float", "bool", "list", "dict", "object"}


def proxy(path, user="admin", password=PASSWORD, **options):
    """A proxy that trusts the cluster's authority and nothing else."""
    context = ssl.create_default_context(cafile=CA_FILE)
    return ServerProxy(f"https://{user}:{password}@{ADDRESS}{path}", context=context, **options)


def fault(call, code):
    """Makes a call that must end in a fault, and gives its text."""
    try:
        answer = call()
    except Fault as refused:
        assert refused.faultCode == code, refused
        return refused.faultString
    raise AssertionError(f"no fault: {answer}")


def introspection(node):
    """What a client can ask about the methods."""
    methods = node.system.listMethods()
    assert methods == sorted(methods), methods
    wanted = "job_desc job_exec job_finished job_help job_list job_result job_start job_wait"
    assert set(wanted.split()) <= set(methods), methods
    for method in methods:
        assert node.system.methodHelp(method), method
        for form in node.system.methodSignature(method):
            assert all(isinstance(word, str) for word in form), method
    assert node.system.getCapabilities()["xmlrpc"]["specVersion"] == 1
    fault(lambda: node.no_such_method(), -32601)


def descriptions(node):
    """Every job in the list describes itself in the twelve elements of the contract."""
    jobs = node.job_list()
    assert jobs == sorted(jobs) and "node_list" in jobs and "user_create" in jobs, jobs
    for job in jobs:
        text = node.job_help(job)
        parts = ["Description: ", "Mandatory parameters: ", "Optional parameters: "]
        parts += ["Substitute parameters: ", "Allowed users: [", "Allowed groups: ["]
        places = [text.find(part.rstrip(" ")) for part in parts]
        assert -1 not in places and places == sorted(places), text
        known, details = node.job_desc(job)
        assert known is True and len(details) == 12, job
        mandatory, optional, substitutes = details[1:4]
        for name, about in {**mandatory, **optional}.items():
            assert set(about) == {"desc", "type"} and about["type"] in TYPES, (job, name)
        for name, others in substitutes.items():
            assert set(others) <= set(mandatory) | set(optional), (job, name)
        assert isinstance(details[4], list) and isinstance(details[5], list), job
        assert details[6] and all(isinstance(example, dict) for example in details[6]), job
        assert details[7] in KINDS and details[8] and details[9]["type"] == "object", job
    known, message = node.job_desc("no_such_job")
    assert known is False and "no_such_job" in message
    return len(jobs)


def one_job(node):
    """The two ways to run a job give the same answer."""
    done = node.job_exec("node_list")
    assert done["result_code"] == 0 and done["result_name"] == "OK", done
    assert done["result_desc"] == "Success" and "result_revision" not in done, done
    assert done["result_output"]["11"]["name"] == "n11", done
    identity = node.job_start("node_list", {"params": {}})
    assert isinstance(identity, str) and identity.startswith("11."), identity
    while not node.job_wait(identity):
        pass
    assert node.job_finished(identity) is True
    result = node.job_result(identity)
    assert result["result_output"] == done["result_output"], result
    assert result["result_jobid"] == identity, result
    assert "no such" not in fault(lambda: node.job_result("11.99999999"), -32004)
    assert "no_such_job" in fault(lambda: node.job_exec("no_such_job"), -32001)
    assert "canary" in fault(lambda: node.job_exec("node_list", {"params": {"canary": 1}}), -32002)
    assert "canary" in fault(lambda: node.job_exec("node_list", {"canary": 1}), -32002)


def many_calls(node):
    """One multicall: in order, each with its own answer or fault."""
    calls = MultiCall(node)
    calls.job_exec("config_set", {"params": {"path": "app/multi", "value": "first"}})
    calls.job_exec("config_get", {"params": {"path": "app/multi"}})
    calls.no_such_method()
    calls.job_list()
    answers = calls()
    assert answers[0]["result_code"] == 0 and answers[1]["result_output"] == "first"
    fault(lambda: answers[2], -32601)
    assert "node_list" in answers[3]
    many = MultiCall(node)
    for _ in range(101):
        many.job_list()
    fault(many, -32009)


def values(node):
    """Every type that XML-RPC has goes in and comes out."""
    value = {
        "text": 'grüße <&> ]]> "quotes" 日本 😀 \t\n end ',
        "empty": "",
        "nothing": None,
        "ints": [0, -1, 2**31 - 1, -(2**31)],
        "floats": [0.5, -1e-7, 1e300],
        "yes": True,
        "no": False,
        "bytes": Binary(bytes(range(256))),
        "nested": {"list": [[], [{}], [[1]]], "ключ": "значение"},
    }
    node.job_exec("config_set", {"params": {"path": "app/types", "value": value}})
    back = node.job_exec("config_get", {"params": {"path": "app/types"}})["result_output"]
    assert back == value, back
    assert isinstance(back["yes"], bool) and isinstance(back["bytes"], Binary)
    date = DateTime("20261120T04:05:06")
    node.job_exec("config_set", {"params": {"path": "app/date", "value": date}})
    back = node.job_exec("config_get", {"params": {"path": "app/date"}})["result_output"]
    assert back.startswith("2026-11-20T04:05:06") and back.endswith("Z"), back
    wide = node.job_exec("config_get", {"params": {"path": "app/wide"}})["result_output"]
    assert wide == 2**53 + 1, wide
    none = node.job_exec("node_list", None)
    assert none["result_code"] == 0, "None stands for no argument"
    none = node.job_exec("config_get", {"params": {"path": "app/date", "revision": None}})
    assert none["result_code"] == 0, "None stands for an absent parameter"


def logins():
    """A wrong password is a 401, as every HTTP client knows it."""
    for user, password in [("admin", "wrong"), ("nobody_here", PASSWORD)]:
        try:
            proxy("/", user, password).system.listMethods()
        except xmlrpc.client.ProtocolError as refused:
            assert refused.errcode == 401, refused
        else:
            raise AssertionError("a wrong login was let in")


def main():
    for path in PATHS:
        node = proxy(path, allow_none=True)
        introspection(node)
        count = descriptions(node)
        one_job(node)
        many_calls(node)
        values(node)
        print(f"path {path!r}: {count} jobs")
    with proxy("/", use_builtin_types=True) as node:
        output = node.job_exec("config_get", {"params": {"path": "app/types"}})["result_output"]
        assert output["bytes"] == bytes(range(256))
    logins()


main()
