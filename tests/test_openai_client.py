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

from critic_r1_verl.engines import secrets, transport
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
                # A type of bytes that takes its time is sent byte by byte.
                for part in [raw] if type(raw) is bytes else (bytes([byte]) for byte in raw):
                    self.wfile.write(part)
                    self.wfile.flush()

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
    monkeypatch.delenv(secrets.KEY, raising=False)
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
    monkeypatch.setenv(secrets.KEY, "secret")
    server = serve(lambda body, _: said("first", "second"), models=(404, {}))
    engine = OpenAIEngine(server.url, "judge", body={"top_k": 5, "top_p": 0.8, "seed": None})
    asked = request(images=(tmp_path / "a.png",), temperature=0.5, top_p=0.9, seed=4, samples=2)
    assert list(engine.generate([asked])) == [(0, [Completion("first", 11, 2), Completion("second", 11, 1)])]
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
        monkeypatch.setenv(secrets.KEY, key)
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


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 524, 529])
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
    assert 0.95 < server.times[1] - server.times[0] < 20


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
    assert min(pauses) > 0.3 and max(pauses) < 20
    assert max(pauses) - min(pauses) > 0.02


@pytest.mark.parametrize(
    ("reply", "max_retries", "message"),
    [
        ((503, {}, SOON), 2, r"status 503, in 3 attempt\(s\)"),
        ((503, {}, SOON), 0, r"status 503, in 1 attempt\(s\)"),
        ((429, {}, {"Retry-After": "3600"}), 2, r"status 429 \(it asks to wait: Retry-After 3600\), in 1 attempt\(s\)"),
        (Dropped(), 1, r"RemoteProtocolError .*, in 2 attempt\(s\)"),
    ],
    ids=["unavailable", "no retries", "asks for an hour", "dropped"],
)
def test_a_server_that_stays_away_ends_the_run(serve, reply: Reply | Dropped, max_retries: int, message: str) -> None:
    def answer(body: dict, _: int) -> Reply:
        if isinstance(reply, Dropped):
            raise reply
        return reply

    with pytest.raises(ConnectionError, match=f"/v1, pair 0: {message}; start or repair the server"):
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
    with pytest.raises(ConnectionError, match=r"no complete response within 0\.2 s, in 2 attempt"):
        list(OpenAIEngine(server.url, max_retries=1, timeout_seconds=0.2).generate([request()]))
    released.set()


@pytest.mark.parametrize("wrong", [{"max_concurrency": 0}, {"max_retries": -1}, {"timeout_seconds": 0}])
def test_limits_that_make_no_sense(wrong: dict) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value} "):
        OpenAIEngine("http://127.0.0.1:9/v1", "m", **wrong)


