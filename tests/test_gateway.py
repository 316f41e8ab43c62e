# SPDX-License-Identifier: Apache-2.0
"""The gateway before a stand-in for its upstream, on real sockets, asked by the official client and by plain HTTP."""

import asyncio
import base64
import contextlib
import functools
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from stand_in_chat import Cut, StandIn, said, serving

from critic_r1_verl import cli
from critic_r1_verl.cli.serving import KEY, settings
from critic_r1_verl.gateway import app, bounds, request
from critic_r1_verl.gateway.judging import Trust, Verdict
from critic_r1_verl.gateway.metrics import Metrics
from critic_r1_verl.select.calls import Call
from critic_r1_verl.select.skill import TIE_BREAK

PNG = "data:image/png;base64," + base64.b64encode(b"\x89PNG not even a picture, but these very bytes").decode()
USER = [{"role": "user", "content": "What is it?"}]


def is_judged(body: dict) -> bool:
    return "[Response 1]" in json.dumps(body["messages"])


def boxed(*answers: Any) -> list[str]:
    return [f"It is \\boxed{{{answer}}}" for answer in answers]


def model(*answers: Any, prefers: str = "") -> Callable[[dict], Any]:
    """Gives these answers in turn, and as a judge prefers the response that has `prefers` in its box, else says nothing."""

    def reply(body: dict) -> Any:
        if not is_judged(body):
            return said(*boxed(*answers)[: body.get("n", 1)])
        first, second = (prefers in box for box in re.findall(r"boxed\{(.*?)\}\s*\[End", body["messages"][0]["content"][-1]["text"]))
        return said("<think>Hm.</think> " + (f"\\boxed{{{1 if first else 2}}}" if first != second else ""), completion_tokens=7)

    return reply


@pytest.fixture(scope="module")
def upstream() -> StandIn:
    return StandIn(model("a"))


@pytest.fixture(scope="module")
def start(upstream: StandIn) -> Iterator[Callable[..., str]]:
    """A function of flags that starts a gateway, or returns the address of the one with the same flags."""
    gateways: dict[tuple[str, ...], str] = {}
    with contextlib.ExitStack() as stack:
        [url] = stack.enter_context(serving(upstream))

        def address(*flags: str, keep_alive: float = 10.0) -> str:
            key = (*flags, str(keep_alive))
            if key not in gateways:
                found = settings(cli.parse(["serve", "--upstream", url, "--samples", "4", "--max-retries", "0", "--weight", "0.5", *flags]))
                [gateways[key]] = stack.enter_context(serving(app.make(replace(found, keep_alive=keep_alive))))
            return gateways[key]

        address.upstream = url
        yield address


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=20, trust_env=False, verify=False) as client:
        yield client


@pytest.fixture
def post(start: Callable[..., str], upstream: StandIn, http: httpx.Client) -> Callable[..., httpx.Response]:
    """Sends a chat request to the gateway with these flags, whose upstream replies by `reply`."""
    upstream.reset()

    def send(reply: Callable[[dict], Any], body: dict | None = None, *flags: str, **more: Any) -> httpx.Response:
        upstream.reply = reply
        content = {"model": "tiny", "messages": USER} | (body or {}) | more
        return http.post(f"{start(*flags)}/chat/completions", content=json.dumps(content))

    return send


def text_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


# Selection


@pytest.mark.parametrize(
    ("answers", "prefers", "expected", "calls"),
    [
        (("4", "4", "4", "5"), "5", "4", 0),
        (("4", "5", "4", "5"), "5", "5", 2),
        (("4", "5", "4", "5"), "none", "4", 2),
        (("1/2", "0.5", "7", "7"), "7", "7", 2),
        (("4", "5", "6", "7"), "7", "7", 8),
    ],
    ids=["a clear vote is not judged", "a tie is judged", "a judge without an opinion", "equal answers are one", "all differ"],
)
def test_the_best_of_n_is_selected(post, upstream, answers: tuple, prefers: str, expected: str, calls: int) -> None:
    response = post(model(*answers, prefers=prefers), return_candidates=True)
    assert text_of(response) == boxed(expected)[0]
    assert response.headers[app.WAY] == "selected"
    told, usage = response.json()["critic_r1"], response.json()["usage"]
    assert [each["answer"] for each in told["candidates"]] == list(answers)
    assert len(told["verdicts"]) == calls == told["usage"]["judging"]["calls"]
    # Every token counts: one prompt for four candidates, and what the judge read and wrote.
    assert usage == {"prompt_tokens": 10 + 10 * calls, "completion_tokens": 20 + 7 * calls, "total_tokens": 30 + 17 * calls}
    assert len(upstream.asked) == 1 + calls


