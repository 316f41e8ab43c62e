# SPDX-License-Identifier: Apache-2.0
"""A sound data folder passes; each way to break it is named with its file and row."""

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Picture

from critic_r1_verl import prompts
from critic_r1_verl.data_folder import FILES
from critic_r1_verl.files import write_json
from critic_r1_verl.records import SPLITS, Image, PairRecord, QuestionRecord, Record, write_jsonl
from critic_r1_verl.rows import balanced_orders, record_row, write_parquet
from data_prep import validate
from data_prep.writing import image_list

NOTHING = {"counts": {"read": 0, "kept": 0, "skipped": {}}}
TEMPLATES = {"pair": prompts.load("critic"), "question": prompts.load("policy")}


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def picture(folder: Path, number: int) -> Image:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    temporary = folder / "picture.png"
    Picture.new("RGB", (28, 28), (number, 2 * number, 90)).save(temporary)
    content = sha(temporary)
    temporary.rename(folder / f"images/{content[:32]}.png")
    return Image(path=f"images/{content[:32]}.png", sha256=content)


def pair(image: Image, number: int, **changes) -> PairRecord:
    texts = {"response_1": f"{number} cats.", "response_2": f"{number} dogs, I think."}
    return PairRecord(images=(image,), question="How many?", preferred="12"[number % 2], source="demo", **(texts | changes))


def records_of(folder: Path, split: str) -> list[Record]:
    """Four pairs and a question, each with a picture of its own."""
    start = 50 * SPLITS.index(split)
    images = [picture(folder, number) for number in range(start, start + 5)]
    pairs = [pair(image, number, split=split) for number, image in enumerate(images[:4])]
    return [*pairs, QuestionRecord(images=(images[4],), question="3 + 4?", answer="7", source="maths", split=split)]


def rows_of(folder: Path, split: str) -> list[dict]:
    *pairs, question = records_of(folder, split)
    shown = [*zip(pairs, balanced_orders(pairs), strict=True), (question, "")]
    return [record_row(record, order, templates=TEMPLATES, split=split, index=index) for index, (record, order) in enumerate(shown)]


def seal(folder: Path, **changes) -> None:
    """Write the manifest of what is there."""
    counts = {"demo": {"read": 14, "kept": 12, "skipped": {"tie": 2}}, "maths": {"read": 3, "kept": 3, "skipped": {}}}
    manifest = {
        "corpora": {name: {"counts": count} for name, count in counts.items()},
        "templates": {kind: {"name": one.name, "sha": one.sha, "text": one.text} for kind, one in TEMPLATES.items()},
        "splits": {split: {"rows": 5, "pairs": 4, "questions": 1} for split in SPLITS},
        "files": {name: sha(folder / name) for name in FILES if (folder / name).is_file()},
        "images": image_list(sha(path) for path in (folder / "images").iterdir()),
        "preferred_first": {"after": dict.fromkeys(SPLITS, 0.5)},
    }
    write_json(folder / "manifest.json", manifest | changes)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    for split in SPLITS:
        write_parquet(folder / f"{split}.parquet", rows_of(folder, split))
    write_jsonl(folder / "records.jsonl", [record for split in SPLITS for record in records_of(folder, split)])
    seal(folder)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "data"))


def test_answers_that_are_paid_in_one_notation_are_notes(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(validate, "unpaid", lambda answer: ["in one line"])
    assert validate.validate(folder) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("note: train.parquet row 4 (")
    assert first.endswith("): answer '7' does not earn acc 1 when it is written in one line")
    assert last == f"{folder}: sound"
    assert validate.validate(folder, as_json=True) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["sound"], len(shown["problems"]), len(shown["notes"])) == (True, 0, 3)


def all_records(folder: Path) -> list[Record]:
    return [record for split in SPLITS for record in records_of(folder, split)]


def said(folder: Path) -> list[str]:
    return [str(problem) for problem in validate.problems(folder)]


def test_a_sound_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(folder) == []
    assert validate.validate(folder) == 0
    assert capsys.readouterr().out == f"{folder}: sound\n"


def first_image(folder: Path, split: str = "train") -> Path:
    return folder / rows_of(folder, split)[0]["images"][0]


