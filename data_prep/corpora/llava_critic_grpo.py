# SPDX-License-Identifier: Apache-2.0
"""LLaVA-Critic-GRPO-dataset: the pairs that LLaVA-Critic-R1 was trained on, each given as the prompt of a judge.

Source: hub, lmms-lab/LLaVA-Critic-GRPO-dataset, split train, about 40,200 rows (its authors validate on them too). No licence is stated.
Schema grade C: the columns are known from the loader of the authors; card and rows were not seen, and the values of `answer` are not
documented. So the first answer outside VERDICTS stops the build and is printed, and the category of a pair is the spelling of its answer.
Label: `answer` names the better response, or says that both are equally good (tie).
"""

from collections.abc import Iterable
from typing import Any

from critic_r1_verl.records import Record
from data_prep.corpora.critic_prompt import VERDICTS, parts
from data_prep.corpora.record import label, pairs, typed
from data_prep.corpus import Put, Skip

NAME = "llava_critic_grpo"
HUB = "lmms-lab/LLaVA-Critic-GRPO-dataset"
CONFIG = None
SPLIT = "train"
REVISION = ""
LICENCE = ""
GRADE = "C"
COLUMNS = {"question", "answer", "image"}


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One pair."""
    preferred = label("answer", raw.get("answer"), VERDICTS)
    if isinstance(preferred, Skip):
        return [preferred]
    found = parts(typed(raw, "question", str))
    if isinstance(found, Skip):
        return [found]
    question, first, second = found
    category = f"answer {raw['answer']}"
    return pairs(put, raw.get("image"), question, [(first, second, preferred)], source=NAME, licence=LICENCE, category=category)
