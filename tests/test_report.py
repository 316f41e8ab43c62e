# SPDX-License-Identifier: Apache-2.0
"""The report of a synthetic run: its numbers, its examples, its safety against hostile text, its errors."""

import base64
import hashlib
import json
import math
import re
import shutil
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from critic_r1_verl import evaluate, report
from critic_r1_verl.engines.base import Sampling
from critic_r1_verl.records import Image, PairRecord, QuestionRecord, write_jsonl

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }} {% raw %} & \"quoted\" 'single' \u202e\x00 ]]> <!-- -->"
CONTROL_SHIFT = -0.031


def png(seed: int) -> bytes:
    """A 56 x 56 grey PNG with a pattern of its own."""
    rows = b"".join(b"\x00" + bytes(255 if math.hypot(x - 20 - seed, y - 28) < 12 + seed else 30 for x in range(56)) for y in range(56))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 56, 56, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def estimate(value: float, n: int = 512) -> dict:
    return {"value": value, "n": n, "ci95": [value - 0.04, min(value + 0.04, 1.0)]}


def make_metrics(shift: float = 0.0) -> dict:
    keys = [key for key, _, _ in report.MEASURES]
    base = {key: estimate(0.5 + 0.05 * index, 1024 if index == 0 else 512) for index, key in enumerate(keys)}
    trained = {key: estimate(0.6 + 0.05 * index + shift, 1024 if index == 0 else 512) for index, key in enumerate(keys)}
    difference = {key: estimate(0.1 + shift) for key in keys}
    base["unparsed_rate"], trained["unparsed_rate"] = estimate(0.0615), estimate(0.0)
    setup = {"base": "tiny", "recipe": "critic_r1", "seed": 1, "versions": {"verl": "0.9.1", "torch": "2.11.0"}, "hostile": HOSTILE}
    stages = {"prepare": 12.3, "teach_base": 421.0, "train": 380.5, HOSTILE: 3.0}
    return {"base": base, "trained": trained, "difference": difference, "stages": stages, "setup": setup}


def write_lines(path: Path, lines: list[dict]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def make_run(run: Path) -> Path:
    """A run of 8 pairs and 5 questions; the verdicts cycle through all outcomes, and some texts are hostile."""
    (run / "data" / "images").mkdir(parents=True)
    images = []
    for seed in range(8):
        content = png(seed)
        (run / "data" / "images" / f"{seed}.png").write_bytes(content)
        images.append(Image(path=f"images/{seed}.png", sha256=hashlib.sha256(content).hexdigest()))
    pairs = [
        PairRecord(
            images=(image,),
            question="Which digit is larger?" if seed else HOSTILE,
            response_1=f"The left one is {seed}, so the left." if seed else HOSTILE,
            response_2=f"The right one is {seed + 1}, so the right.",
            preferred="2",
            source="test",
        )
        for seed, image in enumerate(images)
    ]
    questions = [
        QuestionRecord(images=(image,), question=f"What is the sum of {seed} and this?", answer=str(seed), source="test")
        for seed, image in enumerate(images[:5])
    ]
    write_jsonl(run / "data" / "test_pairs.jsonl", pairs)
    write_jsonl(run / "data" / "test_questions.jsonl", questions)
    for model in ("base", "trained"):
        judgements, answers, selections = [], [], []
        for index, pair in enumerate(pairs):
            right = index % 2 == 0 if model == "base" else index % 4 < 2
            text = f"<think> {model} looks at {index}. </think> \\boxed{{{2 if right else 1}}}" if index else HOSTILE + "\ud800"
            line = {"pair_id": pair.pair_id, "repeat": 0, "status": "parsed", "preferred": "2", "text": text}
            judgements.append(line | {"order": "12", "choice": "2" if right else "1", "correct": right})
            judgements.append(line | {"order": "21", "choice": None, "status": "missing", "correct": False})
        for index, question in enumerate(questions):
            for sample in range(8):
                right = sample < 2 * index
                answer = question.answer if right else HOSTILE if sample == 7 else None
                line = {"question_id": question.question_id, "sample": sample, "answer": answer, "correct": right}
                answers.append(line | {"kind": "sample", "text": f"sample {sample}: {HOSTILE}\ud800\r"})
            answers.append(answers[-1] | {"kind": "greedy", "sample": 0, "text": "GREEDY"})
            selection = {"question_id": question.question_id, "method": "self_critique", "answer": question.answer, "correct": index > 0}
            selections += [selection, selection | {"method": "majority", "answer": None, "correct": 0.5}]
        write_lines(run / f"{model}_judgements.jsonl", judgements)
        write_lines(run / f"{model}_answers.jsonl", answers)
        write_lines(run / f"{model}_selections.jsonl", selections)
    write_lines(
        run / "training.jsonl",
        [
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
        ],
    )
    (run / "metrics.json").write_text(json.dumps(make_metrics()), encoding="utf-8")
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "demo")


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


