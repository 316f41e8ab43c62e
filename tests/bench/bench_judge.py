# SPDX-License-Identifier: Apache-2.0
"""Pairs a second of `critic-r1 eval`, on the CPU stack with an untaught small model that writes its full number of tokens, against

- vLLM's own offline throughput: LLM.generate in a process of its own, as it comes, on the same prompts, all given at once with their
  pictures decoded: goal at least 0.95 of it; and the same within our engine, a limit that no evaluation reaches, as it decodes nothing
- the same server asked one request at a time (the endpoint's client with one in flight, against its default)
- lmms-eval (0.7.3 was measured) judging the same prompts: its in-process vllm model, as it comes (one request a batch) and in batches of
  256, against ours in process, and its client for a server, as it comes (requests in flight by the number of cores) and with as many in
  flight as ours, against ours on the same server: goal 3x; with --lmms-eval, the Python of an environment that has it (`make bench`)

and the peak memory of a whole evaluation, scores included, over few and over many pairs.

    python tests/bench/bench_judge.py [--pairs 192] [--runs 5] [--lmms-eval PYTHON] [--scale 512 4096] [--json]

Each run judges all pairs in both orders with empty caches; those that are compared take turns (--runs in process, 2 on a server), after a
first turn that warms up. A ratio is the median of the turns' (of lmms-eval in process, which loads an engine of its own for each run: that
of the runs' medians). Peak memory is that of the whole process, the engine's caches in it.
"""

