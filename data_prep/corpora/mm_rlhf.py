# SPDX-License-Identifier: Apache-2.0
"""MM-RLHF: three to five models' answers to a prompt, ranked by people; or the pairs that its authors made of the ranks.

Source: hub, yifanzhang114/MM-RLHF, split train: data.jsonl (or its parquet copy) with ranks of 16,342 prompts, and dpo_pairs.jsonl with
62,545 pairs made of them. In a folder the pairs are read if they exist, else the ranks, never both. The images are in zip archives; unpack
them into the same folder. No licence is stated.
Schema grade C: the columns are known from scripts, the type of the ranks is not; anything but a list of numbers stops the build.
Label: rank 1 is best. In dpo_pairs, chosen over rejected. Equal ranks are skipped for every value of --ties, as in the pairs of
the authors: people ordered the answers, and were not asked whether two are equally good.
Known defects: missing ranks; videos, which are skipped; MM-RLHF-RewardBench was drawn from the same annotations.
"""

from collections.abc import Iterable
from typing import Any

from critic_r1_verl.records import Record
from data_prep.corpora.record import Candidate, by_score, chosen_over, pairs, typed, with_other_path
from data_prep.corpus import Put, SchemaError, Skip

NAME = "mm_rlhf"
HUB = "yifanzhang114/MM-RLHF"
CONFIG = None
SPLIT = "train"
REVISION = "29cfeea5929979d12b42a8f30201e03c188408a6"
LICENCE = ""
GRADE = "C"
COLUMNS = {"id"}
FILES = ("dpo_pairs.jsonl", "data.jsonl")


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One record or Skip for every two ranked answers, or for the ready pair."""
    image = raw.get("image")
    if raw.get("video") and not image:
        return [Skip("video")]
    candidates: list[Candidate | Skip]
    if "chosen" in raw and "rejected" in raw:
        question, candidates = raw.get("prompt"), [chosen_over(raw["chosen"], raw["rejected"])]
    elif {"models_output", "final_ranking"} <= raw.keys():
        answers, ranks = typed(raw, "models_output", list), typed(raw, "final_ranking", list)
        if len(answers) != len(ranks):
            return [Skip("as many ranks as answers are needed")]
        if len(answers) < 2:
            return [Skip("fewer than two answers")]
        question, candidates = raw.get("question"), by_score(zip(answers, map(_score, ranks), strict=True), "no rank")
    else:
        raise SchemaError(f"found the keys {sorted(raw)}, expected models_output and final_ranking, or chosen and rejected")
    category = image.removeprefix("./").split("/")[0] if isinstance(image, str) and "/" in image else ""
    return pairs(with_other_path(put), image, question, candidates, source=NAME, licence=LICENCE, category=category)


def _score(rank: Any) -> float | None:
    if rank is None or rank != rank:
        return None
    if isinstance(rank, bool) or not isinstance(rank, int | float):
        raise SchemaError(f"key 'final_ranking': found {rank!r:.200}, expected numbers, 1 for the best answer")
    return -rank
