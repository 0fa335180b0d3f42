"""Python's own XML-RPC client on a node that is not the master and forwards.

Arguments: HOST:PORT, the CA file, the password of admin. Prints the id of the job whose record is
to be looked at.
"""

import ssl
import sys
import time
import xmlrpc.client
from xmlrpc.client import Fault, MultiCall, ServerProxy

ADDRESS, CA_FILE, PASSWORD = sys.argv[1:4]


def proxy(password=PASSWORD):
    """A proxy that trusts the cluster's authority and follows no redirect."""
    context = ssl.create_default_context(cafile=CA_FILE)
    return ServerProxy(f"https://admin:{password}@{ADDRESS}/RPC2", context=context)


node = proxy()
assert "11" in node.job_exec("node_list")["result_output"]
done = node.job_exec("config_set", {"params": {"path": "app/forwarded", "value": "yes"}})
assert done["result_code"] == 0, done
started = node.job_start("config_get", {"params": {"path": "app"}})
assert node.job_wait(started, 10) is True
assert node.job_result(started)["result_output"] == {"forwarded": "yes"}
try:
    node.job_result("11.j999999")
    raise AssertionError("there is no such job")
except Fault as fault:
    assert fault.faultCode == -32004, fault
both = MultiCall(node)
both.system.listMethods()
both.job_finished(started)
assert list(both())[1] is True
try:
    proxy("wrong").job_exec("node_list")
    raise AssertionError("that is not the password")
except xmlrpc.client.ProtocolError as refused:
    assert refused.errcode == 401, refused
# Longer than any limit of a call that does not wait.
waiting = node.job_start("config_wait", {"params": {"revision": 1000000, "timeout_s": 14}})
begun = time.monotonic()
assert node.job_wait(waiting, 3) is False
assert node.job_wait(waiting, 50) is True
assert time.monotonic() - begun > 12.5, "it waits on the master"
print(done["result_jobid"])
