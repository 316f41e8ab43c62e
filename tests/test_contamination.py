# SPDX-License-Identifier: Apache-2.0
"""Copies of a benchmark's pictures and its own questions are found; other pictures and everybody's questions are not."""

import hashlib
import importlib.util
import io
import random
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image as Picture
from PIL import ImageDraw

from critic_r1_verl import hub
from critic_r1_verl.images import Limits, prepare
from critic_r1_verl.records import Image, PairRecord, QuestionRecord, RecordFile, write_jsonl
from data_prep import contamination, corpora
from data_prep.contamination import Match, pictures
from data_prep.contamination.questions import COMMON_IMAGES, words
from data_prep.corpus import Skip

# Smaller than the recipe's, because enlarging and compressing the pictures takes most of the time of these tests.
LIMITS = Limits(70_000, 4_194_304)
LONG = "Which of the two flags beside the town hall was raised first, according to the plaque?"
BATTLE = "Two ships lie in the harbour; what does the lettering on the stern of the smaller one say?"


@cache
def photos() -> list[Picture.Image]:
    # Read from scikit-learn's folder, because importing the package takes seconds.
    folder = Path(importlib.util.find_spec("sklearn").origin).parent / "datasets" / "images"
    return [Picture.open(folder / f"{name}.jpg").convert("RGB") for name in ("china", "flower")]


