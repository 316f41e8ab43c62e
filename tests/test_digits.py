# SPDX-License-Identifier: Apache-2.0
"""The embedded world: what it claims about its splits, pairs and lessons, checked on what it writes and on what is built of it."""

import hashlib
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from critic_r1_verl import rows
from critic_r1_verl.images import BadImage
from critic_r1_verl.records import Image, PairRecord, QuestionRecord, read_records
from critic_r1_verl.verdict import parse_answer, parse_verdict
from data_prep import cli, validate
from data_prep.corpus import SchemaError

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "digits"))
import corpus
import teach
import world

DIGITS = Path(corpus.__file__).parent
SIZE = world.Size(
    policy_lessons=20, critic_lessons=20, train_pairs=41, val_pairs=8, test_pairs=24, train_questions=8, val_questions=4, test_questions=24
)
PINNED = {
    "train": "0e06d76801117d50",
    "val": "7002bb150466c990",
    "test": "7d1097d7959e69c2",
    "questions": "6769f32590f591f5",
    "lessons": "237747defb481118",
}
IMAGE = Image(path="images/a.png", sha256="0" * 64)


def build(folder: Path, *flags: str) -> Path:
    words = ["build", "--corpus", f"{DIGITS / 'corpus.py'}:{folder / 'rows.jsonl'}", "--base", "tiny", "--no-lengths", "--num-workers", "1"]
    assert cli.main([*words, "--out", str(folder / "data"), *flags]) == 0
    return folder / "data"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    world.write(folder, SIZE)
    build(folder)
    return folder


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_splits_use_every_scan_once() -> None:
    scans = [scan for split in corpus.splits().values() for scan in split]
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
    assert corpus.answer(kind, shown) == right


def test_the_preferred_response_has_fewer_wrong_statements_and_lessons_say_so() -> None:
    both_flawed = 0
    for pair in islice(world.pairs("teach", 0), 500):
        first, second = (world.wrong_statements(claim, pair.scene) for claim in pair.claims)
        assert pair.preferred == ("1" if first < second else "2")
        both_flawed += min(first, second) > 0
        for checked in (True, False):
            lesson = world.critic_lesson(pair, checked)
            verdict = parse_verdict(lesson)
            assert (verdict.choice, verdict.format) == (pair.preferred, True)
            assert lesson.count(" no") == (first + second if checked else 0)
        parsed = parse_answer(world.policy_lesson(pair.scene))
        assert (parsed.text, parsed.format) == (str(pair.scene.answer), True)
    assert 50 < both_flawed < 150


def test_lessons_are_hurried_where_there_is_little_to_work_out(drawn: Path) -> None:
    lessons = [json.loads(line) for line in (drawn / "lessons.jsonl").read_text().splitlines()]
    styles = {("sum" in row["prompt"], "Response 1" in row["response"]) for row in lessons if row["kind"] == "pair"}
    assert {(True, True), (False, False)} <= styles
    assert set(world.CHECKED) == {kind for kinds in corpus.QUESTIONS.values() for kind in kinds}
    assert all((drawn / row["image"]).is_file() for row in lessons)


def test_every_scene_can_be_misread() -> None:
    """Three nines once had no misreading with another largest digit, and the build never ended."""
    import random

    nine = corpus.load()[1].index(9)
    scene = corpus.Scene((nine, nine, nine), "largest")
    assert world._claim(random.Random(0), "wrong", scene).answer != 9


def test_built_rows_are_sound_and_balanced(drawn: Path) -> None:
    assert [str(problem) for problem in validate.problems(drawn / "data")] == []
    for split, count in (("train", 49), ("val", 12), ("test", 48)):
        built = rows.read_rows(drawn / "data" / f"{split}.parquet")
        labels = [row["reward_model"]["ground_truth"] for row in built if row["reward_model"]["style"] == "verdict"]
        assert len(built) == count and abs(labels.count("1") - labels.count("2")) <= 1


def test_no_scan_is_on_two_sides(drawn: Path) -> None:
    allowed = {split: set(scans) for split, scans in corpus.splits().items()}
    records = list(read_records(drawn / "data" / "records.jsonl"))
    assert {type(record) for record in records if record.split == "test"} == {PairRecord, QuestionRecord}
    for record in records:
        assert {int(scan.removeprefix("scan-")) for scan in record.group.split("+")} <= allowed[record.split]
    for row in rows_of(drawn):
        assert set(row["scans"]) <= allowed[row["split"]]


