# SPDX-License-Identifier: Apache-2.0
"""The embedded world: what it claims about its splits, pairs and lessons, checked on what it writes."""

import hashlib
import io
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from critic_r1_verl import rows
from critic_r1_verl.records import Image, PairRecord, QuestionRecord, RecordFile
from critic_r1_verl.verdict import parse_answer, parse_verdict
from data_prep import digits, embedded, validate, writing

SIZE = embedded.DigitsSize(policy_lessons=20, critic_lessons=20, train_pairs=41, val_pairs=8, test_pairs=24, test_questions=24)
IMAGE = Image(path="images/a.png", sha256="0" * 64)
FILES = ("train.parquet", "val.parquet", "test_pairs.jsonl", "test_questions.jsonl", "lessons.jsonl", "manifest.json")


def sha(picture: Any) -> str:
    """The path under which a picture is stored."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return f"images/{hashlib.sha256(buffer.getvalue()).hexdigest()[:32]}.png"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    embedded.build_digits(folder, SIZE)
    return folder


def test_splits_use_every_scan_once() -> None:
    scans = [scan for split in digits.splits().values() for scan in split]
    assert sorted(scans) == list(range(1797))


@pytest.mark.parametrize(
    ("kind", "shown", "right"),
    [
        ("digit", (4,), 4),
        ("left", (4, 7), 4),
        ("right", (4, 7), 7),
        ("middle", (1, 2, 3), 2),
        ("larger", (4, 7), 7),
        ("largest", (9, 9, 9), 9),
        ("sum", (9, 9), 18),
    ],
)
def test_answers(kind: str, shown: tuple[int, ...], right: int) -> None:
    assert digits.answer(kind, shown) == right


def test_the_preferred_response_has_fewer_wrong_statements_and_lessons_say_so() -> None:
    both_flawed = 0
    for raw in islice(digits.raw_pairs("teach"), 500):
        scene = raw["scene"]
        truth = digits.Claim(scene.digits, scene.answer)
        first, second = (digits.wrong_statements(claim, truth) for claim in raw["claims"])
        assert raw["preferred"] == ("1" if first < second else "2")
        both_flawed += min(first, second) > 0
        for checked in (True, False):
            lesson = digits.critic_lesson(raw, checked)
            verdict = parse_verdict(lesson)
            assert (verdict.choice, verdict.format) == (raw["preferred"], True)
            assert lesson.count(" no") == (first + second if checked else 0)
        parsed = parse_answer(digits.policy_lesson(scene))
        assert (parsed.text, parsed.format) == (str(scene.answer), True)
    assert 50 < both_flawed < 150


def test_lessons_are_hurried_where_there_is_little_to_work_out(world: Path) -> None:
    lessons = [json.loads(line) for line in (world / "lessons.jsonl").read_text().splitlines()]
    styles = {("sum" in row["prompt"], "Response 1" in row["response"]) for row in lessons if row["skill"] == "critic"}
    assert {(True, True), (False, False)} <= styles
    assert set(digits.CHECKED) == {kind for kinds in digits.QUESTIONS.values() for kind in kinds}


def test_every_scene_can_be_misread() -> None:
    """Three nines once had no misreading with another largest digit, and the build never ended."""
    import random

    scene = digits.Scene((0, 0, 0), (9, 9, 9), "largest")
    assert digits._claim(random.Random(0), "wrong", scene).answer != 9


def test_built_rows_are_sound_and_balanced(world: Path) -> None:
    for split, count in (("train", 41), ("val", 8)):
        built = rows.read_rows(world / f"{split}.parquet")
        assert len(built) == count
        assert [problem for row in built for problem in rows.check_row(row, world)] == []
        labels = [row["reward_model"]["ground_truth"] for row in built]
        assert abs(labels.count("1") - labels.count("2")) <= 1


def test_no_scan_is_on_two_sides(world: Path) -> None:
    by_split = {split: set(scans) for split, scans in digits.splits().items()}
    records = list(RecordFile(Path(world / "test_pairs.jsonl"), PairRecord)) + list(
        RecordFile(Path(world / "test_questions.jsonl"), QuestionRecord)
    )
    used = {int(scan.removeprefix("scan-")) for record in records for scan in record.group.split("+")}
    assert used <= by_split["test"]
    with pytest.raises(ValueError, match="ink seen before"):
        embedded._check_held_out({f"scan-{digits.splits()['train'][0]}", f"scan-{digits.splits()['test'][0]}"})
    for split in ("train", "val"):
        allowed = {sha(digits.picture(raw["scene"])) for raw in islice(digits.raw_pairs(split), 100)}
        assert {path for row in rows.read_rows(world / f"{split}.parquet") for path in row["images"]} <= allowed


def test_two_builds_give_the_same_bytes_and_counts_add_up(world: Path, tmp_path: Path) -> None:
    embedded.build_digits(tmp_path, SIZE)
    assert all((world / name).read_bytes() == (tmp_path / name).read_bytes() for name in FILES)
    manifest = json.loads((world / "manifest.json").read_text())
    assert manifest["corpora"]["digits"]["counts"] == {"read": 41 + 8, "kept": 41 + 8, "skipped": {}}
    assert manifest["companions"] == {"test_pairs.jsonl": 24, "test_questions.jsonl": 24, "lessons.jsonl": 40}
    assert manifest["corpora"]["digits"]["location"] == "embedded"


def test_validate_finds_nothing(world: Path) -> None:
    assert [str(problem) for problem in validate.problems(world)] == []


def test_the_control_changes_training_labels_alone(world: Path, tmp_path: Path) -> None:
    embedded.build_digits(tmp_path, SIZE, random_labels=True)
    same = {name for name in FILES if (world / name).read_bytes() == (tmp_path / name).read_bytes()}
    assert same == set(FILES) - {"train.parquet", "manifest.json"}
    labels = {
        folder: {
            row["extra_info"]["pair_id"]: (row["reward_model"]["ground_truth"] == "1") == (row["extra_info"]["order"] == "12")
            for row in built
        }
        for folder, built in ((folder, rows.read_rows(folder / "train.parquet")) for folder in (world, tmp_path))
    }
    changed = sum(labels[world][pair] != labels[tmp_path][pair] for pair in labels[world])
    assert 10 <= changed <= 31


def test_a_part_of_the_digits_has_both_splits_and_the_flags_of_any_corpus(tmp_path: Path) -> None:
    options = replace(embedded.DEFAULT_OPTIONS, limit=40, both_orders=True)
    manifest = embedded.build_digits(tmp_path, embedded.DigitsSize(1, 1, 90, 10, 2, 2), options)
    assert manifest["splits"] == {"train": {"rows": 72, "pairs": 36, "questions": 0}, "val": {"rows": 8, "pairs": 4, "questions": 0}}
    assert [str(problem) for problem in validate.problems(tmp_path)] == []


def test_a_second_build_is_refused_and_leaves_the_files_of_the_first(tmp_path: Path) -> None:
    work = tmp_path / ".build"
    first = embedded._draw_pairs(work, SIZE, 0, random_labels=False)
    before = first.read_bytes()
    with writing.alone(tmp_path, work), pytest.raises(ValueError, match="another build writes here"):
        embedded.build_digits(tmp_path, SIZE, random_labels=True)
    assert first.read_bytes() == before
