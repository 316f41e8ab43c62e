# SPDX-License-Identifier: Apache-2.0
"""The paper's corpus and base by their real names, from a stand-in for the hub into an empty cache; then again without a request."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import base
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from stand_in_hub import Repository, StandInHub, files_of

MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
CORPUS = "lmms-lab/LLaVA-Critic-GRPO-dataset"
NUM_ROWS = 30


def corpus() -> Repository:
    """Rows in the corpus's columns, each with a picture of its own."""
    rows = []
    for number in range(NUM_ROWS):
        buffer = io.BytesIO()
        Image.new("RGB", (56, 56), (8 * number, 0, 0)).save(buffer, "PNG")
        question = f"<image>\nJudge the two answers.\nQuestion: [Which red is it? {number}]\nThe first response: [Dark.]\n"
        question += "The second response: [Light.]\nASSISTANT:\n"
        rows.append({"question": question, "answer": str(1 + number % 2), "image": {"bytes": buffer.getvalue(), "path": None}})
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return Repository({"data/train-00000-of-00001.parquet": file.getvalue()})


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInHub]:
    model = tmp_path_factory.mktemp("model")
    base.build(["Which red is it? Dark. Light. \\boxed{1} \\boxed{2}"], model, base.Size(64, 1, 32, 1, 400))
    with StandInHub({MODEL: Repository(files_of(model)), f"datasets/{CORPUS}": corpus()}) as hub:
        yield hub


def critic_r1(hub: StandInHub, folder: Path, *words: str, **more: str) -> str:
    """What a command says on stderr."""
    here = {"HF_HOME": str(folder / "hub"), "HF_ENDPOINT": hub.endpoint, "VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "critic_r1_verl.cli", *words]
    done = subprocess.run(command, cwd=folder, env=os.environ | here | more, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def test_corpus_and_base_by_name(hub: StandInHub, tmp_path: Path) -> None:
    build = ("data", "build", "--corpus", "llava_critic_grpo", "--base", MODEL, "--max-prompt-tokens", "2000", "--num-workers", "1")
    said = critic_r1(hub, tmp_path, *build, "--out", "data")
    # Each is announced with its size; the base's weights are not needed to measure prompts.
    assert CORPUS in said and MODEL in said
    assert not any(request.endswith("model.safetensors") for request in hub.requests)
    splits = json.loads((tmp_path / "data" / "manifest.json").read_text())["splits"]
    assert sum(split["pairs"] for split in splits.values()) == NUM_ROWS

    before = len(hub.requests)
    critic_r1(hub, tmp_path, *build, "--out", "offline", HF_HUB_OFFLINE="1")
    assert hub.requests[before:] == []
    assert (tmp_path / "offline" / "train.parquet").read_bytes() == (tmp_path / "data" / "train.parquet").read_bytes()

    judging = ("eval", "--model", MODEL, "--data", "data", "--max-tokens", "8", "--limit", "2")
    assert MODEL in critic_r1(hub, tmp_path, *judging, "--out", "eval")
    assert any(request.endswith("model.safetensors") for request in hub.requests)
    assert json.loads((tmp_path / "eval" / "test" / "metrics.json").read_text())["counts"]["pairs"] == 2