def test_nobody_listens() -> None:
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9/v1/models: .*; start or repair the server"):
        OpenAIEngine("http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((401, {"error": "no key"}), "status 401"),
        ((409, {}), "status 409"),
        ((403, {"error": "not yours"}), "status 403: .*not yours"),
        ((501, {"error": "boom"}), "status 501: .*boom"),
        ((501, b"two\nlines"), "status 501: two lines$"),
        ((501, {}, {"x-should-retry": "true"}), "status 501"),
        ((200, {"error": {"code": 401, "message": "no key"}}), "status 401"),
        ((200, b"<html>hello</html>"), "not JSON: '<html>hello"),
        ((200, {"error": "quota"}), r"expected 1 choice\(s\), got \{'error': 'quota'\}"),
        ((200, {"choices": None}), r"expected 1 choice\(s\)"),
        ((200, {"choices": [{"text": "completion"}]}), "a choice without a message"),
        ((200, {"choices": [{"message": {"content": [7]}}]}), "a message without text"),
        ((200, b"[" * 100_000), "not JSON"),
        ((302, {}, {"Location": "http://other.example/v1"}), r"redirects to another one, http://other\.example, which"),
        ((302, {}, {"Location": "http://[::1"}), "redirects to a malformed URL"),
        ((307, {}, {"Location": "/v1/chat/completions"}), "more than 5 redirects"),
        ((200, b"x", {"Content-Encoding": "br"}), "compressed by 'br'"),
        ((200, []), r"expected 1 choice\(s\)"),
    ],
)
def test_what_is_refused_or_no_chat_is_not_asked_again(serve, reply: Reply, message: str) -> None:
    server = serve(lambda *_: reply)
    with pytest.raises(ValueError, match=f"/v1, pair 0: .*{message}"):
        list(OpenAIEngine(server.url).generate([request()]))
    assert len(server.asked) == (6 if reply[0] == 307 else 1)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "\\boxed{1}"}, "\\boxed{1}"),
        ({"content": "\\boxed{1}", "reasoning_content": "why"}, "<think>why</think>\\boxed{1}"),
        ({"content": "\\boxed{1}", "reasoning": "why"}, "<think>why</think>\\boxed{1}"),
        ({"content": None, "reasoning_content": "cut short"}, "<think>cut short"),
        ({"content": "<think>a</think>\\boxed{2}", "reasoning_content": "a"}, "<think>a</think>\\boxed{2}"),
        ({"content": [{"type": "text", "text": "\\boxed"}, {"type": "output_text", "text": "{1}"}, "."]}, "\\boxed{1}."),
        ({"content": [{"type": "thinking", "thinking": "why"}, {"type": "text", "text": "1"}]}, "<think>why</think>1"),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "why"}]}, {"type": "reference"}]}, "<think>why"),
        ({"content": "\ud83d\ude00 \ud83d"}, "😀 �"),
    ],
)
def test_texts_and_reasoning_in_all_their_places(serve, message: dict, text: str) -> None:
    server = serve(lambda *_: (200, {"choices": [{"message": message}]}))
    assert list(OpenAIEngine(server.url).generate([request()])) == [(0, [Completion(text, None, None)])]


@pytest.mark.parametrize(
    ("choice", "text", "end"),
    [
        ({"message": {"content": None}}, "", "empty"),
        ({"message": {"content": ""}}, "", "empty"),
        ({"message": {}}, "", "empty"),
        ({"message": {"content": None, "tool_calls": [{}]}}, "", "tool_call"),
        ({"message": {"content": "1", "tool_calls": [{}]}}, "1", "complete"),
        ({"message": {"content": None, "refusal": "I will not."}}, "I will not.", "refused"),
        ({"message": {"content": "\\boxed{1}"}, "finish_reason": "content_filter"}, "\\boxed{1}", "refused"),
        ({"message": {"content": "\\boxed{1"}, "finish_reason": "length"}, "\\boxed{1", "cut_short"),
        ({"message": {"content": None}, "finish_reason": "length"}, "", "cut_short"),
        ({"message": {"content": "1"}, "finish_reason": 7}, "1", "complete"),
    ],
)
def test_how_a_completion_ended(serve, choice: dict, text: str, end: str) -> None:
    server = serve(lambda *_: (200, {"choices": [choice], "model": "critic"}))
    assert list(OpenAIEngine(server.url).generate([request()])) == [(0, [Completion(text, end=end, model="critic")])]
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": {"code": "content_filter", "message": "filtered"}}),
        (400, {"error": "maximum context length is 100 tokens, reduce max_tokens"}),
        (400, {"error": {"message": "'max_tokens' or 'max_completion_tokens' is too large: 4096"}}),
        (413, {}),
        (422, {"error": "the image is too large"}),
        (403, {"error": {"message": "Your input was flagged"}}),
        (200, {"error": {"code": 403, "message": "moderation"}}),
    ],
)
def test_a_request_may_be_refused_alone(serve, status: int, body: dict) -> None:
    server = serve(lambda asked, _: (status, body) if prompt_of(asked) == "prompt 0" else said("well"))
    done = dict(OpenAIEngine(server.url, "m", max_concurrency=1).generate([request(0), request(1)]))
    assert done[0][0].end == "refused" and done[0][0].text.startswith("status ")
    assert done[1] == [Completion("well", 11, 3)]
    assert len(server.asked) == 2


