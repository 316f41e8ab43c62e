# SPDX-License-Identifier: Apache-2.0
"""An Engine that sends requests to a server with OpenAI's chat API: vLLM, SGLang, a gateway or a commercial service.

The `openai` client sends the requests and retries them, with increasing random pauses or as the header Retry-After says. Only two kinds of
failure are retried: failed connections (refused, dropped or timed out), and responses with a status in RETRIED_STATUSES. A completion is
never requested again, whatever its text. Any other response that is not a chat completion ends the run with a one-line error.
"""

import asyncio
import os
import ssl
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from critic_r1_verl.engines.base import Completion, Done, Request
from critic_r1_verl.images import data_uri

RETRIED_STATUSES = (408, 429, 502, 503, 504)
"""HTTP status codes of a server or gateway that is temporarily unable to respond."""
MODEL_LIST_SECONDS = 30.0
KEY = "OPENAI_API_KEY"


class OpenAIEngine:
    """base_url: the root of the API, such as http://localhost:8000/v1. model: its name on the server, "" for the only one that is served.

    max_concurrency: requests in flight at the same time. max_retries: retries of one request after its first attempt. body: keys that are
    added to every request, or omitted if the value is None. The API key is read from the environment variable OPENAI_API_KEY.
    ValueError for an argument out of range or a model that cannot be chosen, ConnectionError if the server cannot be reached.
    """

    def __init__(
        self,
        base_url: str,
        model: str = "",
        *,
        max_concurrency: int = 64,
        max_retries: int = 7,
        timeout_seconds: float = 300.0,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        if max_concurrency < 1 or max_retries < 0 or timeout_seconds <= 0:
            raise ValueError(
                f"max_concurrency={max_concurrency} must be at least 1, max_retries={max_retries} at least 0, "
                f"and timeout_seconds={timeout_seconds} above 0"
            )
        self.base_url, self.max_concurrency, self.max_retries = base_url, max_concurrency, max_retries
        self.timeout_seconds, self.body = timeout_seconds, dict(body or {})
        self.name = model or self._only_model()

    def generate(self, requests: Iterable[Request]) -> Iterator[Done]:
        """See Engine. Each request in flight is an asyncio task; the event loop runs only while the caller waits for the next result."""
        # httpx2 is the HTTP library of the openai client and is installed with it.
        import httpx2
        import openai

        numbered = enumerate(requests)
        running: set[asyncio.Task[Done]] = set()
        client = openai.AsyncOpenAI(
            **self._connection(),
            timeout=self.timeout_seconds,
            max_retries=self.max_retries,
            http_client=openai.DefaultAsyncHttpxClient(
                verify=_certificates(),
                limits=httpx2.Limits(max_connections=self.max_concurrency),
                event_hooks={"response": [_limit_retries]},
            ),
        )

        async def next_done() -> set[asyncio.Task[Done]]:
            while len(running) < self.max_concurrency and (numbered_request := next(numbered, None)):
                running.add(asyncio.create_task(self._ask(client, *numbered_request)))
            return (await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))[0] if running else set()

        async def stop() -> None:
            """After an error, or if the caller stops early, cancel the running tasks and wait until they have ended."""
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await client.close()

        with asyncio.Runner() as runner:
            try:
                while done := runner.run(next_done()):
                    running -= done
                    # Yield all results before raising the first error, because they may have cost money.
                    yield from (task.result() for task in done if not task.exception())
                    for task in done:
                        task.result()
            finally:
                runner.run(stop())

    def _connection(self) -> dict[str, Any]:
        # The client requires a key; a server that needs none ignores it.
        return {"base_url": self.base_url, "api_key": os.environ.get(KEY) or "none"}

    async def _ask(self, client: Any, place: int, request: Request) -> Done:
        import openai

        sampling = request.sampling
        what = f"{self.base_url}, {request.name}"
        content = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image_url", "image_url": {"url": data_uri(part)}}
            for part in request.parts()
        ]
        settings = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "n": sampling.samples,
        }
        try:
            response = await client.chat.completions.with_raw_response.create(
                model=self.name,
                messages=[{"role": "user", "content": content}],
                extra_body={key: value for key, value in (settings | self.body).items() if value is not None},
            )
        except openai.APIError as error:
            raise _explained(error, what) from error
        return place, _completions(_json(response.http_response, what), sampling.samples, what)

    def _only_model(self) -> str:
        import openai

        what = f"{self.base_url}/models"
        try:
            http_client = openai.DefaultHttpxClient(verify=_certificates())
            with openai.OpenAI(**self._connection(), timeout=MODEL_LIST_SECONDS, max_retries=0, http_client=http_client) as client:
                answer = _json(client.models.with_raw_response.list().http_response, what)
        except openai.APIStatusError as error:
            raise ValueError(_refusal(error, what)) from error
        except openai.APIConnectionError as error:
            raise ConnectionError(f"{what}: {error.__cause__ or error}; start the server, or correct the URL") from error
        listed = answer.get("data") if isinstance(answer, dict) else None
        models = listed if isinstance(listed, list) else []
        served = [model["id"] for model in models if isinstance(model, dict) and isinstance(model.get("id"), str)]
        if len(served) != 1:
            raise ValueError(f"{self.base_url} serves {', '.join(served) or 'no named model'}; choose one with --model")
        return served[0]