def page_of(run: Path, **options: Path) -> Page:
    return Page(report.build(run, **options).read_text(encoding="utf-8"))


def test_numbers_come_from_metrics(run: Path) -> None:
    page = page_of(run)
    for expected in (
        "50.0",
        "46.0, 54.0",
        "60.0",
        "+10.0",
        "+6.0, +14.0",
        "1,024",
        "6.2",
        "−4.0, 4.0",
        "7 min 01 s",
        "13 min 37 s",
        "60 steps",
    ):
        assert expected in page.words, expected
    assert "verl 0.9.1, torch 2.11.0" in page.words
    assert "Not in training.jsonl: Time per step, seconds (timing_s/step)." in page.words
    assert "Accuracy of sampled verdicts: 59.8 % → 89.6 %" in re.sub(r"\s+", " ", page.words)


def test_page_is_inert_and_self_contained(run: Path) -> None:
    page = page_of(run)
    kinds = {tag for tag, _ in page.tags}
    assert not kinds & {"script", "link", "iframe", "object", "base", "form"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "data:image/png;base64,").startswith("data:image/png;base64,"), (tag, name)
        assert tag != "img" or attributes.get("alt")
        assert tag != "svg" or attributes.get("role") == "img" or "aria-hidden" in attributes or "overflow" in attributes
    assert (
        "{{ 7 * 7 }} {% raw %}" in page.words
        and "<script>alert(1)</script>" in page.words
        and "␀ ]]>" in page.words
        and "\\ud800␍" in page.words
    )
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_pairs_show_every_outcome_in_turn(run: Path) -> None:
    page = page_of(run)
    words = re.sub(r"\s+", " ", page.words)
    assert "8 held-out pairs, shown as recorded: wrong, then right 2; right, then wrong 2; right both times 2; wrong both times 2." in words
    assert len(re.findall(r"Pair \d", words)) == report.NUM_PAIRS
    assert words.count("Swapped: no verdict ✗ wrong") == 2 * report.NUM_PAIRS
    assert "Preferred by the label: response 2" in words
    # Over the six examples the outcomes take turns; each of the first two kinds comes twice.
    assert words.count("As recorded: response 2 ✓ right") == 2 + 2 + 2


def test_pictures_are_embedded(run: Path) -> None:
    page = page_of(run)
    sources = {attributes["src"] for tag, attributes in page.tags if tag == "img"}
    known = {path.read_bytes() for path in (run / "data" / "images").iterdir()}
    assert sources and {base64.b64decode((source or "").partition(",")[2]) for source in sources} <= known


def test_questions_show_samples_and_pick(run: Path) -> None:
    page = page_of(run)
    words = re.sub(r"\s+", " ", page.words)
    assert "partly right on 3 of 5 questions" in words
    assert words.count("full text of sample") == 8 * report.NUM_QUESTIONS
    assert "right in 50 % of draws" in words and "GREEDY" not in words
    # Three questions have 2, 4 and 6 samples with the picked answer, the fourth has none or all.
    picked = sum(attributes.get("class") == "picked" for tag, attributes in page.tags if tag == "li")
    assert picked in (12, 20)