def test_what_the_upstream_is_asked(post, upstream) -> None:
    sent = {"temperature": 0, "max_completion_tokens": 9, "top_k": 5, "seed": 3, "response_format": {"type": "text"}, "user": "u"}
    response = post(model("4", "5", "6", "6", prefers="5"), sent, best_of=4)
    assert "candidates" not in response.json()["critic_r1"]
    asked, *judged = upstream.asked
    # Greedy candidates would all be the same.
    assert asked == {"model": "tiny", "messages": USER, "n": 4} | sent | {"temperature": 1.0}
    assert all(body["temperature"] == 0 and body["max_tokens"] == 2048 and body["model"] == "tiny" for body in judged)
    assert all("top_k" not in body and "response_format" not in body for body in judged)


@pytest.mark.parametrize("refuses", [False, True], ids=["ignores n", "refuses n"])
def test_a_server_that_gives_one_choice_is_asked_for_each(start, upstream, http, refuses: bool) -> None:
    def reply(body: dict) -> Any:
        if refuses and "n" in body:
            return 400, {"error": {"message": "Unsupported parameter: 'n'", "param": "n"}}, {}
        return said(*boxed(body["seed"]))

    upstream.reset()
    upstream.reply = reply
    address = start("--max-samples", "9" if refuses else "8")
    for _ in range(2):
        response = http.post(f"{address}/chat/completions", json={"messages": USER, "seed": 5, "return_candidates": True})
        assert [each["answer"] for each in response.json()["critic_r1"]["candidates"]] == ["5", "6", "7", "8"]
    assert sum("n" in body for body in upstream.asked) == 1


def test_some_candidates_fail(start, upstream, http) -> None:
    upstream.reset()
    upstream.reply = lambda body: (500, {}, {}) if body["seed"] in (1, 3) else said(*boxed("4"))
    response = http.post(f"{start('--max-samples', '7')}/chat/completions", json={"messages": USER, "seed": 0})
    assert text_of(response) == boxed("4")[0]
    assert {key: response.json()["critic_r1"][key] for key in ("samples", "failed")} == {"samples": 2, "failed": 2}


@pytest.mark.parametrize(
    ("status", "fails", "calls", "samples"),
    [
        (500, lambda body: "n" in body, 5, 4),
        (500, lambda body: "n" in body or body["seed"] == 2, 5, 3),
        # A server that is down is not asked for each candidate, and a request that is wrong is not sent again.
        (503, lambda body: True, 2, 0),
        (400, lambda body: True, 1, 0),
    ],
)
def test_all_candidates_fail_at_once(post, upstream, status: int, fails: Callable[[dict], bool], calls: int, samples: int) -> None:
    response = post(lambda body: (status, {}, {}) if fails(body) else said(*boxed("4")), seed=0)
    assert len(upstream.asked) == calls
    if samples:
        assert text_of(response) == boxed("4")[0]
        assert {key: response.json()["critic_r1"][key] for key in ("samples", "failed")} == {"samples": samples, "failed": 4 - samples}
        # It gives several at once again as soon as it can.
        assert text_of(post(model(4, 4, 4, 4))) == boxed("4")[0] and "n" in upstream.asked[-1]
    else:
        assert response.status_code == status


def test_verdicts_fail(post) -> None:
    answers = model("4", "5", "4", "5")
    response = post(lambda body: (500, {}, {}) if is_judged(body) else answers(body))
    assert text_of(response) == boxed("4")[0]
    assert response.json()["critic_r1"]["verdicts_failed"] == 2