def crop(number: int, size: int = 240) -> Picture.Image:
    """A photograph, another one for each number."""
    rng = random.Random(number)
    photo = photos()[number % 2]
    left, top = rng.randrange(photo.width - size), rng.randrange(photo.height - size)
    return photo.crop((left, top, left + size, top + size * 3 // 4))


def drawing(number: int) -> Picture.Image:
    """A triangle of thin lines on white, another one for each number."""
    rng = random.Random(number)
    picture = Picture.new("RGB", (280, 210), "white")
    ImageDraw.Draw(picture).polygon([(rng.randrange(280), rng.randrange(210)) for _ in range(3)], outline="black", width=2)
    return picture


def store(root: Path, picture: Picture.Image, kind: str = "PNG", **options) -> Image:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **({"compress_level": 1} | options if kind == "PNG" else options))
    sha = hashlib.sha256(buffer.getvalue()).hexdigest()
    path = f"images/{sha[:32]}.{kind.lower()}"
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(buffer.getvalue())
    return Image(path=path, sha256=sha)


def pair(*images: Image, question: str = "Describe the image.", number: int = 0) -> PairRecord:
    texts = {"response_1": f"A town, {number}.", "response_2": f"A flower, {number}."}
    return PairRecord(images=images, question=question, preferred="1", source="train", **texts)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "train"


@pytest.fixture
def benchmark(tmp_path: Path):
    """Write a benchmark of (picture, question) items as a JSONL of questions and return its path."""

    def write(items: Iterable[tuple[Picture.Image, str]], folder: str = "bench") -> str:
        root = tmp_path / folder
        records = [QuestionRecord(images=(store(root, picture),), question=text, answer="7", source="bench") for picture, text in items]
        write_jsonl(root / "items.jsonl", records)
        return str(root / "items.jsonl")

    return write


def find(records: Iterable, root: Path, benchmarks: Iterable[str]) -> dict[str, Match]:
    items = [item for name in benchmarks for item in contamination.load(name, root / "benchmarks", LIMITS)]
    return contamination.find(records, root, items, LIMITS)


def find_one(record: PairRecord, root: Path, *benchmarks: str) -> Match | None:
    return find([record], root, benchmarks).get(record.pair_id)


# Pictures


def jpeg(picture: Picture.Image, quality: int) -> Picture.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Picture.open(buffer)


COPIES = {
    "half the size": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "larger, coarsely": lambda picture: picture.resize((picture.width * 17 // 10, picture.height * 17 // 10), Picture.Resampling.NEAREST),
    "sides of multiples of 28": lambda picture: picture.resize((round(picture.width / 28) * 28, round(picture.height / 28) * 28)),
    "JPEG": lambda picture: jpeg(picture, 30),
    "smaller and JPEG": lambda picture: jpeg(picture.resize((picture.width * 3 // 4, picture.height * 3 // 4)), 50),
    "grey": lambda picture: picture.convert("L"),
    "brighter": lambda picture: picture.point(lambda value: min(255, value * 6 // 5)),
}


@pytest.mark.parametrize("make", [crop, drawing])
def test_copies_of_a_picture_are_found(root: Path, benchmark, make) -> None:
    bench = benchmark([(make(number), f"Question {number}?") for number in range(5)])
    item_id = list(RecordFile(Path(bench), QuestionRecord))[3].question_id
    copies = {name: pair(store(root, copy(make(3)))) for name, copy in COPIES.items()}
    found = find(copies.values(), root, [bench])
    matches = {name: found.get(record.pair_id) for name, record in copies.items()}
    assert {name: match and replace(match, score=1) for name, match in matches.items()} == {
        name: Match(record.pair_id, "train", bench, item_id, "image: looks the same", 1) for name, record in copies.items()
    }
    assert [(name, match) for name, match in matches.items() if not pictures.MIN_CORRELATION <= match.score <= 1] == []


@pytest.mark.parametrize("make", [crop, drawing])
def test_different_pictures_are_not(root: Path, benchmark, make) -> None:
    bench = benchmark((make(number), f"Question {number}?") for number in range(20))
    records = [pair(store(root, make(number))) for number in range(100, 140)]
    assert find(records, root, [bench]) == {}


def test_the_same_pixels_in_another_file(root: Path, benchmark) -> None:
    # Within the pixel limits, so that the benchmark's picture is prepared for training without a change.
    picture = photos()[0].resize((700, 560))
    match = find_one(pair(store(root, picture, "BMP")), root, benchmark([(picture, "Which town?")]))
    assert match and (match.reason, match.score) == ("image: same pixels", 1.0)


def test_a_picture_is_compared_as_it_is_prepared_for_training(root: Path, benchmark) -> None:
    """A small picture lies larger in the data folder, a transparent one on white."""
    see_through = Picture.new("RGBA", (60, 60), (0, 0, 0, 0))
    ImageDraw.Draw(see_through).ellipse((10, 20, 40, 55), fill="red")
    bench = benchmark([(see_through, "What shape?")])
    data, _, _ = prepare((Path(bench).parent / next(iter(RecordFile(Path(bench), QuestionRecord))).images[0].path).read_bytes(), LIMITS)
    match = find_one(pair(store(root, Picture.open(io.BytesIO(data)))), root, bench)
    assert match and match.reason == "image: same pixels"


def test_pictures_of_one_colour_match_by_their_pixels_only(root: Path, benchmark) -> None:
    bench = benchmark([(Picture.new("RGB", (560, 560), "white"), "What is missing?")])
    others = [pair(store(root, Picture.new("RGB", size, colour))) for size, colour in (((560, 560), "black"), ((600, 500), "white"))]
    same = pair(store(root, Picture.new("RGB", (560, 560), "white"), "BMP"))
    assert list(find([*others, same], root, [bench])) == [same.pair_id]


def test_one_of_several_pictures_is_enough_and_the_strongest_match_is_told(root: Path, benchmark) -> None:
    large = photos()[1].resize((700, 560))
    bench = benchmark([(crop(0), "First?"), (large, "Second?")])
    record = pair(store(root, crop(50)), store(root, jpeg(crop(0), 50)), store(root, large, "BMP"), question=BATTLE)
    match = find_one(record, root, bench)
    assert match and match.item_id == list(RecordFile(Path(bench), QuestionRecord))[1].question_id


def test_a_picture_that_does_not_open_is_named(root: Path, benchmark) -> None:
    bench = benchmark([(crop(0), "Which?")])
    (file,) = (Path(bench).parent / "images").iterdir()
    file.write_bytes(file.read_bytes()[:90])
    with pytest.raises(ValueError, match=file.name):
        find_one(pair(store(root, crop(1))), root, bench)


# Questions


QUESTIONS: list[tuple[str, str | None, float, float]] = [
    (LONG, "question: same words", 1, 1),
    ("<image>\n  WHICH of the two flags beside the Town-Hall was raised first — according to the plaque", "question: same words", 1, 1),
    (f"{LONG} Answer with one word.", "question: shared 8-grams", 1, 1),
    (f"User: What do you see?\n\nAssistant: A town hall.\n\nUser: {LONG}", "question: shared 8-grams", 1, 1),
    ("Which of the two flags beside the town hall was raised first, and who paid for it?", "question: shared 8-grams", 0.5, 0.9),
    ("Which of the two flags beside the town hall is the larger?", None, 0, 0),
    ("Which flag was raised first?", None, 0, 0),
    ("?", None, 0, 0),
]


def test_questions(root: Path, benchmark) -> None:
    image, bench = store(root, crop(50)), benchmark([(crop(0), LONG), (crop(1), BATTLE)])
    asked = {text: pair(image, question=text) for text, *_ in QUESTIONS}
    found = find(asked.values(), root, [bench])
    matches = {text: found.get(record.pair_id) for text, record in asked.items()}
    assert {text: match and match.reason for text, match in matches.items()} == {text: reason for text, reason, *_ in QUESTIONS}
    assert [text for text, _, low, high in QUESTIONS if (match := matches[text]) and not low <= match.score <= high] == []


def test_a_short_question_does_not_count_alone(root: Path, benchmark) -> None:
    bench = benchmark([(crop(0), "Describe the image.")])
    assert find_one(pair(store(root, crop(50))), root, bench) is None
    match = find_one(pair(store(root, jpeg(crop(0), 60))), root, bench)
    assert match and match.reason == "image: looks the same"


@pytest.mark.parametrize("side", ["benchmark", "records"])
def test_a_long_question_that_is_asked_of_many_pictures_does_not_count(root: Path, benchmark, side: str) -> None:
    text = "Write a detailed description of the given image and mention everything of importance in it."

    def asked(numbers: range) -> dict[str, Match]:
        bench = benchmark([(crop(number), text) for number in (numbers if side == "benchmark" else range(1))])
        records = [pair(store(root, crop(50 + number)), question=text) for number in (numbers if side == "records" else range(1))]
        return find(records, root, [bench])

    assert len(asked(range(COMMON_IMAGES))) == (1 if side == "benchmark" else COMMON_IMAGES)
    assert asked(range(COMMON_IMAGES + 1)) == {}


def test_many_pairs_about_one_picture_do_not_make_a_question_common(root: Path, benchmark) -> None:
    image = store(root, crop(50))
    records = [pair(image, question=LONG, number=number) for number in range(2 * COMMON_IMAGES)]
    assert len(find(records, root, [benchmark([(crop(0), LONG)])])) == len(records)


def test_instructions_that_stand_under_every_question_do_not_count(root: Path, benchmark) -> None:
    suffix = "Answer the question with the letter of one of the given choices and say nothing else."
    bench = benchmark([(crop(number), f"Question {number * 37} about ship {number}? {suffix}") for number in range(COMMON_IMAGES + 2)])
    records = [pair(store(root, crop(50)), question=f"Is it a cat? {suffix}"), pair(store(root, crop(51)), question=suffix)]
    assert find(records, root, [bench]) == {}


def test_scripts_without_spaces_have_words_too() -> None:
    assert words("图中 有几只猫?") == ["图", "中", "有", "几", "只", "猫"]
    assert words("ＡＢＣ < image > don't_stop ¿Qué?") == ["abc", "don", "t", "stop", "qué"]


def test_a_hostile_question_takes_no_long_time(root: Path, benchmark) -> None:
    long = "< image " * 12_000 + LONG + "<" * 20_000
    match = find_one(pair(store(root, crop(50)), question=long), root, benchmark([(crop(0), LONG)]))
    assert match and match.reason == "question: shared 8-grams"


# Benchmarks


def test_a_benchmark_of_pairs_and_several_benchmarks(root: Path, benchmark, tmp_path: Path) -> None:
    other = tmp_path / "other"
    item = pair(store(other, crop(7)), question=BATTLE)
    write_jsonl(other / "pairs.jsonl", [item])
    records = [pair(store(root, crop(number)), question=text) for number, text in ((50, BATTLE), (51, LONG), (52, "What?"))]
    found = find(records, root, [benchmark([(crop(0), LONG)]), str(other / "pairs.jsonl")])
    assert [(record in found, found[record].item_id == item.pair_id) for record in [one.pair_id for one in records[:2]]] == [
        (True, True),
        (True, False),
    ]
    assert len(found) == 2


def test_a_data_folder_is_its_test_split(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    splits = {0: "train", 1: "test"}
    items = [replace(pair(store(folder, crop(n)), question=f"{BATTLE} <image> {n}"), split=splits[n]) for n in splits]
    write_jsonl(folder / "records.jsonl", items)
    match = find_one(pair(store(root, crop(50)), question=f"{BATTLE} 1"), root, str(folder))
    assert match and (match.reason, match.item_id) == ("question: same words", items[1].pair_id)
    assert find_one(pair(store(root, crop(0)), question="Another?"), root, str(folder)) is None


def test_a_corpus(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def convert(raw: dict, put):
        if raw["answer"]:
            yield QuestionRecord(images=(put(raw["image"]),), question=raw["question"], answer=raw["answer"], source="fake")
        else:
            yield Skip("empty answer")

    fake = SimpleNamespace(NAME="fake", HUB=None, CONFIG=None, SPLIT="train", REVISION="", COLUMNS={"question"}, convert=convert)
    monkeypatch.setitem(sys.modules, "fake_corpus", fake)
    monkeypatch.setitem(corpora.MODULES, "fake", "fake_corpus")
    image = store(tmp_path, crop(0)).path
    lines = [("broken.png", LONG, "1"), (image, LONG, ""), (image, BATTLE, "2")]
    text = "".join(f'{{"image": "{path}", "question": "{question}", "answer": "{answer}"}}\n' for path, question, answer in lines)
    (tmp_path / "fake.jsonl").write_text(text)
    records = [pair(store(root, crop(50)), question=BATTLE), pair(store(root, crop(51)), question=LONG), pair(store(root, crop(0)))]
    found = find(records, root, [f"fake:{tmp_path / 'fake.jsonl'}"])
    assert {record_id: match.reason for record_id, match in found.items()} == {
        records[0].pair_id: "question: same words",
        records[2].pair_id: "image: looks the same",
    }
    assert "items left out of the comparison: 1 image: no such file, 1 empty answer" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["vl_rewardbench", "mm_rlhf_rewardbench", "multimodal_rewardbench", "multi_crit", "mmrb2"])
def test_a_public_benchmark_is_read_as_for_its_score(root: Path, tmp_path: Path, name: str) -> None:
    from critic_r1_verl import benchmarks

    folder = Path(__file__).parent / "fixtures/benchmarks" / name
    [item, *_] = benchmarks.load(name, tmp_path / "own", folder)
    data, _, _ = prepare((tmp_path / "own" / item.images[0].path).read_bytes(), LIMITS)
    copy = Picture.open(io.BytesIO(data))
    records = [pair(store(root, crop(50)), question="Another?"), pair(store(root, copy, "BMP"), question="Another?")]
    found = find(records, root, [f"{name}:{folder}"])
    assert {record_id: (match.reason, match.benchmark) for record_id, match in found.items()} == {
        records[1].pair_id: ("image: same pixels", f"{name}:{folder}")
    }


def test_a_public_benchmark_by_its_name_alone_is_its_hub_id(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str, what: str, kind: str) -> Path:
        assert (name, kind) == ("MMInstruction/VL-RewardBench", "dataset")
        return Path(__file__).parent / "fixtures/benchmarks/vl_rewardbench"

    monkeypatch.setattr(hub, "fetch", fetch)
    assert [item.benchmark for item in contamination.load("vl_rewardbench", root, LIMITS)][:1] == ["vl_rewardbench"]


@pytest.mark.parametrize(
    ("benchmark", "message"),
    [
        ("nowhere.jsonl", r"nowhere\.jsonl: no such file"),
        ("nowhere.parquet", "rows are not read as a benchmark; give their data folder"),
        ("mmmu", "--decontaminate mmmu: give a data folder, a .jsonl file"),
        ("empty.jsonl", "none of its items can be used"),
    ],
)
def test_a_benchmark_that_cannot_be_read(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, benchmark: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.jsonl").touch()
    with pytest.raises(ValueError, match=message):
        find([], root, [benchmark])


def test_questions_without_a_picture_are_compared_by_their_words(root: Path, tmp_path: Path) -> None:
    items = [QuestionRecord(images=(), question=text, answer="2", source="bench") for text in ("What is 1 + 1?", LONG)]
    write_jsonl(tmp_path / "items.jsonl", items)
    records = [pair(question="What is 1+1"), pair(question="What is 1 + 2?"), pair(question=LONG), pair(store(root, crop(0)))]
    found = find(records, root, [str(tmp_path / "items.jsonl")])
    assert {record_id: (match.reason, match.item_id) for record_id, match in found.items()} == {
        records[0].pair_id: ("question: same words", items[0].question_id),
        records[2].pair_id: ("question: same words", items[1].question_id),
    }


def test_without_records_or_without_benchmarks_nothing_matches(root: Path, benchmark) -> None:
    assert find([], root, [benchmark([(crop(0), LONG)])]) == {}
    assert find([pair(store(root, crop(0)))], root, []) == {}
