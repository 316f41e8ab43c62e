# SPDX-License-Identifier: Apache-2.0
"""Converters: each corpus's fixture against a golden table, what stops a build, and hostile texts."""

import json
import random
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from critic_r1_verl import prompts
from critic_r1_verl.images import BadImage, Limits
from critic_r1_verl.records import Image, PairRecord, QuestionRecord
from data_prep import shards
from data_prep.corpora import MODULES, critic_prompt, load
from data_prep.corpora.record import named_images
from data_prep.corpus import SchemaError, Skip
from data_prep.image_store import ImageStore
from data_prep.sources import find
from data_prep.tables import Table

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden" / "corpora.json").read_text(encoding="utf-8"))
CONSTANTS = ("HUB", "CONFIG", "SPLIT", "REVISION", "LICENCE", "GRADE", "COLUMNS")
FIRST = bytes(32).hex()


def put(raw):
    return Image(path="images/0.png", sha256=FIRST)


def refuse(raw):
    raise AssertionError("the image of a row that is skipped for its text must not be stored")


def converted(case, out):
    """What a fixture's rows become, a list for each row, as in the golden table."""
    module = load(case["corpus"])
    names = case.get("names", {})
    for file in find(str(HERE / "fixtures" / case["file"]), module, None, out):
        table = Table(file.path, names)
        assert table.columns >= module.COLUMNS
        store = ImageStore(out, Limits(28 * 28, 4_194_304), file.images)
        for raw in table.rows(0, len(table)):
            try:
                yield [plain(one, module) for one in module.convert(raw, store.put)]
            except BadImage as error:
                yield [f"image: {error.reason}"]


def plain(one, module):
    if isinstance(one, Skip):
        return one.reason
    assert (one.source, one.licence) == (module.NAME, module.LICENCE)
    data = one.to_json()
    answer = {key: data[key] for key in ("response_1", "response_2", "preferred", "answer") if key in data}
    category = {"category": one.category} if one.category else {}
    return {"images": [image.sha256[:8] for image in one.images], "question": one.question, **answer, **category}


@pytest.mark.parametrize("case", GOLDEN, ids=[case["file"] for case in GOLDEN])
def test_golden_table(case, tmp_path):
    assert list(converted(case, tmp_path)) == case["rows"]


def test_every_corpus_has_a_fixture_and_all_constants():
    assert {case["corpus"] for case in GOLDEN} == set(MODULES)
    for name in MODULES:
        module = load(name)
        assert name == module.NAME
        assert all(hasattr(module, constant) for constant in CONSTANTS)
        assert len(Path(module.__file__).read_text(encoding="utf-8").splitlines()) < 80


BRACKETED = "Question: [Q]\nResponse 1: [A]\nResponse 2: [B]"
DIALOGUE = [{"from": "human", "value": BRACKETED}, {"from": "gpt", "value": "The better response: [1]"}]
MESSAGE = json.dumps([{"role": "user", "content": "#### [Response 1]:\nA\n#### [Response 2]:\nB"}])


@pytest.mark.parametrize(
    ("corpus", "raw", "found"),
    [
        ("llava_critic_grpo", {"question": 5, "answer": "1"}, "'question': found 5"),
        ("llava_critic_113k", {"conversations": DIALOGUE[:1]}, "'conversations'"),
        ("llava_critic_113k", {"conversations": "a text"}, "found 'a text'"),
        ("vlfeedback", {"completions": "a text"}, "found 'a text'"),
        ("llava_rlhf", {"preference": 0}, "'preference': found 0"),
        ("llava_rlhf", {"preference": True}, "found True"),
        ("mm_rlhf", {"id": "1", "ranks": []}, "['id', 'ranks']"),
        ("mm_rlhf", {"models_output": ["A", "B"], "final_ranking": "2>1"}, "found '2>1'"),
        ("mm_rlhf", {"models_output": ["A", "B"], "final_ranking": ["1", "2"]}, "found '1'"),
        ("wildvision", {"winner": "model_c"}, "found 'model_c'"),
        ("wildvision", {"winner": "tie", "conversation_a": [{"role": "user"}], "conversation_b": [1]}, "'conversation_a'"),
        ("r1_reward_rl", {"answer": ["<answer>3</answer>"], "message": MESSAGE}, "<answer>3</answer>"),
        ("r1_reward_rl", {"answer": ["<answer>1</answer>"] * 2, "message": MESSAGE}, "'answer'"),
        ("r1_reward_rl", {"answer": ["<answer>1</answer>"], "message": "no JSON"}, "found 'no JSON'"),
        ("r1_reward_rl", {"answer": ["<answer>1</answer>"], "message": '[{"role": "user", "content": "A or B?"}]'}, "[Response 1]:"),
        ("mmk12", {"question": "Q", "answer": "1", "image": "0.png"}, "'image': found '0.png'"),
        ("virl39k", {"question": "Q", "answer": "\\boxed{1}", "image": "0.png"}, "'image': found '0.png'"),
        ("thinklite_hard", {"problem": "Q", "answer": "1", "image": "0.png"}, "expected bytes or dict"),
        ("pairs", {"question": "Q", "response_1": "A", "response_2": "B"}, "['question', 'response_1', 'response_2']"),
        ("pairs", {"question": "Q", "response_1": "A", "response_2": "B", "preferred": 0}, "'preferred': found 0, and so 1 may not"),
    ],
)
def test_what_is_not_in_the_schema_stops_the_build_and_is_shown(corpus, raw, found):
    with pytest.raises(SchemaError) as error:
        list(load(corpus).convert(raw, refuse))
    assert found in str(error.value)


