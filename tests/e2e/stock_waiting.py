"""A job_exec by Python's own XML-RPC client that takes long: prints what it was answered, as JSON.

Arguments: HOST:PORT, the CA file, the password of admin, the seconds that the job takes.
"""

import json
import ssl
import sys
from xmlrpc.client import ServerProxy

address, ca_file, password, seconds = sys.argv[1:5]
context = ssl.create_default_context(cafile=ca_file)
node = ServerProxy(f"https://admin:{password}@{address}", context=context)
print(json.dumps(node.job_exec("command_run", {"params": {"argv": ["/bin/sleep", seconds]}})))