def test_two_worlds_are_the_same_and_another_seed_is_another(drawn: Path, tmp_path: Path) -> None:
    world.write(tmp_path, SIZE)
    assert all((drawn / name).read_bytes() == (tmp_path / name).read_bytes() for name in ("rows.jsonl", "lessons.jsonl"))
    assert build(tmp_path).joinpath("manifest.json").read_text() == (drawn / "data/manifest.json").read_text().replace(
        str(drawn), str(tmp_path)
    )
    assert list(world.rows(SIZE, seed=1)) != rows_of(drawn)


def test_the_content_of_the_world_is_the_one_that_was_measured(drawn: Path) -> None:
    """The numbers that the project reports rest on these rows and lessons: whoever changes them has to measure again."""
    rows = world.rows(SIZE, seed=0)
    of_kind = {split: [row for row in rows if row["split"] == split and row["claims"]] for split in ("train", "val", "test")}
    of_kind["questions"] = [row for row in rows if row["split"] == "test" and not row["claims"]]
    content = {kind: hashlib.sha256(json.dumps(some).encode()).hexdigest()[:16] for kind, some in of_kind.items()}
    content["lessons"] = hashlib.sha256((drawn / "lessons.jsonl").read_bytes()).hexdigest()[:16]
    assert content == PINNED


def test_a_picture_that_a_killed_draw_left_half_written_is_drawn_again(drawn: Path, tmp_path: Path) -> None:
    name = teach.read_lessons(drawn / "lessons.jsonl")[0]["image"]
    (tmp_path / "images").mkdir()
    (tmp_path / name).write_bytes((drawn / name).read_bytes()[:40])
    world.write(tmp_path, SIZE)
    assert (tmp_path / name).read_bytes() == (drawn / name).read_bytes()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, "no such file"),
        ('{"kind": "pair"}\n', r":1: not a lesson \(KeyError: 'image'\)"),
        ('{"kind": "pair", "image": "a", "prompt": "b", "response": "c"}\n{"kind"\n', ":2: not a lesson"),
        ("[]\n", ":1: not a lesson"),
    ],
)
def test_a_file_without_lessons_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, found: str) -> None:
    file = tmp_path / "lessons.jsonl"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(sys, "argv", ["teach.py", "--lessons", str(file), "--out", str(tmp_path / "base")])
    with pytest.raises(SystemExit, match=f"^critic-r1: .*{found}"):
        teach.main()


def test_the_tokenizer_learns_from_the_texts_without_the_place_of_the_picture(drawn: Path) -> None:
    lessons = teach.read_lessons(drawn / "lessons.jsonl")
    assert all(lesson["prompt"].startswith("<image>") for lesson in lessons)
    texts = teach.texts_of(lessons)
    assert len(texts) == 2 * len(lessons) and not any("<image>" in text for text in texts)


@pytest.mark.parametrize(
    ("flags", "pairs_and_questions"),
    [
        (("--limit", "34"), {"train": (18, 4), "val": (2, 2), "test": (4, 4)}),
        (("--both-orders",), {"train": (90, 20), "val": (10, 10), "test": (20, 20)}),
    ],
)
def test_a_part_of_the_rows_has_all_splits(tmp_path: Path, flags: tuple[str, ...], pairs_and_questions: dict) -> None:
    world.write(tmp_path, world.Size(1, 1, 90, 10, 20, 20, 10, 20))
    manifest = json.loads((build(tmp_path, *flags) / "manifest.json").read_text())
    orders = 2 if "--both-orders" in flags else 1
    assert manifest["splits"] == {
        split: {"rows": orders * pairs + questions, "pairs": pairs, "questions": questions}
        for split, (pairs, questions) in pairs_and_questions.items()
    }


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"kind": "colour"}, "KeyError: 'colour'"),
        ({"scans": [1797, 0]}, "IndexError"),
        ({"claims": [1, 2]}, "TypeError"),
        ({"preferred": "3"}, "'preferred'"),
        ({"split": "teach"}, "'split'"),
    ],
)
def test_a_row_of_another_form_stops_the_build(drawn: Path, change: dict, found: str) -> None:
    with pytest.raises(SchemaError, match=found):
        list(corpus.convert(rows_of(drawn)[0] | change, lambda raw: IMAGE))


def test_an_image_that_cannot_be_stored_is_a_skip_for_the_build(drawn: Path) -> None:
    def refuse(raw: object) -> Iterator[Image]:
        raise BadImage("none given")

    with pytest.raises(BadImage):
        corpus.convert(rows_of(drawn)[0], refuse)
