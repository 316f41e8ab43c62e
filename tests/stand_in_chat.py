# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a server with OpenAI's chat API, and a way to serve applications on this machine."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import uvicorn


class Cut(Exception):
    """Raised by a reply: the connection is closed after the head and a part of the response."""

    def __init__(self, part: bytes = b"") -> None:
        self.part = part


class StandIn:
    """An ASGI application. reply(body) -> bytes, JSON, (status, JSON or bytes, headers), or an async iterator of events; it may raise Cut.

    asked: the bodies of the POST requests; headers: theirs; left: how many clients went away before their reply.
    """

    def __init__(self, reply: Callable[[dict], Awaitable[Any] | Any]) -> None:
        self.reply, self.models = reply, {"object": "list", "data": [{"id": "tiny", "object": "model"}]}
        self.reset()

    def reset(self) -> None:
        self.asked: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.left = self.at_once = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["method"] == "GET":
            await respond(send, self.models)
            return
        raw, more = b"", True
        while more:
            message = await receive()
            raw, more = raw + message.get("body", b""), message.get("more_body", False)
        body = json.loads(raw)
        self.asked.append(body)
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        self.at_once += 1
        work, gone = asyncio.ensure_future(self.replied(body, send)), asyncio.ensure_future(receive())
        await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        self.at_once -= 1
        self.left += not work.done()
        gone.cancel()
        if not work.done():
            work.cancel()
            return
        with contextlib.suppress(Cut):
            work.result()

    async def replied(self, body: dict, send: Any) -> None:
        try:
            found = self.reply(body)
            await respond(send, await found if isinstance(found, Awaitable) else found)
        except Cut as cut:
            headers = [(b"content-type", b"application/json"), (b"content-length", b"100000")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": cut.part, "more_body": True})
            raise


async def respond(send: Any, found: Any) -> None:
    status, content, headers = found if isinstance(found, tuple) else (200, found, {})
    events = isinstance(content, AsyncIterator)
    headers = {"content-type": "text/event-stream" if events else "application/json"} | headers
    await send({"type": "http.response.start", "status": status, "headers": [(k.encode(), v.encode("utf-8")) for k, v in headers.items()]})
    if events:
        async for part in content:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        content = b""
    await send({"type": "http.response.body", "body": content if isinstance(content, bytes) else json.dumps(content).encode()})


def said(*texts: str, prompt_tokens: int = 10, completion_tokens: int = 5, **more: Any) -> dict[str, Any]:
    """A chat completion with these texts; completion_tokens for each."""
    choices = [
        {"index": place, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"} for place, text in enumerate(texts)
    ]
    tokens = completion_tokens * len(texts)
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}
    common = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "tiny"}
    return common | {"choices": choices, "usage": usage} | more


@contextlib.contextmanager
def serving(*apps: Any) -> Iterator[list[str]]:
    """The roots of the APIs of these applications, all served by one thread while the block runs."""
    sockets = [socket.create_server(("127.0.0.1", 0), backlog=2048) for _ in apps]
    servers = [uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=1)) for app in apps]

    async def run() -> None:
        await asyncio.gather(*(server._serve([listener]) for server, listener in zip(servers, sockets, strict=True)))

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    while not all(server.started for server in servers):
        time.sleep(0.005)
    try:
        yield [f"http://127.0.0.1:{listener.getsockname()[1]}/v1" for listener in sockets]
    finally:
        for server in servers:
            server.should_exit = True
        thread.join(10)
