# SPDX-License-Identifier: Apache-2.0
"""Labels of undocumented spelling: what is read without a guess, what is counted, when a build stops, and what --answer changes."""

import json
import random
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from critic_r1_verl.records import Image as StoredImage
from data_prep import build, shards, validate, vocabulary
from data_prep import cli as command
from data_prep.corpora import critic_verdict, load
from data_prep.corpus import Skip

NUMBERED = "Question: [Q]\nResponse 1: [A]\nResponse 2: [B]"
LETTERED = "Question: [Q]\nResponse A: [A]\nResponse B: [B]"


@pytest.mark.parametrize(
    ("spelling", "preferred"),
    [
        ("1", "1"),
        (2, "2"),
        (1.0, "1"),
        ("1.0", "1"),
        (" Second ", "2"),
        ("2nd", "2"),
        ("[2]", "2"),
        ("[[1]]", "1"),
        ("(2)", "2"),
        ("**1**", "1"),
        ('"2".', "2"),
        (r"\boxed{1}", "1"),
        (r"$\boxed{\text{Response 2}}$.", "2"),
        ("<answer>2</answer>", "2"),
        ("Response 1", "1"),
        ("response_2", "2"),
        ("RESPONSE2", "2"),
        ("Answer: 2", "2"),
        ("the first one", "1"),
        ("The first response is better.", "1"),
        ("Response 2 is the better response", "2"),
        ("Response 1 is much better than Response 2.", "1"),
        ("The better response: [1]", "1"),
        ("Final verdict: the second response", "2"),
        ("Two responses are equally good.", "tie"),
        ("Both responses are equally good!", "tie"),
        ("Neither response is better", "tie"),
        ("Tie", "tie"),
        ("equal", "tie"),
        # What needs a guess.
        (0, None),
        ("3", None),
        ("-1", None),
        ("12", None),
        (True, None),
        ("1?", None),
        ("1 or 2", None),
        ("[1] or [2]", None),
        ("both", None),
        ("neither", None),
        ("same", None),
        ("the better one", None),
        ("One is better", None),
        ("C", None),
        ("A", None),
        ("Response B is better", None),
        ("[[A>B]]", None),
        ("not 1", None),
        ("Response 1 is worse", None),
        ("Response 1 is not better", None),
        ("Response 1 is better than Response 1", None),
        ("Response 1 is better than Response B", None),
        ("1 > 2", None),
        (r"\boxed{1", None),
        ("1 " * 5000, None),
        ("[" * 5000 + "1" + "]" * 5000, None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_beyond_doubt_is_read(spelling: Any, preferred: str | None) -> None:
    assert converted(NUMBERED, spelling) == preferred


@pytest.mark.parametrize(
    ("spelling", "preferred"),
    [
        ("A", "1"),
        ("[[B]]", "2"),
        ("Response B is better.", "2"),
        ("[[A>>B]]", "1"),
        ("a < b", "2"),
        ("[[A=B]]", "tie"),
        ("1", "1"),
        ("Second", "2"),
        ("C", None),
        ("A>A", None),
        ("A or B", None),
        ("a response", None),
    ],
)
def test_letters_are_read_where_the_prompt_has_them(spelling: str, preferred: str | None) -> None:
    assert converted(LETTERED, spelling) == preferred


def converted(prompt: str, answer: Any) -> str | None:
    """The label of the pair, or None if it was skipped as not read."""
    row = {"question": prompt, "answer": answer, "image": b"."}
    (found,) = load("llava_critic_grpo").convert(row, lambda raw: StoredImage(path="images/0.png", sha256=bytes(32).hex()))
    if isinstance(found, Skip):
        assert found == vocabulary.unread(answer)
        return None
    return found.preferred


def test_no_two_labels_share_a_spelling_and_none_is_long() -> None:
    texts = ["Because of " + "x" * 100 + end for end in ("1", "2", "")] + ["a\x1b[31m", "a?[31m", "a\ud800", "b" * vocabulary.MAX_CHARS]
    spellings = [vocabulary.spelling(text) for text in texts]
    assert len(set(spellings)) == len(texts)
    assert [vocabulary.spelling(spelling) for spelling in spellings] == spellings
    assert all(len(spelling) <= vocabulary.MAX_CHARS + 12 and spelling.isprintable() for spelling in spellings)
    # A spelling is copied from the message to the flag, which must find the label again.
    assert vocabulary.mapped({"answer": texts[0]}, "answer", vocabulary.parse([f"{texts[0]}=2"])) == {"answer": "2"}


def test_a_shortened_spelling_works_in_the_flag() -> None:
    long = "Because of " + "x" * 100
    answers = vocabulary.parse([f"{vocabulary.spelling(long)}=tie"])
    assert vocabulary.mapped({"answer": long}, "answer", answers) == {"answer": "tie"}


@pytest.mark.parametrize(
    ("words", "message"),
    [(["1"], "write it as"), (["=1"], "write it as"), (["x=3"], "one of 1, 2, tie, skip"), (["x=1", "X =2"], "also given the meaning 1")],
)
def test_flags_that_say_nothing_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        vocabulary.parse(words)


def test_memory_is_bounded_and_nothing_is_lost() -> None:
    shards_of_counts = []
    for shard in range(3):
        counts = [Counter(), Counter()]
        for number in range(300):
            vocabulary.note({}, "answer", vocabulary.unread(f"{shard} {number} {'ü' * 100}"), *counts)
            vocabulary.note({}, "answer", vocabulary.unread("often"), *counts)
        assert len(counts[1]) <= vocabulary.MAX_SPELLINGS + 1
        shards_of_counts.append(counts[1])
    total = vocabulary.total(shards_of_counts)
    assert next(iter(total.items())) == ("often", 900) and sum(total.values()) == 1800 and len(total) == vocabulary.MAX_SPELLINGS + 1
    assert vocabulary.total([total]) == total


@pytest.fixture
def world(tmp_path: Path) -> Path:
    for number in range(100):
        Image.new("RGB", (28, 28), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def write(folder: Path, answers: list[Any]) -> None:
    rows = [
        {"question": NUMBERED.replace("[Q]", f"[Q{number}]"), "answer": answer, "image": f"{number}.png"}
        for number, answer in enumerate(answers)
    ]
    (folder / "critic.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(folder: Path, out: str, *words: str) -> int:
    fixed = ["--no-lengths", "--min-pixels", "784", "--num-workers", "1", "--val", "5", "--test", "5"]
    return command.main(["build", "--corpus", f"llava_critic_grpo:{folder / 'critic.jsonl'}", "--out", str(folder / out), *fixed, *words])


def test_two_percent_are_lost_with_a_count_and_more_stop_the_build(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = ["1", "Response 2", "tie", None] * 25
    write(world, ["worse: 1", *good[1:99], "Worse:  1"])
    assert run(world, "below") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1] == "llava_critic_grpo: answers not read, which --answer SPELLING=MEANING can map: 2 x worse: 1"
    corpus = json.loads((world / "below/manifest.json").read_text())["corpora"]["llava_critic_grpo"]
    assert corpus["counts"]["skipped"] == {"answer not read": 2, "no label": 24} and corpus["answers"] == {}
    assert corpus["counts"]["read_as"] == {"response 2=2": 25, "tie=tie": 25, "1=1": 24}
    assert corpus["counts"]["unread"] == {"worse: 1": 2}
    assert validate.validate(world / "below", False) == 0

    write(world, ["worse: 1", *good[1:98], "0", "worse: 1"])
    capsys.readouterr()
    assert run(world, "above") == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("critic-r1: ")]
    assert "the answers of 3 of 100 rows cannot be read without a guess, more than 2 %: 2 x worse: 1; 1 x 0. Read were: 25 x" in error
    assert "--answer 'worse: 1=1'" in error and "1, 2, tie, skip" in error
    assert not (world / "above/manifest.json").exists()


def test_prompts_in_no_known_form_stop_the_build_too(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("data_prep.plan.SHARD_ROWS", 20)
    write(world, ["1", "2"] * 25)
    lines = (world / "critic.jsonl").read_text().splitlines()
    lines[45] = json.dumps(json.loads(lines[45]) | {"question": NUMBERED + "\nGive [1] or [2]."})
    (world / "critic.jsonl").write_text("\n".join(lines))
    assert run(world, "below") == 0
    assert "prompts not read, by their headings: 1 x question: [ / response 1: [ / response 2: [, with a bracket" in capsys.readouterr().out

    lines[25] = json.dumps(json.loads(lines[25]) | {"question": "Question: Q?\nAnswer 1: A\nAnswer 2: B"})
    (world / "critic.jsonl").write_text("\n".join(lines))
    assert run(world, "above") == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("critic-r1: ")]
    assert "the prompts of 2 of 50 rows cannot be divided into question and responses, more than 2 %. By their headings: 1 x qu" in error
    assert "1 x question: / answer 1: / answer 2:" in error
    assert "The first is row 25 of critic.jsonl." in error and "--max-unread 0.04 goes on" in error
    assert run(world, "above", "--max-unread", "0.04") == 0
    assert "resuming: 3 of 3" in capsys.readouterr().err
    assert json.loads((world / "above/manifest.json").read_text())["corpora"]["llava_critic_grpo"]["counts"]["kept"] == 48
    assert validate.validate(world / "above", False) == 0


@pytest.mark.parametrize("share", ["-1", "nan", "1.01", "two"])
def test_a_share_that_is_none_is_refused(world: Path, capsys: pytest.CaptureFixture[str], share: str) -> None:
    with pytest.raises(SystemExit):
        run(world, "out", "--max-unread", share)
    assert f"{share!r} is not a number from 0 to 1" in capsys.readouterr().err


def test_the_flag_is_a_part_of_the_build(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A vocabulary of 0 and 1: "1" alone would be read as the first response, so the user must be able to say otherwise."""
    write(world, [0, 1] * 48 + ["none"] * 4)
    assert run(world, "out") == 1
    assert "48 x 0; 4 x none. Read were: 48 x 1=1." in capsys.readouterr().err
    assert run(world, "out", "--answer", "0=1", "--answer", "1=2") == 1, "4 % are still not read"
    assert "starting over" in capsys.readouterr().err
    words = ["--answer", "0=1", "--answer", "1=2", "--answer", "None=skip"]
    assert run(world, "out", *words) == 0
    manifest = json.loads((world / "out/manifest.json").read_text())
    corpus = manifest["corpora"]["llava_critic_grpo"]
    assert corpus["answers"] == {"0": "1", "1": "2", "none": "skip"}
    assert corpus["counts"] == {
        "read": 100,
        "kept": 96,
        "skipped": {"answer skipped by --answer": 4},
        "read_as": {"0=1": 48, "1=2": 48},
        "unread": {},
    }
    labels = [json.loads(line) for line in (world / "out/records.jsonl").read_text().splitlines()]
    assert all(line["preferred"] == ("2" if int(line["question"][1:]) % 2 else "1") for line in labels)


def test_a_killed_build_resumes_with_the_same_flags_only(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(world, ["1", "x"] * 50)
    monkeypatch.setattr(build, "read_keys", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(world, "out", "--answer", "x=2") == 130
    assert run(world, "out", "--answer", "x=2") == 130
    assert "resuming: 1 of 1" in capsys.readouterr().err
    assert run(world, "out", "--answer", "x=tie") == 130
    assert "starting over" in capsys.readouterr().err
    monkeypatch.undo()
    assert run(world, "out", "--answer", "x=tie") == 0
    assert json.loads((world / "out/manifest.json").read_text())["ties"]["kept"] == 50


def test_any_number_of_workers_gives_the_same_bytes(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.plan.SHARD_ROWS", 30)
    write(world, ["x" * 90, *["1", "response 2"] * 49, "y"])
    for out, workers in (("one", "1"), ("two", "2")):
        assert run(world, out, "--num-workers", workers) == 0
    one, two = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
        for folder in (world / "one", world / "two")
    )
    assert one == two
    assert len(json.loads(one[Path("manifest.json")])["corpora"]["llava_critic_grpo"]["counts"]["unread"]) == 2


def test_the_flag_needs_a_corpus_that_it_is_for(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "rows.jsonl").touch()
    words = ["build", "--corpus", f"rlaif_v:{world / 'rows.jsonl'}", "--out", str(world / "out"), "--answer", "x=1"]
    assert command.main(words) == 1
    assert "--answer is for corpora with labels of unknown spelling" in capsys.readouterr().err


def test_the_counts_of_a_shard_are_found_again(tmp_path: Path) -> None:
    """They are read from the end of the file: the longest vocabulary must fit into what is read."""
    widest = {f"{number}{'😀' * vocabulary.MAX_CHARS}"[: vocabulary.MAX_CHARS] + "... #123456=tie": 1 for number in range(101)}
    counts = {"read": 1, "kept": 1, "skipped": {}, "read_as": widest, "unread": widest}
    (tmp_path / "shard").write_text("{}\n" * 100_000 + json.dumps({"counts": counts}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert shards.read_counts(tmp_path / "shard") == counts


def test_the_longest_text_that_is_looked_at_is_short() -> None:
    assert critic_verdict.verdict("(" * 99 + "1" + ")" * 99, lettered=False) == "1"
    assert critic_verdict.verdict("(" * 100 + "1" + ")" * 100, lettered=False) is None


def test_the_swapped_text_has_the_opposite_verdict_in_no_time() -> None:
    rng = random.Random(0)
    swap = {"1": "2", "first": "second", "a": "b", "[1]": "[2]", "(a)": "(b)"}
    swap |= {other: word for word, other in swap.items()}
    # Without "tie", because the swap of "a tie" is not English.
    plain = ["the", "response", "answer:", "is", "better", "than", "better:", "one", "not", "verdict", "wins", ">", ",", "and", "equal"]
    opposite = {"1": "2", "2": "1"}
    num_read = 0
    for _ in range(5000):
        words = rng.choices([*swap, *plain, *plain[:5]], k=rng.randint(1, 5))
        found = critic_verdict.verdict(" ".join(words), lettered=True)
        swapped = critic_verdict.verdict(" ".join(swap.get(word, word) for word in words), lettered=True)
        assert swapped == opposite.get(found or "", found), words
        num_read += found is not None
    assert num_read > 500
    for text in ("the " * 50, "the response " * 15, "final my " * 22, "[" * 100 + "]" * 100, "1 is better than " * 12):
        start = time.process_time()
        critic_verdict.verdict(text, lettered=True)
        assert time.process_time() - start < 0.1