def test_the_revised_answer_is_the_answer(post) -> None:
    def reply(body: dict) -> Any:
        return said("Not 4. \\boxed{9}") if "[Response]" in json.dumps(body) else said(*boxed(4, 4, 4, 4))

    assert text_of(post(reply, None, "--method", "refine")) == "Not 4. \\boxed{9}"


def test_refusals_and_reasoning_stay_as_they_are(post) -> None:
    refusal = {"role": "assistant", "content": None, "refusal": "I will not."}
    response = post(lambda body: said("") | {"choices": [{"index": 0, "message": refusal, "finish_reason": "stop"}]})
    assert response.json()["choices"][0]["message"] == refusal
    thought = {"role": "assistant", "content": "\\boxed{4}", "reasoning_content": "2 + 2"}
    choice = {"index": 0, "message": thought, "finish_reason": "length", "token_ids": [7]}
    assert post(lambda body: said("") | {"choices": [choice] * 4}).json()["choices"] == [choice]


def test_a_server_that_does_not_count_has_no_usage(post) -> None:
    response = post(lambda body: said(*boxed(4, 4, 4, 4), usage=None), best_of=4)
    assert response.json()["usage"] is None


def test_the_weight_of_verdicts_is_learnt() -> None:
    """A judge that was never seen to agree with itself counts little, and one that was seen to disagree breaks ties of votes only."""
    trust = Trust(None)
    weights = []
    for choices in [("1", "2")] * 40 + [("1", "1"), ("2", "2")] * 60:
        weights.append(trust.options.weight)
        trust.learn(
            {Call("pair", shown): Verdict(choice, "parsed", "", {}) for shown, choice in zip(((0, 3), (3, 0)), choices, strict=True)}
        )
        trust.learn({Call("pair", (0, 1)): None, Call("pair", (1, 0)): None})
    assert weights[0] < 0.1 and trust.options.weight == TIE_BREAK
    assert max(weights) == weights[40] == 0.8
    assert Trust(0.3).options.weight == 0.3


# What the judge sees


def image(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


@pytest.mark.parametrize(
    ("messages", "question", "num_images"),
    [
        ([{"role": "user", "content": "Who?"}], "Who?", 0),
        ([{"role": "system", "content": ""}, {"role": "user", "content": [image(PNG), text("Who?")]}], "Who?", 1),
        ([{"role": "user", "content": [text("Who?"), image(PNG)]}], "Who?", 1),
        ([{"role": "user", "content": [image(PNG), image(PNG), text("Who?")]}], "Who?", 2),
        (
            [{"role": "user", "content": [text("This"), image(PNG), text("or"), image(PNG), text("?")]}],
            "This\n[image 1]\nor\n[image 2]\n?",
            2,
        ),
        (
            [
                {"role": "system", "content": [text("Be brief.")]},
                {"role": "user", "content": [image(PNG), text("Who?")]},
                {"role": "assistant", "content": "Ann."},
                {"role": "user", "content": [text("And here?"), image(PNG)]},
            ],
            "System: Be brief.\n\nUser: [image 1]\nWho?\n\nAssistant: Ann.\n\nUser: And here?\n[image 2]",
            2,
        ),
    ],
)
def test_dialogues_are_folded_as_in_the_training_data(messages: list, question: str, num_images: int) -> None:
    found, images = request.folded(messages)
    assert (found, len(images)) == (question, num_images)


def test_images_reach_upstream_and_judge_byte_for_byte(post, upstream) -> None:
    other = PNG.replace("iVBOR", "iVBOS")
    content = [image(PNG), text("Which <image>?"), image(other) | {"image_url": {"url": other, "detail": "low"}}]
    post(model("4", "5", "6", "6", prefers="5"), messages=[{"role": "user", "content": content}])
    asked, *judged = upstream.asked
    assert asked["messages"][0]["content"] == content
    assert len(judged) == 6
    for body in judged:
        first, _, second, last = body["messages"][0]["content"]
        assert [first, second] == [content[0], content[2]]
        assert "[image 1]\nWhich < image >?\n[image 2]" in last["text"]


def test_the_judge_is_another_model_and_may_not_see_the_images(post, upstream) -> None:
    messages = [{"role": "user", "content": [image(PNG), text("Who?")]}]
    flags = ("--judge-model", "critic", "--without-image")
    post(model("4", "5", "4", "5", prefers="5"), {"messages": messages}, *flags)
    assert [body["model"] for body in upstream.asked] == ["tiny", "critic", "critic"]
    assert [len(body["messages"][0]["content"]) for body in upstream.asked] == [2, 1, 1]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "root").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "root" / "a b.png")
    Image.new("RGB", (8, 8)).save(folder / "secret.png")
    (folder / "root" / "link.png").symlink_to(folder / "secret.png")
    (folder / "root" / "text.png").write_text("no picture")
    with (folder / "root" / "large.png").open("wb") as file:
        file.truncate(2 * 2**20)
    return folder


