# SPDX-License-Identifier: Apache-2.0
"""What stands before the routes: the key, the number of requests in flight, the size of a body, and what is counted of each request."""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from typing import Any

from critic_r1_verl.gateway.errors import Failure
from critic_r1_verl.gateway.metrics import Metrics

PATHS = ("/v1/chat/completions", "/v1/judge", "/v1/models", "/health", "/live", "/metrics")


class Guard:
    """An ASGI application around another one. Requests under /v1 need the key, if there is one; POST requests count as in flight."""

    def __init__(self, app: Callable[..., Awaitable[None]], key: str, max_in_flight: int, metrics: Metrics) -> None:
        self._app, self._key, self._max_in_flight, self._metrics = app, key.encode(), max_in_flight, metrics
        self._in_flight = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def counted(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        posts = int(scope["method"] == "POST")
        self._in_flight += posts
        self._metrics.in_flight.set(self._in_flight)
        try:
            if failure := self._refusal(scope):
                await send_failure(failure, counted)
            else:
                await self._app(scope, receive, counted)
        except asyncio.CancelledError:
            # Only the end of the process cancels a request: after the time that a graceful end allows.
            if not status:
                await send_failure(Failure(503, "the gateway is stopping", code="gateway_stopping", retry_after="5"), counted)
        finally:
            self._in_flight -= posts
            self._metrics.in_flight.set(self._in_flight)
            path = scope["path"] if scope["path"] in PATHS else "other"
            self._metrics.requests.labels(path, str(status or "none")).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - start)

    def _refusal(self, scope: Any) -> Failure | None:
        if self._key and scope["path"].startswith("/v1"):
            given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            kind, _, key = given.partition(b" ")
            # Takes the same time wherever two keys differ.
            if not hmac.compare_digest(key.strip(), self._key) or kind.lower() != b"bearer":
                return Failure(401, "give the key of this gateway as `Authorization: Bearer KEY`", code="invalid_api_key")
        if self._in_flight > self._max_in_flight:
            return Failure(503, "the gateway is full; ask again later", code="gateway_full", retry_after="1")
        return None


async def send_failure(failure: Failure, send: Any) -> None:
    headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in failure.headers.items()]
    length = (b"content-length", str(len(failure.body)).encode())
    await send({"type": "http.response.start", "status": failure.status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": failure.body})


async def body_of(request: Any, max_bytes: int) -> bytes:
    """The body of a starlette request. Failure with status 413 as soon as it is known to be too large."""
    too_large = Failure(413, f"the request is larger than {max_bytes} bytes", code="request_too_large")
    if int(request.headers.get("content-length", "0")) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)
