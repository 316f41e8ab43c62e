# SPDX-License-Identifier: Apache-2.0
"""The table of studies from small measurements: means, intervals and spreads against numbers worked out by hand; the missing listed."""

import json
import math
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import pytest

from critic_r1_verl import cli
from critic_r1_verl.lines import Answer, Judgement, Selection, encode
from critic_r1_verl.records import Image, PairRecord, QuestionRecord, write_jsonl
from critic_r1_verl.study import run as study
from critic_r1_verl.study.table import tabulate

COMMON = {"text": "", "prompt_tokens": 100, "completion_tokens": 10, "model": "m", "template_sha": "0"}
IMAGES = [(Image(path=f"{number}.png", sha256=f"{number:064x}"),) for number in range(4)]
PAIRS = [PairRecord(images=image, question="Q?", response_1="a", response_2="b", preferred="1", source="s") for image in IMAGES]
QUESTIONS = [QuestionRecord(images=image, question="Q?", answer="7", source="s") for image in IMAGES[:2]]


def make(out: Path, name: str, seed: int, right: str, *, answers: str = "10", samples: str = "1100", **config: object) -> Path:
    """A finished run. right: for each pair in turn whether the verdicts in the orders 12 and 21 are right (1), wrong (0) or missing (-)."""
    folder = out / name / f"seed-{seed}"
    test = folder / "eval" / "test"
    test.mkdir(parents=True)
    write_jsonl(test / "records.jsonl", [*PAIRS, *QUESTIONS])
    keys = [(pair, order) for pair in PAIRS for order in ("12", "21")]
    judgements = []
    for (pair, order), mark in zip(keys, right, strict=True):
        preferred = {"12": "1", "21": "2"}[order]
        choice = {"1": preferred, "0": {"1": "2", "2": "1"}[preferred], "-": None}[mark]
        status = "missing" if choice is None else "parsed"
        line = {"pair_id": pair.pair_id, "order": order, "repeat": 0, "choice": choice, "status": status}
        judgements.append(Judgement(**line, correct=mark == "1", preferred=preferred, **COMMON))
    given = [(question, "greedy", 0, mark) for question, mark in zip(QUESTIONS, answers, strict=True)]
    given += [(QUESTIONS[number // 2], "sample", number % 2, mark) for number, mark in enumerate(samples)]
    replies = [
        Answer(
            question_id=question.question_id,
            kind=kind,
            sample=sample,
            answer="7" if mark == "1" else "3",
            status="parsed",
            correct=mark == "1",
            **COMMON,
        )
        for question, kind, sample, mark in given
    ]
    for lines in (judgements, replies):
        (test / lines[0].FILE).write_bytes(b"".join(encode(line) for line in sorted(lines, key=lambda line: line.key)))
    (test / Selection.FILE).write_bytes(b"")
    write(
        test / "config.json",
        {"source": {"benchmark": "pairs"}, "methods": {"methods": ["majority"], "samples": [2], "repeats": 1, "weight": None}},
    )
    write(
        folder / "config.json",
        {"study": name, "seed": seed, "code": "c", "data": "d", "base": ["b"], "overrides": [], "measuring": {}} | config,
    )
    write(folder / "stages.json", {"sample": {"note": "", "seconds": 1.0}})
    return folder


def write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content))


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The base, critic_r1 with two seeds, `a_first` with one of them and another, `b_second` not at all."""
    (tmp_path / "recipe/study").mkdir(parents=True)
    for name in ("a_first", "b_second"):
        (tmp_path / "recipe/study" / f"{name}.yaml").touch()
    monkeypatch.setattr(study, "hydra_root", lambda: tmp_path)
    folder = tmp_path / "out"
    make(folder, "a_first", 1, "11111100", answers="11")
    make(folder, "a_first", 3, "0000000-", answers="00")
    make(folder, "critic_r1", 1, "11100100")
    make(folder, "critic_r1", 2, "11110100")
    make(folder, "base", 0, "10101010")
    return folder


def cells(out: Path, key: str) -> dict[str, dict]:
    return {each["name"]: each["measures"][key] for each in tabulate(out)["studies"]}


def test_means_intervals_and_spreads_are_those_worked_out_by_hand(out: Path) -> None:
    found = cells(out, "accuracy")
    assert list(found) == ["base", "critic_r1", "a_first"]
    mean, by_seed, n = (found["critic_r1"][key] for key in ("value", "by_seed", "n"))
    assert (mean, by_seed, n) == (9 / 16, {"1": 4 / 8, "2": 5 / 8}, 16)
    # The residuals of the four values of a pair add up to 1.75, 0.75, -0.25 and -2.25, whose squares add up to 8.75.
    half = 1.959964 * math.sqrt(8.75 * 4 / 3) / 16
    assert found["critic_r1"]["ci95"] == pytest.approx([9 / 16 - half, 9 / 16 + half], abs=1e-6)
    assert found["critic_r1"]["difference"] is None
    assert found["a_first"]["by_seed"] == {"1": 6 / 8, "3": 0}


def test_differences_are_paired_by_item_and_seed(out: Path) -> None:
    found = cells(out, "accuracy")
    # The seed 1 alone is shared. The differences of a pair add up to 0, 1, 1 and 0, so their residuals to -0.5, 0.5, 0.5 and -0.5.
    half = 1.959964 * math.sqrt(1 * 4 / 3) / 8
    difference = found["a_first"]["difference"]
    assert (difference["value"], difference["n"], difference["by_seed"]) == (0.25, 8, {"1": 0.25})
    assert difference["ci95"] == pytest.approx([0.25 - half, 0.25 + half], abs=1e-6)
    # The base has no seed and is compared with each of critic_r1.
    assert found["base"]["by_seed"] == {"0": 0.5}
    assert (found["base"]["difference"]["value"], found["base"]["difference"]["by_seed"]) == (-1 / 16, {"1": 0.0, "2": -1 / 8})


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("strict", {"base": 0, "critic_r1": 3 / 8, "a_first": 3 / 8}),
        ("accuracy_chosen_first", {"base": 1, "critic_r1": 4 / 8, "a_first": 3 / 8}),
        ("accuracy_chosen_second", {"base": 0, "critic_r1": 5 / 8, "a_first": 3 / 8}),
        ("unparsed", {"base": 0, "critic_r1": 0, "a_first": 1 / 16}),
        ("completion_tokens", {"base": 10, "critic_r1": 10, "a_first": 10}),
        ("greedy", {"base": 0.5, "critic_r1": 0.5, "a_first": 0.5}),
        ("sample", {"base": 0.5, "critic_r1": 0.5, "a_first": 0.5}),
    ],
)
def test_every_measure_is_tabulated(out: Path, key: str, values: dict[str, float]) -> None:
    assert {name: cell["value"] for name, cell in cells(out, key).items()} == values


def test_what_is_missing_is_listed(out: Path) -> None:
    table = tabulate(out)
    assert table["seeds"] == [1, 2, 3]
    missing = [(each["study"], each["seed"]) for each in table["missing"] if each["why"] == "not run"]
    assert missing == [("a_first", 2), *(("b_second", seed) for seed in (1, 2, 3)), ("critic_r1", 3)]
    assert len(missing) == len(table["missing"])
    assert table["notes"] == []


def test_unusable_folders_are_listed_with_the_reason(out: Path) -> None:
    make(out, "a_first", 2, "1" * 8, data="of another world")
    make(out, "b_second", 1, "1" * 8, study="a_first")
    write(make(out, "b_second", 2, "1" * 8) / "stages.json", {"train": {}, "export": {}})
    (make(out, "b_second", 3, "1" * 8) / "config.json").write_text("{broken")
    (make(out, "removed_study", 1, "1" * 8) / "eval/test/judgements.jsonl").write_text("{broken\n")
    (out / "critic_r1/seed-3").mkdir()
    make(out, "critic_r1", 4, "1" * 8, overrides=["data.train_batch_size=8"])
    shutil.copytree(out / "critic_r1/seed-1", out / "critic_r1/seed-01")
    (make(out, "critic_r1", 5, "1" * 8) / "eval/test/records.jsonl").unlink()
    make(out, "own_study", 1, "1" * 8, code="other")
    (out / "notes").mkdir()
    (out / "notes/seed-of-ideas").touch()
    table = tabulate(out)
    why = {(each["study"], each["seed"]): each["why"] for each in table["missing"]}
    for run, reason in {
        ("a_first", 2): 'not comparable with critic_r1, seed 1: data was "d", now "of another world"',
        ("b_second", 1): "holds the study 'a_first' with the seed 1",
        ("b_second", 2): "stopped after export",
        ("b_second", 3): "config.json: cannot be read",
        ("removed_study", 1): "judgements.jsonl",
        ("critic_r1", 3): "stopped before the first stage was finished",
        ("critic_r1", 4): 'not comparable with critic_r1, seed 1: overrides was [], now ["data.train_batch_size=8"]',
        ("critic_r1", 5): "records.jsonl",
    }.items():
        assert reason in why.pop(run)
    assert why == {}
    assert [each["name"] for each in table["studies"]] == ["base", "critic_r1", "a_first", "own_study"]
    assert table["notes"] == ["the runs were made by 2 versions of the code: c, other"]


def test_other_items_are_not_comparable(out: Path) -> None:
    folder = make(out, "b_second", 1, "1" * 8)
    with (folder / "eval/test/records.jsonl").open("a") as file:
        file.write("\n")
    assert any("not comparable with critic_r1, seed 1: items was" in each["why"] for each in tabulate(out)["missing"])


@pytest.mark.parametrize(("folders", "reason"), [((), "there is none"), (("critic_r1/seed-1",), "critic_r1, seed 1: stopped before")])
def test_a_folder_without_a_finished_study_is_an_error(tmp_path: Path, folders: Sequence[str], reason: str) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(ValueError, match=reason):
        tabulate(tmp_path)


def test_without_the_reference_there_are_no_differences(tmp_path: Path) -> None:
    make(tmp_path, "own_study", 1, "1" * 8)
    assert cells(tmp_path, "accuracy")["own_study"]["difference"] is None
    assert cli.main(["study", "report", str(tmp_path)]) == 0
    ElementTree.parse(tmp_path / "study.svg")


def test_all_outputs_have_the_same_numbers(out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.main(["study", "report", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    written = (out / "study.md").read_text(encoding="utf-8")
    assert json.loads((out / "study.json").read_text()) == tabulate(out)
    assert "| critic_r1 | 56.2 [14.4, 98.1] | 50.0 to 62.5 | 16 | – | – |" in written
    assert "critic_r1 56.2 50.0 to 62.5 16 – – [14.4, 98.1]" in shown
    for text in (written, shown):
        assert "Missing: b_second, seed 3: not run." in text
    picture = (out / "study.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(picture)
    assert "Critic accuracy, points from critic_r1, a_first: +25.0" in picture
    assert cli.main(["study", "report", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == tabulate(out)


def test_names_of_folders_are_text(out: Path) -> None:
    make(out, "<b>|\x1b[31m", 1, "1" * 8)
    assert cli.main(["study", "report", str(out)]) == 0
    written, picture = ((out / name).read_text(encoding="utf-8") for name in ("study.md", "study.svg"))
    assert "| <b>\\|␛[31m |" in written
    ElementTree.fromstring(picture)


def test_rounds_of_self_improvement_are_tabulated_without_the_studies_that_nobody_asked_for(tmp_path: Path) -> None:
    make(tmp_path, "base", 0, "11110000")
    for number, right in ((1, "11111100"), (2, "11111111")):
        make(tmp_path, f"self-{number}", 3, right)
    table = tabulate(tmp_path)
    assert [(each["name"], each["measures"]["accuracy"]["value"]) for each in table["studies"]] == [
        ("base", 0.5),
        ("self-1", 0.75),
        ("self-2", 1),
    ]
    assert table["missing"] == []
