# SPDX-License-Identifier: Apache-2.0
import hashlib
import itertools
import json
import random
import re
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest
from PIL import Image as Pillow

from critic_r1_verl import benchmarks, hub
from critic_r1_verl.benchmarks import mm_rlhf_rewardbench, mmrb2, multi_crit, multimodal_rewardbench, reading, tally, vl_rewardbench
from critic_r1_verl.lines import Judgement
from critic_r1_verl.records import Image, PairRecord, QuestionRecord, write_jsonl
from critic_r1_verl.scoring import judged

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests/fixtures/benchmarks"
ROWS = ROOT.parent / "shared/data/vl_rewardbench_rows/data.json"
PUBLIC = [name for name in benchmarks.MODULES if name != "pairs"]


def load(name: str, out: Path) -> list[PairRecord]:
    return list(benchmarks.load(name, out, FIXTURES / name))


def lines(records, *verdicts, texts=None):
    """One repeat for each of verdicts: a function (record, order) -> choice in the frame of the record, or None for no line."""
    found = []
    for repeat, verdict in enumerate(verdicts):
        for pair_id, record in {record.pair_id: record for record in records}.items():
            for order in ("12", "21"):
                choice = verdict(record, order)
                if choice == "absent":
                    continue
                shown = tally.OTHER.get(choice, choice) if order == "21" else choice
                text = texts(shown) if texts else f"\\boxed{{{shown}}}"
                line = {"pair_id": pair_id, "order": order, "repeat": repeat, "choice": None if texts else shown, "text": text}
                preferred = record.shown(order).preferred
                line |= {"preferred": preferred, "correct": line["choice"] == preferred, "model": "m", "template_sha": "0"}
                line |= {"status": "missing" if line["choice"] is None else "parsed", "prompt_tokens": None, "completion_tokens": None}
                found.append(Judgement(**line))
    return found


def official(module, judgements, records):
    of_pairs = judged.judged_of(judgements, module.parse)
    return module.official(judged.trials_of(of_pairs, judged.reader(of_pairs)), tally.cases(records, benchmarks.group))


def right(record, order):
    return record.preferred


def wrong(record, order):
    return tally.OTHER[record.preferred]


def first(record, order):
    return order[0]


def silent(record, order):
    return None


def only(order, verdict):
    return lambda record, shown: verdict(record, shown) if shown == order else "absent"


# Loading


@pytest.mark.parametrize("name", PUBLIC)
def test_every_benchmark_loads_and_stores_its_images(name, tmp_path):
    records = load(name, tmp_path)
    module = benchmarks.module(name)
    for record in records:
        assert record.source == name and benchmarks.group(record) in module.GROUPS
        for image in record.images:
            data = (tmp_path / image.path).read_bytes()
            assert hashlib.sha256(data).hexdigest() == image.sha256 and Path(image.path).stem == image.sha256
    assert load(name, tmp_path) == records


def test_vl_rewardbench_rows(tmp_path, capsys):
    records = load("vl_rewardbench", tmp_path)
    assert [record.category for record in records] == ["hallucination"] * 2 + ["reasoning"] * 3 + ["general"] * 3
    # The rank of the better response is 0; the official code takes the placeholder out of the question.
    assert (records[2].preferred, records[2].question) == ("2", "How many corners?")
    # One id twice is two pairs; one content twice is one pair in one frame, whichever way round it is stored, and both items stay.
    assert records[2].pair_id != records[3].pair_id
    assert records[5].pair_id == records[6].pair_id and len(records) == 8
    assert (records[5].response_1, records[5].preferred, records[6].response_1, records[6].preferred) == (
        "A square.",
        "1",
        "A square.",
        "2",
    )
    assert "8 items are 7 different pairs; 1 have contradicting labels" in capsys.readouterr().err


