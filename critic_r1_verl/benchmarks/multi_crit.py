# SPDX-License-Identifier: Apache-2.0
"""Multi-Crit: 1,425 pairs, open-ended 1,000 and reasoning 425, each judged by one of five criteria; a prompt has several criteria.

Source: hub txiong23/Multi-Crit, splits open_ended and reasoning, or the official datasets/ (multi-crit-*-flatten.jsonl beside images/).
Licence: Apache-2.0. The criterion is a line of the question, so the same responses under two criteria are two pairs; group is the prompt.
Metric (Multi-Crit at c4b0c32, as in lmms-eval tasks/multi_crit at 6c3e853): one pass in the given order, each split separately. Accuracy
(micro, and macro over the criteria); PAcc, the share of prompts that are right under all criteria; TOS, of the prompts whose criteria
conflict, the share with different verdicts for some conflicting criteria; CMR, the share of conflicting pairs of criteria that are both
right. An unparsed verdict is wrong (the official code asks another model first).
Published results: the rows that the official README asks for (the judge's text is under "critic", and question_id ends in the criterion),
and the logs of lmms-eval (tasks/multi_crit at 75571cf), which has asked the other model.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from critic_r1_verl.benchmarks import reading, tally
from critic_r1_verl.benchmarks.reading import Row
from critic_r1_verl.records import PairRecord

HUB = "txiong23/Multi-Crit"
FILES = ("**/*.parquet", "*.jsonl")
PAIRS = (1_425,)
GROUPS = {
    **dict.fromkeys(f"open-ended/{name}" for name in ("completeness", "visual-grounding", "hallucination", "expressiveness", "clarity")),
    **dict.fromkeys(f"reasoning/{name}" for name in ("grounding", "logic", "hallucination", "exploration", "efficiency")),
}
_ANSWERS = {"question_id", "split", "criterion", "preference", "critic"}
_VERDICT = re.compile(r"response (\d+)\** is better")


def parse(text: str) -> str | None:
    match = _VERDICT.search("\n".join(text.strip().split("\n")[-3:]).lower())
    return number if match and (number := tally.number(match[1])) in tally.OTHER else None


def official(trials: Mapping[str, tally.Trials], cases: Sequence[tally.Case]) -> tally.Score:
    """The mean over the repeats of the scores in the given order; "splits" has the official figures of each split."""
    num_repeats = min(map(len, trials.values()))
    items, splits = _items(trials, cases), {}
    for split in sorted({item.group.split("/")[0] for item in items}):
        of_split = [case for case in cases if case.group.startswith(f"{split}/")]
        passes = [
            _conflicts([(case.cluster, case.preferred, tally.given(trials[case.pair_id][number])) for case in of_split])
            for number in range(num_repeats)
        ]
        names = ("pluralistic_accuracy", "tradeoff_sensitivity", "conflict_matching")
        figures = {name: _mean([each[name] for each in passes]) for name in names}
        splits[split] = tally.score(_items(trials, of_split)) | figures
    return tally.score(items) | {"splits": splits}


def recognises(values: Mapping[str, Any]) -> bool:
    logged = values.get("overall")
    return values.keys() >= _ANSWERS or (isinstance(logged, dict) and {"criterion", "prediction"} <= logged.keys())


def published(rows: list[Row]) -> tally.Published:
    """The results of one split or of both. If a question occurs again, the first row counts, as in the official code."""
    cases: dict[str, tally.Case] = {}
    trials: dict[str, tally.Trials] = {}
    labels = {"model_a": "1", "model_b": "2"}
    num_repeated = 0
    for row in rows if rows[0].values.keys() >= _ANSWERS else [row for _, row in tally.logged(rows, "overall")]:
        question = row.value("question_id")
        num_repeated += question in cases
        if "critic" in row.values:
            group, verdict = _group_of(row, "split"), parse(tally.answer_part(row.value("critic")))
            prompt = row.value("prompt_id") if "prompt_id" in row.values else question.removesuffix(f"__{row.value('criterion')}")
        else:
            group, verdict, prompt = _group_of(row, "benchmark_type"), labels.get(row.value("prediction")), row.value("prompt_id")
        preferred = row.preferred("preference", *labels)
        cases.setdefault(question, tally.Case(question, question, group, f"{group.split('/')[0]}/{prompt}", preferred, (0, 0)))
        trials.setdefault(question, [{"12": verdict}])
    notes = [f"{num_repeated:,} rows repeat a question, of which the first row counts"] if num_repeated else []
    return tally.Published(_items(trials, list(cases.values())), official(trials, list(cases.values())), notes)


def _items(trials: Mapping[str, tally.Trials], cases: Sequence[tally.Case]) -> list[tally.Item]:
    return [case.item(tally.mean([float(tally.given(trial) == case.preferred) for trial in trials[case.pair_id]])) for case in cases]


def _conflicts(judged: list[tuple[str, str, str | None]]) -> dict[str, float | None]:
    """PAcc, TOS and CMR of one pass, given as (prompt, preferred, verdict) for each pair; None if there is nothing to average."""
    by_prompt: dict[str, list[tuple[str, str | None]]] = {}
    for prompt, preferred, choice in judged:
        by_prompt.setdefault(prompt, []).append((preferred, choice))
    all_right = [float(all(preferred == choice for preferred, choice in pairs)) for pairs in by_prompt.values()]
    conflicts = [[(one, two) for one, two in combinations(pairs, 2) if one[0] != two[0]] for pairs in by_prompt.values()]
    both_right = [float(one[0] == one[1] and two[0] == two[1]) for pairs in conflicts for one, two in pairs]
    noticed = [float(any({one[1], two[1]} == {"1", "2"} for one, two in pairs)) for pairs in conflicts if pairs]
    return {"pluralistic_accuracy": _mean(all_right), "tradeoff_sensitivity": _mean(noticed), "conflict_matching": _mean(both_right)}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return tally.mean(known) if known else None


def convert(row: Row, out: Path) -> PairRecord:
    group = _group_of(row, "split")
    split, criterion = group.split("/")
    return PairRecord(
        images=(reading.store(row, row.values.get("image", row.values.get("image_path")), out),),
        question=f"{row.value('question')}\n\nJudge the responses by this criterion alone: {criterion.replace('-', ' ')}.",
        response_1=row.value("pred_a"),
        response_2=row.value("pred_b"),
        preferred=row.preferred("preference", "model_a", "model_b"),
        source="multi_crit",
        category=group,
        licence="apache-2.0",
        group=f"{split}/{row.value('prompt_id')}",
    )


def _group_of(row: Row, key: str) -> str:
    """The name in GROUPS of the row's split, which is under `key`, and criterion. ValueError if there is none."""
    split, criterion = row.value(key).strip().lower().replace("_", "-").replace("openended", "open-ended"), row.value("criterion")
    if f"{split}/{criterion}" not in GROUPS:
        raise ValueError(f"{row.where}: {key} {split!r:.80} and criterion {criterion!r:.80} are none of {', '.join(GROUPS)}")
    return f"{split}/{criterion}"
