# SPDX-License-Identifier: Apache-2.0
"""What `critic-r1 serve` adds to a request, with 100 requests in flight, before a stand-in that costs nearly nothing.

    python tests/bench/bench_gateway.py [--requests 3000] [--in-flight 100] [--runs 3] [--json]

The stand-in, the gateway and the client are three processes on this machine, so they share its cores. Two measures, both taken in turns
with requests that go to the stand-in directly:

overhead    the stand-in replies at once, so every core is busy: the seconds of all requests through the gateway less those of the same
            requests sent directly, divided by their number; goal under 5 ms. It is also the bound of the gateway's rate. The processor
            time that the gateway took for a request is what remains of it on a machine that others use too.
latency     the stand-in takes 0.9 to 1.1 s, as a model would, and requests come evenly: the median seconds of a request, less those direct
"""

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

CHOICE = {"message": {"role": "assistant", "content": "It is red, so the answer is \\boxed{4}"}, "finish_reason": "stop"}
WAYS: dict[str, dict[str, Any]] = {"passed through": {"best_of": 1}, "best of 8, a clear vote": {"best_of": 8}}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


async def message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The head and the body of an HTTP message."""
    head = await reader.readuntil(b"\r\n\r\n")
    return head, await reader.readexactly(int(LENGTH.search(head)[1]))


async def stand_in(seconds: float) -> None:
    choices = [{"index": index, **CHOICE} for index in range(8)]
    bodies = {
        n: json.dumps(
            {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices[:n]}
            | {"usage": {"prompt_tokens": 10, "completion_tokens": 8 * n, "total_tokens": 10 + 8 * n}}
        ).encode()
        for n in (1, 8)
    }

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                body = bodies[8 if b'"n":8' in (await message(reader))[1] else 1]
                if seconds:
                    await asyncio.sleep(seconds * random.uniform(0.9, 1.1))
                writer.write(HEAD % len(body) + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def load(port: int, body: dict[str, Any], num_requests: int, in_flight: int, spread: float) -> tuple[float, list[float]]:
    """The seconds of all requests, and those of each; the connections start their first one within `spread` seconds."""
    content = json.dumps({"model": "m", "messages": [{"role": "user", "content": "What is it?"}], **body}).encode()
    raw = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content)
    left = num_requests
    times: list[float] = []

    async def connection(number: int) -> None:
        nonlocal left
        await asyncio.sleep(spread * number / in_flight)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while left > 0:
            left -= 1
            start = time.perf_counter()
            writer.write(raw + content)
            head, _ = await message(reader)
            assert b" 200 " in head.splitlines()[0], head
            times.append(time.perf_counter() - start)
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(connection(number) for number in range(in_flight)))
    return time.perf_counter() - start, times


@contextmanager
def process(*command: str) -> Iterator[tuple[int, psutil.Process]]:
    """The port, which is the last number of its first line, and the process of a command."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("API_KEY")}
    started = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        yield int(re.findall(r"\d+", started.stdout.readline().removesuffix("/v1\n"))[-1]), psutil.Process(started.pid)
    finally:
        started.terminate()
        started.wait()


def measured(seconds: float, num_requests: int, in_flight: int, num_runs: int) -> dict[str, dict[str, float]]:
    """For each way the milliseconds that it adds: to a request in the mean (by the time of all), and to the median request."""
    with (
        process(__file__, "--stand-in", str(seconds)) as (direct, _),
        process(*("-m", "critic_r1_verl.cli", "serve", "--port", "0", "--upstream", f"http://127.0.0.1:{direct}/v1")) as (gateway, running),
    ):

        def run(port: int, body: dict[str, Any]) -> tuple[float, float, float]:
            # Connections that were idle have been closed.
            asyncio.run(load(port, body, 2 * in_flight, in_flight, seconds))
            before = sum(running.cpu_times()[:2])
            total, times = asyncio.run(load(port, body, num_requests, in_flight, seconds))
            used = sum(running.cpu_times()[:2]) - before
            return 1000 * total / num_requests, 1000 * statistics.median(times), 1000 * used / num_requests

        found: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ("direct", *WAYS)}
        for _ in range(num_runs):
            for way in found:
                found[way].append(run(gateway if way in WAYS else direct, WAYS.get(way, {})))
    mean, median, cpu = ({way: statistics.median(run[place] for run in runs) for way, runs in found.items()} for place in range(3))
    more = {way: {"ms_more": mean[way] - mean["direct"], "median_ms_more": median[way] - median["direct"]} for way in found}
    return {way: {"ms_per_request": mean[way], "cpu_ms": cpu[way], **more[way]} for way in found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--stand-in", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stand_in is not None:
        asyncio.run(stand_in(arguments.stand_in))
    common = (arguments.in_flight, arguments.runs)
    found = {"overhead": measured(0, arguments.requests, *common), "latency": measured(1, 5 * arguments.in_flight, *common)}
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    load_average = f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"{arguments.in_flight} in flight, {load_average}; milliseconds more than directly")
    for way in WAYS:
        busy, slow = found["overhead"][way], found["latency"][way]
        rate = f"{busy['cpu_ms']:.2f} of the gateway's processor time, {1000 / busy['ms_per_request']:.0f} requests/s"
        print(f"{way:<24} {busy['ms_more']:.2f} a request ({rate}); {slow['median_ms_more']:.1f} for the median one if an answer takes 1 s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
