# SPDX-License-Identifier: Apache-2.0
"""The routes of the gateway, as a FastAPI application."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from critic_r1_verl.gateway import request as requests
from critic_r1_verl.gateway import stream
from critic_r1_verl.gateway.best_of import BestOf, finished
from critic_r1_verl.gateway.bounds import Guard, body_of
from critic_r1_verl.gateway.errors import Failure, late
from critic_r1_verl.gateway.judging import Judging, Spent, Trust, in_both_orders, usage
from critic_r1_verl.gateway.metrics import Metrics
from critic_r1_verl.gateway.settings import Settings
from critic_r1_verl.gateway.upstream import Upstream

WAY = "x-critic-r1"
"""The header that says what was done with a chat request: "selected", or "passed-through" and why."""

_HEALTH_SECONDS = 2.0


class Gateway:
    """The state behind the routes."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        slots = asyncio.Semaphore(settings.max_concurrency)

        def upstream(url: str, key: str, flag: str, part: str) -> Upstream:
            return Upstream(url, key, flag, slots, lambda reason: self.metrics.failures.labels(part, reason).inc(), settings)

        self.upstream = upstream(settings.upstream, settings.upstream_key, "--upstream", "answering")
        self.judge = upstream(settings.judge_upstream or settings.upstream, settings.judge_key, "--judge-upstream", "judging")
        self.trust = Trust(settings.weight)
        self._health = (0.0, False)

    async def close(self) -> None:
        await self.upstream.close()
        await self.judge.close()

    async def chat(self, request: Any) -> Any:
        deadline = self._deadline()
        async with asyncio.timeout_at(deadline):
            ask = await self._off_loop(requests.read, await body_of(request, self.settings.max_request_bytes), self.settings)
        if ask.passed:
            self.metrics.passed.inc()
            return await self._pass(request, ask, deadline)
        judging = Judging(self.judge, self.settings.critic, self._judge_model(ask.body), ask.question, ask.images)
        task = asyncio.create_task(self._select(BestOf(self.upstream, judging, self.trust, ask, self.settings, deadline)))
        # In a stream, an error that comes soon gets its own status.
        await _while_here(request, task, self.settings.keep_alive if ask.stream else None)
        if not ask.stream:
            return _json(task.result(), "selected")
        if task.done():
            task.result()
        return _streamed(stream.waiting(task, ask.include_usage, self.settings.keep_alive), "selected", task.cancel)

    async def judge_pair(self, request: Any) -> Any:
        deadline = self._deadline()
        async with asyncio.timeout_at(deadline):
            body = requests.json_object(await body_of(request, self.settings.max_request_bytes))
        question, responses, urls = body.get("question"), body.get("responses"), body.get("images", [])
        if not isinstance(question, str):
            raise Failure(400, "question must be a text", param="question")
        if not isinstance(responses, list) or len(responses) != 2 or not all(isinstance(each, str) for each in responses):
            raise Failure(400, "responses must be a list of two texts", param="responses")
        if not isinstance(urls, list):
            raise Failure(400, "images must be a list of data: URIs", param="images")
        images = [await self._off_loop(requests.image_part, url, f"images[{place}]", self.settings) for place, url in enumerate(urls)]
        judging = Judging(self.judge, self.settings.pair_critic, self._judge_model(body), question, images)
        works = [judging.verdict("pair", shown) for shown in (responses, responses[::-1])]
        task = asyncio.create_task(finished(works, deadline))
        await _while_here(request, task)
        self.metrics.spend({"judging": judging.spent})
        verdicts = [outcome for outcome in task.result() if not isinstance(outcome, Failure)]
        if len(verdicts) < len(works):
            raise next(outcome for outcome in task.result() if isinstance(outcome, Failure))
        return _json(in_both_orders(verdicts, judging.critic, judging.model) | {"usage": usage([judging.spent])})

    async def models(self) -> Any:
        async with asyncio.timeout_at(self._deadline()):
            return _response(await self.upstream.models())

    async def health(self) -> Any:
        """Status 200 if the upstreams answer, whatever they say, else 503. They are asked every two seconds at most."""
        if time.monotonic() >= self._health[0]:
            # Meanwhile others get the old answer.
            self._health = (time.monotonic() + _HEALTH_SECONDS, self._health[1])
            found = await asyncio.gather(self.upstream.answers(), self.judge.answers())
            self._health = (self._health[0], all(found))
        if not self._health[1]:
            raise Failure(503, "an upstream does not answer", code="upstream_unreachable", retry_after="5")
        return _json({"status": "ok"})

    async def _select(self, best: BestOf) -> dict[str, Any]:
        try:
            reply = await best.answer()
        finally:
            self.metrics.spend(best.spent)
        self.metrics.candidates.inc(reply["critic_r1"]["samples"])
        if reason := reply["critic_r1"].get("stopped"):
            self.metrics.stopped.labels(reason).inc()
        return reply

    async def _pass(self, request: Any, ask: requests.Ask, deadline: float) -> Any:
        """The upstream's own reply, byte for byte. What a stream has spent is not counted in the metrics."""
        way = f"passed-through; {ask.passed}"
        if not ask.stream:
            task = asyncio.create_task(_by(deadline, self.upstream.relay(lambda: ask.content)))
            await _while_here(request, task)
            text, reply = task.result()
            spent = Spent()
            spent.add(reply)
            self.metrics.spend({"answering": spent})
            return _response(text, way)
        opened = AsyncExitStack()
        opening = asyncio.create_task(_by(deadline, opened.enter_async_context(self.upstream.stream(ask.content))))
        await _while_here(request, opening)
        return _streamed(stream.relayed(opening.result(), deadline), way, opened.aclose)

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.settings.timeout

    def _judge_model(self, body: dict[str, Any]) -> str:
        named = body.get("model")
        return self.settings.judge_model or (named if isinstance(named, str) else "") or self.settings.model

    async def _off_loop(self, read: Callable[..., Any], *arguments: Any) -> Any:
        """In a thread if files may be read."""
        return await asyncio.to_thread(read, *arguments) if self.settings.image_root else read(*arguments)


