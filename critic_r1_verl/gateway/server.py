# SPDX-License-Identifier: Apache-2.0
"""The process of the gateway: it listens, and ends gracefully on SIGTERM or Ctrl-C."""

import socket
from typing import Any

from critic_r1_verl import foreign

_KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep an idle connection, so that it is they who close it, and never while they send a request."""
_BACKLOG = 2048


def run(app: Any, host: str, port: int, grace_seconds: float) -> None:
    """Serve until a signal comes, then finish the requests in flight, for grace_seconds at most. OSError if the port cannot be used."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            # Not remembered, because uvicorn would end the process by the same signal again: the exit status is 0.
            self.force_exit = self.should_exit and sig == 2
            self.should_exit = True

    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_BACKLOG)
    shown = f"[{host}]" if ":" in host else host
    foreign.say(f"serving http://{shown}:{listener.getsockname()[1]}/v1")
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(grace_seconds)),
    )
    Server(config).run(sockets=[listener])
