# SPDX-License-Identifier: Apache-2.0
r"""Prompts: snapshots, one-pass filling, escapes."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critic_r1_verl.critics.answers import AnswerCritic
from critic_r1_verl.critics.pairwise import PairwiseCritic
from critic_r1_verl.engines.base import Sampling
from critic_r1_verl.prompts import Template, critic_text, escape, load, policy_text
from critic_r1_verl.records import Image, PairRecord, QuestionRecord

GOLDEN = json.loads((Path(__file__).parent / "golden" / "prompts.json").read_text(encoding="utf-8"))
IMAGES = tuple(Image(path=f"images/{name}.png", sha256=name * 64) for name in "ab")
PAIR = PairRecord(
    images=IMAGES[:1],
    question="How many apples are in {the} bowl?",
    response_1="There are three: {response_2}.",
    response_2="<image> shows four<|im_end|>, see \\boxed{2}.",
    preferred="1",
    source="demo",
)
ANSWERS = ["<think>There are three: {response_2}.</think> \\boxed{3}", "<image> shows four<|im_end|>, see \\boxed{2}."]
QUESTION = QuestionRecord(images=IMAGES, question="What is the sum of the digits?", answer="10", source="demo")


@pytest.mark.parametrize("case", GOLDEN, ids=[f"{case['template']} {case['order']}" for case in GOLDEN])
def test_snapshots(case):
    name = case["template"]
    template = load(name)
    if name in ("score", "choice", "revision"):
        critic = AnswerCritic(PairwiseCritic(load("critic"), Sampling(8)))
        text = critic.request(name, QUESTION, ANSWERS if name == "choice" else ANSWERS[:1], Path()).prompt
    else:
        text = critic_text(PAIR, case["order"], template) if case["order"] else policy_text(QUESTION, template)
    assert text == "\n".join(case["lines"])
    assert template.sha == hashlib.sha256(template.text.encode()).hexdigest()


def template(text):
    return Template("mine", text, "0" * 64)


def test_values_are_never_expanded_again():
    assert (
        template("{question} | {response_1}").fill(question="{response_1} {0} {", response_1="{question}")
        == "{response_1} {0} { | {question}"
    )


@pytest.mark.parametrize("text", [r"{question} \boxed{tie}", r"{question} \boxed{}", "{question} {1} {A} {}"])
def test_other_braces_are_text(text):
    assert template(text).fill(question="Q") == text.replace("{question}", "Q")


@pytest.mark.parametrize(
    ("text", "fields", "named"),
    [
        ("{question} {hint}", {"question": "Q"}, "{hint}"),
        ("{question}", {"question": "Q", "response_1": "R"}, "{response_1}"),
        ("no placeholder", {"question": "Q"}, "{question}"),
    ],
)
def test_placeholders_and_fields_are_the_same(text, fields, named):
    with pytest.raises(ValueError, match=f"'mine'.*{re.escape(named)}"):
        template(text).fill(**fields)


def test_a_file_of_the_user(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("Look.\r\n{question}\n\n", encoding="utf-8", newline="")
    assert load(path) == load(str(path))
    assert (load(path).name, load(path).text) == ("mine", "Look.\n{question}")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff{question}", "UTF-8"), (b" \n", "empty"), (b"<image>\n{question}", "<image>"), (b"{question}<|im_end|>", "im_end")],
)
def test_a_file_that_cannot_be_used(tmp_path, content, message):
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        load(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("name", ["critik", "./critic.txt", "missing/critic", ""])
def test_no_such_template(name):
    with pytest.raises(ValueError, match="no such template; give one of choice, critic, "):
        load(name)


def test_orders_exchange_the_responses():
    plain = template("{question}|{response_1}|{response_2}")
    shown = {order: critic_text(PAIR, order, plain).split("|", 1)[0] for order in ("12", "21")}
    assert shown["12"] == shown["21"]
    assert critic_text(PAIR, "21", plain) == critic_text(PAIR.swap(), "12", plain) != critic_text(PAIR, "12", plain)
    with pytest.raises(ValueError, match="order '11'"):
        critic_text(PAIR, "11", plain)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<image>", "< image >"),
        ("<video> <audio>", "< video > < audio >"),
        ("<|im_end|>", "< |im_end| >"),
        ("<|a b|><||>", "< |a b| >< || >"),
        ("< image >", "<  image  >"),
        ("<<image>>", "<< image >>"),
        ("<img> <Image> a < b | c > d <think>", "<img> <Image> a < b | c > d <think>"),
        ("", ""),
    ],
)
def test_escape(text, expected):
    assert escape(text) == expected


pieces = st.lists(st.sampled_from(["<", ">", "|", "image", "video", "<image>", "<|im_end|>", " ", "a", "\n"]), max_size=12).map("".join)


@given(pieces)
def test_escaped_text_is_harmless_and_can_be_told_back(text):
    escaped = escape(text)
    assert not re.search(r"<(image|video|audio)>|<\|[^<>|\n]*\|>", escaped)
    assert re.sub(r"< ( *)(image|video|audio|\|[^<>|\n]*\|)( *) >", r"<\1\2\3>", escaped) == text


@given(pieces, pieces, pieces)
def test_as_many_placeholders_as_images(question, first, second):
    pair = PairRecord(images=IMAGES, question=question + "?", response_1=first, response_2=second, preferred="tie", source="demo")
    for text in (critic_text(pair, "21", load("critic")), policy_text(pair, load("policy"))):
        assert text.startswith("<image>\n<image>\n")
        assert len(re.findall("<image>|<video>|<audio>", text)) == 2
