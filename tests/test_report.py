# SPDX-License-Identifier: Apache-2.0
"""The report of synthetic runs: its numbers, its examples, its safety against hostile text, its errors."""

import base64
import hashlib
import json
import math
import re
import shutil
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pytest

from critic_r1_verl.lines import Answer, Judgement, Match, Selection, encode
from critic_r1_verl.records import Image, PairRecord, QuestionRecord, write_jsonl
from critic_r1_verl.report import collect, figures, page, terminal
from critic_r1_verl.report.collect import Report
from critic_r1_verl.scoring.run import Run
from critic_r1_verl.select.candidates import by_question, candidates_of
from critic_r1_verl.select.plan import Plan, budget_of, selections_of, unanswered, verdicts_of

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }} {% raw %} & \"quoted\" 'single' \u202e\x00 ]]> <!-- -->"
NUM_PAIRS, NUM_QUESTIONS, NUM_SAMPLES = 8, 5, 4
COMMON = {"prompt_tokens": 100, "completion_tokens": 10, "model": HOSTILE, "template_sha": "0"}


def png(seed: int) -> bytes:
    """A 56 x 56 grey PNG with a pattern of its own."""
    rows = b"".join(b"\x00" + bytes(255 if math.hypot(x - 20 - seed, y - 28) < 12 + seed else 30 for x in range(56)) for y in range(56))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 56, 56, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def records(folder: Path) -> tuple[list[PairRecord], list[QuestionRecord]]:
    """Pairs and questions with their pictures under folder; some texts are hostile."""
    (folder / "images").mkdir(parents=True)
    images = []
    for seed in range(NUM_PAIRS):
        content = png(seed)
        (folder / "images" / f"{seed}.png").write_bytes(content)
        images.append(Image(path=f"images/{seed}.png", sha256=hashlib.sha256(content).hexdigest()))
    pairs = [
        PairRecord(
            images=(image,),
            question="Which digit is larger?" if seed else HOSTILE,
            response_1=f"The left one is {seed}, so the left." if seed else HOSTILE,
            response_2=f"The right one is {seed + 1}, so the right.",
            preferred="2",
            source="test",
            category="odd" if seed % 2 else "even",
        )
        for seed, image in enumerate(images)
    ]
    questions = [
        QuestionRecord(images=(image,), question=f"What is the sum of {seed} and this?", answer=str(seed), source="test")
        for seed, image in enumerate(images[:NUM_QUESTIONS])
    ]
    return pairs, questions


def write_lines(path: Path, lines: list) -> None:
    path.write_bytes(b"".join(encode(line) for line in sorted(lines, key=lambda line: line.key)))


