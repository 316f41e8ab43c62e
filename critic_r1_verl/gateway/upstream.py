# SPDX-License-Identifier: Apache-2.0
"""The client of a server behind the gateway. What it says about the server, and what it relays of its errors, holds no secrets."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from functools import partial
from itertools import cycle, islice
from typing import Any
from urllib.parse import unquote

from critic_r1_verl.engines import replies, secrets, transport
from critic_r1_verl.gateway.errors import Failure
from critic_r1_verl.gateway.settings import Settings

_LIMITS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_JSON = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
_PROBE_SECONDS = 5.0
_POOLS = 8


class Upstream:
    """url: the root of the API, which the command line's `flag` gave. key: "" for none. slots: bounds the requests at the same time.

    failed: called with the reason of each failure. takes_n: whether the server gives several choices, as far as is known. ValueError for a
    URL that cannot be used.
    """

    def __init__(self, url: str, key: str, flag: str, slots: asyncio.Semaphore, failed: Callable[[str], None], settings: Settings) -> None:
        import httpx2
        import openai

        parts = secrets.checked_url(url, flag)
        self.shown_url = secrets.shown_url(parts)
        self.takes_n = True
        self._secrets = (key, parts.password, unquote(parts.password or ""), parts.query)
        self._slots, self._failed = slots, failed
        self._left_out: set[str] = set()
        options: dict[str, Any] = {"base_url": url, "api_key": key or "none", "timeout": settings.timeout}
        # A pool looks at all its connections for each request: with a hundred of them in one pool, that takes half of the gateway's time.
        clients = [transport.client(settings.max_concurrency, settings.timeout) for _ in range(_POOLS)]
        self._clients = cycle([openai.AsyncOpenAI(**options, max_retries=settings.max_retries, http_client=client) for client in clients])
        # Those clients read whole bodies, this one hands on what comes.
        headers = _JSON | ({"Authorization": f"Bearer {key}"} if key else {})
        self._http = openai.DefaultAsyncHttpxClient(
            verify=transport.certificates(),
            limits=httpx2.Limits(max_connections=settings.max_concurrency),
            headers=headers,
            timeout=settings.timeout,
            follow_redirects=False,
        )
        self._address = lambda path: parts._replace(path=parts.path.rstrip("/") + path).geturl()

    async def close(self) -> None:
        for client in islice(self._clients, _POOLS):
            await client.close()
        await self._http.aclose()

    async def ask(self, body: dict[str, Any], ours: Collection[str] = ()) -> dict[str, Any]:
        """The reply to a chat request: an object with choices, each with a message. Failure if there is none.

        Fields in `ours` are left out from now on if the server refuses them; of max_tokens and max_completion_tokens, the other one is sent
        if the server refuses the one.
        """
        while True:
            sent = {_LIMITS.get(key, key) if key in self._left_out else key: value for key, value in body.items()}
            sent = {key: value for key, value in sent.items() if key not in self._left_out or key not in ours}
            try:
                return (await self.relay(partial(json_bytes, sent)))[1]
            except Failure as failure:
                field = replies.refused_field(failure.status, json.dumps({"error": failure.error}), sent.keys() & {*ours, *_LIMITS})
                # A server that refuses both limits would be asked for ever.
                if field is None or self._left_out & {field, _LIMITS.get(field, "")}:
                    raise
                self._left_out.add(field)

    async def relay(self, content: Callable[[], bytes]) -> tuple[bytes, dict[str, Any]]:
        """The same reply as bytes and as an object; `content` makes the body of the request when its turn has come."""
        text = await self._sent("/chat/completions", content)
        try:
            answer = replies.parsed(text, self.shown_url)
            choices = answer.get("choices") if isinstance(answer, dict) else None
            if not isinstance(choices, list) or not choices:
                raise ValueError(f"{self.shown_url}: the reply has no choices: {text[:300]}")
            replies.completions(answer, len(choices), self.shown_url)
        except ValueError as error:
            raise self._failure(502, "malformed", str(error)) from error
        return text.encode(errors="surrogatepass"), answer

    @asynccontextmanager
    async def stream(self, content: bytes) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of a streamed reply as they come. Failure if there is none, also in the middle."""
        import httpx2

        async with self._slots:
            try:
                request = self._http.build_request("POST", self._address("/chat/completions"), content=content)
                response = await self._http.send(request, stream=True)
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                raise self._unreachable(error) from error
            try:
                if response.status_code != 200:
                    raise self._refusal(response.status_code, (await response.aread()).decode(errors="replace"), response.headers)
                yield self._parts(response)
            finally:
                await response.aclose()

    async def _parts(self, response: Any) -> AsyncIterator[bytes]:
        import httpx2

        try:
            async for part in response.aiter_bytes():
                yield part
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from error

    async def models(self) -> bytes:
        """What the server says about its models. Failure if it does not."""
        return (await self._sent("/models")).encode()

    async def answers(self) -> bool:
        """Whether the server answers at all within some seconds, with whatever status."""
        import httpx2

        try:
            await self._http.get(self._address("/models"), timeout=_PROBE_SECONDS)
        except (httpx2.HTTPError, httpx2.InvalidURL):
            return False
        return True

    async def _sent(self, path: str, content: Callable[[], bytes] | None = None) -> str:
        """The body of a response with status 200; a POST if there is content."""
        import httpx2
        import openai

        async with self._slots:
            client = next(self._clients)
            try:
                if content:
                    asked = client.post(path, cast_to=httpx2.Response, content=content(), options={"headers": _JSON})
                else:
                    asked = client.get(path, cast_to=httpx2.Response)
                return (await asked).text
            except openai.APIStatusError as error:
                raise self._refusal(error.status_code, error.response.text, error.response.headers) from error
            except openai.APIConnectionError as error:
                raise self._unreachable(error.__cause__ or error) from error
            except (ValueError, httpx2.InvalidURL, openai.OpenAIError) as error:
                raise self._failure(502, "malformed", f"{self.shown_url}: {error}") from error

    def _refusal(self, status: int, text: str, headers: Any) -> Failure:
        """The server's own error with its own status; a status that is no error is a bad gateway."""
        text = self._shown(text)
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            body = None
        error = body.get("error") if isinstance(body, dict) else None
        told = {key: error[key] for key in ("message", "type", "param", "code") if key in error} if isinstance(error, dict) else {}
        if not isinstance(told.get("message", ""), str):
            del told["message"]
        message = error if isinstance(error, str) else f"{self.shown_url}: status {status}: {' '.join(text.split())[:300]}"
        self._failed(str(status))
        status = status if 400 <= status < 600 else 502
        return Failure(status, message, code="upstream_error", retry_after=headers.get("retry-after"), error=told)

    def _unreachable(self, error: BaseException) -> Failure:
        import httpx2

        if isinstance(error, httpx2.TimeoutException):
            return self._failure(504, "timeout", f"{self.shown_url}: no complete reply in time")
        return self._failure(502, "unreachable", f"{self.shown_url}: {type(error).__name__} {error}")

    def _failure(self, status: int, reason: str, message: str) -> Failure:
        self._failed(reason)
        return Failure(status, self._shown(" ".join(message.split())), code=f"upstream_{reason}")

    def _shown(self, text: str) -> str:
        return secrets.without(text, *self._secrets)


def json_bytes(content: Any) -> bytes:
    import orjson

    return orjson.dumps(content)