def only(name):
    """put of a folder that holds one image, by this name."""

    def stored(raw):
        if raw != name:
            raise BadImage("no such file")
        return put(raw)

    return stored


JUDGED = (
    "<|User Prompt|>\nWhat is it?\n\n<|The Start of Assistant A's Answer|>\nA cat.\n<|The End of Assistant A's Answer|>\n\n"
    "<|The Start of Assistant B's Answer|>\nA dog.\n\n<|The End of Assistant B's Answer|>"
)


@pytest.mark.parametrize(
    ("score", "preferred"), [("A>>B", "1"), ("A>B", "1"), ("A=B", "tie"), ("B>A", "2"), ("B>>A", "2"), ("", "no label")]
)
def test_wildvision_s_judgements_have_five_levels(score, preferred):
    """As in WildVision-Bench, data/*/model_judgements; the image is named by a hash, without a suffix."""
    game = {"user_prompt": [{"type": "text", "text": JUDGED}, {"type": "image", "image": "c0ffee"}], "score": score}
    [found] = load("wildvision").convert({"question_id": "1", "model": "m", "games": [game]}, only("c0ffee.jpg"))
    if score:
        assert (found.question, found.response_1, found.response_2.strip()) == ("What is it?", "A cat.", "A dog.")
    assert getattr(found, "preferred", getattr(found, "reason", "")) == preferred
    for prompt, reason in ((None, "no prompt"), ([{"text": JUDGED + JUDGED}], "parts of the prompt cannot be told apart")):
        assert list(load("wildvision").convert({"games": [{"user_prompt": prompt, "score": "A>B"}]}, put)) == [Skip(reason)]


def test_wildvision_s_own_battles():
    """As WildVision-Arena cleans them, without an image; the battles of WildVision-Bench have no texts either."""
    turns = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A cat."}]
    row = {
        "question_id": "7",
        "winner": "model_b",
        "conversation_a": turns,
        "conversation_b": [turns[0], {**turns[1], "content": "A dog."}],
    }
    [found] = load("wildvision").convert(row, only("7.png"))
    assert (found.response_2, found.preferred) == ("A dog.", "2")
    with pytest.raises(SchemaError, match="no conversation_a: these battles hold no texts"):
        load("wildvision").convert({"question_id": "7", "model_a": "m", "model_b": "n", "winner": "model_a"}, put)


def test_mmk12_s_k12_json():
    row = {"id": "1", "question": "<image>x?", "answer": "7", "subject": "math", "image_path": "k12/images/1.png"}
    [found] = load("mmk12").convert(row, only("images/1.png"))
    assert (found.question, found.answer, found.category) == ("x?", "7", "math")


HOSTILE = [
    None,
    float("nan"),
    "",
    " ",
    3,
    True,
    "\ud800",
    b"\xff",
    [],
    {},
    [None],
    [{}],
    {"value": None},
    "[" * 5000,
    "<image>",
    "{" * 5000,
]


@pytest.mark.parametrize("corpus", sorted(MODULES))
def test_no_value_makes_a_converter_fail_or_lose_a_row(corpus, tmp_path):
    case = next(case for case in GOLDEN if case["corpus"] == corpus)
    module = load(corpus)
    file = find(str(HERE / "fixtures" / case["file"]), module, None, tmp_path)[0]
    raw = next(iter(Table(file.path, case.get("names", {})).rows(0, 1)))
    for key in [*raw, None]:
        for value in HOSTILE:
            changed = {name: raw[name] for name in raw if name != key} | ({key: value} if key else {})
            try:
                result = list(module.convert(changed, put))
            except SchemaError:
                continue
            assert result and all(isinstance(one, PairRecord | QuestionRecord | Skip) for one in result)
        assert list(_outcome(module, {name: raw[name] for name in raw if name != key}))


def _changed(value, rng):
    """The value with another one somewhere inside, or with something missing."""
    if isinstance(value, dict | list) and value and rng.random() < 0.8:
        changed = value.copy()
        place = rng.choice(list(changed)) if isinstance(changed, dict) else rng.randrange(len(changed))
        if rng.random() < 0.15:
            del changed[place]
        else:
            changed[place] = _changed(changed[place], rng)
        return changed
    return rng.choice([*HOSTILE, 10**30, float("inf"), {"bytes": 7, "path": None}, {"bytes": None, "path": 5}, "../x.png", "a\0b"])


