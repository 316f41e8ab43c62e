# SPDX-License-Identifier: Apache-2.0
"""`critic-r1 eval` and `select` with vLLM itself on the CPU: killed and resumed, in several processes, and through vLLM's own server."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from critic_r1_verl import supervise

ENVIRONMENT = {**os.environ, "VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "1"}


def command(world: Path, verb: str, out: str, *engine: str) -> list[str]:
    more = {"eval": ("--repeats", "2"), "select": ("--samples", "4")}[verb]
    return [
        *(sys.executable, "-m", "critic_r1_verl.cli", verb, "--data", str(world / "data"), "--max-tokens", "24", *more),
        *("--seed", "3", "--out", str(world / out), "--json", *(engine or ("--model", str(world / "base")))),
    ]


def lines(world: Path, out: str, name: str = "judgements") -> list[bytes]:
    file = world / out / "test" / f"{name}.jsonl"
    return file.read_bytes().splitlines() if file.is_file() else []


def run(world: Path, verb: str, out: str, *engine: str) -> dict:
    done = subprocess.run(command(world, verb, out, *engine), env=ENVIRONMENT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (metrics,) = json.loads(done.stdout)
    assert json.loads((world / out / "test" / "metrics.json").read_text()) == metrics
    return metrics


def killed(world: Path, verb: str, out: str, name: str, number: int = 1) -> list[bytes]:
    """The lines of a file when the command that writes it was killed, after it had written so many."""
    process = subprocess.Popen(command(world, verb, out), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(lines(world, out, name)) < number:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return lines(world, out, name)


@pytest.fixture(scope="module")
def undisturbed(world: Path) -> dict:
    return run(world, "eval", "whole")


def test_a_killed_evaluation_resumes_and_ends_the_same(world: Path, undisturbed: dict) -> None:
    cut = killed(world, "eval", "cut", "judgements")
    # Else the kill came too late to show anything.
    assert 0 < len(cut) < len(lines(world, "whole"))
    assert run(world, "eval", "cut") == undisturbed
    for name in ("judgements", "answers", "records"):
        assert lines(world, "cut", name) == lines(world, "whole", name)
    assert undisturbed["counts"] == {"items": 64, "pairs": 64, "repeats": 2, "questions": 4, "samples": 0}


# tests/test_select.py ends a selection at several steps, with a scripted model, and tests/e2e/test_training.py runs one with vLLM.
@pytest.mark.nightly
def test_a_killed_selection_resumes_and_ends_the_same(world: Path, undisturbed: dict) -> None:
    selected = run(world, "select", "whole")
    assert selected["critic"] == undisturbed["critic"] and selected["policy"]["greedy"] == undisturbed["policy"]["greedy"]
    assert selected["counts"]["samples"] == 4 and selected["policy"]["knockout"]["n"] == 4
    # Without a verdict every match is undecided, and so there are as many as a knock-out has: 3 a question in both orders.
    assert len(killed(world, "select", "cut_selection", "matches", 3)) < len(lines(world, "whole", "matches"))
    assert run(world, "select", "cut_selection")["policy"]["knockout"] == selected["policy"]["knockout"]
    assert lines(world, "cut_selection", "matches") == lines(world, "whole", "matches")
    assert lines(world, "cut_selection", "selections") == lines(world, "whole", "selections")
    computed = subprocess.run(
        [sys.executable, "-m", "critic_r1_verl.cli", "score", str(world / "whole"), "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(computed.stdout) == [selected]


def test_two_engines_judge_as_one(world: Path, undisturbed: dict) -> None:
    metrics = run(world, "eval", "two", "--model", str(world / "base"), "--data-parallel-size", "2")
    assert metrics == undisturbed
    assert lines(world, "two") == lines(world, "whole")
    deadline = time.monotonic() + 30
    while leftovers := [run for run in supervise.SHM.glob(f"critic_r1_run_{os.geteuid()}_*.json")]:
        assert time.monotonic() < deadline, leftovers
        time.sleep(0.2)


def test_a_base_that_looks_at_pictures_as_closely_as_the_7b_ones_starts(world: Path) -> None:
    """vLLM prepares the largest picture that a base takes, 0.3 GB at 12,845,056 pixels, while it starts."""
    base = world / "close"
    shutil.copytree(world / "base", base)
    config = json.loads((base / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 32768
    # Else attention over the whole picture takes minutes.
    config["vision_config"]["fullatt_block_indexes"] = []
    (base / "config.json").write_text(json.dumps(config))
    processor = json.loads((base / "processor_config.json").read_text())
    processor["image_processor"]["size"]["longest_edge"] = 12_845_056
    (base / "processor_config.json").write_text(json.dumps(processor))
    picture = next((world / "data" / "images").rglob("*.png"))
    words = ("--image", str(picture), "--question", "Which?", "--response", "left", "--response", "right", "--max-tokens", "4", "--json")
    arguments = [sys.executable, "-m", "critic_r1_verl.cli", "judge", "--model", str(base), *words]
    done = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(json.loads(done.stdout)["judgements"]) == 2


@pytest.fixture(scope="module")
def server(world: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [
        "--model",
        str(world / "base"),
        "--served-model-name",
        "critic",
        "--port",
        str(port),
        "--dtype",
        "float32",
        "--enforce-eager",
    ]
    run_id = supervise.new_id()
    environment = {**ENVIRONMENT, "VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1", supervise.RUN: run_id}
    log = (world / "server.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments],
        env=environment,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    supervise.watch(run_id, process.pid, training=False)
    try:
        import httpx

        deadline = time.monotonic() + 300
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert process.poll() is None and time.monotonic() < deadline, (world / "server.log").read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()
        # vLLM would leave its engine and 400 MB in /dev/shm.
        assert supervise.wait(run_id, 60)


def test_vllms_own_server_judges_alike(world: Path, undisturbed: dict, server: str) -> None:
    run(world, "eval", "served", "--base-url", server)
    here, there = ([json.loads(line) for line in lines(world, out)] for out in ("whole", "served"))
    assert {(line["pair_id"], line["order"], line["repeat"]) for line in there} == {
        (line["pair_id"], line["order"], line["repeat"]) for line in here
    }
    assert {line["model"] for line in there} == {"critic"}
    # Both count the same prompt; what is drawn may differ with the batches.
    assert [line["prompt_tokens"] for line in there] == [line["prompt_tokens"] for line in here]
    assert all(line["completion_tokens"] for line in there)