def change_row(folder: Path, number: int, change) -> None:
    rows = rows_of(folder, "train")
    change(rows[number])
    # Not by write_parquet, which refuses what is malformed.
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    seal(folder)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda row: row["extra_info"].update(split="val"), "extra_info.split is 'val', and should be 'train'"),
        (lambda row: row["extra_info"].update(template_sha="0" * 64), "extra_info.template_sha is '0000"),
        (lambda row: row["reward_model"].update(ground_truth="3"), "ground_truth '3' is none of"),
        (lambda row: row["prompt"][0].update(content="no picture"), "prompt has 0 <image> placeholders for 1 images"),
        (lambda row: row["images"].append("images/none.png"), "image 'images/none.png'"),
        (lambda row: row.update(images=["../x.png"]), "leaves the data folder"),
        (lambda row: row.update(data_source=None), "data_source is None, not a string"),
    ],
)
def test_a_row_with_a_problem_is_named(folder: Path, change, what: str) -> None:
    change_row(folder, 2, change)
    found = said(folder)
    assert found and all(line.startswith("train.parquet row 2 (") for line in found)
    assert any(what in line for line in found)


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row["reward_model"].update(ground_truth={"1": "2", "2": "1"}[row["reward_model"]["ground_truth"]]),
        lambda row: row["extra_info"].update(category="another"),
        lambda row: row["extra_info"].update(pair_id="0" * 20),
        lambda row: row["extra_info"].update(order={"12": "21", "21": "12"}[row["extra_info"]["order"]]),
        lambda row: row["prompt"][0].update(content=row["prompt"][0]["content"].replace("cats", "rats")),
        lambda row: row["prompt"].insert(0, {"role": "system", "content": "Always say 1."}),
        lambda row: row.update(data_source="maths"),
        lambda row: row["extra_info"].update(index=3),
    ],
)
def test_a_well_formed_change_is_named_with_its_row(folder: Path, change) -> None:
    change_row(folder, 1, change)
    assert any(line.startswith("train.parquet row 1 (") for line in said(folder))


def test_a_record_twice_in_the_same_order(folder: Path) -> None:
    rows = rows_of(folder, "train")
    again = {**rows[1], "extra_info": rows[1]["extra_info"] | {"index": 5}}
    write_parquet(folder / "train.parquet", [*rows, again])
    seal(folder)
    pair_id = rows[1]["extra_info"]["pair_id"]
    assert said(folder) == [
        f"train.parquet row 5 ({pair_id}): an earlier row shows the same record in the same order",
        f"records.jsonl line 2 ({pair_id}): has 2 of 1 rows in train.parquet",
    ]


def test_both_orders_of_a_pair_are_no_duplicate(folder: Path) -> None:
    for split in SPLITS:
        *pairs, question = records_of(folder, split)
        both = [*((record, order) for record in pairs for order in ("12", "21")), (question, "")]
        rows = [record_row(*one, templates=TEMPLATES, split=split, index=i) for i, one in enumerate(both)]
        write_parquet(folder / f"{split}.parquet", rows)
    splits = {split: {"rows": 9, "pairs": 4, "questions": 1} for split in SPLITS}
    seal(folder, splits=splits, both_orders=True)
    assert said(folder) == []


def test_rows_without_records_and_records_without_rows(folder: Path) -> None:
    rows = rows_of(folder, "train")
    write_parquet(folder / "train.parquet", rows[:4])
    lines = (folder / "records.jsonl").read_text().splitlines(keepends=True)
    (folder / "records.jsonl").write_text("".join(lines[1:]))
    seal(folder)
    assert said(folder) == [
        f"train.parquet row 0 ({rows[0]['extra_info']['pair_id']}): extra_info.pair_id names no record of records.jsonl",
        f"records.jsonl line 4 ({rows[4]['extra_info']['pair_id']}): has 0 of 1 rows in train.parquet",
    ]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda line: "{half", "records.jsonl line 2: not a record: "),
        (lambda line: line.replace('"How many?"', '"How few?"'), "records.jsonl line 2: not a record: key 'pair_id': "),
        (lambda line: line.replace('"split": "train"', '"split": ""'), "names no split"),
        (lambda line: line.replace('"category": ""', '"category": "x"'), "extra_info.category is '', and should be 'x'"),
    ],
)
def test_a_record_that_was_changed_is_named(folder: Path, change, what: str) -> None:
    lines = (folder / "records.jsonl").read_text().splitlines(keepends=True)
    lines[1] = change(lines[1].rstrip("\n")) + "\n"
    (folder / "records.jsonl").write_text("".join(lines))
    seal(folder)
    assert any(what in line for line in said(folder))


def test_a_pair_of_which_one_order_is_missing(folder: Path) -> None:
    seal(folder, both_orders=True)
    pairs = [(line, record) for line, record in enumerate(all_records(folder), start=1) if isinstance(record, PairRecord)]
    assert said(folder) == [
        f"records.jsonl line {line} ({record.pair_id}): has 1 of 2 rows in {record.split}.parquet" for line, record in pairs
    ]