def test_mm_rlhf_videos_become_frames(tmp_path, monkeypatch):
    records = load("mm_rlhf_rewardbench", tmp_path)
    assert [(len(record.images), record.category, record.group) for record in records] == [(1, "mcq", "1_1")] * 2 + [
        (3, "video", "clip_2")
    ] * 2
    monkeypatch.setattr(mm_rlhf_rewardbench, "FRAMES", 2)
    assert load("mm_rlhf_rewardbench", tmp_path)[2].images == (records[2].images[0], records[2].images[2])


def test_mm_rlhf_pictures_may_lie_flat(tmp_path):
    records = load("mm_rlhf_rewardbench", tmp_path / "out")
    shutil.copytree(FIXTURES / "mm_rlhf_rewardbench", tmp_path / "in")
    (tmp_path / "in/images/mcq/1.png").rename(tmp_path / "in/images/1.png")
    assert list(benchmarks.load("mm_rlhf_rewardbench", tmp_path / "out", tmp_path / "in")) == records
    (tmp_path / "in/images/1.png").unlink()
    with pytest.raises(ValueError, match=r"jsonl:1: 'mcq/1.png' is in none of"):
        list(benchmarks.load("mm_rlhf_rewardbench", tmp_path / "out", tmp_path / "in"))


def test_multimodal_rewardbench_groups(tmp_path):
    groups = ["open_generation/correctness_task", "reasoning/math", "reasoning/coding", "safety/bias", "safety/toxicity"]
    assert [(record.category, record.preferred) for record in load("multimodal_rewardbench", tmp_path)] == list(
        zip(groups, "12121", strict=True)
    )


def test_multi_crit_tells_criteria_apart(tmp_path):
    records = load("multi_crit", tmp_path)
    assert len({record.pair_id for record in records}) == 6
    assert records[1].question == "Question p\n\nJudge the responses by this criterion alone: clarity."
    assert [record.group for record in records[::2]] == ["open-ended/p", "open-ended/q", "reasoning/r"]


def test_multi_crit_as_the_official_code_downloads_it(tmp_path):
    folder = tmp_path / "datasets"
    (folder / "images/puzzles").mkdir(parents=True)
    shutil.copy(FIXTURES / "multi_crit/red.png", folder / "images/puzzles/red.png")
    for row in map(json.loads, (FIXTURES / "multi_crit/rows.jsonl").read_text(encoding="utf-8").splitlines()):
        name = "openEnded" if row["split"] == "open_ended" else "reasoning"
        with (folder / f"multi-crit-{name}-flatten.jsonl").open("a", encoding="utf-8") as file:
            row["image_path"] = f"puzzles/{row.pop('image')}"
            file.write(json.dumps(row) + "\n")
    assert list(benchmarks.load("multi_crit", tmp_path / "out", folder)) == load("multi_crit", tmp_path / "out")


def test_mmrb2_beside_what_it_is_built_from(tmp_path):
    shutil.copytree(FIXTURES / "mmrb2", tmp_path / "in")
    for name in ("reasoning_response_only", "new_task_release", "edit_full"):
        (tmp_path / f"in/{name}.json").write_text('{"pairs": [{"id": "p"}]}', encoding="utf-8")
    assert list(benchmarks.load("mmrb2", tmp_path / "out", tmp_path / "in")) == load("mmrb2", tmp_path / "out")


def test_mmrb2_names_pictures_where_they_stood(tmp_path):
    reasoning, painting = load("mmrb2", tmp_path)
    assert (painting.question, painting.response_1, painting.response_2) == ("Paint the sky.", "[picture 1]", "[picture 2]")
    assert (reasoning.question, reasoning.response_2) == ("Which colour?\n[picture 1]", "I zoom in:\n[picture 2]\nGreen.")
    assert (painting.category, len(painting.images), reasoning.category, len(reasoning.images)) == ("t2i", 2, "reasoning", 2)


