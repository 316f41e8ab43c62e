# SPDX-License-Identifier: Apache-2.0
"""An Engine that sends requests to a server with OpenAI's chat API: vLLM, SGLang, a gateway or a commercial service.

The `openai` client sends the requests and retries them, with increasing random pauses or as the header Retry-After says, up to two minutes.
Only failures of the machine are retried: failed connections (refused, dropped, timed out, cut short), and the statuses in RETRIED_STATUSES.
A completion is never requested again, whatever its text.

A server may refuse a field of the requests: then it is left out from now on, and stderr says so once. It may refuse one request because of
its content or length: then its completions are "refused". Any other response that is no completion ends the run with a one-line error.
"""

import asyncio
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from critic_r1_verl import foreign
from critic_r1_verl.engines import replies, secrets, transport
from critic_r1_verl.engines.base import Completion, Done, Request, Sampling
from critic_r1_verl.images import data_uri

MODEL_LIST_SECONDS = 30.0


class OpenAIEngine:
    """base_url: the root of the API, such as http://localhost:8000/v1. model: its name on the server, "" for the only one that is served.

    max_concurrency: requests in flight at the same time. max_retries: retries of one request after its first attempt. timeout_seconds:
    the time for one attempt, until its last byte. body: keys that are added to every request, or omitted if the value is None. The API key
    is read from the environment variable OPENAI_API_KEY. ValueError for an argument out of range, a key or URL that cannot be used, or a
    model that cannot be chosen; ConnectionError if the server cannot be reached. Their messages hold no secrets.
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
        if max_concurrency < 1 or max_retries < 0 or not 0 < timeout_seconds < float("inf"):
            raise ValueError(
                f"max_concurrency={max_concurrency} must be at least 1, max_retries={max_retries} at least 0, "
                f"and timeout_seconds={timeout_seconds} above 0"
            )
        parts = secrets.checked_url(base_url)
        self.base_url, self.shown_url = base_url, secrets.shown_url(parts)
        self._key = secrets.api_key()
        self._secrets = (self._key, parts.password, unquote(parts.password or ""), parts.query)
        self.max_concurrency, self.max_retries, self.timeout_seconds = max_concurrency, max_retries, timeout_seconds
        self.body = dict(body or {})
        self._left_out: set[str] = set()
        self._other_models: set[str] = set()
        self.name = model or self._only_model()

    @property
    def left_out(self) -> frozenset[str]:
        """See Engine."""
        return frozenset(self._left_out & {"temperature", "top_p", "seed"})

    def generate(self, requests: Iterable[Request]) -> Iterator[Done]:
        """See Engine. Each request in flight is an asyncio task; the event loop runs only while the caller waits for the next result."""
        numbered = enumerate(requests)
        running: set[asyncio.Task[Done]] = set()

        async def next_done() -> set[asyncio.Task[Done]]:
            while len(running) < self.max_concurrency and (numbered_request := next(numbered, None)):
                running.add(asyncio.create_task(self._answered(client, *numbered_request)))
            return (await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))[0] if running else set()

        async def stop() -> None:
            """After an error, or if the caller stops early, cancel the running tasks and wait until they have ended."""
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await client.close()

        client = self._client(self.max_retries, self.timeout_seconds)
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

    def _client(self, max_retries: int, timeout_seconds: float) -> Any:
        import openai

        return openai.AsyncOpenAI(
            base_url=self.base_url,
            # The client requires a key; a server that needs none ignores it.
            api_key=self._key or "none",
            timeout=timeout_seconds,
            max_retries=max_retries,
            http_client=transport.client(self.max_concurrency, timeout_seconds),
        )

    async def _answered(self, client: Any, place: int, request: Request) -> Done:
        what, samples = f"{self.shown_url}, {request.name}", request.sampling.samples
        content = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image_url", "image_url": {"url": data_uri(part)}}
            for part in request.parts()
        ]
        done = await self._completions(client, content, request.sampling, samples, what)
        if len(done) < samples:
            self._leave_out("n", f"{len(done)} choice(s) instead of {samples}")
        while len(done) < samples:
            sampling = replace(request.sampling, seed=request.sampling.seed + len(done))
            done += await self._completions(client, content, sampling, 1, what)
        return place, done

    async def _completions(self, client: Any, content: list[Any], sampling: Sampling, samples: int, what: str) -> list[Completion]:
        """At least one completion, and at most `samples`, of one request."""
        import httpx2

        while True:
            settings = self._settings(sampling, samples)
            asked = {"model": self.name, "messages": [{"role": "user", "content": content}]} | settings | self.body
            body = {key: value for key, value in asked.items() if value is not None}
            status, text = await self._sent(client.post("/chat/completions", cast_to=httpx2.Response, body=body), what)
            if status == 200:
                try:
                    found = replies.completions(replies.parsed(text, what), samples, what)
                except ValueError as error:
                    raise ValueError(self._shown(str(error))) from error
                self._notice(found[0].model)
                # A refusal may repeat the request with its key; a text of the model is kept as it is.
                return [replace(each, text=self._shown(each.text)) if each.end == "refused" else each for each in found]
            if field := replies.refused_field(status, text, settings.keys() - self.body.keys()):
                self._leave_out(field, text)
            elif replies.is_refusal(status, text):
                return replies.refusal(f"status {status}: {text}", 1 if "n" in self._left_out else samples)
            else:
                raise ValueError(_error(status, text, what))

    def _settings(self, sampling: Sampling, samples: int) -> dict[str, Any]:
        """The fields of a request that the server does not refuse."""
        limit = "max_completion_tokens" if "max_tokens" in self._left_out else "max_tokens"
        settings = {limit: sampling.max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
        if samples > 1:
            settings["n"] = samples
        return {name: value for name, value in settings.items() if name not in self._left_out}

    def _leave_out(self, field: str, reply: str) -> None:
        # Other requests in flight may have learnt the same before.
        if field not in self._left_out:
            self._left_out.add(field)
            instead = {"max_tokens": "max_completion_tokens is sent instead", "n": "samples are requested one by one"}
            self._say(f"refuses {field!r}, so {instead.get(field, 'it is left out')} from now on ({' '.join(reply.split())[:200]})")

    def _notice(self, model: str) -> None:
        if model not in ("", self.name, *self._other_models):
            self._other_models.add(model)
            self._say(f"answers as the model {model!r:.200}, asked for {self.name!r:.200}; each line names the one that answered")

    def _say(self, text: str) -> None:
        foreign.say(f"critic-r1: {self.shown_url} {text}", stderr=True)

    async def _sent(self, sending: Awaitable[Any], what: str) -> tuple[int, str]:
        """The status and the body of the response, without secrets. ConnectionError if there is none, or if its status says "not now"."""
        import httpx2
        import openai

        try:
            return 200, (await sending).text
        except openai.APIStatusError as error:
            response = error.response
            if response.status_code not in transport.RETRIED_STATUSES:
                return response.status_code, self._shown(response.text)
            pause = response.headers.get("retry-after")
            reason = f"status {response.status_code}" + (f" (it asks to wait: Retry-After {pause:.40})" if pause else "")
            attempts = 1 + int(error.request.headers["x-stainless-retry-count"])
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            reason = self._shown(f"{type(cause).__name__} {cause}".strip())
            attempts = 1 + int(error.request.headers["x-stainless-retry-count"])
        except (ValueError, httpx2.InvalidURL, openai.OpenAIError) as error:
            raise ValueError(f"{what}: {self._shown(str(error))}") from error
        raise ConnectionError(f"{what}: {reason}, in {attempts} attempt(s); start or repair the server, or correct the URL, then run again")

    def _shown(self, text: str) -> str:
        return secrets.without(text, *self._secrets)

    def _only_model(self) -> str:
        import httpx2

        async def listed() -> tuple[int, str]:
            client = self._client(0, MODEL_LIST_SECONDS)
            try:
                return await self._sent(client.get("/models", cast_to=httpx2.Response), what)
            finally:
                await client.close()

        what, remedy = f"{self.shown_url}/models", "name the model with --model"
        status, text = asyncio.run(listed())
        if status != 200:
            raise ValueError(f"{_error(status, text, what)}; {remedy}")
        answer = replies.parsed(self._shown(text), what)
        models = answer.get("data") if isinstance(answer, dict) else answer
        models = models if isinstance(models, list) else []
        served = [model["id"] for model in models if isinstance(model, dict) and isinstance(model.get("id"), str)]
        if len(served) != 1:
            raise ValueError(f"{self.shown_url} serves {', '.join(served)[:300] or 'no named model'}; {remedy}")
        return served[0]


def _error(status: int, text: str, what: str) -> str:
    return f"{what}: refused, status {status}: {' '.join(text.split())[:300]}"
