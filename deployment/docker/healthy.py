"""Health check of a container: `healthy.py URL [NAME]`; with NAME, what the answer says of it must be healthy.

Only the standard library, so that a check costs a few hundredths of a second.
"""

import json
import sys
import urllib.request

with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(sys.argv[1], timeout=5) as answer:
    body = answer.read()
if len(sys.argv) > 2:
    status = json.loads(body)[sys.argv[2]]["status"]
    if status != "healthy":
        sys.exit(f"{sys.argv[2]} is {status}")
