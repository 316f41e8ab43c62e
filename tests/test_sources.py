# SPDX-License-Identifier: Apache-2.0
"""Raw rows are the same from every kind of file, from any place in it; what cannot be read is named."""

import csv
import json
import sys
import types
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from critic_r1_verl import hub
from data_prep import archives, sources, tables
from data_prep.corpus import SchemaError

CORPUS = types.SimpleNamespace(NAME="mine", HUB=None, CONFIG=None, SPLIT="train", REVISION="")
ROWS = [{"number": str(number), "text": f'é "quoted", [{number}]\n' + "long " * (number % 7) * 300} for number in range(150)]


def write(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".parquet", ".arrow"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pylist(rows)
        if path.suffix == ".parquet":
            pq.write_table(table, path, row_group_size=40)
        else:
            with pa.ipc.new_stream(path, table.schema) as writer:
                writer.write_table(table)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("\ufeff" + "".join(json.dumps(row) + "\n\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".jsonl", ".json", ".csv", ".tsv"])
def test_any_range_of_any_kind(tmp_path: Path, suffix: str) -> None:
    table = tables.Table(write(tmp_path / f"rows{suffix}"), {"text": "question"})
    assert (len(table), table.columns) == (150, {"number", "question"})
    expected = [{"number": row["number"], "question": row["text"]} for row in ROWS]
    for start, stop in ((0, 150), (0, 1), (39, 41), (64, 130), (149, 900), (7, 7)):
        assert list(table.rows(start, stop)) == expected[start:stop]


def test_a_json_file_that_holds_json_lines(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("\ufeff" + "".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    assert list(tables.Table(tmp_path / "rows.json").rows(3, 70)) == ROWS[3:70]


@pytest.mark.parametrize(
    ("name", "data", "error", "message"),
    [
        ("half.parquet", b"PAR1 and then nothing", ValueError, r"half\.parquet: not readable .*half-written"),
        ("half.arrow", b"\xff\xff\xff\xff\x10\x00", ValueError, r"half\.arrow: not readable .*half-written"),
        ("half.json", b'[{"a": 1}, {"a": ', ValueError, r"half\.json: not a JSON list .*half-written"),
        ("half.jsonl", b'{"a": 1}\n{"a": ', ValueError, r"half\.jsonl: row 1: not JSON"),
        ("list.jsonl", b'{"a": 1}\n[1]\n', SchemaError, r"list\.jsonl: row 1: found list"),
        ("twice.jsonl", b'{"a": 1}\n{"a": 1, "b": {"c": 1, "c": 2}}\n', ValueError, r"twice\.jsonl: row 1: .*key 'c' stands twice"),
        ("twice.json", b'[{"a": 1, "a": 2}]', ValueError, r"twice\.json: .*key 'a' stands twice"),
        ("two.json", b'{"train": [{"a": 1}], "test": [{"a": 2}]}', ValueError, r"two\.json: .*'train' \(1 rows\), 'test' \(1 rows\)"),
        ("lists.json", b'[{"a": 1}]\n[{"a": 2}]\n', ValueError, r"lists\.json: not a JSON list \(Extra data"),
        ("lists.jsonl", b'[{"a": 1}]\n[{"a": 2}]\n', ValueError, r"lists\.jsonl: not a JSON list \(Extra data"),
        ("text.json", b'"a"', ValueError, r"text\.json: holds str, not a list of JSON objects"),
        ("twice.csv", b"a,b,a\n1,2,3\n", ValueError, r"twice\.csv: the column 'a' stands twice"),
        ("deep.jsonl", b'{"a": 1}\n' + b"[" * 200_000, ValueError, r"deep\.jsonl: row 1: not JSON"),
        ("list.json", b'[{"a": 1}, 7]', SchemaError, r"list\.json: row 1: found int"),
        ("quote.csv", b'a,b\n1,2\n"3"x,4\n', ValueError, r"quote\.csv: row 1: not CSV"),
        ("short.csv", b"a,b\n1,2\n3\n", ValueError, r"short\.csv: row 1: 1 fields where the header has 2"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, data: bytes, error: type, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(error, match=message):
        list(tables.Table(tmp_path / name).rows(0, 9))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("list.jsonl", b' [{"a": "1"},\n {"a": "2"}]'),
        ("data.json", b'{"version": [1], "data": [{"a": "1"}, {"a": "2"}]}'),
        ("data.jsonl", b'{\n "rows": [{"a": "1"}, {"a": "2"}]\n}\n'),
        ("one_column.csv", b"a\n1\n2\n"),
        ("lines.ndjson", b'{"a": "1"}\n\n{"a": "2"}'),
    ],
)
def test_rows_are_found_whatever_the_suffix_says(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    table = tables.Table(tmp_path / name)
    assert (table.columns, list(table.rows(0, 9))) == ({"a"}, [{"a": "1"}, {"a": "2"}])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_separator_of_a_csv_file_is_found(tmp_path: Path, delimiter: str) -> None:
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows([["a;x", "b", "c"], ["1, 2; 3", "4\t5", ""]])
    assert list(tables.Table(tmp_path / "rows.csv").rows(0, 9)) == [{"a;x": "1, 2; 3", "b": "4\t5", "c": ""}]


def test_one_row_of_its_own_is_no_list_of_rows(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "Q"}], "images": [{"bytes": None, "path": "a.png"}], "rejected_response": "B"}
    (tmp_path / "one.json").write_text(json.dumps(row, indent=1))
    (tmp_path / "one.jsonl").write_text(json.dumps(row))
    assert [list(tables.Table(tmp_path / name).rows(0, 9)) for name in ("one.json", "one.jsonl")] == [[row], [row]]


def test_a_column_that_takes_the_name_of_another_replaces_it(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,prompt\nold,new\n")
    table = tables.Table(tmp_path / "rows.csv", {"prompt": "question"})
    assert (table.columns, list(table.rows(0, 1))) == ({"question"}, [{"question": "new"}])


def packed(kind: str, data: bytes) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, kind) as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(("suffix", "kind"), [("gz", "gzip"), ("zst", "zstd"), ("bz2", "bz2")])
def test_a_file_may_be_packed_by_itself(tmp_path: Path, suffix: str, kind: str) -> None:
    lines = write(tmp_path / "plain.jsonl").read_bytes()
    half = lines.index(b"\n", len(lines) // 2) + 1
    # A file that was packed in parts holds several streams, one after the other.
    file = tmp_path / "set" / f"rows.jsonl.{suffix}"
    file.parent.mkdir()
    file.write_bytes(packed(kind, lines[:half]) + packed(kind, lines[half:]))
    for location in (file, file.parent):
        [found] = sources.find(str(location), CORPUS, None, tmp_path / "work")
        sources.unpack([found])
        assert found.images == file.parent and list(tables.Table(found.path).rows(0, 150)) == ROWS
    (tmp_path / f"half.jsonl.{suffix}").write_bytes(file.read_bytes()[:60])
    [found] = sources.find(str(tmp_path / f"half.jsonl.{suffix}"), CORPUS, None, tmp_path / "work")
    with pytest.raises(ValueError, match=rf"half\.jsonl\.{suffix}: cannot be unpacked"):
        sources.unpack([found])
    assert not found.path.exists()


def zip_of(path: Path, members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
        warnings.simplefilter("ignore")
        for name, data in members:
            archive.writestr(name, data)
    return path.read_bytes()


def with_flag(data: bytes, place: int, value: int) -> bytes:
    """An archive whose entries have a value at a place of their headers, both at the entry and in the directory."""
    found = bytearray(data)
    for signature, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        start = found.index(signature) + place + shift
        found[start : start + 2] = value.to_bytes(2, "little")
    return bytes(found)


LINE = b'{"a": 1}\n'


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: zip_of(path, [("p.jsonl", LINE), ("p.jsonl", LINE)]), "holds 'p.jsonl' twice"),
        (lambda path: zip_of(path, [("p.jsonl", LINE), ("q.jsonl.gz", LINE)]), "'q.jsonl.gz', which is packed twice"),
        (lambda path: with_flag(zip_of(path, [("p.jsonl", LINE)]), 6, 1), "encrypted"),
        (lambda path: with_flag(zip_of(path, [("p.jsonl", LINE)]), 8, 77), "compression method"),
        (lambda path: zip_of(path, [("p.jsonl", LINE)], zipfile.ZIP_STORED).replace(LINE, LINE.upper()), "Bad CRC-32"),
        (lambda path: zip_of(path, [("p.jsonl", bytes(2**21))]), "unpacks to more than 200 times its packed size"),
        (lambda path: zip_of(path, [("p.jsonl", LINE)])[:-9], "not a zip file"),
    ],
)
def test_what_is_wrong_with_an_archive_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], bytes], message: str
) -> None:
    monkeypatch.setattr(archives, "SMALL_BYTES", 2**20)
    path = tmp_path / "rows.zip"
    path.write_bytes(harm(path))
    with pytest.raises(ValueError, match=r"rows\.zip: cannot be unpacked .*; download it again, or unpack it") as error:
        sources.unpack(sources.find(str(path), CORPUS, None, tmp_path / "work"))
    assert message in str(error.value) and not list(tmp_path.glob("work/*/*"))


def test_text_that_is_not_utf8_is_one_skip(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.array([b"good", b"\xff\xfe", b"fine"]).cast(pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 3, texts.buffers())
    pq.write_table(pa.table({"text": broken}), tmp_path / "text.parquet")
    assert list(tables.Table(tmp_path / "text.parquet").rows(0, 3)) == [{"text": "good"}, tables.NOT_UTF8, {"text": "fine"}]
    for name, data in {"text.jsonl": b'{"text": "\xff"}\n', "text.json": b'[{"text": "\xff"}]', "text.csv": b"text\n\xff\n"}.items():
        (tmp_path / name).write_bytes(data)
        assert list(tables.Table(tmp_path / name).rows(0, 1)) == [{"text": "\udcff"}]


@pytest.mark.parametrize(
    ("files", "split", "found"),
    [
        (
            ["data/train-0.parquet", "data/train-1.parquet", "data/test-0.parquet"],
            "train",
            ["data/train-0.parquet", "data/train-1.parquet"],
        ),
        (["data/train-0.parquet", "data/val-0.parquet"], "validation", ["data/val-0.parquet"]),
        (["all.jsonl", "test.jsonl", "notes.csv"], "train", ["all.jsonl"]),
        ([".cache/train.parquet", "rows.json", "dataset_info.json"], "train", ["rows.json"]),
        (["train/data-0.arrow", "test/data-0.arrow", "train/state.json"], "train", ["train/data-0.arrow"]),
    ],
)
def test_the_files_of_a_folder(tmp_path: Path, files: list[str], split: str, found: list[str]) -> None:
    for name in files:
        write(tmp_path / "corpus" / name, ROWS[:1])
    corpus = types.SimpleNamespace(**{**vars(CORPUS), "SPLIT": split})
    located = sources.find(str(tmp_path / "corpus"), corpus, None, tmp_path / "work")
    assert [file.path.relative_to(tmp_path / "corpus").as_posix() for file in located] == found
    assert {file.images for file in located} == {tmp_path / "corpus"}


def test_a_configuration_has_its_own_folder(tmp_path: Path) -> None:
    for name in ("pairwise/train-0.parquet", "pointwise/train-0.parquet"):
        write(tmp_path / name, ROWS[:1])
    corpus = types.SimpleNamespace(**{**vars(CORPUS), "CONFIG": "pairwise"})
    assert [file.path for file in sources.find(str(tmp_path), corpus, None, tmp_path)] == [tmp_path / "pairwise/train-0.parquet"]


def test_an_archive_is_unpacked_once_and_its_pictures_stay(tmp_path: Path) -> None:
    write(tmp_path / "plain.jsonl")
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        archive.write(tmp_path / "plain.jsonl", "../../set/a b.jsonl")
        archive.writestr("pictures/1.png", b"not read")
    [file] = sources.find(str(tmp_path / "rows.zip"), CORPUS, tmp_path / "pictures", tmp_path / "work")
    sources.unpack([file])
    assert file.path.is_relative_to(tmp_path / "work") and file.images == tmp_path / "pictures"
    assert list(tables.Table(file.path).rows(0, 150)) == ROWS
    before = file.path.stat().st_mtime_ns
    sources.unpack([file])
    assert file.path.stat().st_mtime_ns == before
    (tmp_path / "bad.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"bad\.zip: cannot be unpacked \(File is not a zip file\)"):
        sources.find(str(tmp_path / "bad.zip"), CORPUS, None, tmp_path)


def test_an_archive_of_pictures_alone_is_named(tmp_path: Path) -> None:
    zip_of(tmp_path / "rows.zip", [("pictures/1.png", b"not read")])
    with pytest.raises(ValueError, match=r"rows\.zip: holds no data file \(\.parquet, "):
        sources.find(str(tmp_path / "rows.zip"), CORPUS, None, tmp_path / "work")


def test_members_of_similar_names_are_different_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        for name, number in (("a/b.jsonl", 1), ("a_b.jsonl", 2)):
            archive.writestr(name, json.dumps({"number": number}) + "\n")
    files = sources.find(str(tmp_path / "rows.zip"), CORPUS, None, tmp_path / "work")
    sources.unpack(files)
    assert [row["number"] for file in files for row in tables.Table(file.path).rows(0, 9)] == [1, 2]


def test_archives_of_the_same_name_are_unpacked_into_different_folders(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        with zipfile.ZipFile(tmp_path / name / "rows.zip", "w") as archive:
            archive.writestr("rows.jsonl", json.dumps({"text": name}))
    files = sources.find(str(tmp_path), CORPUS, None, tmp_path / "work")
    sources.unpack(files)
    assert [row for file in files for row in tables.Table(file.path).rows(0, 1)] == [{"text": "first"}, {"text": "second"}]


def test_the_files_that_meta_json_lists(tmp_path: Path) -> None:
    write(tmp_path / "MMPR/annotations/a.jsonl", ROWS[:1])
    meta = {"a": {"root": "MMPR/images/a", "annotation": "MMPR/annotations/a.jsonl", "length": 1}}
    (tmp_path / "MMPR/meta.json").write_text(json.dumps(meta))
    [file] = sources.find(str(tmp_path / "MMPR"), CORPUS, None, tmp_path)
    assert (file.path, file.images) == (tmp_path / "MMPR/annotations/a.jsonl", tmp_path / "MMPR/images/a")
    (tmp_path / "MMPR/meta.json").write_text('{"a": {}}')
    with pytest.raises(ValueError, match=r"meta\.json: expected .*annotation"):
        sources.find(str(tmp_path / "MMPR"), CORPUS, None, tmp_path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"root": "/", "annotation": "annotations/a.jsonl"}, "'/' is not inside"),
        ({"root": "../other", "annotation": "annotations/a.jsonl"}, "'../other' is not inside"),
        ({"root": "images", "annotation": "annotations/../../out.jsonl"}, "is not inside"),
        ({"root": "link", "annotation": "annotations/a.jsonl"}, "'link' is not inside"),
        ({"root": 7, "annotation": "annotations/a.jsonl"}, "expected .*TypeError"),
        ({"root": "images", "annotation": 7}, "expected .*TypeError"),
        ({"root": "images", "annotation": "notes.txt"}, "notes.txt is not a kind of file"),
        ({"root": "images", "annotation": "gone.jsonl"}, "gone.jsonl is not in"),
        (["images", "a.jsonl"], "expected .*annotation"),
    ],
)
def test_meta_json_leads_nowhere_out_of_the_folder(tmp_path: Path, entry: Any, message: str) -> None:
    write(tmp_path / "MMPR/annotations/a.jsonl", ROWS[:1])
    write(tmp_path / "out.jsonl", ROWS[:1])
    (tmp_path / "MMPR/notes.txt").touch()
    (tmp_path / "MMPR/link").symlink_to(tmp_path)
    (tmp_path / "MMPR/meta.json").write_text(json.dumps({"a": entry}))
    with pytest.raises(ValueError, match=message):
        sources.find(str(tmp_path / "MMPR"), CORPUS, None, tmp_path)


def test_of_data_that_a_folder_holds_twice_one_is_read(tmp_path: Path) -> None:
    """MM-RLHF's folder has the ranks, a parquet copy of them, and the pairs made of them."""
    from data_prep.corpora import mm_rlhf

    for name in ("data.jsonl", "dpo_pairs.jsonl", "data/train-00000-of-00001.parquet"):
        write(tmp_path / name)
    assert [file.path.name for file in sources.find(str(tmp_path), mm_rlhf, None, tmp_path)] == ["dpo_pairs.jsonl"]
    (tmp_path / "dpo_pairs.jsonl").unlink()
    assert [file.path.name for file in sources.find(str(tmp_path), mm_rlhf, None, tmp_path)] == ["data.jsonl"]
    (tmp_path / "data.jsonl").unlink()
    assert [file.path.suffix for file in sources.find(str(tmp_path), mm_rlhf, None, tmp_path)] == [".parquet"]


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("", "mine: give the file or folder, as mine:PATH"),
        ("gone.jsonl", "gone.jsonl: no such file or folder"),
        ("notes.txt", "notes.txt: not a kind of file"),
        ("empty", "no data file of the split 'train'"),
    ],
)
def test_a_location_without_data_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        sources.find(location, CORPUS, None, tmp_path)