@pytest.mark.parametrize("url", ["a b.png", "{root}/a b.png", "file://{root}/a%20b.png", "file://localhost{root}/./a%20b.png"])
def test_images_beneath_the_root(post, upstream, pictures: Path, url: str) -> None:
    root = pictures / "root"
    messages = [{"role": "user", "content": [image(url.format(root=root)), text("Who?")]}]
    text_of(post(model("4"), {"messages": messages}, "--image-root", str(root), "--max-request-mib", "1"))
    sent = upstream.asked[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert base64.b64decode(sent.removeprefix("data:image/png;base64,")) == (root / "a b.png").read_bytes()


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/a.png", "https://example.com/a.png", "ftp://x/a.png", "file://elsewhere{root}/a%20b.png", "none.png"),
        *("../secret.png", "file://{root}/../secret.png", "file://{root}/%2e%2e/secret.png", "{root}/../secret.png", "link.png"),
        *("/etc/passwd", "/dev/zero", "file:///dev/zero", "", ".", "a\0.png", "text.png", "large.png", "//[", 7, None),
    ],
)
@pytest.mark.parametrize("logprobs", [False, True], ids=["selected", "passed through"])
def test_no_other_address_is_read(post, upstream, pictures: Path, url: Any, logprobs: bool) -> None:
    root = pictures / "root"
    url = url.format(root=root) if isinstance(url, str) else url
    body = {"messages": [{"role": "user", "content": [text("Who?"), image(url)]}], "logprobs": logprobs}
    response = post(model("4"), body, "--image-root", str(root), "--max-request-mib", "1")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages[0].content[1]"
    assert str(pictures) not in response.json()["error"]["message"].replace(str(url), "")
    assert upstream.asked == []


def test_without_a_root_nothing_is_read(post, pictures: Path) -> None:
    for url in ("a b.png", f"file://{pictures}/root/a%20b.png", "https://example.com/a.png"):
        assert post(model("4"), messages=[{"role": "user", "content": [image(url)]}]).status_code == 400


# Passed through


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"logprobs": True, "top_logprobs": 2}, "logprobs"),
        ({"n": 3}, "n"),
        ({"modalities": ["text", "audio"], "audio": {"voice": "x"}}, "audio"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "content parts"),
        (
            {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AA"}}]}]},
            "content parts",
        ),
        ({"messages": [*USER, {"role": "tool", "content": "7", "tool_call_id": "1"}]}, "messages of tools"),
        ({"messages": [*USER, {"role": "assistant", "content": None, "tool_calls": [{}]}]}, "messages of tools"),
        ({"messages": [*USER, {"role": "assistant", "content": "It is"}]}, "last message"),
        ({"best_of": 1, "temperature": 0}, "best_of"),
    ],
)
def test_what_cannot_be_selected_among_is_passed_through(post, upstream, body: dict, reason: str) -> None:
    replied = b'{"choices":  [{"index": 0, "message": {"tool_calls": [{"id": "1"}]}, "logprobs": {"content": []}}], "x": "\\ud83d"}'
    response = post(lambda _: replied, body)
    assert response.content == replied
    assert response.headers[app.WAY] == f"passed-through; {reason}"
    assert upstream.asked == [{"model": "tiny", "messages": USER} | {key: value for key, value in body.items() if key != "best_of"}]


async def events(*parts: bytes, pause: float = 0, error: Exception | None = None) -> Any:
    for part in parts:
        yield part
        await asyncio.sleep(pause)
    if error:
        raise error


