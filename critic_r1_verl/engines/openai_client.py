# SPDX-License-Identifier: Apache-2.0
"""A server that speaks OpenAI's chat completions (vLLM, SGLang, a gateway, a vendor) as a Engine: many requests in flight, bounded.

Tried again, with growing pauses, is only what the transport lost: no connection, no answer in time, a status by which a gateway says "not
now". What a model wrote, however strange, is a text; what a server refuses or cannot say in the protocol ends the run.
"""

import asyncio
import base64
import mimetypes
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from critic_r1_verl.engines.base import Completion, Done, Request

NOT_NOW = (408, 429, 502, 503, 504)
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 8.0
FIRST_ANSWER_SECONDS = 30.0
KEY = "OPENAI_API_KEY"


class OpenAIEngine:
    """url: the API's root, as in http://localhost:8000/v1; model: as the server calls it ("" for the only one it has).

    in_flight: requests at once; tries: of one request in all; body: keys that every request carries besides, None to leave one out. The key
    of the API is taken from the environment, OPENAI_API_KEY.
    """

    def __init__(
        self,
        url: str,
        model: str = "",
        *,
        in_flight: int = 64,
        tries: int = 8,
        timeout_seconds: float = 300.0,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        if in_flight < 1 or tries < 1 or timeout_seconds <= 0:
            raise ValueError("requests in flight and tries are at least 1, the timeout is above 0 seconds")
        self.url, self.in_flight, self.tries, self.timeout_seconds, self.body = url, in_flight, tries, timeout_seconds, dict(body or {})
        self.name = model or self._only_model()

    def generate(self, requests: Iterable[Request]) -> Iterator[Done]:
        """One task a request, on an event loop that runs while the caller waits for the next result."""
        import httpx

        coming = enumerate(requests)
        running: set[asyncio.Task[Done]] = set()

        async def next_done() -> set[asyncio.Task[Done]]:
            while len(running) < self.in_flight and (following := next(coming, None)):
                running.add(asyncio.create_task(self._ask(client, *following)))
            return (await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))[0] if running else set()

        async def stop() -> None:
            """Left early, by an error or Ctrl-C, the rest is cancelled, and its errors are those already told."""
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await client.aclose()

        client = httpx.AsyncClient(**self._connection(), limits=httpx.Limits(max_connections=self.in_flight))
        with asyncio.Runner() as runner:
            try:
                while done := runner.run(next_done()):
                    running -= done
                    yield from (task.result() for task in done if not task.exception())
                    for task in done:
                        task.result()
            finally:
                runner.run(stop())

    def _connection(self) -> dict[str, Any]:
        key = os.environ.get(KEY)
        return {
            "base_url": self.url,
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
            "timeout": self.timeout_seconds,
        }

    async def _ask(self, client: Any, place: int, request: Request) -> Done:
        wanted = request.sampling
        body = {
            "model": self.name,
            "messages": [{"role": "user", "content": [_part(part) for part in request.parts()]}],
            "max_tokens": wanted.max_tokens,
            "temperature": wanted.temperature,
            "top_p": wanted.top_p,
            "seed": wanted.seed,
            "n": wanted.samples,
        }
        body = {key: value for key, value in (body | self.body).items() if value is not None}
        what = f"{self.url}, {request.name}"
        return place, _completions(_json(await self._post(client, body, what), what), wanted.samples, what)

    async def _post(self, client: Any, body: dict[str, Any], what: str) -> Any:
        import httpx

        pause, reason = FIRST_PAUSE_SECONDS, ""
        for number in range(1, self.tries + 1):
            try:
                response = await client.post("chat/completions", json=body)
            except httpx.TransportError as error:
                reason = f"{type(error).__name__} {error}"
            else:
                if response.status_code not in NOT_NOW:
                    return response
                reason = f"status {response.status_code}"
            if number < self.tries:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        raise ConnectionError(f"{self.url}: {reason.strip()}, {self.tries} times; mend the server, then run the same command to go on")

    def _only_model(self) -> str:
        import httpx

        try:
            with httpx.Client(**self._connection() | {"timeout": FIRST_ANSWER_SECONDS}) as client:
                answer = _json(client.get("models"), f"{self.url}/models")
        except httpx.HTTPError as error:
            raise ConnectionError(f"{self.url}/models: {error}; start the server, or correct the URL") from error
        listed = answer.get("data") if isinstance(answer, dict) else None
        served = [model["id"] for model in listed or [] if isinstance(model, dict) and "id" in model]
        if len(served) != 1:
            raise ValueError(f"{self.url} serves {', '.join(served) or 'no model that it names'}; say which with --model")
        return served[0]


def _json(response: Any, what: str) -> Any:
    if response.status_code != 200:
        raise ValueError(f"{what}: refused, status {response.status_code}: {response.text[:300]}")
    try:
        return response.json()
    except ValueError as error:
        raise ValueError(f"{what}: the answer is not JSON: {response.text[:300]!r}; is this an OpenAI-compatible API?") from error


def _part(part: str | Path) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    try:
        content = base64.b64encode(part.read_bytes()).decode("ascii")
    except OSError as error:
        raise ValueError(f"{part}: the image cannot be read ({error}); put it back, then run the same command") from error
    return {"type": "image_url", "image_url": {"url": f"data:{mimetypes.guess_type(part.name)[0] or 'image/png'};base64,{content}"}}


def _completions(answer: Any, samples: int, what: str) -> list[Completion]:
    """The texts of an answer; the thought that a server told apart from the text stands before it in its tags again."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or len(choices) != samples:
        raise ValueError(f"{what}: not {samples} choice(s) but {answer!r:.300}; is this an OpenAI-compatible chat API?")
    usage = answer.get("usage") or {}
    completions = []
    for choice in choices:
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            raise ValueError(f"{what}: a choice without a message: {choice!r:.300}")
        text = message.get("content") or ""
        thought = message.get("reasoning_content") or message.get("reasoning") or ""
        if not isinstance(text, str) or not isinstance(thought, str):
            raise ValueError(f"{what}: a message that is no text: {message!r:.300}")
        if thought and "</think>" not in text:
            text = f"<think>{thought}</think>{text}" if text else f"<think>{thought}"
        # Of several texts only the sum is told.
        used = usage.get("completion_tokens") if samples == 1 else None
        completions.append(Completion(text, _count(usage.get("prompt_tokens")), _count(used)))
    return completions


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