@pytest.mark.parametrize("case", GOLDEN, ids=[case["file"] for case in GOLDEN])
def test_rows_changed_at_random_are_counted_or_named(case, tmp_path, monkeypatch):
    """Each a shard of its own: kept and skipped add up to read, and what stops a build says row and key."""
    rng = random.Random(case["file"])
    module = load(case["corpus"])
    templates = {"pair": prompts.load("critic"), "question": prompts.load("policy")}
    for file in find(str(HERE / "fixtures" / case["file"]), module, None, tmp_path):
        table = Table(file.path, case.get("names", {}))
        raws = [raw for raw in table.rows(0, len(table)) if isinstance(raw, dict)]
        for number in range(60):
            raw = rng.choice(raws)
            key = rng.choice(list(raw))
            changed = raw | {key: _changed(raw[key], rng)}
            monkeypatch.setattr(shards, "_table", lambda *_, row=changed: SimpleNamespace(rows=lambda *_: [row]))
            task = shards.Task(
                corpus=case["corpus"],
                file=file,
                columns=(),
                answers=(),
                converter=case["corpus"],
                start=0,
                stop=1,
                out=tmp_path,
                result=tmp_path / f"{number}.jsonl",
                limits=Limits(784, 200_704),
                allow_remote=False,
                templates=templates,
                meter=None,
                max_prompt_tokens=0,
            )
            try:
                counts = shards.convert_shard(task)
            except SchemaError as error:
                assert re.search(r"row 0: (key '|found the keys)", str(error))
            else:
                assert counts["kept"] + sum(counts["skipped"].values()) == counts["read"] > 0
                assert len(list(shards.read_lines(task.result))) == counts["kept"]
            task.result.unlink(missing_ok=True)


def _outcome(module, raw):
    try:
        return list(module.convert(raw, put))
    except SchemaError as error:
        return [error]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (BRACKETED, ("Q", "A", "B", False)),
        (BRACKETED + "\nASSISTANT:\n", ("Q", "A", "B", False)),
        ("Question: [Q [1]]\nResponse 1: [[A]]\nResponse 2: [B\n[2]\n(3, 4]]", None),
        ("Question: [Q [1]]\n\nResponse A: [[A]]\r\nResponse B: [B\n[2] [x)", None),
        ("Question: [Q [1]]\n\nResponse A: [[A]]\r\nResponse B: [B [x)]", ("Q [1]", "[A]", "B [x)", True)),
        ("Question: [Q]\nResponse 1: [A]\nResponse 2: [B]\nWrite [1] or [2].", None),
        ("Question: [Q]\nResponse 1: [A]\nResponse B: [B]", None),
        ("Question: [Q]\nQuestion: [Q]\nResponse 1: [A]\nResponse 2: [B]", None),
        ("Question: [Q]\nResponse 1: [A]\nResponse 2: [B", None),
        ("Question: [Q]\nResponse 1: [A] Response 2: [B]", None),
        ("", None),
    ],
)
def test_parts_of_a_prompt(prompt, expected):
    assert critic_prompt.parts(prompt) == expected or (expected is None and isinstance(critic_prompt.parts(prompt), Skip))


@pytest.mark.parametrize(
    "piece", ["]", "[", "]\n", "]\n ", "]\nResponse 1: [", "\n", "] \n\n", "Question: [", "#### [Response 1]:\n", "\n#### "]
)
def test_hostile_prompts_take_linear_time(piece):
    text = piece * (100_000 // len(piece))
    start = time.process_time()
    critic_prompt.parts(f"Question: [{text}")
    critic_prompt.parts(f"Question: [Q]\nResponse 1: [A]\nResponse 2: [{text}")
    critic_prompt.parts("Question: [Q]" + " " * 100_000 + text)
    message = json.dumps([{"role": "user", "content": f"#### [Response 1]:\n{text}\n#### [Response 2]:\n{text}"}])
    list(load("r1_reward_rl").convert({"question": "Q", "message": message, "answer": ["<answer>1</answer>"], "image": "0"}, put))
    conversations = [DIALOGUE[0], {"from": "gpt", "value": text + "The better response: [" * 2_500}]
    list(load("llava_critic_113k").convert({"conversations": conversations, "image": b"."}, put))
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("text", "num_images", "expected"),
    [
        ("<image>\nWhat?", 1, "What?"),
        ("<image><image>\nWhat? <image>", 3, "What?"),
        ("Is <image> wider than <image>?", 2, "Is [image 1] wider than [image 2]?"),
        ("<image>\nIs it wider than <image>?", 2, "[image 1]\nIs it wider than [image 2]?"),
        ("What does <image> mean in HTML?", 2, "What does <image> mean in HTML?"),
        (None, 1, None),
    ],
)
def test_placeholders_within_a_question_are_named(text, num_images, expected):
    assert named_images(text, num_images) == expected