def test_a_passed_stream_comes_as_it_is(post) -> None:
    parts = (b'data: {"choices": [{"delta": {"tool_calls": []}}]}\n\n', b": comment\n\n", b"data: [DONE]\n\n")
    response = post(lambda _: events(*parts), tools=[TOOL], stream=True)
    assert response.content == b"".join(parts)
    assert response.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (lambda _: (429, {"error": {"message": "slow down", "code": "rate"}}, {"retry-after": "7"}), 429, "rate"),
        (lambda _: (503, b"<html>", {}), 503, "upstream_error"),
    ],
)
def test_a_passed_stream_that_fails_at_once_has_the_status(post, reply: Any, status: int, code: str) -> None:
    response = post(reply, tools=[TOOL], stream=True)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.headers.get("retry-after") == ("7" if status == 429 else None)


def test_a_passed_stream_that_breaks_says_so(post) -> None:
    response = post(lambda _: events(b"data: {}\n\n", error=Cut()), tools=[TOOL], stream=True)
    assert response.content.startswith(b"data: {}\n\n")
    assert json.loads(response.content.split(b"data: ")[-1])["error"]["code"] == "upstream_unreachable"


# Streaming


@functools.cache
def official() -> openai.OpenAI:
    return openai.OpenAI(base_url="http://127.0.0.1:9", api_key="x", max_retries=0)


def client(address: str, key: str = "x") -> openai.OpenAI:
    return official().with_options(base_url=address, api_key=key)


@pytest.mark.parametrize("include_usage", [False, True])
def test_streaming(start, upstream, include_usage: bool) -> None:
    long = "It is " + "very " * 50 + "\\boxed{4}"
    upstream.reset()
    upstream.reply = lambda body: said(*[long] * body["n"])
    more = {"stream_options": {"include_usage": True}} if include_usage else {}
    chunks = list(client(start()).chat.completions.create(model="tiny", messages=USER, stream=True, **more))
    assert "stream" not in upstream.asked[0] and "stream_options" not in upstream.asked[0]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    *parts, last = chunks if not include_usage else chunks[:-1]
    assert parts[0].choices[0].delta.role == "assistant"
    assert len(parts) > 3 and "".join(part.choices[0].delta.content for part in parts) == long
    assert last.choices[0].finish_reason == "stop"
    assert last.critic_r1["samples"] == 4
    assert not any(chunk.usage for chunk in chunks[: len(parts) + 1])
    if include_usage:
        assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 20


def test_a_stream_stays_alive_while_the_gateway_works(start, upstream, http) -> None:
    async def reply(body: dict) -> Any:
        await asyncio.sleep(0.35)
        return said(*boxed(4, 4, 4, 4))

    upstream.reply = reply
    response = http.post(f"{start(keep_alive=0.1)}/chat/completions", json={"messages": USER, "stream": True})
    assert 2 <= response.text.count(": working\n\n") <= 4
    assert response.text.endswith("data: [DONE]\n\n")
    assert "".join(re.findall(r'"content": "(.*?)"', response.text)) == "It is \\\\boxed{4}"


def test_an_error_in_a_stream(start, upstream) -> None:
    """At once it is a status, later an event."""

    async def reply(body: dict) -> Any:
        await asyncio.sleep(0 if upstream.at_once_fails else 0.3)
        return 400, {"error": {"message": "boom"}}, {}

    upstream.reply, upstream.at_once_fails = reply, True
    with pytest.raises(openai.BadRequestError, match="boom"):
        client(start(keep_alive=0.1)).chat.completions.create(model="tiny", messages=USER, stream=True)
    upstream.at_once_fails = False
    with pytest.raises(openai.APIError, match="boom"):
        list(client(start(keep_alive=0.1)).chat.completions.create(model="tiny", messages=USER, stream=True))


