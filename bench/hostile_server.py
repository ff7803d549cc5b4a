"""CalDAV servers that attack, one on each of a number of ports: those of the tests, in a process of their own.

Prints its URLs as one line of JSON. Each line of standard input is a list of modes, one for each server, null for an
honest one; an empty line of output says that it was heard. Ends with standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys

from tests.contract.accounts import event
from tests.fakes.hostile_dav import hostile_dav
from tests.fakes.strange_dav import WORK


def main() -> None:
    """See the module. ``argv[1]``: how many servers."""
    # The attacker's own work would be done on another machine.
    os.nice(19)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(hostile_dav()) for _ in range(int(sys.argv[1]))]
        for server in servers:
            server.account.put(f"{WORK}e.ics", event("e"))
        print(json.dumps([server.url for server in servers]), flush=True)
        for line in sys.stdin:
            for server, mode in zip(servers, json.loads(line), strict=True):
                if mode is None:
                    server.calm_down()
                else:
                    server.attack(mode, "report")
            print(flush=True)


if __name__ == "__main__":
    main()
