"""A real endpoint in a process of its own: `python -m tests.serve.server_main WORKSPACE`; prints what it announces as one JSON line."""

from __future__ import annotations

import json
import sys

from attune.core.recipe import ServeKeys
from attune.core.workspace import Workspace
from attune.stages import serve
from tests import releases

if __name__ == "__main__":
    space = Workspace(sys.argv[1])
    serve.run(space, releases.NAME, ServeKeys(port=0, max_body_bytes=50_000), announce=lambda facts: print(json.dumps(facts), flush=True), poll_seconds=0.2)
    space.close()
    print("stopped in order", flush=True)
