# SPDX-License-Identifier: Apache-2.0
"""Builds of data as real processes: killed with -9 wherever they are, two at a time in one folder, workers whose build is gone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from PIL import Image

from data_prep import build
from data_prep.options import Corpus, Options

ROOT = Path(__file__).parents[2]
OPTIONS = Options(pixels=(784, 200_704), val=5, test=5)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """pairs.jsonl with 60 pairs over 20 pictures."""
    rows = []
    for number in range(60):
        name = f"{number % 20}.png"
        Image.new("RGB", (56, 56), (number % 20 * 12, 90, 200)).save(tmp_path / name)
        rows.append({"image": name, "question": f"What is {number}?", "chosen": f"Right {number}.", "rejected": f"Wrong {number}."})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def contents(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file() and file.name != ".lock"}


def test_a_build_killed_in_the_conversion_and_again_in_the_merge_ends_with_the_same_bytes(world: Path) -> None:
    """kill -9 of a real process: nothing in it can tidy up."""
    build.build(world / "whole", [Corpus(converter="pairs", location=str(world / "pairs.jsonl"))], OPTIONS)
    program = """
import os, sys
from pathlib import Path
from data_prep import build, plan, writing
from data_prep.corpora import pairs
from data_prep.options import Corpus, Options
plan.SHARD_ROWS = 25

def killing(function, number):
    calls = []
    def called(*arguments, **settings):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), 9)
        return function(*arguments, **settings)
    return called

where, world = sys.argv[1:]
if where == "conversion":
    pairs.convert = killing(pairs.convert, 40)
if where == "merge":
    writing.write_split = killing(writing.write_split, 2)
if where == "manifest":
    build.write_json = killing(build.write_json, 1)
corpus = Corpus(converter="pairs", location=f"{world}/pairs.jsonl")
build.build(Path(world) / "out", [corpus], Options(pixels=(784, 200_704), val=5, test=5))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for where, there in (("conversion", []), ("merge", ["train.parquet"]), ("manifest", ["test.parquet", "train.parquet", "val.parquet"])):
        done = subprocess.run([sys.executable, "-c", program, where, str(world)], env=environment, capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL
        assert sorted(file.name for file in (world / "out").glob("*.parquet")) == there
        assert not (world / "out/manifest.json").exists()
    done = subprocess.run(
        [sys.executable, "-c", program, "nowhere", str(world)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "resuming: 3 of 3 shards" in done.stderr, done.stderr
    assert contents(world / "out") == contents(world / "whole")


def test_of_two_builds_into_one_folder_the_second_is_told(world: Path) -> None:
    """With real processes; the first one, killed, leaves nothing that keeps the next out."""
    flags = ["--out", str(world / "out"), "--no-lengths", "--num-workers", "1", "--min-pixels", "784"]
    words = ["build", "--corpus", f"pairs:{world / 'pairs.jsonl'}", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    slow = f"""
import time
from data_prep import cli
from data_prep.corpora import pairs
pairs.convert = lambda raw, put: print("converting", flush=True) or time.sleep(600)
cli.main({words})
"""
    build_again = [sys.executable, "-m", "data_prep", *words]
    with subprocess.Popen([sys.executable, "-c", slow], env=environment, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout and first.stdout.readline() == "converting\n"
        second = subprocess.run(build_again, env=environment, capture_output=True, text=True, check=False)
        first.send_signal(signal.SIGKILL)
    assert second.returncode == 1
    assert "out: another process writes into this folder; wait until it ends, or give another --out" in second.stderr
    third = subprocess.run(build_again, env=environment, capture_output=True, text=True, check=False)
    assert third.returncode == 0, third.stderr
    assert not (world / "out/.build").exists()


def test_workers_end_with_a_killed_build() -> None:
    """They once waited for ever for the work of a build that had been killed."""
    program = """
import multiprocessing, os, signal, time
from concurrent.futures import ProcessPoolExecutor
from data_prep.workers import end_with_parent
if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=end_with_parent)
    pool.submit(time.sleep, 0).result()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with TemporaryDirectory() as folder:
        script = Path(folder) / "main.py"
        script.write_text(program)
        # The worker holds its end of the pipe for as long as it lives.
        subprocess.run(
            [sys.executable, script], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, timeout=30, check=False
        )
