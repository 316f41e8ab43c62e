# SPDX-License-Identifier: Apache-2.0
"""The client against a real HTTP server on this machine, which each test tells how to answer, fail or stall."""

import base64
import json
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Picture

from critic_r1_verl.engines import openai_client
from critic_r1_verl.engines.base import Completion, Request, Sampling
from critic_r1_verl.engines.openai_client import OpenAIEngine

Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]
SOON = {"retry-after-ms": "10"}


class Dropped(Exception):
    """Raised by a reply, closes the connection, after the headers and a part of the body were sent if mid_answer."""

    def __init__(self, mid_answer: bool = False) -> None:
        self.mid_answer = mid_answer


class Server:
    """url, and what was asked of it and when. reply(body, number of the request) -> (status, JSON or bytes[, headers]), or Dropped."""

    def __init__(self, reply: Callable[[dict, int], Reply], models: Reply = (200, {"data": [{"id": "critic"}]})) -> None:
        self.asked: list[dict] = []
        self.headers: list[Message] = []
        self.times: list[float] = []
        self.at_once = self.most_at_once = 0
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(*models)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.asked.append(body)
                    server.headers.append(self.headers)
                    server.times.append(time.monotonic())
                    number = len(server.asked) - 1
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                try:
                    self.answer(*reply(body, number))
                except Dropped as dropped:
                    self.close_connection = True
                    if dropped.mid_answer:
                        self.answer(200, b'{"choices": [', {"Content-Length": "1000"})
                finally:
                    with lock:
                        server.at_once -= 1

            def answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
                raw = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(raw))} | (headers or {})).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        # A client that went away is what some tests are about.
        self.http.handle_error = lambda *_: None
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    monkeypatch.delenv(openai_client.KEY, raising=False)
    servers = []

    def start(*arguments: Any, **options: Any) -> Server:
        servers.append(Server(*arguments, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


def said(*texts: str, **message: Any) -> Reply:
    choices = [{"message": {"role": "assistant", "content": text, **message}} for text in texts]
    return 200, {"choices": choices, "usage": {"prompt_tokens": 11, "completion_tokens": 3}}


def prompt_of(body: dict) -> str:
    return body["messages"][0]["content"][-1]["text"]


def request(number: int = 0, images: tuple[Path, ...] = (), **sampling: Any) -> Request:
    return Request("<image>\n" * len(images) + f"prompt {number}", images, Sampling(16, **sampling), f"pair {number}")


def test_what_is_asked(serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Picture.new("RGB", (4, 4)).save(tmp_path / "a.png")
    picture = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    monkeypatch.setenv(openai_client.KEY, "secret")
    server = serve(lambda body, _: said("first", "second"))
    engine = OpenAIEngine(server.url, "judge", body={"top_k": 5, "top_p": 0.8, "seed": None})
    asked = request(images=(tmp_path / "a.png",), temperature=0.5, top_p=0.9, seed=4, samples=2)
    assert list(engine.generate([asked])) == [(0, [Completion("first", 11, None), Completion("second", 11, None)])]
    content = [
        {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{picture}"},
        },
        {"type": "text", "text": "\nprompt 0"},
    ]
    assert server.asked == [
        {
            **{"model": "judge", "messages": [{"role": "user", "content": content}], "max_tokens": 16},
            **{"temperature": 0.5, "top_p": 0.8, "n": 2, "top_k": 5},
        }
    ]
    assert server.headers[0]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("key", [None, ""])
def test_a_server_without_a_key(serve, monkeypatch: pytest.MonkeyPatch, key: str | None) -> None:
    if key is not None:
        monkeypatch.setenv(openai_client.KEY, key)
    server = serve(lambda *_: said("well"))
    assert list(OpenAIEngine(server.url).generate([request()])) == [(0, [Completion("well", 11, 3)])]


def test_many_are_in_flight_but_not_more_than_allowed(serve) -> None:
    together = threading.Barrier(4)

    def reply(body: dict, _: int) -> Reply:
        # Passes only while four are in flight.
        together.wait(10)
        return said(prompt_of(body))

    server = serve(reply)
    done = dict(OpenAIEngine(server.url, max_concurrency=4).generate(request(number) for number in range(20)))
    assert {place: completions[0].text for place, completions in done.items()} == {number: f"prompt {number}" for number in range(20)}
    assert server.most_at_once == 4


def test_requests_are_taken_as_there_is_room(serve) -> None:
    server = serve(lambda body, _: said(prompt_of(body)))
    taken = []

    def coming() -> Iterator[Request]:
        for number in range(50):
            taken.append(number)
            yield request(number)

    results = OpenAIEngine(server.url, max_concurrency=3).generate(coming())
    next(results)
    assert len(taken) == 3
    assert len(list(results)) == 49


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_a_status_that_says_not_now_is_retried(serve, status: int) -> None:
    server = serve(lambda body, number: (status, {"error": "not now"}, SOON) if number < 2 else said("well"))
    assert list(OpenAIEngine(server.url, max_retries=2).generate([request()])) == [(0, [Completion("well", 11, 3)])]
    assert len(server.asked) == 3


@pytest.mark.parametrize("mid_answer", [False, True], ids=["before the answer", "in the middle of the answer"])
def test_a_dropped_connection_is_retried(serve, mid_answer: bool) -> None:
    def reply(body: dict, number: int) -> Reply:
        if number == 0:
            raise Dropped(mid_answer)
        return said("well")

    server = serve(reply)
    assert list(OpenAIEngine(server.url, max_retries=1).generate([request()])) == [(0, [Completion("well", 11, 3)])]
    assert len(server.asked) == 2


def test_retry_after_is_respected(serve) -> None:
    """Without the header the client would pause for half a second at most."""
    server = serve(lambda body, number: said("well") if number else (429, {}, {"Retry-After": "1"}))
    list(OpenAIEngine(server.url).generate([request()]))
    assert 0.95 < server.times[1] - server.times[0] < 3


def test_pauses_are_bounded_and_differ(serve) -> None:
    """All requests fail together; if they were retried together, the server would be overrun again."""
    first: dict[str, float] = {}
    pauses: list[float] = []

    def reply(body: dict, _: int) -> Reply:
        now, prompt = time.monotonic(), prompt_of(body)
        if prompt not in first:
            first[prompt] = now
            return 503, {}
        pauses.append(now - first[prompt])
        return said("well")

    list(OpenAIEngine(serve(reply).url).generate([request(number) for number in range(16)]))
    assert len(pauses) == 16
    assert min(pauses) > 0.3 and max(pauses) < 2
    assert max(pauses) - min(pauses) > 0.02


@pytest.mark.parametrize(
    ("reply", "max_retries", "message"),
    [
        ((503, {}, SOON), 2, r"status 503, in 3 attempt\(s\)"),
        ((503, {}, SOON), 0, r"status 503, in 1 attempt\(s\)"),
        ((429, {}, {"Retry-After": "3600"}), 2, r"status 429, in 1 attempt\(s\)"),
        (Dropped(), 1, r"RemoteProtocolError .*, in 2 attempt\(s\)"),
    ],
    ids=["unavailable", "no retries", "asks for an hour", "dropped"],
)
def test_a_server_that_stays_away_ends_the_run(serve, reply: Reply | Dropped, max_retries: int, message: str) -> None:
    def answer(body: dict, _: int) -> Reply:
        if isinstance(reply, Dropped):
            raise reply
        return reply

    with pytest.raises(ConnectionError, match=f"/v1, pair 0: {message}; repair the server"):
        list(OpenAIEngine(serve(answer).url, max_retries=max_retries).generate([request()]))


def test_a_failure_of_many_is_told_once() -> None:
    """At the end of a process asyncio would log each failure that nobody looked at."""
    code = """
        from critic_r1_verl.engines.openai_client import OpenAIEngine
        from critic_r1_verl.engines.base import Request, Sampling
        asked = (Request(f"prompt {number}", (), Sampling(16)) for number in range(32))
        list(OpenAIEngine("http://127.0.0.1:9/v1", "m", max_concurrency=32, max_retries=1).generate(asked))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "never retrieved" not in done.stderr
    assert "ConnectError All connection attempts failed, in 2 attempt(s)" in done.stderr.splitlines()[-1]


def test_a_server_that_stalls_ends_the_run(serve) -> None:
    released = threading.Event()
    server = serve(lambda body, number: (released.wait(20), said("late"))[1])
    with pytest.raises(ConnectionError, match=r"ReadTimeout.* 2 attempt"):
        list(OpenAIEngine(server.url, max_retries=1, timeout_seconds=0.2).generate([request()]))
    released.set()


@pytest.mark.parametrize("wrong", [{"max_concurrency": 0}, {"max_retries": -1}, {"timeout_seconds": 0}])
def test_limits_that_make_no_sense(wrong: dict) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value} "):
        OpenAIEngine("http://127.0.0.1:9/v1", "m", **wrong)


def test_nobody_listens() -> None:
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9/v1/models: .*; start the server"):
        OpenAIEngine("http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((400, {"error": "context length"}), "status 400: .*context length"),
        ((401, {"error": "no key"}), "status 401"),
        ((409, {}), "status 409"),
        ((500, {"error": "boom"}), "status 500: .*boom"),
        ((500, b"two\nlines"), "status 500: two lines$"),
        ((500, {}, {"x-should-retry": "true"}), "status 500"),
        ((200, b"<html>hello</html>"), "not JSON: '<html>hello"),
        ((200, {"error": "quota"}), r"expected 1 choice\(s\), got \{'error': 'quota'\}"),
        ((200, {"choices": []}), r"expected 1 choice\(s\)"),
        ((200, {"choices": [{"text": "completion"}]}), "a choice without a message"),
        ((200, {"choices": [{"message": {"content": ["parts"]}}]}), "a message without text"),
        ((200, []), r"expected 1 choice\(s\)"),
    ],
)
def test_what_is_refused_or_no_chat_is_not_asked_again(serve, reply: Reply, message: str) -> None:
    server = serve(lambda *_: reply)
    with pytest.raises(ValueError, match=f"/v1, pair 0: .*{message}"):
        list(OpenAIEngine(server.url).generate([request()]))
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "\\boxed{1}"}, "\\boxed{1}"),
        ({"content": ""}, ""),
        ({"content": None}, ""),
        ({"content": "\\boxed{1}", "reasoning_content": "why"}, "<think>why</think>\\boxed{1}"),
        ({"content": "\\boxed{1}", "reasoning": "why"}, "<think>why</think>\\boxed{1}"),
        ({"content": None, "reasoning_content": "cut short"}, "<think>cut short"),
        ({"content": "<think>a</think>\\boxed{2}", "reasoning_content": "a"}, "<think>a</think>\\boxed{2}"),
    ],
)
def test_reasoning_from_a_field_of_its_own_stands_in_think_tags(serve, message: dict, text: str) -> None:
    server = serve(lambda *_: (200, {"choices": [{"message": message}]}))
    assert list(OpenAIEngine(server.url).generate([request()])) == [(0, [Completion(text, None, None)])]


def test_a_count_of_tokens_in_another_form_is_no_count(serve) -> None:
    server = serve(lambda *_: (200, {"choices": [{"message": {"content": "yes"}}], "usage": [7]}))
    assert list(OpenAIEngine(server.url).generate([request()])) == [(0, [Completion("yes", None, None)])]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ((200, {"data": []}), "serves no named model; choose one with --model"),
        ((200, {"data": 7}), "serves no named model; choose one with --model"),
        ((200, {"data": [{"id": 7}, {"id": None}]}), "serves no named model; choose one with --model"),
        ((200, {"data": [{"id": "a"}, {"id": "b"}]}), "serves a, b; choose one"),
        ((404, {}), "status 404"),
        ((200, b"nonsense"), "not JSON"),
    ],
)
def test_the_only_model_or_none(serve, models: Reply, message: str) -> None:
    server = serve(lambda *_: said(""), models=models)
    with pytest.raises(ValueError, match=message):
        OpenAIEngine(server.url)


def test_what_was_done_before_a_failure_is_handed_over(serve) -> None:
    first_done = threading.Event()

    def reply(body: dict, _: int) -> Reply:
        if prompt_of(body) == "prompt 0":
            first_done.set()
            return said("good")
        first_done.wait(10)
        time.sleep(0.1)
        return 400, {}

    results = OpenAIEngine(serve(reply).url, max_concurrency=2).generate([request(0), request(1)])
    assert next(results)[0] == 0
    with pytest.raises(ValueError, match="status 400"):
        next(results)


def test_leaving_early_cancels_what_is_in_flight(serve) -> None:
    released = threading.Event()
    server = serve(lambda body, _: said("quick") if prompt_of(body) == "prompt 0" else (released.wait(20), said("slow"))[1])
    results = OpenAIEngine(server.url, max_concurrency=2, timeout_seconds=60).generate([request(0), request(1)])
    next(results)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 5
    released.set()


def test_an_image_that_is_not_there(serve, tmp_path: Path) -> None:
    server = serve(lambda *_: said(""))
    with pytest.raises(ValueError, match=r"gone\.png: the image does not open \(No such file"):
        list(OpenAIEngine(server.url).generate([request(images=(tmp_path / "gone.png",))]))
    assert not server.asked
