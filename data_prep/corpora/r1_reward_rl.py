# SPDX-License-Identifier: Apache-2.0
"""R1-Reward-RL: pairs that are hard for a judge, each given as the prompt of a judge.

Source: hub, yifanzhang114/R1-Reward-RL, split train, 17,261 rows. A licence is stated but was not seen.
Schema grade A for the columns, C for the texts, D for `image`: a text that decodes as base64 is the file, any other text is a path.
A row of another form stops the build; a row whose responses contain a heading of the prompt is skipped.
Label: the number in the only "<answer>1</answer>" or "<answer>2</answer>" of `answer`; there are no ties.
Known defects: the image paths in `message` are those of the author and are not used; VL-RewardBench was drawn from some of its sources.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from critic_r1_verl.records import Choice, Record
from data_prep.corpora.record import label, pairs, typed
from data_prep.corpus import Put, SchemaError, Skip

NAME = "r1_reward_rl"
HUB = "yifanzhang114/R1-Reward-RL"
CONFIG = None
SPLIT = "train"
REVISION = ""
LICENCE = ""
GRADE = "C"
COLUMNS = {"question", "message", "answer", "image"}

_ANSWERS: dict[str, Choice] = {"<answer>1</answer>": "1", "<answer>2</answer>": "2"}
_HEADING = re.compile(r"^[ \t]*#{2,6} *(?:\*\*)?(\[Response 1\]:|\[Response 2\]:|Output Format \(strictly follow\))", re.MULTILINE)


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One pair."""
    answers = typed(raw, "answer", list, str)
    preferred = label("answer", answers[0] if isinstance(answers, list) and len(answers) == 1 else answers or None, _ANSWERS)
    if isinstance(preferred, Skip):
        return [preferred]
    if not raw.get("message"):
        return [Skip("no dialogue")]
    responses = _responses(typed(raw, "message", str))
    if isinstance(responses, Skip):
        return [responses]
    return pairs(put, raw.get("image"), raw.get("question"), [(*responses, preferred)], source=NAME, licence=LICENCE)


def _responses(message: str) -> tuple[str, str] | Skip:
    try:
        contents = [turn["content"] for turn in json.loads(message) if turn["role"] == "user"]
        pieces = [piece for content in contents for piece in ([{"text": content}] if isinstance(content, str) else content)]
        prompt = "\n".join(piece["text"] for piece in pieces if "text" in piece)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SchemaError(f"key 'message': found {message!r:.200}, expected chat turns as JSON ({type(error).__name__})") from error
    headings = list(_HEADING.finditer(prompt))
    names = [heading[1].split("]")[0] for heading in headings]
    if not {"[Response 1", "[Response 2"} <= set(names):
        raise SchemaError(f"key 'message': found {prompt[-400:]!r}, expected '#### [Response 1]:' and '#### [Response 2]:', a line each")
    if names[:2] != ["[Response 1", "[Response 2"] or names[2:] not in ([], ["Output Format (strictly follow)"]):
        return Skip("parts of the prompt cannot be told apart")
    end = headings[2].start() if len(names) == 3 else len(prompt)
    return prompt[headings[0].end() : headings[1].start()].strip(), prompt[headings[1].end() : end].strip()