def test_mmrb2_from_the_columns_of_the_hub(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    def picture(name):
        return {"bytes": (FIXTURES / "mmrb2" / name).read_bytes(), "path": None}

    row = {"prompt_text": "Which colour? <image_0>", "prompt_images": [picture("input_images/q.png")], "chosen": "b"}
    row |= {"response_a_text": "Red.", "response_a_images": [], "response_b_text": "I zoom in:\n<image_0>\nGreen."}
    row |= {"response_b_images": [picture("images/b.png")]}
    (tmp_path / "reasoning").mkdir()
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "reasoning/test-00000-of-00001.parquet")
    assert list(benchmarks.load("mmrb2", tmp_path / "out", tmp_path)) == load("mmrb2", tmp_path / "out")[:1]


def test_a_column_that_stands_twice_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["query", "query"]), tmp_path / "test.parquet")
    with pytest.raises(ValueError, match=r"two columns are named 'query'; rename one"):
        list(benchmarks.load("vl_rewardbench", tmp_path / "out", tmp_path))


def test_parquet_and_hub(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = [json.loads(line) for line in (FIXTURES / "vl_rewardbench/data.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in table:
        row["image"] = {"bytes": (FIXTURES / "vl_rewardbench" / row["image"]).read_bytes(), "path": row["image"]}
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "data/test-00000-of-00001.parquet")
    asked = []
    monkeypatch.setattr(hub, "fetch", lambda name, what, kind: asked.append((name, kind)) or tmp_path)
    assert list(benchmarks.load("vl-rewardbench", tmp_path / "out")) == load("vl_rewardbench", tmp_path / "out")
    assert asked == [(vl_rewardbench.HUB, "dataset")]


@pytest.fixture
def pairs(tmp_path):
    """Records with everything that makes the text of a row hard to read back, beside their image."""
    (tmp_path / "images").mkdir()
    data = (FIXTURES / "vl_rewardbench/images/red.png").read_bytes()
    (tmp_path / "images/red.png").write_bytes(data)
    image = Image(path="images/red.png", sha256=hashlib.sha256(data).hexdigest())
    texts = [
        ("Is <image> red?", "Yes <|im_end|>", "< image > {question}", "2"),
        ("A?\nResponse 1: x\nResponse 2: y", "x\nResponse 2: z", "Response 1: ", "1"),
        ("\n[End of question]\n\n[Response 1]\n", "\n[End of response 1]\n\n[Response 2]\n", "", "tie"),
    ]
    return [
        PairRecord(
            images=(image,) * (1 + number % 2),
            question=q,
            response_1=a,
            response_2=b,
            preferred=label,
            source="mine",
            category=f"c{number}",
        )
        for number, (q, a, b, label) in enumerate(texts)
    ]


def stored(records, out):
    """The records as a benchmark has them: the image under its content's name."""
    return [
        PairRecord(
            **{field.name: getattr(r, field.name) for field in fields(r)}
            | {"images": tuple(Image(path=f"images/{i.sha256}.png", sha256=i.sha256) for i in r.images)}
        )
        for r in records
    ]


def test_pairs_from_jsonl(pairs, tmp_path):
    write_jsonl(tmp_path / "mine.jsonl", pairs)
    assert list(benchmarks.load(str(tmp_path / "mine.jsonl"), tmp_path / "out")) == stored(pairs, tmp_path)
    (tmp_path / "images/red.png").write_bytes((FIXTURES / "vl_rewardbench/images/blue.png").read_bytes())
    with pytest.raises(ValueError, match=r"mine.jsonl:1: the image images/red.png has changed since.*sha256"):
        list(benchmarks.load(str(tmp_path / "mine.jsonl"), tmp_path / "out"))


def test_a_data_folder_gives_the_pairs_and_questions_of_its_test_split(pairs, tmp_path):
    from critic_r1_verl.benchmarks import pairs as module

    question = QuestionRecord(images=pairs[0].images, question="Is it red?", answer="yes", source="mine")
    splits = ("train", "test", "test")
    records = [replace(record, split=split) for record, split in zip(pairs, splits, strict=True)]
    write_jsonl(
        tmp_path / "records.jsonl", [*records, replace(question, split="val"), replace(question, split="test", question="Or blue?")]
    )
    assert list(benchmarks.load(str(tmp_path), tmp_path / "out")) == stored(records[1:], tmp_path)
    (found,) = module.questions(tmp_path, tmp_path / "out")
    assert (found.question, found.images[0].sha256) == ("Or blue?", pairs[0].images[0].sha256)
    (tmp_path / "images/red.png").unlink()
    with pytest.raises(ValueError, match=r"records.jsonl:2: 'images/red.png' is in none of"):
        list(benchmarks.load(str(tmp_path), tmp_path / "other"))
    with pytest.raises(ValueError, match=r"records.jsonl:5: 'images/red.png' is in none of"):
        list(module.questions(tmp_path, tmp_path / "other"))


def test_rows_are_no_benchmark(tmp_path):
    with pytest.raises(ValueError, match=r"val.parquet': rows are not read as a benchmark; give their data folder"):
        benchmarks.module(str(tmp_path / "val.parquet"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"response": None}, r"data.jsonl:2: key 'response': None is not of type list"),
        ({"response": ["one"]}, r"data.jsonl:2: key 'response': 1 responses, not 2"),
        ({"response": ["one", 2]}, r"data.jsonl:2: key 'response_2': 2 is not a string"),
        ({"response": ["same", "same"]}, r"data.jsonl:2: key 'preferred': the two responses are identical"),
        ({"human_ranking": [0, 0]}, r"data.jsonl:2: key 'human_ranking': \[0, 0\] is none of"),
        ({"query": 7}, r"data.jsonl:2: key 'query': 7 is not of type str"),
        ({"id": ...}, r"data.jsonl:2: key 'id' is missing; the keys are query"),
        ({"image": ...}, r"data.jsonl:2: the image is None, neither a path nor bytes"),
        ({"image": "images/none.png"}, r"data.jsonl:2: 'images/none.png' is in none of .*put the images there"),
        ({"image": "../secret.png"}, r"data.jsonl:2: the path '../secret.png' leaves the data folder"),
        ({"image": "data.jsonl"}, r"data.jsonl:2: the image does not open \(not an image in a known format"),
    ],
)
def test_hostile_rows(tmp_path, change, message):
    folder = tmp_path / "in"
    shutil.copytree(FIXTURES / "vl_rewardbench", folder)
    table = [json.loads(line) for line in (folder / "data.jsonl").read_text(encoding="utf-8").splitlines()]
    table[1] = {name: value for name, value in (table[1] | change).items() if value is not ...}
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        list(benchmarks.load("vl_rewardbench", tmp_path / "out", folder))


