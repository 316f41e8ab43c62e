# SPDX-License-Identifier: Apache-2.0
"""lmms-eval's own code on a task like MMStar's, offline: asked of a stub on loopback, killed and gone on with, and of a checkpoint.

What lmms-eval writes about the stub is golden/lmms_eval/, which the unit tests read.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytestmark = pytest.mark.nightly

TASKS = Path(__file__).with_name("lmms_eval")
GOLDEN = Path(__file__).parents[1] / "golden" / "lmms_eval"
NUM_ITEMS = 8


class Stub(ThreadingHTTPServer):
    """A server that knows one digit, refuses picture 2, and answers at most `budget` requests; the others wait."""

    def __init__(self, budget: int = 1000) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.left = threading.Semaphore(budget)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_GET(self) -> None:
        self.reply(200, {"object": "list", "data": [{"id": "stub", "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        parts = body["messages"][-1]["content"]
        assert [part["type"] for part in parts] == ["image_url", "text"] and body["max_tokens"] == 16
        text = parts[1]["text"]
        self.server.asked.append(text)
        if "picture 2" in text:
            return self.reply(400, {"error": {"message": f"no answers about picture 2, {self.headers['Authorization']}"}})
        self.server.left.acquire()
        said = "0" if "picture 0" in text else "<think>It may be 6.</think>1"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
        self.reply(200, {"id": "1", "object": "chat.completion", "created": 1, "model": "stub", "choices": [choice], "usage": usage})

    def reply(self, status: int, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder with the data of the task: of the questions every other one has the same words."""
    rows = []
    for number in range(NUM_ITEMS):
        with io.BytesIO() as stream:
            Image.new("RGB", (56, 56), (30 * number, 10, 10)).save(stream, "PNG")
            question = "Which digit is shown?" if number % 2 else f"Which digit is in picture {number}?"
            rows.append({"picture": stream.getvalue(), "question": question, "answer": str(number)})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "picture_digits.parquet")
    yield tmp_path


def command(*words: str) -> list[str]:
    words = ("--task", "picture_digits", "--include-path", str(TASKS), "--out", "out", "--max-refused", "0.2", "--json", *words)
    return [sys.executable, "-m", "critic_r1_verl.cli", "eval-policy", *words]


def run(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "hf"), "OPENAI_API_KEY": "sk-of-nobody"}
    return subprocess.run(command(*words), cwd=home, env=environment, capture_output=True, text=True, timeout=600, check=False)


def test_a_server_is_asked_and_what_lmms_eval_hides_is_seen(home: Path) -> None:
    stub = Stub()
    done = run(home, "--base-url", stub.url)
    assert done.returncode == 0, done.stderr
    (metrics,) = json.loads(done.stdout)
    folder = home / "out" / "picture_digits" / "lmms_eval"
    for name in ("items.jsonl", "results.json"):
        if os.environ.get("CRITIC_R1_WRITE_GOLDEN"):
            shutil.copy(folder / name, GOLDEN / name)
        assert (folder / name).read_text() == (GOLDEN / name).read_text()
    # Two answers hold the digit, and so does the error message, which lmms-eval takes for an answer.
    assert metrics["official"] == {"overall": 0.375, "groups": {"small": 0.75}}
    assert metrics["policy"]["greedy"]["value"] == 0.25
    assert metrics["policy"]["refused"]["value"] == 0.125
    assert not [file for file in home.rglob("*") if file.is_file() and b"sk-of-nobody" in file.read_bytes()]
    asked = len(stub.asked)
    assert run(home, "--base-url", stub.url).stdout == done.stdout and len(stub.asked) == asked


def test_a_killed_run_asks_only_for_what_is_missing(home: Path) -> None:
    stub = Stub(budget=3)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "hf")}
    process = subprocess.Popen(command("--base-url", stub.url), cwd=home, env=environment, start_new_session=True)
    journal = home / "out" / "picture_digits" / "lmms_eval" / "responses.jsonl"
    deadline = time.monotonic() + 300
    while not journal.is_file() or len(journal.read_text().split()) < 3 or len(stub.asked) < NUM_ITEMS:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # As if the kill had come in the middle of a line.
    with journal.open("a") as stream:
        stream.write('\n{"asked": {"doc_id": 7')
    other = Stub()
    done = run(home, "--base-url", other.url)
    assert done.returncode == 0, done.stderr
    assert len({*other.asked}) < NUM_ITEMS and len([text for text in other.asked if "picture 2" not in text]) == NUM_ITEMS - 3 - 1
    assert json.loads(done.stdout)[0]["policy"]["greedy"]["value"] == 0.25


def test_a_checkpoint_is_served_and_measured(home: Path, world: Path) -> None:
    done = run(home, "--model", str(world / "base"), "--max-tokens", "8")
    assert done.returncode == 0, done.stderr + (home / "out" / "lmms_eval.log").read_text()[-2000:]
    (metrics,) = json.loads(done.stdout)
    assert metrics["policy"]["greedy"]["n"] == NUM_ITEMS and metrics["policy"]["refused"] is None
    assert metrics["model"] == str(world / "base")
    answers = [json.loads(line) for line in (home / "out" / "picture_digits" / "answers.jsonl").open()]
    assert all(0 < answer["completion_tokens"] <= 8 for answer in answers)
