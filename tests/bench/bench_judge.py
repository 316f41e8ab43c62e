# SPDX-License-Identifier: Apache-2.0
"""Pairs a second of `critic-r1 eval`, on the CPU stack with an untaught small model that writes its full number of tokens, against

- vLLM's own LLM.generate on the same prompts, all given at once with their pictures open: goal at least 0.95 of it
- the same server asked one request at a time (the endpoint's client with one in flight, against its default)
- lmms-eval, where one is installed: see bench_lmms_eval.py

    python tests/bench/bench_judge.py [--pairs 256] [--runs 3] [--json]
    python tests/bench/bench_judge.py --scale 128 512 2048 [--json]    # peak memory of a whole run over so many pairs

Each run judges all pairs in both orders with empty caches; the two that are compared take turns. A ratio is that of the runs' medians.
"""

import argparse
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ |= {"VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "1"}
TOKENS = 24


def world(folder: Path, num_pairs: int) -> Path:
    """An untaught base, and held-out pairs."""
    from critic_r1_verl import tiny
    from data_prep import build

    size = build.DigitsSize(policy_lessons=50, critic_lessons=50, train_pairs=4, val_pairs=4, test_pairs=num_pairs, test_questions=4)
    build.build_digits(folder / "data", size)
    lessons = [json.loads(line) for line in (folder / "data" / "lessons.jsonl").read_text().splitlines()]
    tiny.build([lesson[key] for lesson in lessons for key in ("prompt", "response")], folder / "base")
    return folder


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def judging(generator: Any, folder: Path, protocol: Any) -> Callable[[], Any]:
    """The whole work of judging: reading pictures, prompts, texts, verdicts, the journal."""
    from critic_r1_verl.judge import judge
    from critic_r1_verl.records import PairRecord, read_jsonl

    pairs = read_jsonl(folder / "data" / "test_pairs.jsonl", PairRecord)

    def work() -> None:
        out = folder / "judgements.jsonl"
        out.unlink(missing_ok=True)
        assert len(judge(pairs, generator, protocol, out, root=folder / "data")) == 2 * len(pairs)

    return work


def against_vllm(folder: Path, num_pairs: int, num_runs: int) -> dict[str, float]:
    from critic_r1_verl import prompts
    from critic_r1_verl.generate import Sampling, VllmGenerator
    from critic_r1_verl.judge import ORDERS, Protocol, request
    from critic_r1_verl.records import PairRecord, read_jsonl

    generator = VllmGenerator(folder / "base")
    # After the generator, which makes vLLM quiet before it is imported.
    from vllm import SamplingParams

    protocol = Protocol(prompts.load("critic_short"), Sampling(TOKENS))
    pairs = read_jsonl(folder / "data" / "test_pairs.jsonl", PairRecord)
    ready = [generator._prompt(request(pair, order, protocol, folder / "data")) for pair in pairs for order in ORDERS]
    llm = generator._llm
    ours, theirs = [], []
    # The first turn warms both up.
    for _ in range(num_runs + 1):
        for times, work in (
            (ours, judging(generator, folder, protocol)),
            (theirs, lambda: llm.generate(ready, SamplingParams(temperature=0, max_tokens=TOKENS, seed=0), use_tqdm=False)),
        ):
            llm.reset_prefix_cache()
            llm.reset_mm_cache()
            times.append(seconds(work))
    return {
        "pairs_per_second": num_pairs / statistics.median(ours[1:]),
        "vllm_generate_pairs_per_second": num_pairs / statistics.median(theirs[1:]),
        "ratio_to_vllm_generate": statistics.median(theirs[1:]) / statistics.median(ours[1:]),
    }


@contextmanager
def served(model: Path) -> Iterator[str]:
    """vLLM's own server over a model, as a process of its own; yields its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--max-num-batched-tokens", "4096"]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1"}
    with (model.parent / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        while subprocess.run(["curl", "-sf", f"{url}/models"], capture_output=True, check=False).returncode:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended: {(model.parent / 'server.log').read_text()[-2000:]}")
            time.sleep(0.5)
        yield url
    finally:
        # The server's engine is a process of its own, in the server's session.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def against_one_at_a_time(folder: Path, url: str, num_pairs: int, num_runs: int) -> dict[str, float]:
    from critic_r1_verl import prompts
    from critic_r1_verl.endpoint import Endpoint
    from critic_r1_verl.generate import Sampling
    from critic_r1_verl.judge import Protocol

    protocol = Protocol(prompts.load("critic_short"), Sampling(TOKENS))
    many, one = [], []
    for _ in range(num_runs):
        for times, generator in ((many, Endpoint(url)), (one, Endpoint(url, in_flight=1))):
            times.append(seconds(judging(generator, folder, protocol)))
    return {
        "endpoint_pairs_per_second": num_pairs / statistics.median(many),
        "one_at_a_time_pairs_per_second": num_pairs / statistics.median(one),
        "ratio_to_one_at_a_time": statistics.median(one) / statistics.median(many),
    }


def peak_memory(num_pairs: int) -> dict[str, float]:
    """MiB at the end of a run of its own over so many pairs."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = world(Path(temporary), num_pairs)
        done = subprocess.run([sys.executable, __file__, "--peak-of", str(folder)], capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])


def peak(folder: Path) -> None:
    from critic_r1_verl import prompts
    from critic_r1_verl.generate import Sampling, VllmGenerator
    from critic_r1_verl.judge import Protocol

    work = judging(VllmGenerator(folder / "base"), folder, Protocol(prompts.load("critic_short"), Sampling(TOKENS)))
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    work()
    print(json.dumps({"loaded_mib": loaded, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scale", type=int, nargs="+", metavar="PAIRS")
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.peak_of:
        peak(arguments.peak_of)
        return 0
    if arguments.scale:
        found = {str(num_pairs): peak_memory(num_pairs) for num_pairs in arguments.scale}
        rows = [
            (f"{num_pairs} pairs", f"{each['loaded_mib']:.0f} MiB loaded, {each['peak_mib']:.0f} MiB at the peak")
            for num_pairs, each in found.items()
        ]
    else:
        with tempfile.TemporaryDirectory() as temporary:
            folder = world(Path(temporary), arguments.pairs)
            found = against_vllm(folder, arguments.pairs, arguments.runs)
            with served(folder / "base") as url:
                found |= against_one_at_a_time(folder, url, arguments.pairs, arguments.runs)
        rows = [
            ("eval in process", f"{found['pairs_per_second']:.1f} pairs/s"),
            (
                "vLLM's generate",
                f"{found['vllm_generate_pairs_per_second']:.1f} pairs/s, ratio {found['ratio_to_vllm_generate']:.2f} (goal: 0.95)",
            ),
            ("eval on a server", f"{found['endpoint_pairs_per_second']:.1f} pairs/s"),
            ("one at a time", f"{found['one_at_a_time_pairs_per_second']:.1f} pairs/s, ratio {found['ratio_to_one_at_a_time']:.1f}"),
        ]
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(f"{name:<18} {text}" for name, text in rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
