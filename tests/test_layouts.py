# SPDX-License-Identifier: Apache-2.0
"""People's own pairs: each layout of other trainers, each form of an image, each spelling of a label, and what is refused."""

import base64
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from critic_r1_verl.images import BadImage, Limits
from critic_r1_verl.records import PairRecord
from data_prep import cli as command
from data_prep import validate
from data_prep.corpora import pairs
from data_prep.corpus import SchemaError, Skip
from data_prep.image_store import ImageStore

GOOD, BAD, ASKED = "It is red.", "It is green.", "Which colour?"
PICTURE = {"images": ["a.png"]}
USER, SYSTEM = {"role": "user", "content": f"<image>{ASKED}"}, {"role": "system", "content": "Be brief."}
HUMAN = {"from": "human", "value": f"<image>\n{ASKED}"}
PARTS = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ASKED}]}
EARLIER = [{"role": "user", "content": "<image>Name it."}, {"role": "assistant", "content": "A square."}]
FOLDED = f"User: Name it.\n\nAssistant: A square.\n\nUser: {ASKED}"


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def told(text: str) -> dict[str, Any]:
    return {"from": "gpt", "value": text}


def parts(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (40, 30), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    for name, colour in (("a.png", "red"), ("b c.png", "blue")):
        (folder / name).write_bytes(png(colour))
    return folder


def read(row: dict[str, Any], folder: Path) -> PairRecord | Skip:
    store = ImageStore(folder / "out", Limits(784, 200_704), folder)
    [found] = pairs.convert(row, store.put)
    return found


LAYOUTS = {
    "ours": {"image": "a.png", "question": ASKED, "chosen": GOOD, "rejected": BAD},
    "TRL": {"image": "a.png", "prompt": ASKED, "chosen": GOOD, "rejected": BAD},
    "TRL, turns": PICTURE | {"prompt": [PARTS], "chosen": [parts(GOOD)], "rejected": [parts(BAD)]},
    "TRL, implicit": PICTURE | {"chosen": [USER, said(GOOD)], "rejected": [USER, said(BAD)]},
    "HH-RLHF": PICTURE | {side: f"\n\nHuman: {ASKED}\n\nAssistant: {text}" for side, text in (("chosen", GOOD), ("rejected", BAD))},
    "HH-RLHF, with the prompt": PICTURE | {"prompt": f"\n\nHuman: {ASKED}\n\nAssistant:", "chosen": f" {GOOD}", "rejected": f" {BAD}"},
    "TRL, implicit, parts": PICTURE | {"chosen": [PARTS, parts(GOOD)], "rejected": [PARTS, parts(BAD)]},
    "the prompt again in the dialogues": PICTURE
    | {"prompt": ASKED, "chosen": [USER, said(GOOD)], "rejected": [USER, said(BAD)], "messages": [USER, said(GOOD)]},
    "LLaMA-Factory, openai": PICTURE | {"messages": [USER], "chosen": said(GOOD), "rejected": said(BAD)},
    "LLaMA-Factory, sharegpt": PICTURE | {"conversations": [HUMAN], "chosen": told(GOOD), "rejected": told(BAD)},
    "LLaMA-Factory, alpaca": PICTURE | {"instruction": ASKED, "input": "", "chosen": GOOD, "rejected": BAD},
    "LLaVA, texts as responses": PICTURE | {"conversations": [HUMAN, told(GOOD)], "chosen": GOOD, "rejected": BAD},
    "LLaVA, turns as responses": PICTURE | {"chosen": [HUMAN, told(GOOD)], "rejected": [HUMAN, told(BAD)]},
    "LLaVA, two dialogues": PICTURE | {"conversations": [HUMAN, told(GOOD)], "rejected_conversations": [HUMAN, told(BAD)]},
    "ms-swift": PICTURE | {"messages": [USER, said(GOOD)], "rejected_response": BAD},
    "ms-swift, a turn": PICTURE | {"messages": [USER, said(GOOD)], "rejected_response": [said(BAD)]},
    "ms-swift, messages": PICTURE | {"messages": [USER, said(GOOD)], "rejected_messages": [USER, said(BAD)], "rejected_images": ["a.png"]},
    "ms-swift, query": PICTURE | {"query": f"<image>{ASKED}", "response": GOOD, "rejected_response": BAD},
    "arena": {
        "image": "a.png",
        "conversation_a": [USER, said(GOOD)],
        "conversation_b": [USER, said(BAD)],
        "winner": "model_a",
    },
    "VL-RewardBench": {"image": "a.png", "query": ASKED, "response": [BAD, GOOD], "human_ranking": [1, 0]},
    "labelled": {"image": "a.png", "prompt": ASKED, "response_a": BAD, "response_b": GOOD, "winner": "model_b"},
    "labelled by chosen": {"image": "a.png", "question": ASKED, "answer_1": GOOD, "answer_2": BAD, "chosen": "answer_1"},
    "labelled by the text": {"image": "a.png", "question": ASKED, "output_a": BAD, "output_b": GOOD, "chosen": GOOD},
    "turns as columns": PICTURE | {"messages": {"role": ["user"], "content": [ASKED]}, "chosen": GOOD, "rejected": BAD},
    "turns as JSON in CSV": {
        "images": "['a.png']",
        "messages": json.dumps([USER]),
        "chosen": json.dumps(said(GOOD)),
        "rejected": json.dumps([said(BAD)]),
    },
    "images in the turns": {
        "prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "text", "text": ASKED}]}],
        "chosen": GOOD,
        "rejected": BAD,
    },
}


@pytest.mark.parametrize("row", LAYOUTS.values(), ids=LAYOUTS)
def test_each_layout_is_read(row: dict[str, Any], folder: Path) -> None:
    found = read(row, folder)
    assert isinstance(found, PairRecord), found
    better, worse = (found.response_1, found.response_2) if found.preferred == "1" else (found.response_2, found.response_1)
    assert (found.question, better, worse, len(found.images)) == (ASKED, GOOD, BAD, 1)


def test_dialogues_and_system_prompts_are_a_part_of_the_question(folder: Path) -> None:
    again = {"role": "user", "content": ASKED}
    rows: list[tuple[dict[str, Any], str]] = [
        ({"messages": [*EARLIER, again, said(GOOD)], "rejected_response": BAD}, FOLDED),
        ({"prompt": [*EARLIER, again], "chosen": [said(GOOD)], "rejected": [said(BAD)]}, FOLDED),
        ({"chosen": [*EARLIER, again, said(GOOD)], "rejected": [*EARLIER, again, said(BAD)]}, FOLDED),
        ({"messages": [SYSTEM, USER, said(GOOD)], "rejected_response": BAD}, f"System: Be brief.\n\nUser: {ASKED}"),
        ({"messages": [USER], "chosen": said(GOOD), "rejected": said(BAD), "system": "Be brief."}, f"System: Be brief.\n\nUser: {ASKED}"),
        ({"messages": [{"role": "system", "content": " "}, USER, said(GOOD)], "rejected_response": BAD}, ASKED),
    ]
    for row, question in rows:
        found = read(PICTURE | row, folder)
        assert isinstance(found, PairRecord) and (found.question, found.response_1, found.response_2) == (question, GOOD, BAD)
    two = read({"images": ["a.png", "b c.png"], "messages": [*EARLIER, USER, said(GOOD)], "rejected_response": BAD}, folder)
    assert two.question == f"User: [image 1]Name it.\n\nAssistant: A square.\n\nUser: [image 2]{ASKED}"
    # Dialogues that part before the last answer are responses as a whole.
    parted = read(
        PICTURE | {"chosen": [USER, said(GOOD), again, said("Red.")], "rejected": [USER, said(BAD), again, said("Green.")]}, folder
    )
    assert (parted.question, parted.response_2) == (ASKED, f"Assistant: {BAD}\n\nUser: {ASKED}\n\nAssistant: Green.")


URI = "data:image/png;base64," + base64.b64encode(png()).decode()
IMAGES = {
    "path": "a.png",
    "base64": base64.b64encode(png()).decode(),
    "base64 in lines, of URLs, without padding": base64.encodebytes(png()).decode().translate(str.maketrans("+/", "-_")).rstrip("=\n"),
    "data URI": URI,
    "bytes": {"bytes": png(), "path": None},
    "bytes in base64": {"bytes": base64.b64encode(png()).decode(), "path": "x.png"},
    "image_url": {"image_url": URI},
    "image_url.url": {"type": "image_url", "image_url": {"url": URI}},
    "source": {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": base64.b64encode(png()).decode()}},
    "file URI": "file://a.png",
    "dict of a path": {"path": "./a.png"},
}


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_each_form_of_an_image_is_the_same_image(image: Any, folder: Path) -> None:
    row = {"question": ASKED, "chosen": GOOD, "rejected": BAD}
    expected = read(row | {"image": "a.png"}, folder).images
    assert read(row | {"image": image}, folder).images == expected == read(row | {"images": [image]}, folder).images
    assert read(row | {"image": f"file://{folder}/b%20c.png"}, folder).images != expected


@pytest.mark.parametrize(
    "image", ["data:image/png;base64,%%%", "file:///etc/passwd", "gone.png", "iVBORw0KGgo=", {"url": ""}, {"image": {}}]
)
def test_what_is_no_image_has_a_reason(image: Any, folder: Path) -> None:
    row = {"question": "<image>Q", "chosen": GOOD, "rejected": BAD, "image": image}
    try:
        assert read(row, folder) == Skip("more placeholders than images")
    except BadImage as error:
        assert error.reason in ("a data: URI that cannot be decoded", "path leaves the image folder", "no such file")


@pytest.mark.parametrize(
    ("label", "meaning"),
    [
        *((word, "1") for word in ("1", 1, 1.0, "A", "a", "first", "response_1", "Response 1", "[[A]]", "Response A is better")),
        *((word, "2") for word in ("2", 2, "B", "second", "response_2", "Response_2.", "answer 2")),
        *((word, "tie") for word in ("tie", "Tie", "equally good")),
        *((word, None) for word in ("chosen", "C", "3", "both", "response_3", 1.5, ["1"])),
        *((word, "no label") for word in (None, "", float("nan"))),
    ],
)
def test_labels_in_words(label: Any, meaning: str | None, folder: Path) -> None:
    found = read({"question": ASKED, "response_1": GOOD, "response_2": BAD, "preferred": label}, folder)
    if isinstance(found, Skip):
        assert found.reason == ("no label" if meaning == "no label" else "answer not read" if meaning is None else "")
    else:
        assert found.preferred == meaning


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": ASKED, "response_1": GOOD, "response_2": BAD, "preferred": 0}, "'preferred': found 0, .* --answer 0=1 --answer 1=2"),
        ({"question": ASKED, "response_1": GOOD, "response_2": BAD, "preferred": True}, "'preferred': found True"),
        ({"question": ASKED, "prompt": "Which size?", "chosen": GOOD, "rejected": BAD}, r"read as plain \(.*; or TRL \(.*differ"),
        ({"question": ASKED, "response_1": "2", "response_2": "1", "chosen": "1"}, "'chosen': found '1', which is also the text"),
        ({"question": ASKED, "chosen": GOOD, "rejected": BAD, "preferred": "rejected"}, "'preferred': found 'rejected'"),
        ({"question": ASKED, "chosen": GOOD, "rejected": BAD, "image": "a.png", "images": ["b.png"]}, "'images': found other images than"),
        ({"question": ASKED, "chosen": GOOD, "rejected": BAD, "photo": "a.png"}, "'photo': found what seems .* --column image:photo"),
        ({"question": ASKED, "chosen": GOOD, "rejected": BAD, "photo": {"bytes": b"x"}}, "'photo': found what seems"),
        ({"question": ASKED, "good": GOOD, "rejected": BAD}, r"found the keys \['good', 'question', 'rejected'\], .*--column"),
    ],
)
def test_what_is_ambiguous_is_refused_with_its_candidates(row: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(SchemaError, match=message):
        read(row, folder)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": f"<image>{ASKED}", "chosen": GOOD, "rejected": BAD}, "more placeholders than images"),
        ({"messages": [USER], "chosen": said(GOOD), "rejected": said(BAD)}, "more placeholders than images"),
        ({"question": ASKED, "chosen": GOOD, "rejected": BAD, "videos": ["v.mp4"]}, "video or audio"),
        ({"chosen": GOOD, "rejected": BAD}, "no question"),
        (PICTURE | {"chosen": [USER, said(GOOD)], "rejected": [{"role": "user", "content": "Else?"}, said(BAD)]}, "ask different things"),
        (PICTURE | {"messages": [USER], "rejected_response": BAD}, "does not end with the model"),
        (PICTURE | {"messages": [said(GOOD)], "chosen": "A", "rejected": "B"}, "does not end with the user"),
        (PICTURE | {"messages": [{"role": "tool", "content": "x"}, USER, said(GOOD)], "rejected_response": BAD}, "unknown role"),
        (
            PICTURE | {"messages": [USER, said(GOOD)], "rejected_messages": [USER, said(BAD)], "rejected_images": ["b.png"]},
            "different images",
        ),
        ({"question": ASKED, "response_1": GOOD, "response_2": BAD, "preferred": "both", "label": 1}, "answer not read"),
        (PICTURE | {"query": ASKED, "response": [GOOD, BAD], "human_ranking": [0, 0]}, "no label"),
    ],
)
def test_what_is_no_pair_has_a_reason(row: dict[str, Any], reason: str, folder: Path) -> None:
    found = read(row, folder)
    assert isinstance(found, Skip) and reason in found.reason