@cache
def _certificates() -> ssl.SSLContext:
    """The certificates of the authorities, which take 40 ms to load, for all clients of this process."""
    import httpx2

    return httpx2.create_ssl_context()


async def _limit_retries(response: Any) -> None:
    """Stop the client from retrying other statuses, which by default are 409 and all from 500 on. It obeys this header."""
    if response.status_code not in RETRIED_STATUSES:
        response.headers["x-should-retry"] = "false"


def _explained(error: Any, what: str) -> Exception:
    """The error after the last attempt: ValueError if the server refused the request, ConnectionError if it could not be reached."""
    import openai

    if isinstance(error, openai.APIStatusError):
        if error.response.status_code not in RETRIED_STATUSES:
            return ValueError(_refusal(error, what))
        reason = f"status {error.response.status_code}"
    else:
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__} {cause}".strip()
    attempts = 1 + int(error.request.headers["x-stainless-retry-count"])
    return ConnectionError(f"{what}: {reason}, in {attempts} attempt(s); repair the server, then run the same command to resume")


def _refusal(error: Any, what: str) -> str:
    return f"{what}: refused, status {error.response.status_code}: {' '.join(error.response.text.split())[:300]}"


def _json(response: Any, what: str) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise ValueError(f"{what}: the response is not JSON: {response.text[:300]!r}; is this an OpenAI-compatible API?") from error


def _completions(answer: Any, samples: int, what: str) -> list[Completion]:
    """The completions in a response. Reasoning that the server returned in a separate field is put before the text in think tags."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or len(choices) != samples:
        raise ValueError(f"{what}: expected {samples} choice(s), got {answer!r:.300}; is this an OpenAI-compatible chat API?")
    usage = answer["usage"] if isinstance(answer.get("usage"), dict) else {}
    completions = []
    for choice in choices:
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            raise ValueError(f"{what}: a choice without a message: {choice!r:.300}")
        text = message.get("content") or ""
        reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
        if not isinstance(text, str) or not isinstance(reasoning, str):
            raise ValueError(f"{what}: a message without text: {message!r:.300}")
        if reasoning and "</think>" not in text:
            text = f"<think>{reasoning}</think>{text}" if text else f"<think>{reasoning}"
        # For several choices the server returns only the sum of their tokens.
        used = usage.get("completion_tokens") if samples == 1 else None
        completions.append(Completion(text, _count(usage.get("prompt_tokens")), _count(used)))
    return completions


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