# Errors


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (lambda _: (500, {"error": {"message": "boom", "type": "x", "code": 7}}, {}), 500, 7),
        (lambda _: (429, {"error": {"message": "slow down"}}, {"Retry-After": "9"}), 429, "upstream_error"),
        (lambda _: (400, {"error": "too long"}, {}), 400, "upstream_error"),
        (lambda _: (400, {"error": {"message": ["too", "long"]}}, {}), 400, "upstream_error"),
        (lambda _: (404, {"detail": "Not Found"}, {}), 404, "upstream_error"),
        (lambda _: (200, {"error": {"message": "no key", "code": 401}}, {}), 401, 401),
        (lambda _: b"<html>hello</html>", 502, "upstream_malformed"),
        (lambda _: b'{"choices": [', 502, "upstream_unreachable"),
        (lambda _: {"choices": []}, 502, "upstream_malformed"),
        (lambda _: {"choices": "x"}, 502, "upstream_malformed"),
        (lambda _: {"choices": [7]}, 502, "upstream_malformed"),
        (lambda _: {"choices": [{"message": {"content": [7]}}]}, 502, "upstream_malformed"),
        (lambda _: [], 502, "upstream_malformed"),
        (lambda _: b"[" * 100_000, 502, "upstream_malformed"),
        (lambda _: (302, {}, {"Location": "http://elsewhere.example/v1"}), 502, "upstream_malformed"),
    ],
)
@pytest.mark.parametrize("passed", [False, True], ids=["selected", "passed through"])
def test_upstream_errors_have_openais_shape(post, reply: Any, status: int, code: Any, passed: bool) -> None:
    response = post(reply, {"n": 2} if passed else {})
    assert response.status_code == status, response.text
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.json()["error"]["code"] == code
    assert isinstance(response.json()["error"]["message"], str)
    assert response.headers.get("retry-after") == ("9" if status == 429 else None)


def cut(part: bytes) -> Callable[[dict], Any]:
    def reply(_: dict) -> Any:
        raise Cut(part)

    return reply


@pytest.mark.parametrize("part", [b"", b'{"choices": ['], ids=["before the body", "in its middle"])
def test_a_cut_reply(post, part: bytes) -> None:
    response = post(cut(part))
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_unreachable")


def test_nobody_listens(http, upstream) -> None:
    with serving(app.make(settings(cli.parse(["serve", "--upstream", "http://127.0.0.1:9/v1", "--max-retries", "0"])))) as [address]:
        response = http.post(f"{address}/chat/completions", json={"messages": USER})
        assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_unreachable")
        assert http.get(address.replace("/v1", "/health")).status_code == 503
        assert http.get(address.replace("/v1", "/live")).status_code == 200


@pytest.mark.parametrize(
    ("content", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b"\xff", None),
        (b"[" * 10_000, None),
        (b"{}", "messages"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": [7]}', "messages"),
        (b'{"messages": [{}], "best_of": 0}', "best_of"),
        (b'{"messages": [{}], "best_of": 33}', "best_of"),
        (b'{"messages": [{}], "best_of": true}', "best_of"),
        (b'{"messages": [{}], "return_candidates": "yes"}', "return_candidates"),
    ],
)
def test_a_malformed_request(start, http, upstream, content: bytes, param: str | None) -> None:
    upstream.reset()
    response = http.post(f"{start()}/chat/completions", content=content)
    assert (response.status_code, response.json()["error"]["param"], upstream.asked) == (400, param, [])


def test_other_routes_and_methods(start, http) -> None:
    for response, status in ((http.get(f"{start()}/nothing"), 404), (http.get(f"{start()}/chat/completions"), 405)):
        assert response.status_code == status
        assert response.json()["error"]["type"] == "invalid_request_error"


# Bounds


