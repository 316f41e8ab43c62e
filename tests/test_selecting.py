# SPDX-License-Identifier: Apache-2.0
"""The command `critic-r1 select` on questions of one's own, with a scripted model: its files, its sweep and its diagnosis."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from critic_r1_verl import cli
from critic_r1_verl.cli import flags
from critic_r1_verl.engines.base import Completion, Request
from critic_r1_verl.scoring import diagnosis
from critic_r1_verl.scoring.run import Run

ANSWERS = {"Q0": "7733", "Q1": "3337", "Q2": "7777", "Q3": "3353"}


def reply(prompt: str, sample: int) -> Completion:
    """Answers as in ANSWERS; as a judge, prefers a seven, and the first of two others."""
    if "[Response 1]" not in prompt:
        content = ANSWERS[prompt.split("<image>\n")[-1][:2]][sample]
        return Completion(f"<think>I see {content}.</think> \\boxed{{{content}}}", 9, 5, image_tokens=4, cached_tokens=1)
    first, second = (prompt.split(f"[Response {number}]")[1].split("[End")[0] for number in (1, 2))
    better = 2 if "{7}" in second and "{7}" not in first else 1
    return Completion(f"<think>t</think> \\boxed{{{better}}}", 90, 10, image_tokens=4, cached_tokens=30)


@pytest.fixture
def select(scripted: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Any]]:
    """Runs the command on the questions, and returns its status and the model that it asked."""
    Image.new("RGB", (28, 28), "red").save(tmp_path / "a.png")
    rows = [{"question": f"{name}?", "answer": "7", "image": "a.png"} for name in ANSWERS]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str, die_after: int | None = None) -> tuple[int, Any]:
        model = scripted(reply, die_after=die_after)
        monkeypatch.setattr(flags, "open_engine", lambda arguments: (model, {"kind": "scripted", "asked": arguments.model}))
        common = ("--benchmark", "questions:mine.jsonl", "--model", "m", "--out", "out", "--samples", "4")
        return cli.main(["select", *common, *words]), model

    return run


def read(name: str) -> Any:
    return json.loads(Path("out/questions", name).read_text())


def test_every_number_of_a_sweep_is_that_of_the_files(select: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    status, _ = select("--method", "majority", "--method", "knockout", "--method", "oracle", "--sweep", "1,2,4")
    assert status == 0
    found = read("sweep.json")
    points = {(point["method"], point["samples"]): point for point in found["points"]}
    right = {key: point["accuracy"]["value"] for key, point in points.items()}
    assert right == {
        ("majority", 1): 0.5,
        ("majority", 2): 0.5,
        # A tie of two and two is half right.
        ("majority", 4): 0.375,
        ("oracle", 1): 0.5,
        ("oracle", 2): 0.5,
        ("oracle", 4): 0.75,
        ("knockout", 1): 0.5,
        ("knockout", 2): 0.5,
        ("knockout", 4): 0.75,
    }
    # A sample has 5 tokens beside the 9 of the prompt; the knock-out takes 2, 4, 0 and 4 verdicts of 100 tokens.
    assert [points["majority", n]["tokens"] for n in (1, 2, 4)] == [14, 19, 29]
    assert points["knockout", 4]["tokens"] == 29 + 250 and points["knockout", 2]["tokens"] == 19
    assert (points["knockout", 4]["beyond"], points["knockout", 2]["beyond"]) == (True, False)
    assert points["knockout", 4]["against_vote"]["value"] == 0.375 and points["knockout", 4]["vote_samples"] == 4
    assert found["greedy"] is None and found["winner"] == {"method": "majority", "samples": None}
    printed = capsys.readouterr().out
    assert "equal tokens: nothing is above the vote." in " ".join(printed.split()) and "+37.5*" in printed
    assert max(map(len, printed.splitlines())) <= 80 and "…" not in printed
    chart = ElementTree.parse("out/questions/sweep.svg").getroot()
    assert "Knock-out: 50.0 % at 14, 50.0 % at 19, 75.0 % at 279" in (chart.findtext("{http://www.w3.org/2000/svg}desc") or "")
    assert Run(Path("out/questions")).selections() and read("metrics.json")["policy"]["judge_tokens/knockout"]["value"] == 250


def test_what_was_spent_is_counted_apart(select: Callable) -> None:
    select("--method", "knockout")
    found = read("usage.json")
    seconds = [found[part]["metered"].pop("seconds") for part in ("answering", "judging")]
    assert found == {
        "answering": {
            "metered": {"calls": 4, "cached_tokens": 4},
            "calls": 4,
            "prompt_tokens": 36,
            "image_tokens": 16,
            "completion_tokens": 80,
        },
        "judging": {
            "metered": {"calls": 10, "cached_tokens": 300},
            "calls": 10,
            "prompt_tokens": 900,
            "image_tokens": 40,
            "completion_tokens": 100,
        },
    }
    assert min(seconds) >= 0


def test_a_diagnosis_says_what_the_judge_does(select: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    assert select("--method", "knockout", "--diagnose")[0] == 0
    found = {name: (each["value"], each["n"]) for name, each in read("diagnosis.json").items()}
    assert found.keys() == diagnosis.MEASURES.keys()
    assert {name: value for name, value in found.items() if value[1]} == {
        "all_right": (0.25, 4),
        "all_wrong": (0.25, 4),
        "open": (0.5, 4),
        "open_sample": (0.375, 2),
        "open_vote": (0.25, 2),
        "own_right": (1.0, 2),
        "own_right_vote_wrong": (1.0, 1),
        "own_disagree": (0.0, 2),
        "own_both_wrong": (0.0, 2),
        # Of the two wrong answers of Q3, one match each of 2 against 3 and 0 against 2.
        "wrong_disagree": (1.0, 2),
        "own_words": (4.0, 16),
    }
    assert read("metrics.json")["notes"] == []
    assert "own pairs: right verdicts" in capsys.readouterr().out


def test_methods_are_added_to_a_run_without_asking_again(select: Callable) -> None:
    _, first = select("--method", "knockout")
    _, second = select("--method", "knockout", "--method", "majority", "--sweep", "2,4")
    assert (len(first.asked), len(second.asked)) == (4 + 10, 0)
    assert {"knockout", "majority"} < read("metrics.json")["policy"].keys()


def test_a_killed_run_goes_on_and_ends_the_same(select: Callable) -> None:
    names = ("answers.jsonl", "matches.jsonl", "selections.jsonl", "metrics.json")
    assert select(die_after=9)[0] == 130
    assert not Path("out/questions/selections.jsonl").exists()
    _, rest = select()
    cut = {name: Path("out/questions", name).read_bytes() for name in names}
    # The 4 questions were answered before, and 9 verdicts were got.
    assert len(rest.asked) == 1
    Path("out").rename("cut")
    select()
    assert {name: Path("out/questions", name).read_bytes() for name in names} == cut
    why = "vote_then_judge: no vote was worth judging, because samples of as many tokens promise more than verdicts"
    assert read("metrics.json")["notes"] == [why]


def test_another_judge_without_the_image(select: Callable) -> None:
    _, model = select("--method", "knockout", "--judge-model", "other", "--without-image")
    judging = [request for request in model.asked if "[Response 1]" in request.prompt]
    assert judging and all(not request.images and "<image>" not in request.prompt for request in judging)
    answering: list[Request] = [request for request in model.asked if request not in judging]
    assert len(answering) == 4 and all(len(request.images) == 1 for request in answering)
    parts = {part: read("config.json")[part]["engine"]["asked"] for part in ("sample", "select")}
    assert parts == {"sample": "m", "select": "other"} and read("config.json")["select"]["with_image"] is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sweep", "2,8"), "--sweep 8 is more than --samples 4; draw more samples"),
        (("--weight", "-1"), "weight -1.0: give 0, which trusts the votes alone, or more"),
        (("--samples", "1", "--temperature", "0", "--samples", "2"), "2 samples at temperature 0 are all the same"),
        (("--repeats", "2", "--judge-temperature", "0"), "2 repeats at temperature 0 are all the same"),
    ],
)
def test_what_cannot_be_run_is_said_before(select: Callable, capsys: pytest.CaptureFixture[str], words: tuple, message: str) -> None:
    status, model = select(*words)
    assert (status, model.asked) == (1, []) and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "Q0?", "answer": "8", "image": "a.png"}', r"mine.jsonl:5: the same question as mine.jsonl:1; keep one of them"),
        ('{"question": "Q9?", "answer": 8}', r"mine.jsonl:5: key 'answer': 8 is not of type str"),
        ('{"question": "Q9?"}', r"mine.jsonl:5: key 'answer' is missing"),
        ('{"question": "Q9?", "answer": "8", "image": "../a.png"}', "mine.jsonl:5: the path '../a.png' leaves the data folder by '..'"),
        ('{"question": "Q9?", "answer": "8", "image": "b.png"}', "mine.jsonl:5: 'b.png' is in none of"),
    ],
)
def test_a_bad_question_is_named(select: Callable, capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    with Path("mine.jsonl").open("a") as file:
        file.write(line + "\n")
    assert select()[0] == 1 and message in capsys.readouterr().err
