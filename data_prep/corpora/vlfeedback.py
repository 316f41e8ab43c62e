# SPDX-License-Identifier: Apache-2.0
"""VLFeedback: four models' answers to a question, each rated by GPT-4V for helpfulness, visual faithfulness and ethical considerations.

Source: hub, MMInstruction/VLFeedback, split train, 80,258 rows with up to six pairs each. Its loading script is not run: use a parquet
revision, or the download's vlfeedback_80k.jsonl with the unpacked images. No licence is stated. Schema grade A.
Label: the answer with the higher mean of the three ratings, as in the training code of the authors, which leaves out equal means. They are
skipped for every value of --ties: different ratings with the same mean do not say that both answers are equally good.
Known defects: ratings are strings and may not be numbers; all labels come from one model; some prompts attack the safety of a model;
VL-RewardBench was drawn from it.
"""

import math
from collections.abc import Iterable
from typing import Any

from critic_r1_verl.records import Record
from data_prep.corpora.record import by_score, pairs
from data_prep.corpus import Put, SchemaError, Skip

NAME = "vlfeedback"
HUB = "MMInstruction/VLFeedback"
CONFIG = None
SPLIT = "train"
REVISION = ""
LICENCE = ""
GRADE = "A"
COLUMNS = {"prompt", "completions"}

_ASPECTS = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One record or Skip for each two answers."""
    answers = [(answer.get("response"), _rating(answer.get("annotations"))) for answer in _answers(raw.get("completions") or [])]
    if len(answers) < 2:
        return [Skip("fewer than two answers")]
    image = raw.get("image") if raw.get("image") is not None else raw.get("img_path")
    return pairs(put, image, raw.get("prompt"), by_score(answers, "rating is not a number"), source=NAME, licence=LICENCE)


def _answers(completions: Any) -> list[dict[str, Any]]:
    """The answers as a list of dicts, as in the JSONL file; `datasets` stores a sequence of structs as a dict of lists."""
    if isinstance(completions, dict) and all(isinstance(values, list) for values in completions.values()):
        keys, columns = list(completions), list(completions.values())
        completions = [dict(zip(keys, values, strict=False)) for values in zip(*columns, strict=False)]
    if not isinstance(completions, list) or not all(isinstance(answer, dict) for answer in completions):
        raise SchemaError(f"key 'completions': found {completions!r:.200}, expected answers with annotations and response")
    return completions


def _rating(annotations: Any) -> float | None:
    """The sum of the three ratings, which gives the same order as their mean without rounding; None if one is not a number."""
    try:
        total = math.fsum(float(annotations[aspect]["Rating"]) for aspect in _ASPECTS)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return total if math.isfinite(total) else None
