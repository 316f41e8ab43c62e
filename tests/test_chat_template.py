# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest

from critic_r1_verl import chat_template
from critic_r1_verl.verdict import THINK_TAGS

HEADER = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
# As in Qwen3's thinking models: opened unless an argument turns it off, and then closed at once.
SWITCH = HEADER + "{% if thinking is defined and not thinking %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}"


@pytest.mark.parametrize(
    ("template", "tags", "given", "opened"),
    [
        (HEADER, THINK_TAGS, {}, False),
        (HEADER + "<think>\n", THINK_TAGS, {}, True),
        (HEADER + "[THINK]", ("[THINK]", "[/THINK]"), {}, True),
        (HEADER + "[THINK]", THINK_TAGS, {}, False),
        # A system turn that speaks of the tags, in full.
        ("Think in <think> </think>.\n" + HEADER, THINK_TAGS, {}, False),
        (SWITCH, THINK_TAGS, {}, True),
        (SWITCH, THINK_TAGS, {"thinking": False}, False),
        ("", THINK_TAGS, {}, False),
    ],
)
def test_whether_a_template_opens_the_thought(template: str, tags: tuple[str, str], given: dict[str, bool], opened: bool) -> None:
    assert chat_template.opens_thought(template, tags, **given) is opened


@pytest.mark.parametrize("template", ["{% for %}", "{{ raise_exception('only text') }}", "{{ messages[7].role }}"])
def test_a_template_that_cannot_be_rendered(template: str) -> None:
    with pytest.raises(ValueError, match="Error: "):
        chat_template.opens_thought(template, THINK_TAGS)


def test_where_a_template_is_found(tmp_path: Path) -> None:
    assert chat_template.read(tmp_path) == ""
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "of the tokenizer"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    (tmp_path / "processor_config.json").write_text("{}")
    assert chat_template.read(tmp_path) == "of the tokenizer"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "of the processor"}))
    assert chat_template.read(tmp_path) == "of the processor"
    (tmp_path / "chat_template.jinja").write_text("its own file")
    assert chat_template.read(tmp_path) == "its own file"