import argparse
import json
import os
import resource
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
ENGINE = {"VLLM_CPU_KVCACHE_SPACE": "1", "TORCHDYNAMO_DISABLE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
"""How VllmEngine sets up the engine on a CPU, for those of others."""
SETTLE_SECONDS = 2
"""Between runs: threads of the engine that has just worked spin for a while, on the cores that the next one needs."""
SLOW_RUNS = 2
"""Of lmms-eval, which takes half a minute to start, and of a server asked one request at a time; their ratios are large."""


def world(folder: Path, num_pairs: int) -> Path:
    """An untaught base, and held-out pairs."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import small_world

    return small_world.make(folder, test_pairs=num_pairs)


def held_out(folder: Path) -> Any:
    """The test pairs of a world."""
    from critic_r1_verl.records import PairRecord, RecordFile

    return RecordFile(folder / "data" / "records.jsonl", PairRecord, "test")


def timed(work: Callable[[], Any]) -> Callable[[], float]:
    """The work as a function that returns the seconds it took."""

    def seconds() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return seconds


def judging(engine: Any, folder: Path, critic: Any) -> Callable[[], Any]:
    """The whole work of judging: reading pictures, prompts, texts, verdicts, the journal."""
    from critic_r1_verl.judge import judge

    pairs = held_out(folder)
    num_pairs = sum(1 for _ in pairs)

    def work() -> None:
        out = folder / "judgements.jsonl"
        out.unlink(missing_ok=True)
        assert sum(1 for _ in judge(pairs, engine, critic, out, root=folder / "data")) == 2 * num_pairs

    return work


def against_vllm(folder: Path, num_pairs: int, num_runs: int) -> dict[str, float]:
    from critic_r1_verl import prompts
    from critic_r1_verl.critics.pairwise import PairwiseCritic
    from critic_r1_verl.engines.base import Sampling
    from critic_r1_verl.engines.vllm import VllmEngine
    from critic_r1_verl.records import ORDERS

    engine = VllmEngine(folder / "base")
    critic = PairwiseCritic(prompts.load("critic_short"), Sampling(TOKENS))
    requests = [critic.request(pair, order, folder / "data") for pair in held_out(folder) for order in ORDERS]
    texts = [engine._prompt(each)["prompt"] for each in requests]
    shown = [{"prompt": text, "images": list(map(str, each.images))} for text, each in zip(texts, requests, strict=True)]
    (folder / "shown.json").write_text(json.dumps(shown))
    with vllm_as_it_comes(folder) as generate:
        ways = {
            "eval": timed(judging(engine, folder, critic)),
            "vllm_generate": generate,
            "within_our_engine": timed(generating(engine._llm, folder)),
        }
        return in_turns(ways, lambda: empty(engine._llm), num_pairs, num_runs)


def empty(llm: Any) -> None:
    llm.reset_prefix_cache()
    llm.reset_mm_cache()


def generating(llm: Any, folder: Path) -> Callable[[], Any]:
    """vLLM's own work on the prompts of shown.json, whose pictures are decoded beforehand."""
    from PIL import Image
    from vllm import SamplingParams

    ready = []
    for each in json.loads((folder / "shown.json").read_text()):
        pictures = [Image.open(path).convert("RGB") for path in each["images"]]
        ready.append({"prompt": each["prompt"], "multi_modal_data": {"image": pictures}})
    return lambda: llm.generate(ready, SamplingParams(temperature=0, max_tokens=TOKENS, seed=0), use_tqdm=False)


def generate_as_it_comes(folder: Path) -> None:
    """A process of its own: for each line on stdin one run with empty caches, its seconds on stdout."""
    from vllm import LLM

    llm = LLM(model=str(folder / "base"), seed=0, dtype="float32", enforce_eager=True)
    work = timed(generating(llm, folder))
    for _ in sys.stdin:
        empty(llm)
        print(json.dumps({"seconds": work()}), flush=True)


@contextmanager
def supervised(command: list[str], environment: dict[str, str], **options: Any) -> Iterator[subprocess.Popen]:
    """A process that is killed in the end; its supervisor then ends vLLM's engine, another process, and frees its shared memory."""
    from critic_r1_verl import supervise

    run_id = supervise.new_id()
    process = subprocess.Popen(command, env={**environment, supervise.RUN: run_id}, start_new_session=True, **options)
    try:
        supervise.watch(run_id, process.pid, training=False)
        yield process
    finally:
        process.kill()
        process.wait()
        supervise.wait(run_id, 60)


@contextmanager
def vllm_as_it_comes(folder: Path) -> Iterator[Callable[[], float]]:
    """A function that runs generate_as_it_comes once and returns its seconds."""
    # Ours set it to 0.
    environment = {name: value for name, value in os.environ.items() if name != "VLLM_ENABLE_V1_MULTIPROCESSING"} | ENGINE
    command = [sys.executable, __file__, "--generate-of", str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with (folder / "generate.log").open("wb") as log, supervised(command, environment, stderr=log, **pipes) as process:
        assert process.stdin and process.stdout

        def run() -> float:
            process.stdin.write("\n")
            process.stdin.flush()
            for line in process.stdout:
                if line.startswith('{"seconds"'):
                    return json.loads(line)["seconds"]
            raise RuntimeError(f"vLLM ended: {(folder / 'generate.log').read_text()[-2000:]}")

        yield run


def in_turns(ways: dict[str, Callable[[], float]], prepare: Callable[[], None], num_pairs: int, num_runs: int) -> dict[str, float]:
    """The speed of each way, and the ratio of the first to each other; prepare() is called before each run."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(num_runs + 1):
        for way, work in ways.items():
            prepare()
            time.sleep(SETTLE_SECONDS)
            times[way].append(work())
    # The first turn warmed up.
    measured = {way: each[1:] for way, each in times.items()}
    ours, *others = measured
    found = {f"{way}_pairs_per_second": num_pairs / statistics.median(each) for way, each in measured.items()}
    for way in others:
        ratios = [other / own for other, own in zip(measured[way], measured[ours], strict=True)]
        found[f"ratio_to_{way}"] = statistics.median(ratios)
        found |= {f"least_ratio_to_{way}": min(ratios), f"greatest_ratio_to_{way}": max(ratios)}
    return found


def answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


@contextmanager
def served(model: Path) -> Iterator[str]:
    """vLLM's own server over a model, as a process of its own; yields its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--max-num-batched-tokens", "1024"]
    # In development mode its caches can be emptied.
    environment = {**os.environ, **ENGINE, "VLLM_SERVER_DEV_MODE": "1"}
    with (model.parent / "server.log").open("wb") as log, supervised(command, environment, stdout=log, stderr=log) as process:
        while not answers(f"{url}/models"):
            if process.poll() is not None:
                raise RuntimeError(f"the server ended: {(model.parent / 'server.log').read_text()[-2000:]}")
            time.sleep(0.5)
        yield url


def against_others_on_a_server(folder: Path, num_pairs: int, lmms_eval: Path | None) -> dict[str, float]:
    import httpx

    from critic_r1_verl import prompts
    from critic_r1_verl.critics.pairwise import PairwiseCritic
    from critic_r1_verl.engines.base import Sampling
    from critic_r1_verl.engines.openai_client import OpenAIEngine

    critic = PairwiseCritic(prompts.load("critic_short"), Sampling(TOKENS))
    with served(folder / "base") as url:
        many = OpenAIEngine(url)
        ways = {
            "endpoint": timed(judging(many, folder, critic)),
            "one_at_a_time": timed(judging(OpenAIEngine(url, max_concurrency=1), folder, critic)),
        }
        if lmms_eval:
            write_prompts(folder)
            default = max(1, (os.cpu_count() or 2) // 2)
            ways["lmms_eval_on_a_server"] = lambda: lmms_eval_seconds(lmms_eval, folder, url, many.name, default)
            ways["lmms_eval_on_a_server_as_many"] = lambda: lmms_eval_seconds(lmms_eval, folder, url, many.name, many.max_concurrency)

        def empty_server() -> None:
            for cache in ("prefix", "mm", "encoder"):
                httpx.post(f"{url.removesuffix('/v1')}/reset_{cache}_cache").raise_for_status()

        return in_turns(ways, empty_server, num_pairs, SLOW_RUNS)


def write_prompts(folder: Path) -> None:
    """Our prompts as lmms-eval's task reads them: prompts.jsonl with {image, text, preferred}, the image before the text."""
    from critic_r1_verl import prompts
    from critic_r1_verl.records import ORDERS

    template = prompts.load("critic_short")
    with (folder / "prompts.jsonl").open("w") as stream:
        for pair in held_out(folder):
            for order in ORDERS:
                text = prompts.critic_text(pair, order, template).removeprefix("<image>")
                row = {"image": str(folder / "data" / pair.images[0].path), "text": text, "preferred": pair.shown(order).preferred}
                stream.write(json.dumps(row) + "\n")


def against_lmms_eval_in_process(folder: Path, num_pairs: int, python: Path, pairs_per_second: float) -> dict[str, float]:
    """Each run a process, as it loads an engine of its own; pairs_per_second are ours in process.

    VllmEngine has told this environment to keep the engine in its process, which is faster on a CPU: so lmms-eval has it as ours does.
    """
    write_prompts(folder)
    found = {}
    for way, batch in (("lmms_eval", 1), ("lmms_eval_in_batches", 256)):
        rate = num_pairs / statistics.median(
            lmms_eval_seconds(python, folder, "vllm", str(folder / "base"), batch) for _ in range(SLOW_RUNS)
        )
        found |= {f"{way}_pairs_per_second": rate, f"ratio_to_{way}": pairs_per_second / rate}
    return found


def lmms_eval_seconds(python: Path, folder: Path, place: str, model: str, at_once: int) -> float:
    # -P: the folder of that file, named lmms_eval, stays off the path.
    command = [str(python), "-P", str(Path(__file__).parent / "lmms_eval" / "judge.py"), place, model, str(TOKENS), str(at_once)]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "cache"), **ENGINE}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"lmms-eval ended with status {done.returncode}: {done.stderr[-2000:]}")
    # vLLM may say something after it.
    found = next(json.loads(line) for line in reversed(done.stdout.splitlines()) if line.startswith('{"seconds"'))
    ours = sum(json.loads(line)["completion_tokens"] for line in (folder / "judgements.jsonl").open())
    assert abs(found["tokens"] - ours) < 0.05 * ours, f"lmms-eval had {found['tokens']} tokens written, we {ours}: not the same prompts"
    return found["seconds"]


