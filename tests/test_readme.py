# SPDX-License-Identifier: Apache-2.0
"""Every command of the documentation. Make targets are planned by make, recipes composed, flags parsed.

The commands of the README that a CPU runs in seconds are run too, with a scripted model, and must leave behind what they promise.
"""

import contextlib
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from critic_r1_verl import cli
from critic_r1_verl.cli import flags
from critic_r1_verl.training.plan import sizes

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
FILES = (
    "README.md",
    "recipe/README.md",
    "examples/digits/README.md",
    "CONTRIBUTING.md",
    *(f"docs/{file.name}" for file in ROOT.glob("docs/*.md")),
)
COMMAND = re.compile(r"\s*(VERL_PLATFORM=cpu )?(make|python -m|critic-r1|pip) \S")


def commands() -> list[tuple[str, str]]:
    """(file, command) of every line of a code block and every span of code that starts one of our commands; "a && b" gives two."""
    found: dict[tuple[str, str], None] = {}
    for name in FILES:
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            for code in [re.sub(r"\s#.*", "", line), *re.findall(r"`([^`]+)`", line)]:
                if COMMAND.match(code):
                    found |= {(name, part.strip()): None for part in code.split("&&")}
    return list(found)


@pytest.mark.parametrize(("file", "command"), commands(), ids=lambda value: str(value).replace("/", "_"))
def test_it_is_a_command(file: str, command: str, monkeypatch: pytest.MonkeyPatch, quick_compose: Callable) -> None:
    words = [word for word in shlex.split(command) if not word.startswith("VERL_PLATFORM=")]
    monkeypatch.setenv("VERL_PLATFORM", "cpu" if command.startswith("VERL_PLATFORM=cpu") else "")
    if words[0] == "make":
        planned = subprocess.run(["make", "-n", "GPU=0", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert planned.returncode == 0, planned.stderr
    elif words[0] == "pip":
        assert words[1] == "install"
        assert all((ROOT / file).is_file() for flag, file in pairwise(words) if flag in ("-c", "-r"))
    elif words[:3] == ["python", "-m", "verl.trainer.main_ppo"]:
        assert words[3].startswith("+recipe=")
        overrides = [word for word in words[4:] if word not in ("--cfg", "job")]
        config = quick_compose(words[3].removeprefix("+recipe="), overrides)
        assert config.trainer.experiment_name.startswith(config.critic_r1.name)
    elif words[:3] == ["python", "-m", "data_prep"]:
        assert callable(cli.parse(["data", *words[3:]]).run)
    elif command in ("critic-r1 eval", "critic-r1 select", "critic-r1 serve", "critic-r1 data build"):
        # What the text calls by its name alone.
        with pytest.raises(SystemExit, match="0"):
            cli.parse([*words[1:], "--help"])
    else:
        assert words[0] == "critic-r1"
        assert callable(cli.parse(words[1:]).run)


def test_the_documentation_has_commands() -> None:
    assert len(commands()) >= 30


# The README's own commands, run


# A converter whose rows give a pair and, where they are held out, a question.
BOTH = """
from critic_r1_verl.records import PairRecord, QuestionRecord

NAME, HUB, CONFIG, SPLIT, REVISION, LICENCE, GRADE = "both", None, None, "train", "", "cc0", "A"
COLUMNS = {"image", "question", "chosen", "rejected"}


def convert(raw, put):
    number = int(raw["image"].removesuffix(".png"))
    common = {"images": (put(raw["image"]),), "question": raw["question"], "source": NAME, "group": str(number)}
    split = "test" if number < 6 else "val" if number < 9 else "train"
    yield PairRecord(response_1=raw["chosen"], response_2=raw["rejected"], preferred="1", split=split, **common)
    if split == "test":
        yield QuestionRecord(answer=str(number), split=split, **common)
"""


@pytest.fixture(scope="module")
def model(scripted: type) -> Any:
    return scripted(lambda prompt, sample: f"<think>The first is right. {sample}</think> \\boxed{{1}}")


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory, model: Any) -> Path:
    """A folder with what the README's reader has: a file of pairs, a picture, published results, a data folder, runs of two models."""
    folder = tmp_path_factory.mktemp("home")
    rows = []
    for number in range(40):
        Image.new("RGB", (560, 560), (6 * number, 0, 0)).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": f"What is it? {number}", "chosen": "Red.", "rejected": "Blue."})
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copy(folder / "0.png", folder / "cat.jpg")
    lines = [{"id": f"svit-{n}", "image": "x", "chosen": "c", "rejected": f"r{n}", "rewards": [n % 3, 1]} for n in range(6)]
    (folder / "results.json").write_text(json.dumps(lines))
    origin = {"ds_name": "RLAIF-V", "origin_dataset": "lcs558k", "origin_split": "{}", "idx": "0", "image_path": "0.jpg"}
    public = [row | {"image": {"bytes": (folder / row["image"]).read_bytes(), "path": None}} | origin for row in rows]
    pq.write_table(pa.Table.from_pylist(public), folder / "rlaif_v.parquet")
    (folder / "both.py").write_text(BOTH)
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(flags, "open_engine", lambda arguments: (model, {"kind": "scripted"}))
        build = ["data", "build", "--corpus", "both.py:mine.jsonl", "--no-lengths", "--num-workers", "1"]
        assert cli.main([*build, "--out", "runs/data"]) == 0
        for name in ("base", "trained"):
            for verb in ("eval", "select"):
                assert cli.main([verb, "--model", name, "--data", "runs/data", "--out", f"runs/eval/{name}", "--json"]) == 0
    return folder


@pytest.fixture
def home(furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Any) -> Path:
    """A copy of the furnished folder, in which the test runs."""
    folder = shutil.copytree(furnished, tmp_path / "home")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(flags, "open_engine", lambda arguments: (model, {"kind": "scripted"}))
    # What listens until it gets a signal.
    monkeypatch.setattr("uvicorn.Server.run", lambda *arguments, **options: None)
    # The 7B model, whose config.json is not in the cache.
    counted = json.loads((ROOT / "tests" / "golden" / "model_sizes.json").read_text(encoding="utf-8"))["qwen2_5_vl_7b"]
    monkeypatch.setattr(sizes, "of_base", lambda base: sizes.Sizes(**counted))
    return folder


def is_written(*files: str) -> Callable[[str], bool]:
    return lambda printed: all(Path(file).is_file() for file in files)


def says(*texts: str) -> Callable[[str], bool]:
    return lambda printed: all(text in printed for text in texts)


FOLDERS = {
    "vl_rewardbench": f"vl_rewardbench:{FIXTURES}/benchmarks/vl_rewardbench",
    "mm_rlhf_rewardbench:FOLDER": f"mm_rlhf_rewardbench:{FIXTURES}/benchmarks/mm_rlhf_rewardbench",
    "multimodal_rewardbench:FOLDER": f"multimodal_rewardbench:{FIXTURES}/benchmarks/multimodal_rewardbench",
    "rlaif_v": "rlaif_v:rlaif_v.parquet",
    "vlfeedback:FOLDER": f"vlfeedback:{FIXTURES}/vlfeedback",
}
# By the first words of a command of the README: what is added to it, and what it must have done.
RUN: dict[str, tuple[str, Callable[[str], bool]]] = {
    "data build --corpus pairs": (
        "--no-lengths --num-workers 1 --out other",
        is_written("other/test.parquet", "other/records.jsonl"),
    ),
    "data build --corpus rlaif_v": ("--no-lengths --num-workers 1 --out other", is_written("other/train.parquet", "other/manifest.json")),
    "data inspect": ("", is_written("runs/data.html")),
    "data validate": ("", says("sound")),
    "eval --model runs/trained --data": ("--out other", is_written("other/test/judgements.jsonl", "other/test/answers.jsonl")),
    "eval --model Qwen": ("--out other", is_written("other/test/judgements.jsonl", "other/test/answers.jsonl")),
    "eval --model runs/trained --benchmark": ("--out other", is_written("other/vl_rewardbench/metrics.json")),
    "eval --base-url": ("--out other", is_written("other/multimodal_rewardbench/metrics.json")),
    "select": ("--out other", is_written("other/test/matches.jsonl", "other/test/selections.jsonl")),
    "eval-policy": (
        f"--lmms-eval {ROOT}/tests/stand_in/lmms_eval_python --max-refused 0.2 --base-url http://localhost:9/v1 --out other",
        is_written("other/mmmu_val/metrics.json", "other/mmstar/metrics.json"),
    ),
    "report": ("", is_written("runs/eval/trained/report.html")),
    "compare": ("", says("strict accuracy", "self-critique", "McNemar")),
    "score results.json": ("", says("general", "percent")),
    "score RUN": ("", says("test:", "critic accuracy", "self-critique")),
    "judge": ("", says("The first is right.", "undecided")),
    "serve": ("--port 0", says("serving http://127.0.0.1:")),
    "doctor": ("", says("recipe critic_r1 is found and applied")),
    "plan": ("--gpu H100", says("8.29 billion parameters", "logits", "33  that verl reserves")),
}


@pytest.mark.parametrize("command", [command for file, command in commands() if file == "README.md" and command.startswith("critic-r1")])
def test_the_readmes_command_does_what_it_says(home: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    (key,) = [key for key in RUN if command.removeprefix("critic-r1 ").startswith(key)]
    added, done = RUN[key]
    words = shlex.split(f"{command} {added}".replace("RUN", "runs/eval/trained"))[1:]
    words = words if words[0] == "score" else [FOLDERS.get(word, word) for word in words]
    capsys.readouterr()
    status = cli.main(words)
    out, err = capsys.readouterr()
    # Whether this machine could train the 7B model is not what the doctor is asked here.
    assert status == 0 or key == "doctor", err
    assert done(out), (out, err)
