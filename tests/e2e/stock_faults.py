"""Python's own XML-RPC client on one node that stays up, while the others come and go.

Arguments: HOST:PORT, the CA file, the password of admin, seconds, threads. Each thread calls
job_exec again and again, in turn with a request_id, sent again until there is an answer, and
without one, sent once. Prints a line of JSON for each call: its path, whether it had a key, the
longest time of a try, the tries, the job or the error.
"""

import json
import ssl
import sys
import threading
import time
import uuid
from xmlrpc.client import Fault, ProtocolError, ServerProxy

ADDRESS, CA_FILE, PASSWORD, SECONDS, THREADS = sys.argv[1:6]
PRINTING = threading.Lock()


def proxy():
    """A proxy that trusts the cluster's authority and follows no redirect."""
    context = ssl.create_default_context(cafile=CA_FILE)
    return ServerProxy(f"https://admin:{PASSWORD}@{ADDRESS}/RPC2", context=context)


def attempt(node, kwargs):
    """One try: seconds, the result object or None, the error or None."""
    begun = time.monotonic()
    try:
        result, error = node.job_exec("config_set", kwargs), None
    except Fault as fault:
        result, error = None, f"Fault {fault.faultCode}"
    except ProtocolError as refused:
        result, error = None, f"ProtocolError {refused.errcode}"
    except OSError as broken:
        result, error = None, type(broken).__name__
    return time.monotonic() - begun, result, error


def call(node, path, keyed):
    """One call, as many tries as it takes if it has a key."""
    kwargs = {"params": {"path": path, "value": path}}
    if keyed:
        kwargs["request_id"] = str(uuid.uuid4())
    longest, tries, errors = 0.0, 0, []
    while True:
        took, result, error = attempt(node, kwargs)
        longest, tries = max(longest, took), tries + 1
        if error:
            errors.append(error)
        if result is not None or not keyed:
            return longest, tries, result, errors
        time.sleep(0.1)


def work(thread):
    """Calls until the time is over."""
    node, number, end = proxy(), 0, time.monotonic() + float(SECONDS)
    while time.monotonic() < end:
        keyed = number % 2 == 0
        path = f"app/t{thread}/n{number}"
        longest, tries, result, errors = call(node, path, keyed)
        line = {"path": path, "keyed": keyed, "longest": longest, "tries": tries,
                "errors": errors, "job": result and result["result_jobid"],
                "code": result and result["result_code"]}
        with PRINTING:
            print(json.dumps(line), flush=True)
        number += 1
        time.sleep(0.05)


threads = [threading.Thread(target=work, args=(n,)) for n in range(int(THREADS))]
for one in threads:
    one.start()
for one in threads:
    one.join()