def make(settings: Settings) -> Any:
    """The ASGI application. ValueError for addresses that cannot be used."""
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    gateway = Gateway(settings)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        await gateway.close()

    app = FastAPI(title="critic-r1 serve", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Any:
        return await gateway.chat(request)

    @app.post("/v1/judge")
    async def judge(request: Request) -> Any:
        return await gateway.judge_pair(request)

    @app.get("/v1/models")
    async def models() -> Any:
        return await gateway.models()

    @app.get("/health")
    async def health() -> Any:
        return await gateway.health()

    @app.get("/live")
    async def live() -> Any:
        return _json({"status": "ok"})

    @app.get("/metrics")
    async def metrics() -> Any:
        return _response(gateway.metrics.page(), kind="text/plain; version=0.0.4; charset=utf-8")

    def handled(kind: type[Exception], failure_of: Callable[[Any], Failure]) -> None:
        async def handle(_: Any, error: Exception) -> Any:
            failure = failure_of(error)
            return _response(failure.body, status=failure.status, headers=failure.headers)

        app.add_exception_handler(kind, handle)

    handled(Failure, lambda failure: failure)
    handled(TimeoutError, lambda _: late())
    handled(HTTPException, lambda error: Failure(error.status_code, str(error.detail)))
    handled(RequestValidationError, lambda error: Failure(422, f"the request is invalid: {error}"))
    handled(Exception, lambda _: Failure(500, "an error of the gateway itself; its log says more", code="gateway_error"))
    return Guard(app, settings.key, settings.max_in_flight, gateway.metrics)


async def _by(deadline: float, work: Awaitable[Any]) -> Any:
    async with asyncio.timeout_at(deadline):
        return await work


async def _while_here(request: Any, task: "asyncio.Task[Any]", timeout: float | None = None) -> None:
    """Wait for the task, for so many seconds at most. It is cancelled if the client leaves; then Failure is raised, which nobody reads."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    gone = asyncio.create_task(left())
    try:
        await asyncio.wait([task, gone], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if gone.done() and not task.done():
            # nginx gives this status to such requests.
            raise Failure(499, "the client has left")
    except BaseException:
        task.cancel()
        raise
    finally:
        gone.cancel()


def _json(content: Any, way: str = "") -> Any:
    # In ASCII: a server may send halves of surrogate pairs, which have no UTF-8.
    return _response(json.dumps(content).encode(), way)


def _response(content: bytes, way: str = "", kind: str = "application/json", status: int = 200, headers: Any = None) -> Any:
    from starlette.responses import Response

    return Response(content, status, media_type=kind, headers=dict(headers or {}) | ({WAY: way} if way else {}))


def _streamed(events: AsyncIterator[bytes], way: str, end: Callable[[], Any]) -> Any:
    """A response of events. `end` is called at its end, also if the client leaves before the first event."""
    from starlette.responses import StreamingResponse

    class Streamed(StreamingResponse):
        async def __call__(self, *arguments: Any) -> None:
            try:
                await super().__call__(*arguments)
            finally:
                ending = end()
                if isinstance(ending, Awaitable):
                    await ending

    return Streamed(events, media_type="text/event-stream", headers={WAY: way, "cache-control": "no-cache", "x-accel-buffering": "no"})
