# SPDX-License-Identifier: Apache-2.0
"""Server-sent events in the form of OpenAI's streamed chat completions."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

from critic_r1_verl.gateway.errors import Failure, late

DONE = b"data: [DONE]\n\n"
WORKING = b": working\n\n"
_CHARS = 64


def event(content: Any) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def chunks(reply: dict[str, Any], include_usage: bool) -> Iterator[bytes]:
    """A reply with one choice as events: the role, the text in pieces, the end with the summary of the selection, and the usage."""
    choice = reply["choices"][0]
    message = {"role": "assistant"} | choice["message"]
    text = message.get("content")
    pieces = [text[start : start + _CHARS] for start in range(0, len(text), _CHARS)] if isinstance(text, str) else []
    common = {key: value for key, value in reply.items() if key not in ("choices", "usage", "critic_r1")}
    common |= {"object": "chat.completion.chunk"} | ({"usage": None} if include_usage else {})

    def chunk(delta: dict[str, Any], finish_reason: Any = None) -> dict[str, Any]:
        return common | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}

    # What else the message holds, such as reasoning, comes with the role.
    yield event(chunk({**message, "content": ""} if pieces else message))
    for piece in pieces:
        yield event(chunk({"content": piece}))
    yield event(chunk({}, choice.get("finish_reason") or "stop") | {"critic_r1": reply["critic_r1"]})
    if include_usage:
        yield event(common | {"choices": [], "usage": reply["usage"]})
    yield DONE


async def waiting(work: "asyncio.Task[dict[str, Any]]", include_usage: bool, keep_alive_seconds: float) -> AsyncIterator[bytes]:
    """Comments until the work is done, then its reply, or its failure, as events."""
    while not work.done():
        yield WORKING
        await asyncio.wait([work], timeout=keep_alive_seconds)
    try:
        reply = work.result()
    except Failure as failure:
        yield event({"error": failure.error})
        return
    for part in chunks(reply, include_usage):
        yield part


async def relayed(parts: AsyncIterator[bytes], deadline: float) -> AsyncIterator[bytes]:
    """The bytes of an upstream's stream as they come. If it breaks, or at the deadline, a last event says so."""
    try:
        async with asyncio.timeout_at(deadline):
            async for part in parts:
                yield part
    except (Failure, TimeoutError) as error:
        failure = error if isinstance(error, Failure) else late()
        yield b"\n\n" + event({"error": failure.error})