def test_a_hub_id_goes_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    arrow = types.SimpleNamespace(cache_files=[{"filename": str(tmp_path / "c0ffee" / "cache.arrow")}])
    cached: set[str] = set()

    def load_dataset(name: str, config: str, split: str) -> Any:
        assert fake.config.HF_HUB_OFFLINE
        if name not in cached:
            raise ConnectionError("not in the cache")
        return arrow

    def load_dataset_builder(name: str, config: str, revision: str) -> Any:
        asked.append((name, config, revision))
        if name == "owner/archive":
            raise RuntimeError("no data\nfiles")
        paths = {"train": [f"hf://datasets/{name}@{revision}/data/train.parquet"]}
        return types.SimpleNamespace(
            config=types.SimpleNamespace(data_files=paths),
            download_and_prepare=lambda: cached.add(name),
            as_dataset=lambda split: asked.append(split) or arrow,
        )

    logging = types.SimpleNamespace(get_verbosity=lambda: 30, set_verbosity=asked.copy().append, set_verbosity_error=lambda: None)
    config = types.SimpleNamespace(HF_HUB_OFFLINE=False)
    fake = types.SimpleNamespace(load_dataset=load_dataset, load_dataset_builder=load_dataset_builder, config=config, logging=logging)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setattr(hub, "ask", lambda name, what, kind, revision: hub.Listing(name, kind, revision, revision or "c0ffee", {}))
    monkeypatch.setattr(hub, "announce", lambda listing, files, what, copies: asked.append(files))
    corpus = types.SimpleNamespace(**{**vars(CORPUS), "HUB": "owner/set", "CONFIG": "pairwise", "REVISION": "abc"})
    found = [sources.File(tmp_path / "c0ffee" / "cache.arrow", tmp_path)]
    assert sources.find("", corpus, tmp_path, tmp_path) == found
    assert asked == [("owner/set", "pairwise", "abc"), ["data/train.parquet"], "train"]
    asked.clear()
    assert sources.find("other/set", corpus, tmp_path, tmp_path) == found
    assert asked[0] == ("other/set", "pairwise", "c0ffee")
    asked.clear()
    # Now it is in the cache, where only the first corpus has another commit than the one it needs.
    assert sources.find("other/set", corpus, tmp_path, tmp_path) == found
    assert asked == []
    sources.find("", corpus, tmp_path, tmp_path)
    assert asked[0] == ("owner/set", "pairwise", "abc")
    assert not config.HF_HUB_OFFLINE
    with pytest.raises(ValueError, match=r"no data files; download it \(hf download owner/archive .*mine:DIR"):
        sources.find("owner/archive", corpus, None, tmp_path)
