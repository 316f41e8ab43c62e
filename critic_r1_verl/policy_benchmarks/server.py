# SPDX-License-Identifier: Apache-2.0
"""vLLM's own server over a checkpoint, for a program that knows only OpenAI's API."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from critic_r1_verl import cpu, devices, supervise

START_SECONDS = 1800.0
END_SECONDS = 30.0


@contextmanager
def served(folder: Path, name: str, options: Sequence[str], log: Path) -> Iterator[str]:
    """Yield the root of the API of a server over the model in a folder, on the GPUs or, without any, on the CPU. It ends with the block.

    name: that of the model on the server. options: more flags of vLLM. log: what the server prints. ValueError with its end if the server
    does not start.
    """
    if not os.environ.get("VERL_PLATFORM") and not devices.gpu_count():
        os.environ["VERL_PLATFORM"] = "cpu"
    if cpu.requested():
        cpu.set_vllm_environment()
        # As in engines/vllm.py.
        options = ["--dtype", "float32", "--enforce-eager", "--max-num-batched-tokens", "1024", *options]
    # However this process ends, the server and its engine end with it.
    supervise.attach()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", name]
    command += ["--host", "127.0.0.1", "--port", str(port), *options]
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as stream, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream) as process:
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _answers(f"{url}/health"):
                if process.poll() is not None or time.monotonic() > deadline:
                    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                    raise ValueError(f"--model {name}: vLLM's server does not start: {said[-1] if said else 'no output'}; its log: {log}")
                time.sleep(0.5)
            yield f"{url}/v1"
        finally:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(url: str) -> bool:
    try:
        # No proxy stands between this machine and itself.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10):
            return True
    except (urllib.error.URLError, OSError):
        return False