def peak_memory(num_pairs: int) -> dict[str, float]:
    """MiB of an evaluation in a process of its own over so many pairs."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = world(Path(temporary), num_pairs)
        done = subprocess.run([sys.executable, __file__, "--peak-of", str(folder)], capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])


def peak(folder: Path) -> None:
    from critic_r1_verl import evaluate
    from critic_r1_verl.engines.base import Sampling
    from critic_r1_verl.engines.vllm import VllmEngine

    def mib() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    settings = evaluate.Settings(Sampling(TOKENS), Sampling(TOKENS))
    (place,) = evaluate.places([], folder / "data", folder / "out")
    with evaluate.prepared(place, settings.limit):
        engine = VllmEngine(folder / "base")
        loaded = mib()
        evaluate.evaluate(engine, place, settings, {})
    print(json.dumps({"loaded_mib": loaded, "peak_mib": mib()}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=192)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--lmms-eval", type=lambda path: Path(path).absolute(), metavar="PYTHON")
    parser.add_argument("--scale", type=int, nargs="+", default=(512, 4096), metavar="PAIRS")
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--generate-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.peak_of:
        peak(arguments.peak_of)
        return 0
    if arguments.generate_of:
        generate_as_it_comes(arguments.generate_of)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = world(Path(temporary), arguments.pairs)
        found: dict[str, Any] = against_vllm(folder, arguments.pairs, arguments.runs)
        if arguments.lmms_eval:
            found |= against_lmms_eval_in_process(folder, arguments.pairs, arguments.lmms_eval, found["eval_pairs_per_second"])
        found |= against_others_on_a_server(folder, arguments.pairs, arguments.lmms_eval)
    found["memory"] = {str(num_pairs): peak_memory(num_pairs) for num_pairs in arguments.scale}
    print(json.dumps(found, indent=2) if arguments.json else "\n".join(table(found)))
    return 0


def table(found: dict[str, Any]) -> list[str]:
    names = {
        "eval": "eval in process",
        "vllm_generate": "  vLLM's generate",
        "within_our_engine": "  within our engine",
        "lmms_eval": "  lmms-eval, vllm",
        "lmms_eval_in_batches": "  in batches of 256",
        "endpoint": "eval on a server",
        "one_at_a_time": "  one at a time",
        "lmms_eval_on_a_server": "  lmms-eval",
        "lmms_eval_on_a_server_as_many": "  as many in flight",
    }
    rows = []
    for way, name in names.items():
        if f"{way}_pairs_per_second" in found:
            ratio = f", ratio {found[f'ratio_to_{way}']:.2f}" if f"ratio_to_{way}" in found else ""
            if f"least_ratio_to_{way}" in found:
                ratio += f" ({found[f'least_ratio_to_{way}']:.2f} to {found[f'greatest_ratio_to_{way}']:.2f})"
            rows.append((name, f"{found[f'{way}_pairs_per_second']:.1f} pairs/s{ratio}"))
    if "lmms_eval_pairs_per_second" not in found:
        rows.append(("lmms-eval", "not measured: `make bench` installs it, or --lmms-eval with the Python of an environment that has it"))
    for num_pairs, memory in found["memory"].items():
        rows.append((f"{num_pairs} pairs", f"{memory['loaded_mib']:.0f} MiB loaded, {memory['peak_mib']:.0f} MiB at the peak"))
    return [f"{name:<20} {text}" for name, text in rows]


if __name__ == "__main__":
    sys.exit(main())