def test_the_key(start, http, upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "open sesame".replace(" ", "-"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-upstream")
    address = start("--samples", "2")
    upstream.reset()
    upstream.reply = lambda body: (401, {"error": {"message": "bad key sk-upstream"}}, {})
    for headers in ({}, {"Authorization": "Bearer open"}, {"Authorization": "Basic open-sesame"}, {"Authorization": "Bearer ¥".encode()}):
        response = http.post(f"{address}/chat/completions", json={"messages": USER}, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    assert upstream.asked == []
    with pytest.raises(openai.AuthenticationError, match=r"bad key \*\*\*"):
        client(address, "open-sesame").chat.completions.create(model="tiny", messages=USER)
    # The upstream gets its own key, never the client's.
    assert upstream.headers[0]["authorization"] == "Bearer sk-upstream"
    assert http.get(f"{address}/models").status_code == 401
    assert http.get(address.replace("/v1", "/health")).status_code == 200


def test_the_size_of_a_request(start, http) -> None:
    address = f"{start('--max-request-mib', '1')}/chat/completions"
    large = json.dumps({"messages": [{"role": "user", "content": "x" * 2**20}]}).encode()
    for content in (large, iter([large[:1000], large[1000:]])):
        response = http.post(address, content=content)
        assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


def waits(seconds: float, then: Any) -> Callable[[dict], Any]:
    async def reply(body: dict) -> Any:
        await asyncio.sleep(seconds)
        return then(body)

    return reply


def test_a_full_gateway_says_so(start, http, upstream) -> None:
    address = start("--max-in-flight", "2")
    upstream.reset()
    upstream.reply = waits(0.3, model(4, 4, 4, 4))
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(http.post(f"{address}/chat/completions", json={"messages": USER}).status_code))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    while upstream.at_once < 2:
        time.sleep(0.01)
    response = http.post(f"{address}/chat/completions", json={"messages": USER})
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert http.get(address.replace("/v1", "/health")).status_code == 200
    for thread in threads:
        thread.join()
    assert found == [200, 200]


def test_the_upstreams_load_is_bounded(start, http, upstream) -> None:
    address = start("--max-concurrency", "3", "--method", "round_robin")
    most = 0

    async def reply(body: dict) -> Any:
        nonlocal most
        most = max(most, upstream.at_once)
        await asyncio.sleep(0.02)
        return model(4, 5, 6, 7)(body)

    upstream.reply = reply
    assert http.post(f"{address}/chat/completions", json={"messages": USER}).json()["critic_r1"]["usage"]["judging"]["calls"] == 12
    assert most == 3


def test_time_runs_out(start, http, upstream) -> None:
    address = f"{start('--timeout', '0.2')}/chat/completions"
    upstream.reply = waits(5, model(4))
    for body in ({}, {"n": 2}, {"n": 2, "stream": True}, {"stream": True}):
        response = http.post(address, json={"messages": USER} | body)
        assert response.status_code == 504, response.text
    # The judge stalls: the votes decide.
    answers = model(4, 5, 6, 6)
    upstream.reply = lambda body: waits(5, answers)(body) if is_judged(body) else answers(body)
    response = http.post(address, json={"messages": USER})
    assert text_of(response) == boxed(6)[0]
    assert response.json()["critic_r1"]["stopped"] == "time"


@pytest.mark.parametrize(("budget", "stopped", "calls"), [("4000", "tokens", 0), ("8000", None, 2)])
def test_tokens_run_out(post, budget: str, stopped: str | None, calls: int) -> None:
    response = post(model(4, 5, 4, 5, prefers="5"), {"max_tokens": 20}, "--max-tokens-per-request", budget)
    told = response.json()["critic_r1"]
    assert (told["stopped"], told["usage"]["judging"]["calls"]) == (stopped, calls)
    assert text_of(response) == boxed(5 if calls else 4)[0]


def test_tokens_bound_the_candidates(post, upstream) -> None:
    response = post(model(4, 4, 4, 4), {"max_tokens": 100}, "--max-tokens-per-request", "250")
    assert response.json()["critic_r1"]["samples"] == upstream.asked[0]["n"] == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("more", [{}, {"tools": [TOOL]}], ids=["selected", "passed through"])
def test_work_stops_when_the_client_leaves(start, http, upstream, stream: bool, more: dict) -> None:
    upstream.reset()
    upstream.reply = waits(10, model(4))
    address = start(keep_alive=0.1)
    body = {"messages": USER, "stream": stream} | more
    with (
        contextlib.suppress(httpx.TimeoutException),
        http.stream("POST", f"{address}/chat/completions", json=body, timeout=0.3) as response,
    ):
        next(response.iter_raw())
    deadline = time.monotonic() + 5
    while upstream.left < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (upstream.left, upstream.at_once) == (1, 0)
    page = http.get(address.replace("/v1", "/metrics")).text
    assert re.search(r"^critic_r1_in_flight 0\.0$", page, re.MULTILINE)


# Other routes


@pytest.mark.parametrize(("prefers", "preferred"), [("4", "1"), ("5", "2"), ("none", None)])
def test_judge(start, http, upstream, prefers: str, preferred: str | None) -> None:
    upstream.reset()
    upstream.reply = model(prefers=prefers)
    body = {"model": "tiny", "question": "How many?", "images": [PNG], "responses": boxed(4, 5)}
    found = http.post(f"{start()}/judge", json=body).json()
    assert found["preferred"] == preferred
    assert [judged["order"] for judged in found["judgements"]] == ["12", "21"]
    assert {judged["status"] for judged in found["judgements"]} == {"parsed" if preferred else "missing"}
    assert found["usage"] == {"prompt_tokens": 20, "completion_tokens": 14, "total_tokens": 34}
    assert all(asked["messages"][0]["content"][0] == image(PNG) for asked in upstream.asked)


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"question": 7}, "question"),
        ({"responses": ["a"]}, "responses"),
        ({"responses": ["a", 7]}, "responses"),
        ({"images": "a"}, "images"),
        ({"images": ["https://example.com/a.png"]}, "images[0]"),
        ({"images": [7]}, "images[0]"),
    ],
)
def test_judge_is_asked_wrongly(start, http, wrong: dict, param: str) -> None:
    response = http.post(f"{start()}/judge", json={"question": "Q", "responses": ["a", "b"]} | wrong)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_judge_fails(start, http, upstream) -> None:
    upstream.reply = lambda _: (500, {}, {})
    assert http.post(f"{start()}/judge", json={"question": "Q", "responses": ["a", "b"]}).status_code == 500