def test_selection_may_name_its_sample(run: Path) -> None:
    path = run / "trained_selections.jsonl"
    lines = [json.loads(line) | {"sample": 1} for line in path.read_text().splitlines()]
    write_lines(path, lines)
    page = page_of(run)
    assert sum(attributes.get("class") == "picked" for tag, attributes in page.tags if tag == "li") == report.NUM_QUESTIONS


def test_control_stands_beside(run: Path, tmp_path: Path) -> None:
    control = tmp_path / "control.json"
    control.write_text(json.dumps(make_metrics(CONTROL_SHIFT)))
    page = page_of(run, control=control, out=tmp_path / "pages" / "both.html")
    assert (tmp_path / "pages" / "both.html").is_file() and not (run / "report.html").exists()
    assert "+6.9" in page.words and "random labels" in page.words
    assert "random labels" not in page_of(run).words


def test_same_run_gives_same_bytes(run: Path) -> None:
    assert report.build(run).read_bytes() == report.build(run, out=run / "again.html").read_bytes()


def test_picture_is_an_svg_file(run: Path) -> None:
    out = report.picture(run, run / "chart.svg")
    root = ElementTree.parse(out).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("width") == "760"
    assert "prefers-color-scheme: dark" in out.read_text()
    assert "Critic accuracy: base 50.0 %, trained 60.0 %" in (root.findtext("{http://www.w3.org/2000/svg}desc") or "")


def test_table_on_the_terminal_has_the_same_numbers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    report.print_table(make_metrics(), make_metrics(CONTROL_SHIFT))
    printed = capsys.readouterr().out
    for expected in ("Critic accuracy", "50.0", "46.0, 54.0", "+10.0", "+6.0, +14.0", "+6.9", "n = 1,024"):
        assert expected in printed, expected
    assert "…" not in printed and max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize(
    "missing",
    [
        "metrics.json",
        "training.jsonl",
        "data/test_pairs.jsonl",
        "data/test_questions.jsonl",
        "base_judgements.jsonl",
        "trained_judgements.jsonl",
        "trained_answers.jsonl",
        "trained_selections.jsonl",
        "data/images",
    ],
)
def test_missing_file_is_named_with_its_remedy(run: Path, missing: str) -> None:
    path = run / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match=re.escape(missing) + ".*`make demo`"):
        report.build(run)
    assert not list(run.glob("*.html*"))


def test_missing_control_is_named_with_its_remedy(run: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.json.*`make demo-control`"):
        report.build(run, control=run / "absent.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda metrics: metrics.pop("trained"), "'trained' is missing"),
        (lambda metrics: metrics["base"].pop("policy_accuracy"), "'base.policy_accuracy'"),
        (lambda metrics: metrics["base"]["policy_accuracy"].update(value=math.nan), "'base.policy_accuracy'"),
        (lambda metrics: metrics["difference"]["unparsed_rate"].update(ci95=[0.1]), "'difference.unparsed_rate'"),
        (lambda metrics: metrics["stages"].update(train="long"), "'stages.train'"),
    ],
)
def test_bad_metrics_are_named_by_key(run: Path, change, message: str) -> None:
    metrics = make_metrics()
    change(metrics)
    (run / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(ValueError, match=re.escape(message)):
        report.build(run)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("training.jsonl", '{"step": 1}', r"training\.jsonl:61: no 'data'"),
        ("base_judgements.jsonl", "[", r"base_judgements\.jsonl:17: not JSON"),
        ("trained_answers.jsonl", "[]", r"trained_answers\.jsonl:46: no 'question_id'"),
        (
            "base_judgements.jsonl",
            '{"pair_id": "x", "order": "13", "repeat": 0, "choice": "1", "correct": true, "text": ""}',
            "pair x has order '13'",
        ),
    ],
)
def test_bad_line_is_named(run: Path, name: str, line: str, message: str) -> None:
    with (run / name).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        report.build(run)