def make_run(folder: Path, period: int) -> Path:
    """folder/test: verdicts that are right in order 12 in one half of each period of pairs, never in order 21; samples right more and more.

    The judge of the matches always says the first, so every match is undecided.
    """
    run = folder / "test"
    pairs, questions = records(run)
    write_jsonl(run / "records.jsonl", [*pairs, *questions])
    judgements, answers, matches = [], [], []
    for index, pair in enumerate(pairs):
        right = index % period < period / 2
        text = f"<think> looks at {index}. </think> \\boxed{{{2 if right else 1}}}" if index else HOSTILE + "\ud800"
        line = {"pair_id": pair.pair_id, "repeat": 0, "text": text} | COMMON
        choice = "2" if right else "1"
        judgements.append(Judgement(**line, order="12", choice=choice, status="parsed", correct=right, preferred="2"))
        judgements.append(Judgement(**line, order="21", choice=None, status="missing", correct=False, preferred="1"))
    for index, question in enumerate(questions):
        for sample in range(NUM_SAMPLES):
            right = sample < index
            answer = question.answer if right else HOSTILE if sample == NUM_SAMPLES - 1 else None
            line = {
                "answer": answer,
                "status": "parsed" if answer else "missing",
                "correct": right,
                "text": f"sample {sample}: {HOSTILE}\ud800\r",
            }
            answers.append(Answer(question_id=question.question_id, kind="sample", sample=sample, **line, **COMMON))
        answers.append(Answer(question_id=question.question_id, kind="greedy", sample=0, **line | {"text": "GREEDY"}, **COMMON))
    samples, plan = by_question(answers), Plan(samples=(NUM_SAMPLES,))
    candidates = {question_id: candidates_of(lines) for question_id, lines in samples.items()}
    said = {"choice": "1", "status": "parsed", "text": HOSTILE, "image_tokens": 50} | COMMON
    verdicts: dict = {}
    while calls := [
        (question_id, call)
        for question_id, each in candidates.items()
        for call in unanswered(plan, budget_of(plan, candidates, verdicts), question_id, each, verdicts.get(question_id, {}))
    ]:
        matches += [Match(question_id=question_id, **asdict(call), **said) for question_id, call in calls]
        verdicts = verdicts_of(matches)
    selections = selections_of(plan, questions, samples, verdicts_of(matches))
    for lines in (judgements, answers, matches, selections):
        write_lines(run / lines[0].FILE, lines)
    source = {"source": {"benchmark": "pairs", "location": "x", "limit": 0}}
    (run / "config.json").write_text(json.dumps(source | {"judge": {"model": HOSTILE}, "methods": plan.to_json()}), encoding="utf-8")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """base/ and trained/, each with a run `test`, and the steps of a training."""
    make_run(tmp_path / "base", 2)
    make_run(tmp_path / "trained", 4)
    steps = [
        {
            "step": step,
            "data": {
                "reward/acc/mean": 0.9 - 0.35 * math.exp(-step / 15) + 0.04 * math.sin(2.3 * step),
                "reward/format/mean": 1 - 0.1 * math.exp(-step / 4),
                "reward/unparsed/mean": 0.2 * math.exp(-step / 5),
                "critic/score/mean": 0.9 - 0.33 * math.exp(-step / 15),
                "response_length/mean": 61.5 - 0.1 * step,
            },
        }
        for step in range(1, 61)
    ]
    steps.insert(0, {"step": 0, "data": {"val-core/pairs/acc/mean@1": 0.5}})
    (tmp_path / "training.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps), encoding="utf-8")
    return tmp_path


def report_of(runs: Path, **options: Path) -> Report:
    return collect.collect(runs / "trained", against=runs / "base", training=runs / "training.jsonl", **options)


class Page(HTMLParser):
    """Tags with their attributes, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def page_of(report: Report, out: Path) -> Page:
    page.write(report, out)
    return Page(out.read_text(encoding="utf-8"))


def words_of(report: Report, out: Path) -> str:
    return re.sub(r"\s+", " ", page_of(report, out).words)


def test_the_page_shows_the_numbers_of_the_files(runs: Path) -> None:
    report = report_of(runs)
    (found,) = report.sets
    base, trained = (found.metrics[role]["critic"]["accuracy"] for role in ("base", "trained"))
    # One half of the pairs is right in one of two orders, in both runs.
    assert (base["value"], trained["value"], base["n"]) == (0.25, 0.25, 16)
    words = words_of(report, runs / "report.html")
    for expected in (
        "25.0",
        "Critic accuracy",
        "Unparsed verdicts",
        "50.0",
        "Self-critique",
        "Greedy answer",
        "60 steps",
        "even",
        "Official",
    ):
        assert expected in words, expected
    low, high = found.differences["trained"]["differences"]["critic"]["accuracy"]["difference"]["ci95"]
    assert f"{figures.percent(low, sign=True)}, {figures.percent(high, sign=True)}" in words
    assert "8 pairs, each judged in both orders, 1 time(s); 5 questions, 4 samples each" in words
    assert "Not logged by this training: Time per step, seconds (timing_s/step)." in words
    assert "Accuracy of sampled verdicts: 59.8 % → 89.6 %" in words


def test_the_page_is_inert_and_self_contained(runs: Path) -> None:
    found = page_of(report_of(runs), runs / "report.html")
    kinds = {tag for tag, _ in found.tags}
    assert not kinds & {"script", "link", "iframe", "object", "base", "form"}
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "data:image/png;base64,").startswith("data:image/png;base64,"), (tag, name)
        assert tag != "img" or attributes.get("alt")
        assert tag != "svg" or attributes.get("role") == "img" or "aria-hidden" in attributes or "overflow" in attributes
    assert "{{ 7 * 7 }} {% raw %}" in found.words and "<script>alert(1)</script>" in found.words
    assert "␀ ]]>" in found.words and "\\ud800␍" in found.words
    identifiers = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_pairs_show_every_outcome_in_turn(runs: Path) -> None:
    words = words_of(report_of(runs), runs / "report.html")
    one, none = "right in one order", "right in neither"
    outcomes = "; ".join(f"{before}, then {after} 2" for before in (none, one) for after in (none, one))
    assert f"Of 8 pairs, by base and then by trained: {outcomes}." in words
    assert len(re.findall(r"Pair \d", words)) == page.NUM_PAIRS
    assert words.count("Response 2 shown first: no verdict ✗ wrong") == 2 * page.NUM_PAIRS
    assert "Preferred by the label: response 2" in words


def test_pictures_are_embedded(runs: Path) -> None:
    found = page_of(report_of(runs), runs / "report.html")
    sources = {attributes["src"] for tag, attributes in found.tags if tag == "img"}
    known = {path.read_bytes() for path in (runs / "trained/test/images").iterdir()}
    assert sources and {base64.b64decode((source or "").partition(",")[2]) for source in sources} <= known


def test_questions_show_samples_and_pick(runs: Path) -> None:
    found = page_of(report_of(runs), runs / "report.html")
    words = re.sub(r"\s+", " ", found.words)
    assert "partly right on 3 of 5 questions" in words
    assert words.count("full text of sample") == NUM_SAMPLES * page.NUM_QUESTIONS
    assert "GREEDY" not in words
    assert sum(attributes.get("class") == "picked" for tag, attributes in found.tags if tag == "li") == page.NUM_QUESTIONS


def test_a_control_stands_beside(runs: Path) -> None:
    make_run(runs / "random_labels", 8)
    report = report_of(runs, control=runs / "random_labels")
    assert terminal.columns(report) == ["base", "trained", "difference", "control", "control\ndifference"]
    assert "The control shows" in words_of(report, runs / "both.html")
    assert "The control shows" not in words_of(report_of(runs), runs / "one.html")


def test_one_model_alone_is_a_page(runs: Path) -> None:
    report = collect.collect(runs / "trained")
    words = words_of(report, runs / "report.html")
    assert "Training" not in words and "differences" not in words and "25.0" in words
    assert "right in neither 4; right in one order 4." in words
    assert terminal.columns(report) == ["trained"]


def test_runs_of_one_name_in_several_folders_are_all_shown(runs: Path) -> None:
    assert [each.name for each in collect.collect(runs).sets] == ["base/test", "trained/test"]


def test_pairs_alone_and_answers_alone_are_pages(runs: Path) -> None:
    for name in ("answers.jsonl", "matches.jsonl", "selections.jsonl"):
        (runs / "trained/test" / name).unlink()
    words = words_of(collect.collect(runs / "trained"), runs / "report.html")
    assert "Critic accuracy" in words and "Greedy" not in words and "questions" not in words.partition("How to read")[0]
    (runs / "base/test/judgements.jsonl").unlink()
    words = words_of(collect.collect(runs / "base"), runs / "report.html")
    assert "Greedy answer" in words and "Critic accuracy" not in words and "Official" not in words


def test_an_unfinished_selection_is_left_out(runs: Path) -> None:
    (runs / "trained/test/selections.jsonl").unlink()
    (found,) = collect.collect(runs / "trained").sets
    policy = found.metrics["trained"]["policy"]
    assert policy["greedy"] and policy["sample"] is None and "knockout" not in policy


def test_the_same_runs_give_the_same_bytes(runs: Path) -> None:
    for name in ("one.html", "two.html"):
        page.write(report_of(runs), runs / name)
    assert (runs / "one.html").read_bytes() == (runs / "two.html").read_bytes()


def test_the_chart_is_an_svg_file(runs: Path) -> None:
    page.write_chart(report_of(runs), runs / "chart.svg")
    root = ElementTree.parse(runs / "chart.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("width") == "760"
    assert "prefers-color-scheme: dark" in (runs / "chart.svg").read_text()
    assert "Critic accuracy: base 25.0 %, trained 25.0 %" in (root.findtext("{http://www.w3.org/2000/svg}desc") or "")


def test_the_table_on_the_terminal_has_the_same_numbers(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    make_run(runs / "random_labels", 8)
    terminal.show_report(report_of(runs, control=runs / "random_labels"))
    printed = capsys.readouterr().out
    for expected in ("Critic accuracy", "25.0", "n = 16", "Self-critique"):
        assert expected in printed, expected
    assert "…" not in printed and max(map(len, printed.splitlines())) <= 80


def test_the_terminal_prints_names_and_texts_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[/b] :100: [red]x"
    counts = {"items": 1, "pairs": 1, "repeats": 1, "questions": 0, "samples": 0}
    nothing = {"verdicts_read_by": None, "official": None, "critic": None, "policy": None, "notes": []}
    terminal.show_metrics({"name": text, "counts": counts} | nothing)
    terminal.show_judgement({"preferred": None, "judgements": [{"order": "12", "choice": None, "status": "missing", "text": text}]})
    assert capsys.readouterr().out.count(text) == 2


def test_numbers_for_programs(runs: Path) -> None:
    numbers = json.loads(json.dumps(collect.numbers(report_of(runs))))
    assert numbers["labels"] == {"base": "base", "trained": "trained"}
    (found,) = numbers["sets"]
    assert found["metrics"]["trained"]["policy"]["majority"]["n"] == NUM_QUESTIONS
    assert found["differences"]["trained"]["differences"]["policy"]["sample"]["difference"]["value"] == 0


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("trained/test/config.json", "trained: holds no run"),
        ("trained/test/records.jsonl", "trained: holds no run"),
        ("trained/test/matches.jsonl", r"a verdict on the samples 0 and 3 is missing for knockout; run `critic-r1 select` again"),
        ("trained/test/images", r"images/\d\.png: the image does not open .* `critic-r1 eval`"),
        ("training.jsonl", r"training\.jsonl: cannot be read .* `critic-r1 train`"),
        ("base", "base: no such folder"),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(runs: Path, missing: str, message: str) -> None:
    path = runs / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match=message):
        page.write(report_of(runs), runs / "report.html")
    assert not list(runs.glob("*.html*"))


def test_a_set_that_the_other_model_lacks_is_named(runs: Path) -> None:
    shutil.move(runs / "base/test", runs / "base/other")
    with pytest.raises(ValueError, match=r"base: has no run 'test', which .*trained has; measure the same sets with both models"):
        report_of(runs)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("training.jsonl", '{"step": 1}', r"training\.jsonl:62: not a step"),
        ("base/test/judgements.jsonl", "[\n", r"judgements\.jsonl:17: not JSON"),
        ("trained/test/answers.jsonl", "[]\n", r"answers\.jsonl:26: \[\] is not a JSON object"),
        ("trained/test/matches.jsonl", '{"order": 1}\n', r"matches\.jsonl:7: key 'question_id' is missing"),
    ],
)
def test_a_bad_line_is_named(runs: Path, name: str, line: str, message: str) -> None:
    with (runs / name).open("a") as file:
        file.write(line)
    with pytest.raises(ValueError, match=message):
        report_of(runs)


def test_one_step_and_no_metrics(runs: Path) -> None:
    (runs / "training.jsonl").write_text('{"step": 1, "data": {"critic/score/mean": 0.5, "reward/acc/mean": null}}\n')
    words = page_of(report_of(runs), runs / "report.html").words
    assert "Mean score (reward): 50.0\u00a0% → 50.0\u00a0%" in words and "Accuracy of sampled verdicts (reward/acc/mean)" in words


def test_selections_are_those_of_the_files(runs: Path) -> None:
    from critic_r1_verl import lines

    run = Run(runs / "trained/test")
    assert sorted(run.selections(), key=lambda line: line.key) == list(lines.read(run.folder / Selection.FILE, Selection))


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (0.5, False, "50.0"),
        (-0.0412, True, "−4.1"),
        (0.1, True, "+10.0"),
        (-0.0001, True, "0.0"),
        (0.0, True, "0.0"),
        (1.0, False, "100.0"),
        (None, False, "–"),
    ],
)
def test_percent(value: float | None, sign: bool, text: str) -> None:
    assert figures.percent(value, sign=sign) == text