REFUSALS = {
    "max_tokens": {
        "error": {"message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", "param": "max_tokens"}
    },
    "seed": {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
    "temperature": {"error": {"message": "Unsupported value: 'temperature' does not support 0.5 with this model."}},
    "top_p": {"error": "`temperature` and `top_p` cannot both be specified for this model"},
    "n": {"message": "unknown field `n`, expected one of `model`, `messages`, `temperature`, `top_p`, `seed`"},
}


def test_fields_that_a_server_refuses_are_left_out(serve, capsys: pytest.CaptureFixture[str]) -> None:
    def reply(body: dict, _: int) -> Reply:
        refused = next((name for name in REFUSALS if name in body and (name != "temperature" or "top_p" not in body)), None)
        return (400, REFUSALS[refused]) if refused else said(f"{body['max_completion_tokens']}")

    server = serve(reply)
    asked = [request(number, temperature=0.5, top_p=0.9, samples=2) for number in range(2)]
    engine = OpenAIEngine(server.url, "m", max_concurrency=1)
    done = dict(engine.generate(asked))
    assert engine.left_out == {"temperature", "top_p", "seed"}
    assert [[completion.text for completion in done[number]] for number in range(2)] == [["16", "16"]] * 2
    # Each field is refused once, and then both requests are sent twice, for two samples each.
    assert len(server.asked) == len(REFUSALS) + 4
    assert server.asked[-1].keys() == {"model", "messages", "max_completion_tokens"}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(REFUSALS) and all(any(f"refuses '{name}'" in line for line in lines) for name in REFUSALS)


@pytest.mark.parametrize("cut", [b"", b'{"choices": [{"message": {"con'])
def test_json_that_is_cut_short_is_asked_again(serve, cut: bytes) -> None:
    server = serve(lambda _, number: (200, cut) if number == 0 else said("well"))
    ((_, (completion,)),) = OpenAIEngine(server.url, "m").generate([request()])
    assert completion.text == "well" and len(server.asked) == 2


def test_a_reply_without_choices_is_a_refusal(serve) -> None:
    server = serve(lambda *_: (200, {"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}))
    ((_, completions),) = OpenAIEngine(server.url, "m").generate([request(samples=2)])
    assert [completion.end for completion in completions] == ["refused"] * 2 and len(server.asked) == 1
    assert "prompt_filter_results" in completions[0].text


def test_a_field_of_the_user_is_not_left_out(serve) -> None:
    server = serve(lambda body, _: (400, REFUSALS["seed"]) if "seed" in body else said("well"))
    ((_, (completion,)),) = OpenAIEngine(server.url, "m", body={"seed": 7}).generate([request()])
    assert completion.end == "refused" and "seed" in completion.text


def test_a_server_that_ignores_n_is_asked_once_for_each_sample(serve) -> None:
    server = serve(lambda body, _: said(f"seed {body['seed']}"))
    ((_, done),) = OpenAIEngine(server.url, "m").generate([request(temperature=1.0, seed=4, samples=3)])
    assert [completion.text for completion in done] == ["seed 4", "seed 5", "seed 6"]


def test_another_model_than_the_one_asked_for_is_said_once(serve, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve(lambda *_: (200, said("well")[1] | {"model": "other\x1b"}))
    done = dict(OpenAIEngine(server.url, "m").generate([request(0), request(1)]))
    assert [done[number][0].model for number in range(2)] == ["other\x1b"] * 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "answers as the model 'other\\x1b', asked for 'm'" in line


def events(*chunks: Any, done: bool = True) -> bytes:
    return b"".join(f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks) + (b"data: [DONE]\n\n" if done else b"")


def chunk(**delta: Any) -> dict:
    return {"choices": [{"index": 0, "delta": delta}]}


def test_a_stream_of_events_is_read_and_one_that_ends_early_asked_for_again(serve) -> None:
    whole = events(
        chunk(role="assistant", content=""), chunk(reasoning_content="w"), chunk(reasoning_content="hy", content="1"), {"usage": {}}
    )
    replies = [events(chunk(content="1"), done=False), b": ping\n\n" + whole]
    server = serve(lambda body, number: (200, replies[number], {"Content-Type": "text/event-stream"}))
    assert list(OpenAIEngine(server.url, "m", max_retries=1).generate([request()])) == [(0, [Completion("<think>why</think>1")])]


@pytest.mark.parametrize("code", [502, "429"])
def test_an_error_with_status_200_is_retried_if_its_own_status_says_so(serve, code: Any) -> None:
    server = serve(lambda body, number: said("well") if number else (200, {"error": {"code": code}}, SOON))
    assert dict(OpenAIEngine(server.url, "m").generate([request()]))[0][0].text == "well"
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("raw", "kind", "text"),
    [
        ('{"choices": [{"message": {"content": "é"}}]}'.encode("latin-1"), "application/json; charset=latin-1", "é"),
        ('{"choices": [{"message": {"content": "é"}}]}'.encode("latin-1"), "application/json", "�"),
        (b'\xef\xbb\xbf{"choices": [{"message": {"content": "1"}}]}', "application/json; charset=nonsense", "1"),
    ],
)
def test_a_body_that_is_not_utf_8(serve, raw: bytes, kind: str, text: str) -> None:
    server = serve(lambda *_: (200, raw, {"Content-Type": kind}))
    assert list(OpenAIEngine(server.url, "m").generate([request()])) == [(0, [Completion(text)])]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_on_the_same_server_keeps_the_body(serve, status: int) -> None:
    server = serve(lambda body, number: said(prompt_of(body)) if number else (status, {}, {"Location": "/elsewhere"}))
    assert dict(OpenAIEngine(server.url, "m").generate([request()]))[0][0].text == "prompt 0"


def test_a_body_without_end_and_one_that_drips_are_bounded(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_BODY_BYTES", 2**20)
    endless = serve(lambda *_: (200, b" " * 2**21))
    with pytest.raises(ValueError, match="larger than 1 MiB"):
        list(OpenAIEngine(endless.url, "m").generate([request()]))
    assert len(endless.asked) == 1

    class Dripping(bytes):
        def __iter__(self) -> Iterator[int]:
            for byte in super().__iter__():
                time.sleep(0.05)
                yield byte

    dripping = serve(lambda *_: (200, Dripping(b" " * 100)))
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=r"no complete response within 0\.3 s, in 1 attempt"):
        list(OpenAIEngine(dripping.url, "m", max_retries=0, timeout_seconds=0.3).generate([request()]))
    assert time.monotonic() - start < 2


def test_a_broken_compression_is_a_failed_connection(serve) -> None:
    server = serve(lambda *_: (200, b"\x1f\x8bnonsense", {"Content-Encoding": "gzip"}))
    with pytest.raises(ConnectionError, match="DecodingError"):
        list(OpenAIEngine(server.url, "m", max_retries=0).generate([request()]))


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1",
        "http://host:99999/v1",
        "http://host:0",
        "ftp://host",
        "host:8000",
        "http://",
        "http://ho\x1bst",
        "http://a b",
        "http://h\n",
    ],
)
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match=r"--base-url.*: .*give the root of the API"):
        OpenAIEngine(url, "m")


@pytest.mark.parametrize("key", ["sk-secret\r", " sk-secret\n"])
def test_a_key_is_stripped(serve, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(secrets.KEY, key)
    server = serve(lambda *_: said("well"))
    list(OpenAIEngine(server.url, "m").generate([request()]))
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"


@pytest.mark.parametrize("key", ["sk-sec\rret", "sk-secrét", "two keys", "sk-\x1b"])
def test_a_key_that_no_header_can_hold(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(secrets.KEY, key)
    with pytest.raises(ValueError, match="OPENAI_API_KEY: its character") as raised:
        OpenAIEngine("http://127.0.0.1:9/v1", "m")
    assert key not in str(raised.value)


def test_messages_hold_no_secrets(serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(secrets.KEY, "sk-secret")
    server = serve(lambda body, _: (401, {"error": "sk-secret is wrong, p@ss is wrong"}), models=(401, {"error": "sk-secret"}))
    address = server.url.replace("http://", "http://user:p%40ss@")
    said_to_user = ""
    for base_url in (address, address.replace("/v1", "/v1?secret=1"), "http://user:p%40ss@127.0.0.1:9/v1"):
        for model in ("", "m"):
            with pytest.raises((ValueError, ConnectionError)) as raised:
                list(OpenAIEngine(base_url, model, max_retries=0).generate([request()]))
            said_to_user += str(raised.value)
    assert "***@127.0.0.1" in said_to_user
    for secret in ("sk-secret", "p@ss", "p%40ss", "secret=1"):
        assert secret not in said_to_user


def test_a_reply_that_repeats_the_key_is_shown_without_it(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(secrets.KEY, "sk-secret")
    for body in (b"<sk-secret>", {"request": "sk-secret"}, {"choices": ["sk-secret"]}):
        with pytest.raises(ValueError, match=r"\*\*\*") as raised:
            list(OpenAIEngine(serve(lambda *_, body=body: (200, body)).url, "m").generate([request()]))
        assert "sk-secret" not in str(raised.value)
    server = serve(lambda *_: (200, {"choices": [], "request": "sk-secret"}), models=(200, b"<sk-secret>"))
    ((_, (completion,)),) = OpenAIEngine(server.url, "m").generate([request()])
    assert completion.end == "refused" and "***" in completion.text and "sk-secret" not in completion.text
    with pytest.raises(ValueError, match=r"not JSON: '<\*\*\*>'"):
        OpenAIEngine(server.url)


def test_bodies_are_redacted() -> None:
    body = {
        "top_k": 5,
        "stop_token_ids": [1],
        "reasoning_effort": "low",
        "api_key": "x",
        "extra": [{"accessToken": "y"}, "sk-abcdefgh12345", "http://u:p@host/"],
        "headers": {"Authorization": "Bearer z"},
    }
    assert secrets.redacted(body) == {
        "top_k": 5,
        "stop_token_ids": [1],
        "reasoning_effort": "low",
        "api_key": "***",
        "extra": [{"accessToken": "***"}, "***", "***"],
        "headers": {"Authorization": "***"},
    }


@pytest.mark.parametrize("usage", [[7], "7", 7, {"prompt_tokens": "7", "completion_tokens": -1}, {"completion_tokens": True}])
def test_a_count_of_tokens_in_another_form_is_no_count(serve, usage: Any) -> None:
    server = serve(lambda *_: (200, {"choices": [{"message": {"content": "yes"}}], "usage": usage}))
    assert list(OpenAIEngine(server.url).generate([request()])) == [(0, [Completion("yes", None, None)])]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ((200, {"data": []}), "serves no named model; name the model with --model"),
        ((200, {"data": 7}), "serves no named model; name the model with --model"),
        ((200, {"data": [{"id": 7}, {"id": None}]}), "serves no named model; name the model with --model"),
        ((200, {"data": [{"id": "a"}, {"id": "b"}]}), "serves a, b; name the model"),
        ((200, 7), "serves no named model"),
        ((200, {"data": {"id": "a"}}), "serves no named model"),
        ((404, {}), "status 404.*name the model with --model"),
        ((200, b"nonsense"), "not JSON"),
        ((200, b"\xff\xfe"), "not JSON"),
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
        return 401, {}

    results = OpenAIEngine(serve(reply).url, max_concurrency=2).generate([request(0), request(1)])
    assert next(results)[0] == 0
    with pytest.raises(ValueError, match="status 401"):
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