def test_models_health_and_metrics(start, http, upstream, post) -> None:
    assert [each.id for each in client(start()).models.list()] == ["tiny"]
    assert http.get(start().replace("/v1", "/health")).json() == {"status": "ok"}
    page = start().replace("/v1", "/metrics")

    def value(name: str) -> float:
        return sum(float(line.split()[-1]) for line in http.get(page).text.splitlines() if line.startswith(name))

    names = [
        'critic_r1_tokens_total{kind="prompt",part="judging"}',
        "critic_r1_candidates_total",
        'critic_r1_requests_total{path="/v1/chat',
    ]
    before = [value(name) for name in names]
    post(model(4, 5, 4, 5))
    assert [value(name) - old for name, old in zip(names, before, strict=True)] == [20, 4, 1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "oracle"], "--method oracle: give one of single"),
        (["--samples", "40"], "more than --max-samples"),
        (["--temperature", "0"], "greedy samples are all the same"),
        (["--image-root", "/nowhere"], "no such folder"),
        (["--timeout", "0"], "--timeout must be above 0"),
        (["--template", "policy"], "the text has no placeholder"),
        (["--judge-upstream", "ftp://user:secret@x/v1"], r"--judge-upstream ftp://\*\*\*@x/v1: not a URL"),
    ],
)
def test_wrong_flags(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        app.make(settings(cli.parse(["serve", "--upstream", "http://127.0.0.1:9/v1", *flags])))


def test_what_is_not_finished_in_time_gets_an_error() -> None:
    sent: list[dict] = []

    async def send(part: dict) -> None:
        sent.append(part)

    async def cancelled() -> None:
        stuck = bounds.Guard(lambda *_: asyncio.sleep(10), "", 1, Metrics())
        task = asyncio.create_task(stuck({"type": "http", "method": "POST", "path": "/v1/judge", "headers": []}, None, send))
        await asyncio.sleep(0)
        task.cancel()
        await task

    asyncio.run(cancelled())
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"])["error"]["code"] == "gateway_stopping"


def test_the_process_finishes_what_is_in_flight(start, upstream, http) -> None:
    upstream.reset()
    upstream.reply = waits(0.5, model(4, 4, 4, 4))
    command = [sys.executable, "-m", "critic_r1_verl.cli", "serve", "--upstream", start.upstream, "--samples", "4", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    address = process.stdout.readline().split()[-1]
    found: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: found.append(http.post(f"{address}/chat/completions", json={"messages": USER}, timeout=20)))
    thread.start()
    while not upstream.asked:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    thread.join()
    assert text_of(found[0]) == boxed(4)[0]
    assert process.wait(10) == 0
    assert process.stderr.read() == ""