def test_one_step_and_no_metrics(run: Path) -> None:
    write_lines(run / "training.jsonl", [{"step": 1, "data": {"critic/score/mean": 0.5, "reward/acc/mean": None}}])
    words = page_of(run).words
    assert "Mean score (reward): 50.0\u00a0% → 50.0\u00a0%" in words and "Accuracy of sampled verdicts (reward/acc/mean)" in words


def test_judgement_of_unknown_pair(run: Path) -> None:
    (run / "data" / "test_pairs.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"pairs\.jsonl: no pair [0-9a-f]{20}"):
        report.build(run)


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (0.5, False, "50.0"),
        (-0.0412, True, "−4.1"),
        (0.1, True, "+10.0"),
        (-0.0001, True, "0.0"),
        (0.0, True, "0.0"),
        (1.0, False, "100.0"),
    ],
)
def test_percent(value: float, sign: bool, text: str) -> None:
    assert report._percent(value, sign=sign) == text


# Benchmarks


def evaluate_into(scripted, run: Path, folder: Path, verdict=lambda prompt: "1") -> None:
    """The pairs of a run as a benchmark, judged by a script."""
    model = scripted(lambda prompt, _: f"<think>{HOSTILE}\ud800</think> \\boxed{{{verdict(prompt)}}}")
    model.name = HOSTILE
    settings = evaluate.Settings(Sampling(8))
    place = evaluate.Place(str(run / "data" / "test_pairs.jsonl"), "", folder)
    with evaluate.loaded(place, settings) as records:
        evaluate.evaluate(model, place, records, settings, {"kind": "scripted"})


def likes_the_right_one(prompt: str) -> str:
    return "1" if prompt.index("The right one") < prompt.index("[End of response 1]") else "2"


def test_a_run_shows_its_benchmarks_beside_its_training(scripted, run: Path) -> None:
    before = page_of(run)
    evaluate_into(scripted, run, run / "benchmarks" / "trained" / "held_out", likes_the_right_one)
    page = page_of(run)
    assert before.words.count("Benchmarks") == 0 and page.words.count("Benchmarks") == 1
    assert page.words.count("Training") == before.words.count("Training")
    for text in ("held_out", "8, 8 different pairs", "critic_no_tie", "right in both orders: 8", "Position consistency"):
        assert text in page.words


@pytest.mark.parametrize(
    ("verdict", "kinds", "strict"),
    [
        (likes_the_right_one, "right in both orders: 8; right in one order: 0; right in neither: 0", "100.0"),
        (lambda _: "1", "right in both orders: 0; right in one order: 8; right in neither: 0", "0.0"),
        (lambda _: "no number", "right in both orders: 0; right in one order: 0; right in neither: 8", "0.0"),
    ],
)
def test_benchmarks_alone_are_a_page(scripted, run: Path, tmp_path: Path, verdict, kinds: str, strict: str) -> None:
    evaluate_into(scripted, run, tmp_path / "out" / "held_out", verdict)
    page = page_of(tmp_path / "out")
    assert "A critic on benchmarks" in page.words and "Training" not in page.words
    assert kinds in page.words
    score = json.loads((tmp_path / "out/held_out/score.json").read_text())
    assert f"{100 * score['strict']['overall']:.1f}" == strict and f"{strict} %" in page.words
    # One picture for the first pair of the only kind that there is.
    assert [tag for tag, _ in page.tags].count("img") == 1
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}


def test_a_score_that_is_broken_is_named(scripted, run: Path, tmp_path: Path) -> None:
    evaluate_into(scripted, run, tmp_path / "out" / "held_out")
    (tmp_path / "out/held_out/score.json").write_text('{"benchmark": "x"}')
    with pytest.raises(ValueError, match=r"score\.json: 'estimates' is missing"):
        report.build(tmp_path / "out")