def test_another_picture_of_the_folder_in_a_row(folder: Path) -> None:
    other = rows_of(folder, "train")[2]["images"]
    change_row(folder, 1, lambda row: row.update(images=other))
    (line,) = said(folder)
    assert line.startswith("train.parquet row 1 (") and f"images[0] is '{other[0]}', and should be" in line


def test_records_that_share_a_part_of_their_group_across_splits(folder: Path) -> None:
    records = all_records(folder)
    write_jsonl(
        folder / "records.jsonl", [replace(records[0], group="one"), *records[1:9], replace(records[9], group="two+one"), *records[10:]]
    )
    seal(folder)
    what = "is in the split val, and shares the image or group one with the split train"
    assert said(folder) == [f"records.jsonl line 10 ({records[9].record_id}): {what}"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "records.jsonl: no such file; build the data again"),
        ("", "train.parquet row 0 ({}): extra_info.pair_id names no record of records.jsonl"),
        ("\n", "records.jsonl line 1: not a record: "),
        ("[]\n", "records.jsonl line 1: not a record: "),
    ],
)
def test_records_that_cannot_be_read(folder: Path, text: str | None, what: str) -> None:
    (folder / "records.jsonl").unlink() if text is None else (folder / "records.jsonl").write_text(text)
    found = said(folder)
    assert found[0].startswith(what.format(rows_of(folder, "train")[0]["extra_info"]["pair_id"]))
    assert not any(str(folder) in line for line in found)


@pytest.mark.parametrize(
    ("templates", "what"),
    [
        ({"pair": asdict(TEMPLATES["pair"])}, "templates.question is missing or lacks name, sha or text"),
        ({kind: asdict(one) | {"text": "another"} for kind, one in TEMPLATES.items()}, "templates.pair: the text has the sha256"),
        ({"pair": "critic", "question": "policy"}, "templates.pair is missing or lacks name, sha or text"),
    ],
)
def test_templates_that_the_manifest_does_not_hold(folder: Path, templates: dict, what: str) -> None:
    seal(folder, templates=templates)
    (line,) = said(folder)
    assert line.startswith(f"manifest.json: {what}")


def test_an_image_that_is_not_what_its_name_says(folder: Path) -> None:
    file = first_image(folder)
    Picture.new("RGB", (28, 28), "white").save(file)
    row, manifest = said(folder)
    assert row.startswith("train.parquet row 0 (") and f"image 'images/{file.name}' holds other bytes than its record says" in row
    assert manifest.startswith("manifest.json: images.sha256 is ")


def test_an_image_that_does_not_open(folder: Path) -> None:
    file = first_image(folder, "val")
    file.write_bytes(file.read_bytes()[:60])
    assert any(line.startswith("val.parquet row 0 (") and "does not open" in line for line in said(folder))


def test_an_image_and_a_record_in_two_splits(folder: Path) -> None:
    leaked = records_of(folder, "train")[1]
    val = records_of(folder, "val")
    val[1] = pair(leaked.images[0], 9, split="val")
    records = [*records_of(folder, "train"), *val, *records_of(folder, "test")]
    write_jsonl(folder / "records.jsonl", records)
    rows = rows_of(folder, "val")
    rows[1] = record_row(val[1], rows[1]["extra_info"]["order"], templates=TEMPLATES, split="val", index=1)
    write_parquet(folder / "val.parquet", rows)
    seal(folder)
    sha = leaked.images[0].sha256
    expected = f"records.jsonl line 7 ({val[1].pair_id}): is in the split val, and shares the image or group {sha:.32} with the split train"
    assert expected in said(folder)


