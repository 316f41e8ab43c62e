# SPDX-License-Identifier: Apache-2.0
"""From files to data folders: nothing is lost without a count, the same input gives the same bytes, a killed build goes on."""

import errno
import hashlib
import json
import os
import random
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from critic_r1_verl import data_folder, prompts, records, rows
from critic_r1_verl.images import Limits
from critic_r1_verl.training import recipe
from data_prep import build, contamination, corpora, shards, sources, validate
from data_prep import cli as command
from data_prep.choice import quotas_of
from data_prep.corpora import pairs as pairs_module
from data_prep.corpus import SchemaError
from data_prep.options import Corpus, Options
from data_prep.plan import plan

OPTIONS = Options(pixels=(784, 200_704), val=5, test=7)
TEMPLATES = {"pair": prompts.load("critic"), "question": prompts.load("policy")}


def write_jsonl(path: Path, raws: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(raw) + "\n" for raw in raws), encoding="utf-8")
    return path


def picture(folder: Path, number: int) -> str:
    name = f"{number}.png"
    if not (folder / name).exists():
        Image.new("RGB", (40, 30), (number % 256, number // 256, 7)).save(folder / name)
    return name


def raw(folder: Path, number: int, preferred: str = "1", **changes: Any) -> dict[str, Any]:
    plain = {
        "image": picture(folder, number),
        "question": f"What is it? {number}",
        "response_1": f"A cat {number}.",
        "response_2": f"A dog {number}.",
        "preferred": preferred,
    }
    return plain | changes


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """60 rows: 40 preferences of which 30 for the first response, 20 ties; each image is in two rows."""
    labels = ["1"] * 30 + ["2"] * 10 + ["tie"] * 20
    random.Random(0).shuffle(labels)
    raws = [raw(tmp_path, number, label, image=picture(tmp_path, number // 2)) for number, label in enumerate(labels)]
    write_jsonl(tmp_path / "pairs.jsonl", raws)
    return tmp_path


def corpus(file: Path, **settings: Any) -> Corpus:
    return Corpus(converter="pairs", location=str(file), **settings)


def read(out: Path) -> dict[str, list[rows.Row]]:
    return {split: rows.read_rows(out / f"{split}.parquet") for split in records.SPLITS}


def counts(summary: dict[str, Any]) -> dict[str, Any]:
    """The counts of `pairs` without its layouts and labels."""
    found = summary["corpora"]["pairs"].get("counts", summary["corpora"]["pairs"])
    return {key: found[key] for key in ("read", "kept", "skipped")}


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}


def test_rows_are_sound_balanced_and_split_by_image(world: Path) -> None:
    manifest = build.build(world / "out", [corpus(world / "pairs.jsonl")], OPTIONS)
    built = read(world / "out")
    assert [problem for split in built.values() for row in split for problem in rows.check_row(row, world / "out")] == []
    assert manifest["splits"] == {
        "train": {"rows": 50, "pairs": 50, "questions": 0},
        "val": {"rows": 4, "pairs": 4, "questions": 0},
        "test": {"rows": 6, "pairs": 6, "questions": 0},
    }, "each set of records that share an image has two, so four fit into five and six into seven"
    for split in built.values():
        labels = [row["reward_model"]["ground_truth"] for row in split]
        assert abs(labels.count("1") - labels.count("2")) <= 1
        assert [row["extra_info"]["index"] for row in split] == list(range(len(split)))
    images = [{path for row in split for path in row["images"]} for split in built.values()]
    assert not images[0] & images[1] and not images[0] & images[2] and not images[1] & images[2]
    assert manifest["images"]["count"] == 30 == len(list((world / "out/images").iterdir()))
    assert counts(manifest) == {"read": 60, "kept": 60, "skipped": {}}
    assert manifest["ties"] == {"policy": "keep", "kept": 20, "dropped": 0}
    assert manifest["lengths"]["max_prompt_tokens"] is None
    assert abs(manifest["preferred_first"]["after"]["train"] - 0.5) < 0.02 < 0.2 < manifest["preferred_first"]["before"]["train"] - 0.5
    assert not (world / "out/.build").exists()


def test_hostile_rows_are_counted_by_reason(world: Path) -> None:
    (world / "cut.png").write_bytes((world / "1.png").read_bytes()[:60])
    good = [raw(world, number) for number in range(100, 110)]
    hostile = {
        "duplicate": [raw(world, 100), raw(world, 100, "2", response_1="A dog 100.", response_2="A cat 100.")],
        "contradiction": [raw(world, 200), raw(world, 200, "tie"), raw(world, 201), raw(world, 201, "2")],
        "empty response": [raw(world, 1, response_1=" ")],
        "identical responses": [raw(world, 1, response_1="same", response_2="same")],
        "response is not a text": [raw(world, 1, response_2=float("nan")), raw(world, 1, response_2=["list"])],
        "question is not a text": [raw(world, 1, question=None)],
        "text is not valid UTF-8": [raw(world, 1, response_1="\ud800")],
        "image: truncated or corrupt": [raw(world, 1, image="cut.png")],
        "image: no such file": [raw(world, 1, image="gone.png")],
        "image: path leaves the image folder": [raw(world, 1, image="../../etc/passwd")],
        "image: a URL (see --allow-remote)": [raw(world, 1, image="https://example.org/1.png")],
    }
    kept = [
        raw(world, 300, response_1="An <image> and <video> in it, <|im_end|> and {question}."),
        raw(world, 301, response_1="long " * 20_000),
    ]
    file = write_jsonl(world / "hostile.jsonl", good + [bad for group in hostile.values() for bad in group] + kept)
    out = world / "out"
    manifest = build.build(out, [corpus(file)], replace(OPTIONS, val=3, test=3))
    expected = {reason: len(group) for reason, group in hostile.items()}
    assert counts(manifest) == {"read": 12 + sum(expected.values()), "kept": 12, "skipped": expected}
    built = [row for split in read(out).values() for row in split]
    assert len(built) == 12 and all(not rows.check_row(row, out) for row in built)
    assert [str(problem) for problem in validate.problems(out)] == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_two_builds_give_the_same_bytes(world: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int) -> None:
    build.build(world / "first", [corpus(world / "pairs.jsonl")], OPTIONS)
    monkeypatch.setattr("data_prep.plan.SHARD_ROWS", 25)
    options = replace(OPTIONS, num_workers=num_workers)
    build.build(world / "second", [corpus(world / "pairs.jsonl")], options)
    assert contents(world / "first") == contents(world / "second")


def test_a_killed_build_goes_on(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("data_prep.plan.SHARD_ROWS", 25)
    build.build(world / "whole", [corpus(world / "pairs.jsonl")], OPTIONS)
    calls: list[Path] = []
    convert = pairs_module.convert

    def killed(raw_row: dict[str, Any], put: Any) -> Any:
        calls.append(raw_row["question"])
        if len(calls) == 40:
            raise KeyboardInterrupt
        return convert(raw_row, put)

    monkeypatch.setattr(pairs_module, "convert", killed)
    with pytest.raises(KeyboardInterrupt):
        build.build(world / "out", [corpus(world / "pairs.jsonl")], OPTIONS)
    assert not (world / "out/manifest.json").exists() and not list((world / "out").glob("*.parquet"))
    (stale := world / "out/.build/shards/.0.jsonl.7.tmp").touch()
    read_keys = build.read_keys
    monkeypatch.setattr(build, "read_keys", lambda *arguments: (stale.exists() and pytest.fail("left")) or read_keys(*arguments))
    build.build(world / "out", [corpus(world / "pairs.jsonl")], OPTIONS)
    assert len(calls) == 40 + 1 + 60 - 25, "the first shard is not converted again, apart from the row that is shown"
    assert "resuming: 1 of 3 shards" in capsys.readouterr().err
    assert contents(world / "out") == contents(world / "whole")


def test_what_was_converted_otherwise_is_not_taken_up(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "read_keys", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build.build(world / "out", [corpus(world / "pairs.jsonl")], OPTIONS)
    monkeypatch.undo()
    larger = replace(OPTIONS, pixels=(3136, 200_704))
    manifest = build.build(world / "out", [corpus(world / "pairs.jsonl")], larger)
    assert "starting over" in capsys.readouterr().err
    sizes = {Image.open(file).size for file in (world / "out/images").iterdir()}
    assert sizes == {(84, 56)} and manifest["images"]["count"] == 30, "the images of the first attempt are gone"


@dataclass(frozen=True)
class Choice:
    settings: dict[str, Any]
    corpora: dict[str, dict[str, Any]]
    counts: dict[str, Any]
    ties: int


@pytest.mark.parametrize(
    "case",
    [
        Choice({"ties": "drop"}, {}, {"kept": 40, "skipped": {"tie": 20}}, 0),
        Choice({"ties": 0.2}, {}, {"kept": 50, "skipped": {"tie": 10}}, 10),
        Choice({"ties": 0.9}, {}, {"kept": 60, "skipped": {}}, 20),
        Choice({}, {"quota": 30}, {"kept": 30, "skipped": {"beyond the quota": 30}}, 10),
        Choice({"ties": 0.2}, {"quota": 30}, {"kept": 30, "skipped": {"tie": 10, "beyond the quota": 20}}, 6),
        Choice({}, {"quota": 99}, {"kept": 60, "skipped": {}}, 20),
        Choice({"limit": 20}, {}, {"kept": 20, "skipped": {}}, None),
    ],
    ids=str,
)
def test_ties_and_quotas(world: Path, case: Choice) -> None:
    options = replace(OPTIONS, val=4, test=4, **case.settings)
    manifest = build.build(world / "out", [corpus(world / "pairs.jsonl", **case.corpora)], options)
    counts = manifest["corpora"]["pairs"]["counts"]
    assert {key: counts[key] for key in case.counts} == case.counts
    assert counts["read"] == counts["kept"] + sum(counts["skipped"].values())
    built = [row for split in read(world / "out").values() for row in split]
    num_ties = sum(row["reward_model"]["ground_truth"] == "tie" for row in built)
    assert len(built) == counts["kept"] and num_ties == manifest["ties"]["kept"] and case.ties in (num_ties, None)
    assert {path.name for path in (world / "out/images").iterdir()} == {Path(image).name for row in built for image in row["images"]}


@pytest.mark.parametrize(
    ("weights", "quotas", "available", "taken"),
    [
        ((1.0, 1.0), (None, None), [100, 30], [30, 30]),
        ((3.0, 1.0), (None, None), [100, 30], [90, 30]),
        ((None, None), (20, None), [100, 30], [20, 30]),
        ((0.5, 0.25), (None, None), [10, 10], [10, 5]),
    ],
)
def test_weights_take_as_much_as_they_allow(weights: tuple, quotas: tuple, available: list[int], taken: list[int]) -> None:
    corpora = [Corpus(converter="a", weight=weights[0], quota=quotas[0]), Corpus(converter="b", weight=weights[1], quota=quotas[1])]
    assert quotas_of(corpora, available) == taken


def test_records_that_share_images_by_a_chain_stay_together(tmp_path: Path) -> None:
    raws = [
        raw(tmp_path, number, images=[picture(tmp_path, number), picture(tmp_path, number + 1)], image=None)
        for number in range(0, 60)
        if number % 6 != 5
    ]
    file = write_jsonl(tmp_path / "pairs.jsonl", raws)
    for seed in range(3):
        build.build(tmp_path / "out", [corpus(file)], replace(OPTIONS, val=12, test=10, seed=seed))
        train, val, test = ({path for row in split for path in row["images"]} for split in read(tmp_path / "out").values())
        assert [len(split) for split in read(tmp_path / "out").values()] == [30, 10, 10]
        assert not train & val and not train & test and not val & test


def test_both_orders_of_a_pair_are_in_one_split(world: Path) -> None:
    options = replace(OPTIONS, val=6, both_orders=True)
    manifest = build.build(world / "out", [corpus(world / "pairs.jsonl")], options)
    assert manifest["splits"]["val"] == {"rows": 12, "pairs": 6, "questions": 0}
    for split in read(world / "out").values():
        shown = [(row["extra_info"]["pair_id"], row["extra_info"]["order"]) for row in split]
        assert len(set(shown)) == len(shown) and {pair for pair, _ in shown} == {pair for pair, order in shown if order == "21"}
    assert manifest["preferred_first"]["after"] == {"train": 0.5, "val": 0.5, "test": 0.5}


def test_what_is_in_a_benchmark_is_dropped_and_listed(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(records: Any, root: Path, items: Any, limits: Any) -> dict[str, contamination.Match]:
        chosen = [record for record in records if record.question in ("What is it? 3", "What is it? 4")]
        return {
            r.pair_id: contamination.Match(r.pair_id, r.source, items[0].benchmark, "item", "question, same words", 1.0) for r in chosen
        }

    item = contamination.Item("bench.jsonl", "item", (), "What is it?")
    monkeypatch.setattr(contamination, "load", lambda *_: iter([item]))
    monkeypatch.setattr(contamination, "find", find)
    options = replace(OPTIONS, val=4, decontaminate=["bench.jsonl"])
    manifest = build.build(world / "out", [corpus(world / "pairs.jsonl")], options)
    assert counts(manifest) == {"read": 60, "kept": 58, "skipped": {"in a benchmark": 2}}
    assert manifest["decontamination"]["benchmarks"] == ["bench.jsonl"]
    matches = manifest["decontamination"]["matches"]
    assert [match["item_id"] for match in matches] == ["item", "item"]
    assert not {match["record_id"] for match in matches} & {
        row["extra_info"]["pair_id"] for split in read(world / "out").values() for row in split
    }


def test_a_benchmark_s_pictures_are_prepared_with_the_limits_of_the_build(world: Path) -> None:
    """Pictures of one colour match by their pixels alone, so not if one of the two were enlarged."""
    content = (world / "3.png").read_bytes()
    image = records.Image(path="3.png", sha256=hashlib.sha256(content).hexdigest())
    records.write_jsonl(
        world / "bench.jsonl", [records.QuestionRecord(images=(image,), question="Another one?", answer="7", source="bench")]
    )
    options = replace(OPTIONS, val=4, decontaminate=[str(world / "bench.jsonl")])
    manifest = build.build(world / "out", [corpus(world / "pairs.jsonl")], options)
    assert manifest["corpora"]["pairs"]["counts"]["skipped"] == {"in a benchmark": 2}
    assert {match["reason"] for match in manifest["decontamination"]["matches"]} == {"image: same pixels"}


def test_pairs_and_questions_in_one_build(world: Path) -> None:
    questions = [
        {
            "images": [{"bytes": (world / f"{number}.png").read_bytes(), "path": None}],
            "problem": f"<image>Find {number}.",
            "answer": str(number),
        }
        for number in range(8)
    ]
    questions[0]["answer"] = r"\dfrac{1}{2}" + "+1" * 300
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(questions), world / "geometry.parquet")
    corpora = [corpus(world / "pairs.jsonl"), Corpus(converter="geometry3k", location=str(world / "geometry.parquet"))]
    manifest = build.build(world / "out", corpora, replace(OPTIONS, val=9))
    assert sum(split["questions"] for split in manifest["splits"].values()) == manifest["corpora"]["geometry3k"]["counts"]["kept"] == 8
    train, val, test = ({path for row in split for path in row["images"]} for split in read(world / "out").values())
    assert not train & val and not train & test and not val & test
    assert manifest["paid_in_one_notation"] == 1
    (note,) = validate.problems(world / "out")
    assert isinstance(note, validate.Note) and note.what.endswith("does not earn acc 1 when it is written \\frac for \\dfrac")


def test_a_full_disk_stops_the_build_and_the_next_goes_on(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["build", "--corpus", f"pairs:{world / 'pairs.jsonl'}", "--out", str(world / "out"), "--no-lengths", "--num-workers", "1"]
    write_bytes, written = Path.write_bytes, []

    def full(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert command.main([*words, "--min-pixels", "784"]) == 1
    said = capsys.readouterr().err
    assert re.search(r"pairs\.jsonl: row 40: \[Errno 28\] No space left on device: .*\.png'; finished shards are kept", said), said
    monkeypatch.undo()
    assert command.main([*words, "--min-pixels", "784"]) == 0
    assert [str(problem) for problem in validate.problems(world / "out")] == []


def failing(error: Exception) -> Any:
    def convert(raw_row: dict[str, Any], put: Any) -> Any:
        if raw_row["question"].endswith(" 7"):
            raise error
        return pairs_convert(raw_row, put)

    pairs_convert = pairs_module.convert
    return convert


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (KeyError("oops"), ValueError, r"pairs: .*pairs\.jsonl: row 7: the converter failed: KeyError: 'oops'"),
        (SchemaError("key 'x': found 1, expected 2"), SchemaError, r"pairs: .*pairs\.jsonl: row 7: key 'x': found 1, expected 2"),
    ],
)
def test_a_row_that_stops_the_build_is_named(
    world: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type, message: str
) -> None:
    monkeypatch.setattr(pairs_module, "convert", failing(error))
    with pytest.raises(kind, match=message):
        build.build(world / "out", [corpus(world / "pairs.jsonl")], OPTIONS)
    assert not (world / "out/manifest.json").exists()


def test_a_converter_that_loses_a_row_is_found_out(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs_module, "convert", lambda raw_row, put: [])
    with pytest.raises(ValueError, match="row 0: the converter returned neither a record nor a Skip"):
        build.build(world / "out", [corpus(world / "pairs.jsonl")], OPTIONS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--corpus", "none:x"], "no such corpus; there are geometry3k, "),
        (["--corpus", "pairs:gone.jsonl"], "gone.jsonl: no such file or folder"),
        (["--corpus", "pairs:half.parquet"], "half.parquet: not readable"),
        (["--corpus", "rlaif_v:pairs.jsonl"], "no column 'chosen'; expected"),
        (["--corpus", "pairs:pairs.jsonl", "--corpus", "pairs:pairs.jsonl"], "given twice"),
        (["--corpus", "gone.py:pairs.jsonl"], "gone.py: no such converter file"),
        (["--corpus", "broken.py:pairs.jsonl"], r"broken\.py: the converter file cannot be imported: SyntaxError"),
        (["--corpus", "half.py:pairs.jsonl"], r"half\.py: the converter file does not define HUB, .*convert; see data_prep/corpus\.py"),
        (["--corpus", "pairs:pairs.jsonl", "--quota", "vlfeedback:3"], "--quota vlfeedback: no such --corpus"),
        (["--corpus", "pairs:pairs.jsonl", "--quota", "pairs"], "write it as NAME:VALUE"),
        (["--corpus", "pairs:pairs.jsonl", "--quota", "pairs:many"], "--quota: 'many' is not a whole number"),
        (["--corpus", "pairs:pairs.jsonl", "--quota", "pairs:-1"], "--quota: '-1' is not a whole number of 1 or more"),
        (["--corpus", "pairs:empty.jsonl"], r"pairs: no row in empty\.jsonl"),
        (["--corpus", "pairs:pairs.jsonl", "--quota", "pairs:3", "--weight", "pairs:1"], "none a quota"),
        (
            ["--corpus", "pairs:pairs.jsonl", "--val", "60"],
            "--test 6 --val 60: give numbers whose sum is below the .*, 60; --val 0 for",
        ),
        (["--corpus", "pairs:pairs.jsonl", "--val", "1"], "no split is possible: .* has 2"),
        (["--corpus", "pairs:pairs.jsonl", "--images", "pairs:nowhere"], "none of 60 records is left: 60 image: no such file"),
        (["--corpus", "pairs:pairs.jsonl", "--max-pixels", "1"], "pixel limits"),
        # Before any row is read, so a missing column is not what is told.
        (["--corpus", "rlaif_v:pairs.jsonl", "--ties", "1.5"], "--ties 1.5: give keep, drop, or a share"),
        (["--corpus", "rlaif_v:pairs.jsonl", "--weight", "rlaif_v:0"], "--weight: give every corpus a weight above 0"),
        (["--corpus", "slash.py:pairs.jsonl"], r"slash\.py: NAME is 'a/b'; use letters, digits"),
        (["--corpus", "pairs:pairs.jsonl", "--template", "nothing"], "no such template"),
        (["--corpus", "pairs:pairs.jsonl", "--decontaminate", "mmmu"], "--decontaminate mmmu: give .* vl_rewardbench"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_in_a_line(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    import re

    monkeypatch.chdir(world)
    (world / "half.parquet").write_bytes(b"PAR1")
    (world / "empty.jsonl").touch()
    (world / "broken.py").write_text("def convert(")
    (world / "half.py").write_text("NAME = 'half'\n")
    (world / "slash.py").write_text(Path(pairs_module.__file__).read_text().replace('NAME = "pairs"', 'NAME = "a/b"'))
    assert command.main(["build", "--out", "out", "--no-lengths", "--num-workers", "1", "--min-pixels", "784", *words]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(f"^critic-r1: .*{message}", last), last
    assert not (world / "out/manifest.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--corpus", "pairs:gone.jsonl", "--base", "gone"], "gone.jsonl: no such file or folder"),
        (["--corpus", "pairs:pairs.jsonl", "--base", "gone"], "--base gone: no such file or folder, and no hub id"),
        (["--corpus", "rlaif_v:pairs.jsonl", "--no-lengths"], "no column 'chosen'"),
        (["--corpus", "pairs:pairs.jsonl", "--no-lengths", "--decontaminate", "mmmu"], "--decontaminate mmmu: give"),
    ],
)
def test_a_build_that_stops_before_its_first_row_leaves_no_folder(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(world)
    build_into_out = ["build", "--out", "out", "--num-workers", "1", "--min-pixels", "784", *words]
    assert command.main(build_into_out) == 1
    assert message in capsys.readouterr().err
    assert not (world / "out").exists()
    (world / "out").mkdir()
    (world / "out/mine.txt").touch()
    assert command.main(build_into_out) == 1
    assert (world / "out/mine.txt").exists()


def test_columns_of_other_names(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    renamed = {"question": "prompt", "response_1": "first", "response_2": "second", "preferred": "label"}
    raws = [json.loads(line) for line in (world / "pairs.jsonl").read_text().splitlines()]
    file = write_jsonl(world / "other.jsonl", [{renamed.get(key, key): value for key, value in raw_row.items()} for raw_row in raws])
    words = ["build", "--corpus", f"pairs:{file}", "--out", str(world / "out"), "--no-lengths", "--num-workers", "1", "--min-pixels", "784"]
    assert command.main([*words, *(word for ours, theirs in renamed.items() for word in ("--column", f"{ours}:{theirs}"))]) == 0
    printed = capsys.readouterr().out.splitlines()
    layout = "plain, labelled (preferred, question, response_1, response_2)"
    assert printed == [
        "pairs: read 60, kept 60, skipped none",
        f"pairs: 60 read in the layout {layout}",
        f"{world / 'out'}: train 48 rows, val 6 rows, test 6 rows, 30 images",
    ]


def test_defaults_are_the_recipes() -> None:
    paper = (262_144, 4_194_304)
    assert recipe.read() == recipe.Recipe("Qwen/Qwen2.5-VL-7B-Instruct", 6142, paper)
    assert recipe.read("tiny") == recipe.Recipe("runs/demo/base", 192, (3_136, 200_704))
    assert recipe.read("owner/other") == recipe.Recipe("owner/other", 6142, paper)


def test_a_shard_is_its_task_alone(world: Path) -> None:
    """What a distributed engine would run: the task survives pickling, and a second run finds the work done."""
    import pickle

    file = world / "pairs.jsonl"
    files = {"pairs": [sources.File(file, world)]}
    [task] = plan(world / "out", world / "out/.build", [corpus(file)], files, OPTIONS, Limits(*OPTIONS.pixels), TEMPLATES, None)
    task = pickle.loads(pickle.dumps(task))
    found = shards.convert_shard(task)
    before = task.result.stat().st_mtime_ns
    assert shards.convert_shard(task) == found and found["kept"] == 60 and found["skipped"] == {}
    assert task.result.stat().st_mtime_ns == before
    assert [line["record"]["question"] for _, line in shards.read_lines(task.result)][:2] == ["What is it? 0", "What is it? 1"]


def test_every_record_is_kept_with_its_split_in_the_order_of_the_rows(world: Path) -> None:
    build.build(world / "out", [corpus(world / "pairs.jsonl")], OPTIONS)
    kept = list(records.read_records(world / "out/records.jsonl"))
    expected = [(row["extra_info"]["pair_id"], split) for split, built in read(world / "out").items() for row in built]
    assert [(record.record_id, record.split) for record in kept] == expected
    assert {record.split for record in kept} == set(records.SPLITS)


CONVERTER = """
from critic_r1_verl.records import PairRecord

NAME, HUB, CONFIG, SPLIT, REVISION, LICENCE, GRADE = "mine", None, None, "train", "", "cc0", "A"
COLUMNS = {"picture", "good", "bad"}


def convert(raw, put):
    texts = {"response_1": raw["good"], "response_2": raw["bad"], "preferred": "1", "source": NAME, "split": raw.get("side") or ""}
    return [PairRecord(images=(put(raw["picture"]),), question="Which?", **texts)]
"""


def own_corpus(folder: Path, sides: list[str], pictures: list[int] | None = None) -> Corpus:
    """A converter of the user's own beside rows that name their splits ("" for none)."""
    (folder / "mine.py").write_text(CONVERTER)
    numbers = pictures or list(range(len(sides)))
    raws = [
        {"picture": picture(folder, shown), "good": f"good {number}", "bad": "bad", "side": side}
        for number, (side, shown) in enumerate(zip(sides, numbers, strict=True))
    ]
    return Corpus(converter=str(folder / "mine.py"), location=str(write_jsonl(folder / "own.jsonl", raws)))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_converter_of_ones_own_names_the_splits(tmp_path: Path, num_workers: int) -> None:
    own = own_corpus(tmp_path, ["train"] * 20 + ["val"] * 3 + ["test"] * 5)
    options = Options(pixels=OPTIONS.pixels, num_workers=num_workers)
    manifest = build.build(tmp_path / "out", [own], options)
    assert {name: split["pairs"] for name, split in manifest["splits"].items()} == {"train": 20, "val": 3, "test": 5}
    converter = manifest["corpora"]["mine"]["converter"]
    assert converter == {"file": "mine.py", "sha256": hashlib.sha256(CONVERTER.encode()).hexdigest()}
    assert [str(problem) for problem in validate.problems(tmp_path / "out")] == []


def test_a_split_that_no_record_names_is_drawn_from_those_that_name_none(tmp_path: Path) -> None:
    own = own_corpus(tmp_path, ["test"] * 5 + [""] * 20)
    manifest = build.build(tmp_path / "out", [own], Options(pixels=OPTIONS.pixels, val=4))
    assert {name: split["pairs"] for name, split in manifest["splits"].items()} == {"train": 16, "val": 4, "test": 5}
    with pytest.raises(ValueError, match="--test 3: there are records that name the split test themselves"):
        build.build(tmp_path / "out", [own], Options(pixels=OPTIONS.pixels, test=3))
    with pytest.raises(ValueError, match="no record for the val split: every record names its split"):
        build.build(tmp_path / "out", [own_corpus(tmp_path, ["test"] * 5 + ["train"] * 20)], Options(pixels=OPTIONS.pixels))


def test_a_record_that_shares_an_image_with_a_held_out_one_is_skipped_with_a_count(tmp_path: Path) -> None:
    sides, pictures = ["train"] * 10 + ["val"] * 2 + ["test"] * 2, [*range(8), 20, 30, 20, 21, 30, 31]
    manifest = build.build(tmp_path / "out", [own_corpus(tmp_path, sides, pictures)], Options(pixels=OPTIONS.pixels))
    counts = manifest["corpora"]["mine"]["counts"]
    assert counts["skipped"] == {"shares an image with the test split": 1, "shares an image with the val split": 1}
    assert {name: split["pairs"] for name, split in manifest["splits"].items()} == {"train": 8, "val": 2, "test": 2}


def test_another_converter_file_is_another_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = own_corpus(tmp_path, ["train"] * 8 + ["val", "test"])
    with monkeypatch.context() as patch:
        patch.setattr(build, "read_keys", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build.build(tmp_path / "out", [own], Options(pixels=OPTIONS.pixels))
    (tmp_path / "mine.py").write_text(CONVERTER.replace('"Which?"', '"Which one?"'))
    build.build(tmp_path / "out", [own], Options(pixels=OPTIONS.pixels))
    assert "starting over" in capsys.readouterr().err
    assert {record.question for record in records.read_records(tmp_path / "out/records.jsonl")} == {"Which one?"}


def test_the_files_that_a_converter_imports_are_part_of_its_identity(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import json\nfrom texts import QUESTION\n")
    (tmp_path / "texts.py").write_text("def question():\n    import more\n    return more.QUESTION\n")
    (tmp_path / "more.py").write_text("import mine\nQUESTION = 'Which?'\n")
    (tmp_path / "other.py").touch()
    before = corpora.file_identity(str(tmp_path / "mine.py"))
    assert before and list(before["imports"]) == ["texts.py", "more.py"]
    (tmp_path / "more.py").write_text("QUESTION = 'Which one?'\n")
    after = corpora.file_identity(str(tmp_path / "mine.py"))
    assert after and after["sha256"] == before["sha256"] and after["imports"]["texts.py"] == before["imports"]["texts.py"]
    assert after["imports"]["more.py"] != before["imports"]["more.py"]


def test_of_a_record_that_stands_in_two_splits_the_held_out_one_stays(tmp_path: Path) -> None:
    own = own_corpus(tmp_path, ["train"] * 5 + ["val"] * 2 + ["test"] * 2)
    lines = (tmp_path / "own.jsonl").read_text().splitlines()
    again = [json.loads(lines[0]) | {"side": "test"}, json.loads(lines[8]) | {"side": "train"}]
    write_jsonl(tmp_path / "own.jsonl", [*map(json.loads, lines), *again])
    manifest = build.build(tmp_path / "out", [own], Options(pixels=OPTIONS.pixels))
    assert manifest["corpora"]["mine"]["counts"] == {"read": 11, "kept": 9, "skipped": {"duplicate": 2}}
    kept = {record.response_1: record.split for record in records.RecordFile(tmp_path / "out/records.jsonl", records.PairRecord)}
    assert kept["good 0"] == kept["good 8"] == "test"


def test_the_templates_of_a_build_travel_with_it(world: Path) -> None:
    (world / "mine.txt").write_text("A: {response_1} B: {response_2} Which answers {question} better?")
    manifest = build.build(world / "out", [corpus(world / "pairs.jsonl")], replace(OPTIONS, template=str(world / "mine.txt")))
    (world / "mine.txt").unlink()
    assert list(manifest["files"]) == ["train.parquet", "val.parquet", "test.parquet", "records.jsonl"]
    templates = data_folder.templates(world / "out")
    assert (templates["pair"].name, templates["question"]) == ("mine", prompts.load("policy"))
    assert [str(problem) for problem in validate.problems(world / "out")] == []


@pytest.mark.parametrize("name", ["build", "inspect", "validate"])
def test_the_help_of_each_command_ends_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main([name, "--help"])
    assert re.search(rf"\nexamples?:\n(  critic-r1 data {name} .*\n)+$", capsys.readouterr().out)


def test_each_command_answers_in_json(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--corpus", f"pairs:{world / 'pairs.jsonl'}", "--no-lengths", "--num-workers", "1", "--min-pixels", "784", "--json"]
    assert command.main(["build", *words, "--out", str(world / "out")]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert counts(summary) == {"read": 60, "kept": 60, "skipped": {}} and summary["splits"]["test"]["rows"] == 6
    assert command.main(["validate", str(world / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(world / "out"), "sound": True, "problems": [], "notes": []}
    assert command.main(["inspect", str(world / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sources"]["pairs"]["rows"] == {"train": 48, "val": 6, "test": 6}
