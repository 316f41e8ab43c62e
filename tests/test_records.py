# SPDX-License-Identifier: Apache-2.0
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic_r1_verl.files import replacing
from critic_r1_verl.records import Image, PairRecord, QuestionRecord, RecordFile, write_jsonl

IMAGE = Image(path="images/a.png", sha256="a" * 64)
OTHER = Image(path="images/b.png", sha256="b" * 64)


def make_pair(**changes) -> PairRecord:
    defaults = {
        "images": (IMAGE,),
        "question": "What is it?",
        "response_1": "A cat.",
        "response_2": "A dog.",
        "preferred": "1",
        "source": "demo",
    }
    return PairRecord(**{**defaults, **changes})


def make_question(**changes) -> QuestionRecord:
    return QuestionRecord(**{"images": (IMAGE,), "question": "How many?", "answer": "7", "source": "demo", **changes})


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
NONEMPTY = TEXTS.filter(str.strip)
PAIRS = st.builds(
    make_pair,
    question=NONEMPTY,
    response_1=TEXTS.map("1".__add__),
    response_2=TEXTS.map("2".__add__),
    preferred=st.sampled_from(["1", "2", "tie"]),
    source=NONEMPTY,
    category=TEXTS,
    images=st.sampled_from([(IMAGE,), (IMAGE, OTHER)]),
)


@given(PAIRS)
def test_swap_twice_is_the_record_and_keeps_its_identity(pair):
    assert pair.swap().swap() == pair
    assert pair.swap().pair_id == pair.pair_id
    assert (pair.swap().response_1, pair.swap().response_2) == (pair.response_2, pair.response_1)
    assert {pair.preferred, pair.swap().preferred} in ({"1", "2"}, {"tie"})


@given(PAIRS)
def test_json_gives_the_record_back(pair):
    assert PairRecord.from_json(json.loads(json.dumps(pair.to_json()))) == pair


def test_the_identity_is_of_the_content_alone():
    pair = make_pair()
    assert pair.pair_id == "e089c15af62440b67fb4"
    assert make_question().question_id == "6b04a1552a18627f477b"
    same = [{"preferred": "2"}, {"source": "x"}, {"category": "x"}, {"group": "x"}, {"images": (Image(path="c.png", sha256=IMAGE.sha256),)}]
    different = [{"question": "x"}, {"response_1": "x"}, {"response_2": "x"}, {"images": (OTHER,)}, {"images": (IMAGE, IMAGE)}]
    assert {make_pair(**changes).pair_id for changes in same} == {pair.pair_id}
    assert len({make_pair(**changes).pair_id for changes in different} | {pair.pair_id}) == len(different) + 1
    assert make_question(answer="8").question_id == make_question().question_id


def test_the_group_is_the_images_unless_named():
    assert make_pair().group == IMAGE.sha256
    assert make_pair(images=(OTHER, IMAGE)).group == make_pair(images=(IMAGE, OTHER, IMAGE)).group == f"{IMAGE.sha256}+{OTHER.sha256}"
    assert make_pair(group="scan 12").group == "scan 12"


@pytest.mark.parametrize(
    "changes, key",
    [
        ({"preferred": "A"}, "preferred"),
        ({"preferred": 1}, "preferred"),
        ({"preferred": None}, "preferred"),
        ({"images": [IMAGE]}, "images"),
        ({"images": ("a.png",)}, "images"),
        ({"question": " \n"}, "question"),
        ({"question": None}, "question"),
        ({"source": ""}, "source"),
        ({"response_1": 3}, "response_1"),
        ({"response_2": "\ud800"}, "surrogate"),
        ({"response_1": "A dog."}, "identical"),
    ],
)
def test_a_malformed_pair_is_refused_by_key(changes, key):
    with pytest.raises(ValueError, match=key):
        make_pair(**changes)


def test_what_a_pair_may_hold():
    one, other = (make_pair(images=(), question=text) for text in ("What is  1 + 1?", "what is 1 + 1?"))
    assert one.group == other.group != make_pair(images=(), question="What is 1 + 2?").group
    assert make_pair().group != one.group and PairRecord.from_json(one.to_json()) == one
    make_pair(response_1="", response_2="anything")
    make_pair(response_1="same", response_2="same", preferred="tie")
    unknown = make_question(answer=" ")
    assert (unknown.answer, unknown.split) == ("", "train") and QuestionRecord.from_json(unknown.to_json()) == unknown
    with pytest.raises(ValueError, match="key 'answer': is empty, and a question of the split test needs one"):
        make_question(answer="", split="test")


@pytest.mark.parametrize(
    "path", ["", ".", "/etc/passwd", "../a.png", "a/../../b.png", "a//b.png", "./a.png", "a/", "a\\b.png", "a\0.png", "C:/a.png", "http:/x"]
)
def test_an_image_path_that_could_leave_the_folder_is_refused(path):
    with pytest.raises(ValueError, match="path"):
        Image(path=path, sha256="a" * 64)


@pytest.mark.parametrize("digest", ["", "a" * 63, "A" * 64, "g" * 64, "a" * 64 + "\n"])
def test_an_image_hash_is_64_lower_case_digits(digest):
    with pytest.raises(ValueError, match="sha256"):
        Image(path="a.png", sha256=digest)


def test_jsonl_keeps_order_and_bytes(tmp_path: Path):
    pairs = [make_pair(question=text) for text in ("line\nbreak\r\n", "\u2028 separator", "ünïcode \U0001f600", '"quoted" {braces}')]
    random.Random(0).shuffle(pairs)
    write_jsonl(tmp_path / "new/one.jsonl", pairs)
    write_jsonl(tmp_path / "two.jsonl", iter(pairs))
    assert list(RecordFile(Path(tmp_path / "new/one.jsonl"), PairRecord)) == pairs
    assert (tmp_path / "new/one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    write_jsonl(tmp_path / "q.jsonl", [make_question()])
    assert list(RecordFile(Path(tmp_path / "q.jsonl"), QuestionRecord)) == [make_question()]


GOOD_LINE = json.dumps(make_pair().to_json()).encode()


def without(key: str, **added) -> bytes:
    return json.dumps({name: value for name, value in make_pair().to_json().items() if name != key} | added).encode()


@pytest.mark.parametrize(
    "line, expected",
    [
        (without("question"), "'question' is missing"),
        (without("group", prefered="1"), "'prefered' is unknown"),
        (without("images", images=[{"path": "a.png"}]), r"images\[0\]: key 'sha256' is missing"),
        (without("images", images="a.png"), "'images'"),
        (without("images", images=["a.png"]), r"images\[0\]: 'a.png' is not a JSON object"),
        (without("preferred", preferred=1), "'preferred'"),
        (b"[]", "not a JSON object"),
        (b"{", "not a record"),
        (b"\xff\xfe", "utf-8"),
        (b"[" * 100_000, "not a record"),
    ],
)
def test_a_bad_line_is_named_by_file_line_and_key(tmp_path: Path, line, expected):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(GOOD_LINE + b"\n\n" + line + b"\n")
    with pytest.raises(ValueError, match=rf"pairs\.jsonl:3: .*{expected}"):
        list(RecordFile(Path(path), PairRecord))


def test_a_missing_file_is_one_message(tmp_path: Path):
    with pytest.raises(ValueError, match=r"none\.jsonl: no such file"):
        list(RecordFile(Path(tmp_path / "none.jsonl"), PairRecord))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("old")

    def failing():
        yield make_pair()
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        write_jsonl(path, failing())
    assert path.read_text() == "old"
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.jsonl"]