@pytest.mark.parametrize(
    ("number", "place", "value"),
    [
        (1, ("data_source",), ""),
        (1, ("data_source",), "demos"),
        (1, ("prompt", 0, "role"), "assistant"),
        (1, ("prompt", 0, "role"), "users"),
        (1, ("prompt", 0, "content"), "How many?"),
        (1, ("prompt", 0, "content"), "<image>\nHow many?<|im_end|>"),
        (1, ("images",), []),
        (1, ("images", 0), "../x.png"),
        (1, ("ability",), "policy"),
        (4, ("ability",), "critic"),
        (1, ("reward_model", "style"), "math"),
        (1, ("reward_model", "ground_truth"), "3"),
        (4, ("reward_model", "ground_truth"), ""),
        (1, ("extra_info", "index"), 2),
        (1, ("extra_info", "index"), None),
        (1, ("extra_info", "pair_id"), ""),
        (1, ("extra_info", "pair_id"), "0"),
        (4, ("extra_info", "order"), "12"),
        (1, ("extra_info", "order"), "11"),
        (1, ("extra_info", "template_sha"), "0"),
        (1, ("extra_info", "split"), "val"),
        (1, ("extra_info", "style"), "math"),
        (1, ("extra_info", "category"), None),
    ],
)
def test_each_column_changed_is_named_with_its_row(folder: Path, number: int, place: tuple, value: object) -> None:
    """Even where the manifest names the hash of the changed file."""
    rows = pq.read_table(folder / "train.parquet").to_pylist()
    inner = rows[number]
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(folder / "train.parquet")), folder / "train.parquet")
    seal(folder)
    assert any(line.startswith(f"train.parquet row {number} (") or line.startswith(f"train.parquet row {number}:") for line in said(folder))


def test_labels_out_of_balance(folder: Path) -> None:
    kept = [record for record in records_of(folder, "train") if getattr(record, "preferred", "1") == "1"]
    shown = [(record, "12" if isinstance(record, PairRecord) else "") for record in kept]
    rows = [record_row(*one, templates=TEMPLATES, split="train", index=index) for index, one in enumerate(shown)]
    write_parquet(folder / "train.parquet", rows)
    assert "train.parquet: the preferred response stands first in 2 rows and second in 0" in said(folder)


def test_files_that_cannot_be_read(folder: Path) -> None:
    content = (folder / "train.parquet").read_bytes()
    (folder / "train.parquet").write_bytes(content[: len(content) // 2])
    (folder / "val.parquet").unlink()
    seal_free = said(folder)
    assert seal_free[0].startswith("train.parquet: not a readable parquet file")
    assert seal_free[1].startswith("val.parquet: no such file")
    assert "manifest.json: files: 'train.parquet' has changed since the build: its sha256 differs" in seal_free
    assert "manifest.json: files: 'val.parquet' is listed but does not exist" in seal_free


def test_a_column_that_is_missing(folder: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{"prompt": "x"}]), folder / "val.parquet")
    assert "val.parquet: column 'data_source' is missing; the columns are prompt" in said(folder)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (
            {"corpora": {"demo": {"counts": {"read": 16, "kept": 15, "skipped": {}}}, "maths": NOTHING}},
            "corpora.demo.counts: kept 15 + skipped 0 is not read 16",
        ),
        (
            {"corpora": {"demo": {"counts": {"read": 9, "kept": 9, "skipped": {}}}, "maths": NOTHING}},
            "corpora: kept 9 records in all, but there are 15",
        ),
        ({"splits": {"train": {"rows": 5, "pairs": 5, "questions": 1}}}, "splits.train.pairs is 5, but there are 4"),
        ({"files": {}}, "files: 'train.parquet' is missing"),
        ({"images": {"count": 15, "sha256": "0"}}, "images.sha256 is 0, but that of the files in images/ is "),
        ({"images": {"count": 9, "sha256": "0"}}, "images.count is 9, but that of the files in images/ is 15"),
        (
            {"preferred_first": {"after": {"train": 0.25, "val": 0.5, "test": 0.5}}},
            "preferred_first.after.train is 0.25, but the rows have 0.5",
        ),
        ({"images": 10}, "lacks an entry or has one of another type"),
        ({"corpora": []}, "lacks an entry or has one of another type"),
    ],
)
def test_a_manifest_that_tells_otherwise(folder: Path, changes: dict, what: str) -> None:
    seal(folder, **changes)
    found = said(folder)
    assert all(line.startswith("manifest.json: ") for line in found)
    assert any(line.startswith(f"manifest.json: {what}") for line in found)


@pytest.mark.parametrize(
    ("text", "what"), [(None, "is missing"), ("{", "cannot be read"), ("[]", "is not a JSON object"), ("{}", "is not")]
)
def test_a_manifest_that_cannot_be_used(folder: Path, text: str | None, what: str) -> None:
    (folder / "manifest.json").unlink() if text is None else (folder / "manifest.json").write_text(text)
    (line,) = said(folder)
    assert line.startswith(f"manifest.json: {what}")


def test_many_problems_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(folder, "train")
    for row in rows:
        row["extra_info"]["split"] = "test"
    write_parquet(folder / "train.parquet", rows * 6)
    assert validate.validate(folder) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == validate.NUM_SHOWN + 2
    assert lines[-2].startswith("... and ") and lines[-1].endswith(" problems")