@pytest.mark.parametrize(
    ("usable", "told"),
    [
        (True, ["row 2 is skipped: empty question", "2 more are skipped", "row 5 is read as"]),
        (False, ["row 2 is skipped: empty question", "none of the first 5 rows can be used; 5 times something was skipped"]),
    ],
)
def test_a_dry_run_names_the_first_rows_that_are_skipped(folder: Path, capsys, usable: bool, told: list[str]) -> None:
    rows = [{"prompt": " ", "chosen": "2", "rejected": "3"}] * 5 + [{"prompt": "1 + 1?", "chosen": "2", "rejected": "3"}] * usable
    (folder / "pairs.json").write_text(json.dumps(rows))
    assert command.main(["build", "--corpus", f"pairs:{folder / 'pairs.json'}", "--no-lengths", "--num-workers", "1", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert [line for line in told if line not in shown] == [] and "row 3 is skipped" not in shown


def test_a_build_says_what_it_read_and_a_dry_run_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"What is {n} + {n}?", "chosen": f" {2 * n}\n", "rejected": f"{n}\x1b[31m"} for n in range(1, 5)]
    rows += [
        {"prompt": "What is 1 + 1?", "chosen": "2 ", "rejected": "1\x1b[31m "},
        {"prompt": " What is 2 + 2? ", "chosen": "5", "rejected": "6"},
    ]
    file = folder / "sums.json"
    file.write_text(json.dumps({"version": 1, "data": rows}, indent=1))
    words = ["build", "--corpus", f"pairs:{file}", "--no-lengths", "--num-workers", "1"]
    assert command.main([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    for line in (
        "6 rows",
        "layout: TRL (chosen, prompt, rejected)",
        "images    none",
        "question  What is 1 + 1?",
        "better    2",
        "worse     1␛[31m",
    ):
        assert line in shown
    assert command.main(words) == 1 and "--out is missing" in capsys.readouterr().err
    out = folder / "sums"
    assert command.main([*words, "--out", str(out), "--val", "0"]) == 0
    printed = capsys.readouterr()
    assert shown.strip() in printed.err and "nothing is held out" in printed.out
    counts = json.loads((out / "manifest.json").read_text())["corpora"]["pairs"]["counts"]
    assert counts["layouts"] == {"TRL (chosen, prompt, rejected), without an image": 6}
    assert (counts["kept"], counts["skipped"]) == (5, {"duplicate": 1}), "white space at the ends does not make another pair"
    assert list(validate.problems(out)) == []
    split_of = {}
    for line in (out / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert split_of.setdefault(record["group"], record["split"]) == record["split"], "one question is in one split"
    assert command.main(["inspect", str(out), "--html", str(folder / "sums.html")]) == 0


def test_zero_and_one_are_read_where_a_flag_says_which(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"question": f"Which of {n}?", "response_1": "This.", "response_2": "That.", "preferred": label}
        for n, label in enumerate([0, 1, 1])
    ]
    file = folder / "zeros.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["build", "--corpus", f"pairs:{file}", "--no-lengths", "--num-workers", "1", "--out", str(folder / "zeros")]
    assert command.main(words) == 1 and "--answer 0=1 --answer 1=2" in capsys.readouterr().err
    assert command.main([*words, "--answer", "0=1"]) == 1 and "say what 1 means too" in capsys.readouterr().err
    assert command.main([*words, "--answer", "0=1", "--answer", "1=2"]) == 0
    records = [json.loads(line) for line in (folder / "zeros/records.jsonl").read_text().splitlines()]
    assert {record["question"]: record["preferred"] for record in records} == {"Which of 0?": "1", "Which of 1?": "2", "Which of 2?": "2"}


def test_every_table_of_layouts_is_distinct() -> None:
    names = [str(layout) for layout in pairs.layouts.LAYOUTS]
    assert len(set(names)) == len(names)
    assert all(one.columns != other.columns for one, other in itertools.combinations(pairs.layouts.LAYOUTS, 2))