def test_r1_reward_s_copy_of_vl_rewardbench_gives_the_same_pairs(tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(FIXTURES / "vl_rewardbench", folder)
    expected = list(benchmarks.load("vl_rewardbench", tmp_path / "out", folder))
    table = [json.loads(line) for line in (folder / "data.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in table:
        better = row["human_ranking"].index(0)
        texts = {"prompt": row["query"], "chosen": row["response"][better], "rejected": row["response"][1 - better]}
        row.update(texts | {"chosen_reason": "", "rejected_reason": ""})
        del row["query"], row["response"], row["human_ranking"]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table), encoding="utf-8")
    found = list(benchmarks.load("vl_rewardbench", tmp_path / "out", folder))
    assert [{one, one.swap()} for one in found] == [{one, one.swap()} for one in expected]


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("data.jsonl", '{"id": "a"}\n[1]\n', r"data.jsonl:1: key 'response' is missing"),
        ("data.jsonl", "[1]\n", r"data.jsonl:1: \[1\] is not a JSON object"),
        ("data.jsonl", "{nonsense}\n", r"data.jsonl:1: not JSON"),
        ("data.jsonl", '{"id": "a', r"data.jsonl:1: the line is cut short"),
        ("data.jsonl", "", r"has no rows"),
        ("data.json", "7", r"data.json: neither a list of rows nor"),
        ("data.json", "[" * 100_000, r"data.json: not JSON"),
        ("test.parquet", "PAR1", r"test.parquet: not a readable parquet file"),
        ("other.txt", "", r"holds none of .*data.jsonl"),
    ],
)
def test_hostile_files(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        list(benchmarks.load("vl_rewardbench", tmp_path / "out", tmp_path))


@pytest.mark.parametrize(
    "name, file, key, value, message",
    [
        ("mm_rlhf_rewardbench", "mm_reward_bench.jsonl", "image", "other/1.png", r"jsonl:1: "),
        ("multi_crit", "rows.jsonl", "criterion", "beauty", r"rows.jsonl:1: split 'open-ended' and criterion 'beauty' are none of"),
        ("multi_crit", "rows.jsonl", "preference", "tie", r"rows.jsonl:1: key 'preference': 'tie' is none of 'model_a', 'model_b'"),
    ],
)
def test_unknown_labels(tmp_path, name, file, key, value, message):
    folder = tmp_path / "in"
    shutil.copytree(FIXTURES / name, folder)
    head, *rest = (folder / file).read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / file).write_text(json.dumps(json.loads(head) | {key: value}) + "\n" + "".join(rest), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        list(benchmarks.load(name, tmp_path / "out", folder))


@pytest.mark.parametrize("name", ["vl_rewardbench2", "", "pairs.csv"])
def test_unknown_benchmark(name):
    with pytest.raises(ValueError, match=r"none of vl_rewardbench, mm_rlhf_rewardbench"):
        benchmarks.module(name)


def test_nowhere(tmp_path):
    with pytest.raises(ValueError, match="benchmark not here: no such file or folder, and no hub id"):
        list(benchmarks.load("mmrb2", tmp_path, "not here"))


# Official scores, by hand


def record(number, preferred="1", category="general", group=""):
    image = Image(path="a.png", sha256=f"{number:064x}")
    texts = {"question": "q", "response_1": f"a{number}", "response_2": "longer"}
    return PairRecord(images=(image,), **texts, preferred=preferred, source="s", category=category, group=group)


FOUR = [record(0), record(1, "2"), record(2, category="reasoning"), record(3, "2", category="hallucination")]


def by_number(*verdicts):
    """A verdict function that gives each record of FOUR its own."""
    chosen = {record.pair_id: verdict for record, verdict in zip(FOUR, verdicts, strict=True)}
    return lambda record, order: chosen[record.pair_id](record, order)


def tied(record, order):
    return "tie"


@pytest.mark.parametrize(
    "verdicts, overall, groups",
    [
        ([by_number(right, wrong, right, right)], 3 / 4, [1 / 2, 1, 1]),
        # Unparsed and tied items leave the denominator.
        ([by_number(right, silent, right, wrong)], 2 / 3, [1, 0, 1]),
        ([by_number(right, tied, right, wrong)], 2 / 3, [1, 0, 1]),
        ([by_number(right, right, silent, right)], 1, [1, 1, None]),
        # The order of a trial is drawn by a coin: who always says the first is right half the time.
        ([first], 1 / 2, [1 / 2] * 3),
        # Three trials: 2 of 3 agree; then 1 agrees, 1 rejects, 1 is silent: no majority, the item leaves.
        (
            [by_number(*v) for v in ((right, right, right, right), (right, wrong, wrong, right), (wrong, silent, wrong, right))],
            2 / 3,
            [1, 1, 0],
        ),
        # Two trials that differ have no majority; a drawn order can give one. right + first: P(agree) 1/2, P(reject) 0.
        ([right, wrong], None, [None] * 3),
        ([right, first], 1, [1] * 3),
        # One trial was judged in one order alone: nothing is drawn.
        ([only("21", first)], 1 / 2, [1 / 2, 1, 0]),
    ],
)
def test_vl_rewardbench_official(verdicts, overall, groups):
    score = official(vl_rewardbench, lines(FOUR, *verdicts), FOUR)
    names = ["general", "hallucination", "reasoning"]
    assert (score["overall"], list(score["groups"].values())) == (pytest.approx(overall), pytest.approx(groups, nan_ok=True))
    assert list(score["groups"]) == names
    assert score["macro"] == (None if None in groups else pytest.approx(sum(groups) / 3))


def test_vl_rewardbench_grammar_is_the_official_one():
    pattern = r"(?:Overall Judgment|Therefore)\s*.*\s*-*\s*Answer\s*(\d+)\s*is\s*(?:the\s*)?(?:slightly\s*)?better"
    words = [
        "Therefore",
        "overall judgment",
        "Answer",
        " 1",
        "2 ",
        "is",
        " the ",
        "slightly",
        "better",
        " ",
        "\n",
        "**",
        "--",
        "\t",
        "\u2028",
        "Answer 1 is better",
    ]
    draw = random.Random(5)
    found = 0
    for _ in range(3_000):
        text = "".join(draw.choice(words) for _ in range(draw.randint(1, 25)))
        match = re.search(pattern, text.replace("\n", "").replace("*", ""), re.IGNORECASE)
        assert vl_rewardbench.parse(text) == (str(int(match[1])) if match and len(match[1]) < 10 else match and match[1]), text
        found += match is not None
    assert found > 500


def test_vl_rewardbench_expects_what_drawing_every_order_gives():
    draw = random.Random(3)
    for _ in range(50):
        flags = [[draw.choice([0.0, 1.0, None]) for _ in range(2)] for _ in range(draw.randint(1, 5))]
        drawn = list(itertools.product(*flags))
        agree = sum(2 * each.count(1.0) > len(flags) for each in drawn) / len(drawn)
        reject = sum(2 * each.count(0.0) > len(flags) for each in drawn) / len(drawn)
        assert vl_rewardbench._majority(flags) == pytest.approx((agree, agree + reject))


@pytest.mark.parametrize(
    "module, text, choice",
    [
        (vl_rewardbench, "Reasons.\n**Overall Judgment**: Answer 2 is slightly better.", "2"),
        (vl_rewardbench, "Therefore, Answer 1 is the\n better one.", "1"),
        (vl_rewardbench, "Therefore, Answer 1 is the better one.", "1"),
        (vl_rewardbench, "therefore answer 3 is better", "3"),
        (vl_rewardbench, "Answer 1 is better.", None),
        (vl_rewardbench, f"Therefore, Answer {'9' * 5_000} is better", "9" * 5_000),
        (vl_rewardbench, "Therefore" + " " * 50_000, None),
        (vl_rewardbench, "Therefore Answer 1 is " * 20_000, None),
        (vl_rewardbench, "Overall Judgment: Answer 1 is better. No: Answer 02 is better.", "2"),
        (multimodal_rewardbench, "[[B]] or rather [[A]]", "1"),
        (multimodal_rewardbench, "Verdict: [[B]]", "2"),
        (multimodal_rewardbench, "[[C]]", None),
        (multi_crit, "Response 1 is better.\na\nb\n**Response 2** is better.", "2"),
        (multi_crit, "Response 1 is better.\na\nb\nc", None),
        (multi_crit, "Response 3 is better.", None),
        (mmrb2, '{"better_response": "B"}', "2"),
        (mmrb2, "B", None),
        (mmrb2, "{'better_response': 'B'}", "2"),
        (mmrb2, "```json\n{better_response: A, score: 5}\n```", "1"),
        (mmrb2, "{“better_response” :\n“A”}", "1"),
        (mmrb2, '{"score": 2\n"better_response": "B"\n"confidence": 1}', "2"),
        (mmrb2, '{"reasoning": {"x": "y"}, "better_response": "A', "1"),
        # What is neither A nor B counts, and is never right.
        (mmrb2, '{"better_response": "Response A"}', "tie"),
        (mmrb2, '{"better_response": "A" or "B"}', "tie"),
        (mmrb2, '{"better_response": "A, as it is sharper", "score": 6}', "tie"),
        (mmrb2, '{"better_response": "a"}', "tie"),
        (mmrb2, '{"better_response": true}', "tie"),
        (mmrb2, '{"better_response": ["A"]}', "tie"),
        # What is nothing to Python does not count.
        (mmrb2, '{"better_response": ""}', None),
        (mmrb2, '{"better_response": }', None),
        (mmrb2, '{"better_response": null}', None),
        (mmrb2, '{"better_response": False, "score": 1}', None),
        (mmrb2, '{"other_better_response": "A"}', None),
        (mmrb2, '"better_response": "A"', None),
        # The last counts, be it after a draft, after a quotation in the reasons, or twice in one object.
        (mmrb2, '{"better_response": "A"}\n{"better_response": "B"}', "2"),
        (mmrb2, '{"reasoning": "better_response: A?", "better_response": "B"}', "2"),
        (mmrb2, '{"better_response": "A", "rationale": "the better_response is sharp"}', "1"),
        (mmrb2, '{"better_response"' + " " * 50_000, None),
        (mmrb2, '{better_response: "' * 20_000, None),
        (mmrb2, "{better_response: '\"" * 20_000, None),
        (mmrb2, "{" * 50_000, None),
    ],
)
def test_official_grammars(module, text, choice):
    assert module.parse(text) == choice


def test_the_official_prompt_is_read_by_the_official_grammar():
    """A box that a judge merely quotes does not count where the benchmark's own prompt was used, nor its words where ours was."""
    own = lines(
        FOUR,
        right,
        texts=lambda shown: f"<think>Answer 3</think>\\boxed{{{tally.OTHER[shown]}}}? Overall Judgment: Answer {shown} is better.",
    )
    assert judged.reader(judged.judged_of(own, vl_rewardbench.parse)) == "own"
    assert official(vl_rewardbench, own, FOUR)["overall"] == 1
    ours = lines(FOUR, right)
    ours[0] = replace(ours[0], text="<think>Therefore, Answer 2 is better.</think> \\boxed{1}")
    assert judged.reader(judged.judged_of(ours, vl_rewardbench.parse)) == "box"
    assert official(vl_rewardbench, ours, FOUR)["overall"] == 1
    # An answer that does not exist is not the rejected one.
    third = lines(FOUR, right, texts=lambda shown: "Therefore, Answer 3 is better.")
    assert official(vl_rewardbench, third, FOUR)["overall"] == 1


def test_mm_rlhf_official():
    records = [record(0, category="mcq", group="a"), record(1, category="mcq", group="a"), record(2, category="long", group="b")]
    score = official(mm_rlhf_rewardbench, lines(records, lambda record, order: "2" if record is records[1] else "1"), records)
    assert (score["overall"], score["groups"], score["macro"]) == (2 / 3, {"long": 1, "mcq": 1 / 2}, 3 / 4)
    assert score["acc_plus"] == {"overall": 1 / 2, "macro": 1 / 2, "groups": {"long": 1, "mcq": 0}}
    drawn = official(mm_rlhf_rewardbench, lines(records, first), records)
    assert (drawn["overall"], drawn["acc_plus"]["groups"]) == (1 / 2, {"long": 1 / 2, "mcq": 1 / 4})


def test_multimodal_rewardbench_official():
    groups = ["knowledge", "knowledge", "vqa"]
    records = [record(number, category=group) for number, group in enumerate(groups)]
    # The given order alone counts, and a coin for what cannot be read.
    score = official(multimodal_rewardbench, lines(records, lambda r, order: "1" if order == "12" else "2"), records)
    assert (score["overall"], score["groups"]) == (1, {"knowledge": 1, "vqa": 1})
    coins = official(multimodal_rewardbench, lines(records, lambda r, order: None if r is records[0] else "2"), records)
    assert (coins["overall"], coins["groups"], coins["macro"]) == (1 / 6, {"knowledge": 1 / 4, "vqa": 0}, 1 / 8)


def test_multi_crit_official(tmp_path):
    records = load("multi_crit", tmp_path)
    choices = dict(zip((r.pair_id for r in records), ["1", "1", "1", "1", "2", "1"], strict=True))
    score = official(multi_crit, lines(records, lambda r, order: choices[r.pair_id]), records)
    assert score["overall"] == 5 / 6
    ended, reasoning = score["splits"]["open-ended"], score["splits"]["reasoning"]
    assert (ended["overall"], ended["macro"]) == (3 / 4, 3 / 4)
    # One prompt of two all right; the one prompt with a conflict has the same verdict twice.
    assert (ended["pluralistic_accuracy"], ended["tradeoff_sensitivity"], ended["conflict_matching"]) == (1 / 2, 0, 0)
    assert (reasoning["pluralistic_accuracy"], reasoning["tradeoff_sensitivity"], reasoning["conflict_matching"]) == (1, 1, 1)


def test_mmrb2_official():
    records = [record(0, category="t2i"), record(1, category="edit")]
    score = official(mmrb2, lines(records, lambda r, order: None if r is records[0] and order == "12" else "1"), records)
    assert (score["overall"], score["groups"]) == (1, {"edit": 1, "t2i": 1})
    ties = official(mmrb2, lines(records, lambda r, order: "tie" if order == "12" else "1", first), records)
    assert ties["overall"] == 1 / 2


def test_pairs_official():
    records = [record(0, "tie", category=""), record(1, category="c")]
    score = official(benchmarks.module("pairs"), lines(records, lambda r, order: "tie" if r is records[0] else order[0]), records)
    assert (score["overall"], score["groups"]) == (3 / 4, {"c": 1 / 2, "s": 1})


# Against the public rows


@pytest.mark.skipif(not ROWS.is_file(), reason=f"{ROWS} is not there: the public rows are not part of this repository")
def test_the_1250_public_rows(tmp_path, monkeypatch):
    """The images are not public beside the rows: each path stands for one."""

    def store(row, raw, out):
        return Image(path=raw, sha256=hashlib.sha256(raw.encode()).hexdigest())

    monkeypatch.setattr(reading, "store", store)
    records = list(benchmarks.load("vl_rewardbench", tmp_path, ROWS))
    assert len({record.pair_id for record in records}) == len(records) == vl_rewardbench.PAIRS[0]
    assert {name: sum(record.category == name for record in records) for name in vl_rewardbench.GROUPS} == vl_rewardbench.GROUPS
    assert sum(record.preferred == "1" for record in records) == 1_245
    assert len({record.images for record in records}) == 1_225
    # 25 ids twice, and so 25 pairs of items that share an image.
    from critic_r1_verl.scoring.score import score

    baselines = score(lines(records, first), records, "vl_rewardbench")["baselines"]
    expected = json.loads((ROOT / "tests/golden/scores.json").read_text(encoding="utf-8"))["longer_wins"]
    assert {name: round(100 * value, 1) for name, value in baselines["longer wins"]["strict"]["groups"].items()} == expected
    assert (baselines["first wins"]["official"]["overall"], baselines["first wins"]["strict"]["overall"]) == (pytest.approx(0.5), 0)


def test_a_jpeg_with_a_second_picture_is_a_jpeg(tmp_path):
    """Cameras and phones append one for depth or as a preview; Pillow calls such a file MPO."""
    first, second = (Pillow.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    image = reading.store(reading.Row({}, "here", tmp_path / "x", tmp_path), "a.jpg", tmp_path / "out")
    assert (tmp_path / "out" / image.path).read_bytes() == (tmp_path / "a.jpg").read_bytes() and image.path.endswith(".jpg")


def test_an_image_is_stored_once_and_as_it_is(tmp_path):
    row = reading.Row({}, "here", FIXTURES / "x", FIXTURES)
    source = tmp_path / "a.webp"
    Pillow.new("RGB", (4, 4)).save(source)
    image = reading.store(row, {"bytes": source.read_bytes(), "path": "a.webp"}, tmp_path / "out")
    assert image.path.endswith(".webp") and (tmp_path / "out" / image.path).read_bytes() == source.read_bytes()
    assert [path.name for path in (tmp_path / "out/images").iterdir()] == [Path(image.path).name]
