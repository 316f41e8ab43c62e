# SPDX-License-Identifier: Apache-2.0
"""VLFeedback: four models' answers to a question, each rated by GPT-4V for helpfulness, visual faithfulness and ethical considerations.

Source: hub, MMInstruction/VLFeedback, split train, 80,258 rows with up to six pairs each. Its loading script is not run: use a parquet
revision, or the download's vlfeedback_80k.jsonl with the unpacked images. No licence is stated. Schema grade A.
Label: the higher mean of the three ratings, as in the authors' training code, which leaves out equal means; they are skipped whatever
--ties says, because different ratings that cancel each other do not say that both answers are equally good (llava_critic_* states ties).
Known defects: ratings are strings and may not be numbers; labels are a model's alone; some prompts attack safety; VL-RewardBench was drawn
from it.
"""

import math
from collections.abc import Iterable
from itertools import combinations
from typing import Any

from critic_r1_verl.records import Record
from data_prep.corpora.record import Candidate, pairs
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
    """One record or Skip for every two answers."""
    answers = [(answer.get("response"), _rating(answer.get("annotations"))) for answer in _answers(raw.get("completions") or [])]
    if len(answers) < 2:
        return [Skip("fewer than two answers")]
    image = raw.get("image") if raw.get("image") is not None else raw.get("img_path")
    candidates = [_candidate(*two) for two in combinations(answers, 2)]
    return pairs(put, image, raw.get("prompt"), candidates, source=NAME, licence=LICENCE)


def _candidate(first: tuple[Any, float | None], second: tuple[Any, float | None]) -> Candidate | Skip:
    (response_1, rating_1), (response_2, rating_2) = first, second
    if rating_1 is None or rating_2 is None:
        return Skip("rating is not a number")
    if rating_1 == rating_2:
        return Skip("tie")
    return response_1, response_2, "1" if rating_1 > rating_2 else "2"


def _answers(completions: Any) -> list[dict[str, Any]]:
    """`datasets` keeps a sequence of structs as a dict of lists, the JSONL file as a list of dicts."""
    if isinstance(completions, dict) and all(isinstance(values, list) for values in completions.values()):
        keys, columns = list(completions), list(completions.values())
        completions = [dict(zip(keys, values, strict=False)) for values in zip(*columns, strict=False)]
    if not isinstance(completions, list) or not all(isinstance(answer, dict) for answer in completions):
        raise SchemaError(f"key 'completions': found {completions!r:.200}, expected answers with annotations and response")
    return completions


def _rating(annotations: Any) -> float | None:
    """The sum of the three ratings: it orders as their mean does, without rounding."""
    try:
        total = math.fsum(float(annotations[aspect]["Rating"]) for aspect in _ASPECTS)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return total if math.isfinite(total) else None
