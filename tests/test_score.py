# SPDX-License-Identifier: Apache-2.0
import hashlib
import json
import random
from dataclasses import asdict
from pathlib import Path

import pytest

from critic_r1_verl import benchmarks, cli
from critic_r1_verl.lines import Judgement
from critic_r1_verl.records import Image, PairRecord, write_jsonl
from critic_r1_verl.report import figures
from critic_r1_verl.scoring import compare, measures
from critic_r1_verl.scoring import score as scores
from critic_r1_verl.scoring.estimates import estimate, mcnemar

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = json.loads((ROOT / "tests/golden/scores.json").read_text(encoding="utf-8"))
PUBLISHED = ROOT.parent / "shared/data/golden/ixc25_reward/vl_rewardbench_results.json"


def record(number, preferred="1", category="general", **more):
    image = Image(path="a.png", sha256=more.pop("sha256", f"{number:064x}"))
    texts = {"question": "q", "response_1": f"a{number}", "response_2": "longer"} | more
    return PairRecord(images=(image,), **texts, preferred=preferred, source="s", category=category)


def judgement(record, order, choice, repeat=0, status="parsed", tokens=10):
    """choice in the shown frame; None for what is not parsed."""
    preferred = record.shown(order).preferred
    return Judgement(
        pair_id=record.pair_id,
        order=order,
        repeat=repeat,
        choice=choice,
        status=status if choice is None else "parsed",
        correct=choice == preferred,
        preferred=preferred,
        text=f"\\boxed{{{choice}}}",
        prompt_tokens=None,
        completion_tokens=tokens,
        model="m",
        template_sha="0",
    )


def compared(a, b):
    """The comparison of two files, and of it what the headline measure says."""
    ((result,), others) = compare.compare_paths(a, b)
    assert others == []
    found = result["differences"]["critic"]
    return result | found.get("strict", found.get("right"))


def both(record, choice_12, choice_21, repeat=0, status="missing"):
    return [judgement(record, "12", choice_12, repeat, status), judgement(record, "21", choice_21, repeat, status)]


RECORDS = [
    record(0),
    record(1, "2"),
    record(2, category="reasoning", response_1="by far the longest"),
    record(3, "2", "hallucination", response_1="longer", response_2="abcdef"),
]
# Right in both orders; first in both; right then unparsed; wrong in both.
LINES = [
    *both(RECORDS[0], "1", "2"),
    *both(RECORDS[1], "1", "1"),
    *both(RECORDS[2], "1", None, status="unclosed"),
    *both(RECORDS[3], "1", "2"),
]


def write(folder, judgements, records):
    folder.mkdir(exist_ok=True, parents=True)
    write_jsonl(folder / "records.jsonl", records)
    return write_lines(folder / "judgements.jsonl", [line if isinstance(line, dict) else asdict(line) for line in judgements])


def test_two_scores_and_what_they_hide():
    result = scores.score(LINES, RECORDS, "vl_rewardbench")
    assert (result["items"], result["pairs"], result["repeats"], result["verdicts_read_by"]) == (4, 4, 1, "box")
    assert result["strict"] == {
        "overall": 1 / 4,
        "macro": (1 / 2 + 0 + 0) / 3,
        "groups": {"general": 1 / 2, "hallucination": 0, "reasoning": 0},
    }
    # By a coin for the order: 1 of 1, 1/2 of 1, 1/2 of 1/2, 0 of 1.
    assert result["official"]["overall"] == pytest.approx(2 / 3.5)
    values = {name: found and found["value"] for name, found in result["critic"].items()}
    assert values["accuracy"] == 4 / 8 and values["strict"] == 1 / 4
    assert values["position_consistency"] == 2 / 4
    assert values["first_share"] == 5 / 7
    assert (values["unparsed"], values["ties"], values["completion_tokens"]) == (1 / 8, 0, 10)
    assert [values[f"unparsed/{status}"] for status in ("missing", "unclosed", "ambiguous")] == [0, 1 / 8, 0]
    assert [values[f"strict/{group}"] for group in ("general", "hallucination", "reasoning")] == [1 / 2, 0, 0]
    # Records 1 and 2 have the longer response chosen, record 0 the shorter one, in record 3 both are as long.
    assert (values["accuracy_chosen_longer"], values["accuracy_chosen_shorter"]) == (2 / 4, 1)
    assert result["critic"]["accuracy"] == estimate([1, 1, 1, 0, 1, 0, 0, 0], list("aabbccdd")).to_json()
    assert result["notes"][0] == "4 items of the benchmark's 1,250"


def test_baselines_go_through_the_same_functions():
    baselines = scores.score(LINES, RECORDS, "vl_rewardbench")["baselines"]
    # Equal lengths are a tie: wrong when strict, out of the denominator of the official score.
    assert (baselines["longer wins"]["strict"]["overall"], baselines["longer wins"]["official"]["overall"]) == (2 / 4, 2 / 3)
    assert baselines["shorter wins"]["strict"]["overall"] == 1 / 4
    assert (baselines["first wins"]["strict"]["overall"], baselines["first wins"]["official"]["overall"]) == (0, 1 / 2)


def test_a_judge_that_always_says_the_first():
    result = scores.score([line for record in RECORDS for line in both(record, "1", "1")], RECORDS, "vl_rewardbench")
    assert (result["strict"]["overall"], result["official"]["overall"]) == (0, 1 / 2)
    assert (result["critic"]["first_share"]["value"], result["critic"]["position_consistency"]["value"]) == (1, 0)


def test_a_judge_that_says_nothing():
    result = scores.score([line for record in RECORDS for line in both(record, None, None)], RECORDS, "vl_rewardbench")
    assert result["official"]["overall"] is None and result["strict"]["overall"] == 0
    assert result["critic"]["first_share"] is None and result["critic"]["unparsed/missing"]["value"] == 1
    assert result["critic"]["position_consistency"]["value"] == 0


def test_repeats_vote():
    one = RECORDS[0]
    lines = [*both(one, "1", "2"), *both(one, "1", None, 1), *both(one, "2", "2", 2)]
    assert scores.score(lines, [one], "pairs")["strict"]["overall"] == 1
    # Two of four are no majority.
    assert scores.score([*lines, *both(one, "2", "2", 3)], [one], "pairs")["strict"]["overall"] == 0


def test_ties_can_be_right():
    tie = record(0, "tie")
    result = scores.score(both(tie, "tie", "tie"), [tie], "pairs")
    assert (result["strict"]["overall"], result["official"]["overall"], result["critic"]["ties"]["value"]) == (1, 1, 1)


def test_an_item_that_stands_twice_counts_twice_and_contradicting_ones_cannot_both_be_right():
    twice = [record(0), record(0), record(0, "2")]
    result = scores.score(both(twice[0], "1", "2"), twice, "pairs")
    assert (result["items"], result["pairs"], result["strict"]["overall"]) == (3, 1, 2 / 3)
    # One cluster: the interval says that nothing is known of other pairs.
    assert result["critic"]["strict"] == estimate([1, 1, 0], "aaa").to_json()


def test_items_that_share_an_image_or_a_group_share_a_cluster():
    same_image = [record(0), record(1, sha256=f"{0:064x}"), record(2)]
    assert len(set(measures.clusters_of(same_image))) == 2
    chained = [record(0, group="a"), record(1, group="a", sha256=f"{5:064x}"), record(2, group="b", sha256=f"{5:064x}"), record(3)]
    assert len(set(measures.clusters_of(chained))) == 2


def test_the_order_of_the_lines_does_not_matter():
    mixed = random.Random(0).sample(LINES, len(LINES))
    assert scores.score(mixed, RECORDS, "vl_rewardbench") == scores.score(LINES, RECORDS, "vl_rewardbench")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"pair_id": ...}, r"judgements.jsonl:1: key 'pair_id' is missing; the keys are pair_id, order"),
        ({"pair_id": 3}, r"judgements.jsonl:1: key 'pair_id': 3 is not a string"),
        ({"pair_id": "0" * 20}, r"judgements.jsonl: judges the pair 0{20}, which is not in records.jsonl"),
        ({"order": "11"}, r"judgements.jsonl:1: key 'order': '11' is none of '12', '21'"),
        ({"repeat": True}, r"judgements.jsonl:1: key 'repeat': True is not an integer"),
        ({"repeat": -1}, r"judgements.jsonl:1: key 'repeat': -1 is not an integer"),
        ({"repeat": 1}, r"judgements are missing, the first pair .*; run the same command again"),
        ({"choice": "3"}, r"judgements.jsonl:1: key 'choice': '3' is none of"),
        ({"choice": ["1"]}, r"judgements.jsonl:1: key 'choice': "),
        ({"choice": None}, r"judgements.jsonl:1: key 'status': 'parsed' contradicts the choice None"),
        ({"status": "guessed"}, r"judgements.jsonl:1: key 'status': 'guessed' is none of 'parsed'"),
        ({"text": None}, r"judgements.jsonl:1: key 'text': None is not a string"),
        ({"preferred": "tie", "correct": False}, r"judgements.jsonl: the preferred response of .* differs from records.jsonl"),
        ({"correct": False}, r"judgements.jsonl:1: key 'correct': False does not match choice '1' and preferred '1'"),
        ({"correct": 1}, r"judgements.jsonl:1: key 'correct': 1 is not true or false"),
        ({"completion_tokens": -1}, r"judgements.jsonl:1: key 'completion_tokens': -1 is not an integer"),
        ({"more": 1}, r"judgements.jsonl:1: key 'more' is unknown"),
    ],
)
def test_hostile_judgements(tmp_path, change, message):
    line = {name: value for name, value in (asdict(LINES[0]) | change).items() if value is not ...}
    path = write(tmp_path, [line, *LINES[1:]], RECORDS)
    with pytest.raises(ValueError, match=message):
        scores.score_file(path, "vl_rewardbench")


LAST, FIRST = json.dumps(asdict(LINES[-1])), json.dumps(asdict(LINES[0]))


@pytest.mark.parametrize(
    "end, message",
    [
        (LAST[:-20], r"judgements.jsonl:8: the line is cut short"),
        ("", r"1 judgements are missing, the first pair .*, order 21, repeat 0"),
        (f"{LAST}\n{FIRST}\n", r"judgements.jsonl:9: the same judgement as in line 1"),
        ("\x00\n", r"judgements.jsonl:8: not JSON"),
        ("[]\n", r"judgements.jsonl:8: \[\] is not a JSON object"),
    ],
)
def test_hostile_ends(tmp_path, end, message):
    path = write(tmp_path, LINES[:-1], RECORDS)
    path.write_text(path.read_text(encoding="utf-8") + end, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        scores.score_file(path, "vl_rewardbench")


def test_a_run_without_its_records(tmp_path):
    path = write(tmp_path, LINES, RECORDS)
    (tmp_path / "records.jsonl").unlink()
    with pytest.raises(ValueError, match=r"records.jsonl: no such file"):
        scores.score_file(path, "vl_rewardbench")
    with pytest.raises(ValueError, match=r"none.jsonl: no such file"):
        scores.score_file(tmp_path / "none.jsonl", "vl_rewardbench")


# Results that others published


def golden_document():
    """Hits with the published counts; which items they are does not matter to the score."""
    groups = {name: [1] * hits + [0] * (n - hits) for name, (hits, n) in GOLDEN["hits"].items()}
    hits_of_all = [hit for hits in groups.values() for hit in hits]
    return {f"out_{name}": hits for name, hits in groups.items()} | {"out_all": hits_of_all, "random_numbers": []}


def reproduces_the_published_digits(result):
    official = result["official"]
    assert {name: round(100 * value, 3) for name, value in official["groups"].items()} == GOLDEN["official"]["groups"]
    assert (round(100 * official["overall"], 2), round(100 * official["macro"], 3)) == (
        GOLDEN["official"]["overall"],
        GOLDEN["official"]["macro"],
    )
    assert result["strict"] is None and len(result["notes"]) == 1


def test_golden_counts(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(golden_document()), encoding="utf-8")
    reproduces_the_published_digits(scores.score_file(tmp_path / "results.json", "vl_rewardbench"))


@pytest.mark.skipif(not PUBLISHED.is_file(), reason=f"{PUBLISHED} is not there: published results are not part of this repository")
def test_golden_file(tmp_path):
    assert hashlib.sha256(PUBLISHED.read_bytes()).hexdigest() == GOLDEN["sha256"]
    reproduces_the_published_digits(scores.score_file(PUBLISHED, "vl_rewardbench"))


def official_lines(item_id, *chosen_by_trial):
    """Lines as VL-RewardBench's inference writes them: trial after trial the response (0 or 1) that the judge preferred."""
    for trial, chosen in enumerate(chosen_by_trial):
        # random_number 1 shows the second response first.
        shown = None if chosen is None else (chosen if trial % 2 == 0 else 1 - chosen) + 1
        text = "No idea." if shown is None else f"**Overall Judgment:** Answer {shown} is better."
        meta = {"filter_choice": text, "random_number": trial % 2, "flag_status": "?"}
        yield {"id": item_id, "query": "q", "response": ["a", "b"], "ranking": [0, 1], "meta": meta}


def rewarded(item_id, media, rewards, **more):
    """A line of R1-Reward; with reverse, of Proxy-GRM."""
    return {"id": item_id, "image": media, "prompt": "q", "chosen": "c", "rejected": "r", "rewards": rewards} | more


def logged(doc_id, metric, values, **more):
    """A line of lmms-eval --log_samples."""
    return {"doc_id": doc_id, "target": "?", "filtered_resps": "?", "doc_hash": "0", metric: values} | more


def logged_vlrb(doc_id, question_id, score):
    return logged(doc_id, "vlreward_score", {"question_id": question_id, "category": "?", "score": score})


def logged_mmrb(doc_id, question_id, category, target, text, score=0):
    values = {"question_id": question_id, "category": category, "score": score}
    return logged(doc_id, "multimodal_rewardbench_accuracy", values, target=target, filtered_resps=text)


def logged_multi_crit(prompt_id, criterion, preference, prediction, benchmark_type="open-ended"):
    values = {"question_id": f"{prompt_id}__{criterion}", "prompt_id": prompt_id, "criterion": criterion, "preference": preference}
    return logged(0, "overall", values | {"prediction": prediction, "answer_match": False, "benchmark_type": benchmark_type}, clarity={})


MM_RLHF = [
    rewarded("a", "mcq/1.png", [2, 1.5]),
    rewarded("a", "mcq/1.png", [2, 2], rejected="s"),
    rewarded("b", None, [0.1, -1], video="video/x", rejected="t"),
]
MMRB = [
    {"ID": "nocaps_1", "Image": "i", "Label": "B", "output": "[[B]]", "Meta": {"Category": "open_generation/correctness_task"}},
    {"ID": "MathVista_2", "Image": "i", "Label": "A", "output": "[[B]]", "Meta": {"Category": "reasoning"}},
    {"ID": "pairs_3", "Image": "i", "Label": "A", "output": "Both.", "Meta": {"Category": "safety"}},
]
MMRB_GROUPS = {"open_generation/correctness_task": 1, "reasoning/math": 0, "safety/bias": 1 / 2}
VLRB = [
    *official_lines("mathverse_1", 0, 0, 1),
    *official_lines("RLHF-V-2", 1, None, 1),
    *official_lines("svit-3", 0, None, 1),
    *official_lines("svit-4", 0, 0, 0),
]
WILDVISION = [
    {
        "question_id": f"{model} {number}",
        "model": model,
        "judge": "gpt-4o",
        "games": [{"judgement": "?", "score": verdict} for verdict in games],
    }
    for model, number, *games in (
        ("a", 0, "B>>A"),
        ("a", 1, "A>B"),
        ("a", 2, "A=B"),
        ("a", 3, None),
        ("b", 0, "B>A", "B>>A"),
        ("b", 1, "A>B", "A>>B"),
    )
]
MULTI_CRIT = [
    logged_multi_crit("p", "completeness", "model_a", "model_a"),
    logged_multi_crit("p", "clarity", "model_b", "model_a"),
    logged_multi_crit("q", "clarity", "model_a", "error"),
    logged_multi_crit("r", "logic", "model_a", "model_a", "reasoning"),
    logged_multi_crit("r", "efficiency", "model_b", "model_b", "reasoning"),
    # The first of a question counts.
    logged_multi_crit("p", "clarity", "model_b", "model_b"),
]


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "benchmark, lines, overall, groups",
    [
        ("vl_rewardbench", VLRB, 2 / 3, {"general": 1, "hallucination": 0, "reasoning": 1}),
        # Failed requests are null, and then every line is wrapped; an item without any other is none.
        (
            "vl_rewardbench",
            [{"0": None}, *({"0": line} for line in VLRB), {"0": None}],
            2 / 3,
            {"general": 1, "hallucination": 0, "reasoning": 1},
        ),
        ("vl_rewardbench", [*VLRB, None], 2 / 3, {"general": 1, "hallucination": 0, "reasoning": 1}),
        (
            "vl_rewardbench",
            [
                rewarded("RLHF-V-2", "img/image_0.jpg", [1, 0]),
                rewarded("mmmu_1", "img/1.jpg", [0, 1]),
                rewarded("svit-3", "img/2.jpg", [0, 0]),
            ],
            1 / 3,
            {"general": 0, "hallucination": 1, "reasoning": 0},
        ),
        (
            "vl_rewardbench",
            [rewarded("RLAIF-V-2", "i.jpg", [1, 0], reverse=True), rewarded("mmmu_1", "i.jpg", [1, 0], reverse=False)],
            1 / 2,
            {"hallucination": 0, "reasoning": 1},
        ),
        # Two documents of one id.
        ("vl_rewardbench", [logged_vlrb(0, "svit-3", 1.0), logged_vlrb(1, "svit-3", 0.0)], 1 / 2, {"general": 1 / 2}),
        ("mm_rlhf_rewardbench", MM_RLHF, 2 / 3, {"mcq": 1 / 2, "video": 1}),
        ("mm_rlhf_rewardbench", [line | {"reverse": line["id"] == "b"} for line in MM_RLHF], 1 / 3, {"mcq": 1 / 2, "video": 0}),
        ("multimodal_rewardbench", MMRB, 1 / 2, MMRB_GROUPS),
        # With -n the official runner writes outputs.
        (
            "multimodal_rewardbench",
            [{"outputs": texts} | {k: v for k, v in MMRB[0].items() if k != "output"} for texts in (["[[B]]", "[[A]]"], ["[[B]]", "?"])],
            5 / 8,
            {"open_generation/correctness_task": 5 / 8},
        ),
        (
            "multimodal_rewardbench",
            [
                {"ID": "nocaps_1", "Category": "open_generation/correctness_task", "Better": "Output2", "rewards": [1, 0]},
                {"ID": "MathVista_2", "Category": "reasoning", "Better": "Output1", "rewards": [0, 1]},
            ],
            1 / 2,
            {"open_generation/correctness_task": 1, "reasoning/math": 0},
        ),
        (
            "multimodal_rewardbench",
            [
                rewarded("pairs_3", "i.png", [0, 1], Category="safety", reverse=True),
                rewarded("x", "i.png", [0, 1], Category="vqa", reverse=False),
            ],
            1 / 2,
            {"safety/bias": 1, "vqa": 0},
        ),
        # Its score of the third, a coin's, does not count.
        (
            "multimodal_rewardbench",
            [
                logged_mmrb(0, "nocaps_1", "open_generation/correctness_task", "Output2", "[[B]]", 1),
                logged_mmrb(1, "MathVista_2", "reasoning", "Output1", ["[[B]]"], 0),
                logged_mmrb(2, "pairs_3", "safety", "Output1", "Both.", 1),
            ],
            1 / 2,
            MMRB_GROUPS,
        ),
        (
            "multi_crit",
            MULTI_CRIT,
            3 / 5,
            {"open-ended/clarity": 0, "open-ended/completeness": 1, "reasoning/efficiency": 1, "reasoning/logic": 1},
        ),
    ],
)
def test_result_files_of_others(tmp_path, benchmark, lines, overall, groups):
    path = write_lines(tmp_path / "results.jsonl", lines)
    official = scores.score_file(path, benchmark)["official"]
    assert (official["overall"], official["groups"]) == (pytest.approx(overall), groups)
    if lines is MM_RLHF:
        assert official["acc_plus"]["groups"] == {"mcq": 0, "video": 1}
        assert {("  acc plus mcq", 0), ("  acc plus video", 1)} <= set(figures.lines_of(official))
    with pytest.raises(ValueError, match=f"these are results of {benchmark}, not of mmrb2"):
        scores.score_file(path, "mmrb2")
    # No benchmark is named here.
    found = compared(path, path)
    assert (found["what"], found["difference"]["value"]) == (f"{benchmark}, published", 0)


def test_the_benchmark_that_is_named_is_tried_first(tmp_path):
    """The media of a copy of VL-RewardBench may lie in a folder that another benchmark has too, those of MM-RLHF-RewardBench elsewhere."""
    path = write_lines(tmp_path / "results.jsonl", [rewarded("a", "/data/long_texts/1.png", [1, 0])])
    assert scores.score_file(path, "mm_rlhf_rewardbench")["official"]["groups"] == {"long": 1}
    assert scores.score_file(path, "vl_rewardbench")["official"]["groups"] == {"general": 1}


def test_wildvisions_verdicts_give_its_leaderboard(tmp_path):
    """Of b the second game has the answers exchanged, so that one verdict of each question is for it and one against."""
    replaced = WILDVISION[0] | {"games": [{"score": "A>>B"}]}
    found = scores.score_file(write_lines(tmp_path / "results.jsonl", [replaced, *WILDVISION]), "wildvision-bench")
    official = found["official"]
    assert (official["overall"], official["groups"]) == (2 / 6, {"a": 1 / 4, "b": 1 / 2})
    assert official["score"]["groups"] == {"a": pytest.approx(3.5 / 5), "b": pytest.approx(4 / 8)}
    assert official["reward"]["groups"] == {"a": pytest.approx(0.5 / 4), "b": 0}
    assert "1 rows are replaced by a later one of the same question" in found["notes"]
    assert "a: 1 much better, 0 better, 2 tie, 1 worse, 0 much worse; 1 of the ties are no verdict" in found["notes"]
    with pytest.raises(ValueError, match="'wildvision_bench': none of vl_rewardbench"):
        benchmarks.module("wildvision_bench")


def test_groups_of_others_stand_beside_the_official_ones(tmp_path):
    rewards = {"RLHF-V-1": [1, 0], "RLAIF-V-2": [0, 1], "hallucination_pair-3": [0, 1], "mathverse_4": [1, 0], "svit-5": [0, 1]}
    rows = [rewarded(item_id, "i.png", both) for item_id, both in rewards.items()]
    found = scores.score_file(write_lines(tmp_path / "results.jsonl", [*rows, rows[0]]), "vl_rewardbench")
    assert found["official"]["groups"] == {"general": 0, "hallucination": 2 / 4, "reasoning": 1}
    assert found["official"]["case_sensitive"]["groups"] == {"general": 2 / 4, "hallucination": 0, "reasoning": 1}
    assert any("RLHF and RLAIF, so that these count as general" in note for note in found["notes"])
    assert "1 rows repeat an item, and each counts; the first is of RLHF-V-1" in found["notes"]
    assert ("  case sensitive general", 1 / 2) in figures.lines_of(found["official"])


def test_what_stands_twice_is_said_or_refused(tmp_path):
    notes = scores.score_file(write_lines(tmp_path / "results.jsonl", [*MULTI_CRIT, MULTI_CRIT[0]]), "multi_crit")["notes"]
    assert "2 rows repeat a question, of which the first row counts" in notes
    (tmp_path / "twice.jsonl").write_text('{"id": "a", "chosen": "c", "rejected": "r", "rewards": [1, 0], "rewards": [0, 1]}\n')
    with pytest.raises(ValueError, match=r"twice\.jsonl:1: not JSON \(the key 'rewards' stands twice in one object\)"):
        scores.score_file(tmp_path / "twice.jsonl", "vl_rewardbench")


def test_multi_crit_as_lmms_eval_logs_it(tmp_path):
    splits = scores.score_file(write_lines(tmp_path / "results.jsonl", MULTI_CRIT), "multi_crit")["official"]["splits"]
    names = ("overall", "macro", "pluralistic_accuracy", "tradeoff_sensitivity", "conflict_matching")
    assert [splits["open-ended"][name] for name in names] == [1 / 3, 1 / 2, 0, 0, 0]
    assert [splits["reasoning"][name] for name in names] == [1, 1, 1, 1, 1]
    # Only a split with a conflict has figures of conflicts.
    splits = scores.score_file(write_lines(tmp_path / "results.jsonl", MULTI_CRIT[:1]), "multi_crit")["official"]["splits"]
    assert [splits["open-ended"][name] for name in names] == [1, 1, 1, None, None]


def multi_crit_answer(line):
    """The answer that lmms-eval would log so, as the official code takes it."""
    values = line["overall"]
    text = {"model_a": "Response 1 is better.", "model_b": "**Response 2** is better."}.get(values["prediction"], "Both are fine.")
    keys = {name: values[name] for name in ("question_id", "criterion", "preference")}
    return keys | {"split": values["benchmark_type"], "image_path": "a/1.png", "critic": f"<think>x</think>Compared.\n{text}"}


def test_multi_crit_as_the_official_code_takes_answers(tmp_path):
    answers = [multi_crit_answer(line) for line in MULTI_CRIT]
    logged = scores.score_file(write_lines(tmp_path / "logged.jsonl", MULTI_CRIT), "multi_crit")
    assert scores.score_file(write_lines(tmp_path / "answers.jsonl", answers), "multi_crit")["official"] == logged["official"]
    # The prompt is in the question's id, or stands beside it.
    beside = [answer | {"question_id": f"{number}", "prompt_id": "p"} for number, answer in enumerate(answers[:2])]
    splits = scores.score_file(write_lines(tmp_path / "beside.jsonl", beside), "multi_crit")["official"]["splits"]
    assert splits["open-ended"]["conflict_matching"] == 0 and splits["open-ended"]["overall"] == 1 / 2


def test_notes_on_trials_and_failed_requests(tmp_path):
    path = write_lines(tmp_path / "results.jsonl", [{"0": None}, *({"0": line} for line in VLRB)])
    assert scores.score_file(path, "vl_rewardbench")["notes"][1:4] == [
        "majority of 3 trials per item; the official script prints 1, 3, 5, 7 and 9",
        "failed requests, not counted: 1",
        "4 items of the benchmark's 1,250",
    ]
    # A text of null is no match: with it two of four are no majority.
    null = [{**line, "meta": line["meta"] | {"filter_choice": None}} for line in VLRB[::3]]
    result = scores.score_file(write_lines(path, [*VLRB, *null, *VLRB[-3:]]), "vl_rewardbench")
    assert result["notes"][1] == "majority of 4 to 7 trials per item; the official script prints 1, 3, 5, 7 and 9"
    assert result["official"]["groups"] == {"general": 1, "hallucination": None, "reasoning": None}


def test_either_number_of_items_that_vl_rewardbench_has_had(tmp_path):
    lines = [logged_vlrb(number, "svit-3", 1) for number in range(1_248)]
    path = write_lines(tmp_path / "results.jsonl", lines)
    assert "1,248 items of the benchmark's 1,250" in scores.score_file(path, "vl_rewardbench")["notes"]
    assert not any("of 1" in note or "sizes" in note for note in scores.score_file(write_lines(path, lines[1:]), "vl_rewardbench")["notes"])


def mmrb2_results(folder, labels, results):
    """The official files: labels and results by task and pair."""
    for task, pairs in labels.items():
        content = {"pairs": [{"id": name, "chosen": chosen} for name, chosen in pairs.items()]}
        (folder / f"{task}_response_only.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder / "results.json"


def told(*judgements):
    return [{"judgement": judgement, "evaluator": "x", "metadata": {}} for judgement in judgements]


def test_mmrb2_of_one_that_always_prefers_response_a(tmp_path):
    golden = GOLDEN["mmrb2_response_a"]
    labels = {task: {f"{task}{n}": "A" if n < num_a else "B" for n in range(1_000)} for task, num_a in golden["chosen_a"].items()}
    results = [{name: {"forward": told("A"), "reverse": told("B")} for name in pairs} for pairs in labels.values()]
    result = scores.score_file(mmrb2_results(tmp_path, labels, results), "mmrb2")
    assert {name: round(100 * value, 2) for name, value in result["official"]["groups"].items()} == golden["official"]
    assert (100 * result["official"]["overall"], len(result["notes"])) == (pytest.approx(golden["overall"]), 1)


def test_mmrb2_as_the_official_code_counts(tmp_path):
    labels = {"t2i": {"p": "A", "q": "B"}, "edit": {"r": "A", "s": "B"}}
    results = {
        # Right, wrong: the reverse is in the shown frame, and no second judgement counts.
        "p": {"forward": told("A", "B"), "reverse": told("A")},
        # Nothing leaves the denominator, something stays in it.
        "q": {"forward": told(None), "reverse": told("")},
        "r": {"forward": told("Both"), "reverse": told(["B"])},
        "s": {"forward": [], "reverse": told("A")},
    }
    path = mmrb2_results(tmp_path, labels, results)
    official = scores.score_file(path, "mmrb2")["official"]
    assert (official["overall"], official["groups"]) == (2 / 5, {"edit": 1 / 3, "t2i": 1 / 2})
    # A pair's share of its verdicts, or nothing.
    assert compared(path, path)["a"]["value"] == (1 / 2 + 0 + 0 + 1) / 4
    with pytest.raises(ValueError, match="these are results of mmrb2, not of multi_crit"):
        scores.score_file(path, "multi_crit")


@pytest.mark.parametrize(
    "results, message",
    [
        ({"p": {"forward": told("A"), "reverse": 3}}, r"results.json, row 0, pair 'p': key 'reverse': 3 is not of type list"),
        ({"p": {"forward": ["A"]}}, r"results.json, row 0, pair 'p': key 'forward': 'A' is not a JSON object"),
        ({"p": {"forward": []}, "q": []}, r"results.json, row 0: key 'q': \[\] is not of type dict"),
        ({"p": {"forward": []}, "z": {"forward": []}}, r"results.json, row 0, pair 'z': no label in TASK.json .* beside it"),
        ([{"p": {"forward": []}}, 3], r"results.json, row 1: 3 is not a JSON object"),
        ({"p": 3}, r"results.json: neither judgements"),
        ({}, r"results.json: neither judgements"),
        ([], r"results.json: empty"),
        (3, r"results.json: neither a list of rows"),
    ],
)
def test_hostile_mmrb2_results(tmp_path, results, message):
    with pytest.raises(ValueError, match=message):
        scores.score_file(mmrb2_results(tmp_path, {"t2i": {"p": "A", "q": "B"}}, results), "mmrb2")


def test_mmrb2_results_without_good_labels(tmp_path):
    path = mmrb2_results(tmp_path, {"t2i": {"p": "C"}}, {"p": {"forward": []}})
    with pytest.raises(ValueError, match=r"t2i_response_only.json, row 0: key 'chosen': 'C' is none of 'A', 'B'"):
        scores.score_file(path, "mmrb2")
    (tmp_path / "t2i_response_only.json").unlink()
    with pytest.raises(
        ValueError, match=r"pair 'p': no label in TASK.json or TASK_response_only.json beside it; put the official file there"
    ):
        scores.score_file(path, "mmrb2")


@pytest.mark.parametrize(
    "line, change, message",
    [
        (VLRB[0], {"ranking": ["0", "1"]}, r":2: key 'ranking': \['0', '1'\] is none of \[0, 1\], \[1, 0\]"),
        (VLRB[0], {"meta": []}, r":2: key 'meta': \[\] is not of type dict"),
        (VLRB[0], {"meta": {"filter_choice": "x"}}, r":2: key 'random_number': None is none of 0, 1"),
        (VLRB[0], {"meta": {"random_number": 0}}, r":2: key 'filter_choice' is missing"),
        (VLRB[0], {"meta": {"random_number": 0, "filter_choice": 3}}, r":2: key 'filter_choice': 3 is not of type str"),
        (VLRB[0], {"response": "ab"}, r":2: key 'response': 'ab' is not of type list"),
        ({"0": VLRB[0]}, {"0": 3}, r":2: key '0': 3 is not of type dict"),
        (MM_RLHF[0], {"rewards": [1]}, r":2: key 'rewards': \[1\] is not two finite numbers"),
        (MM_RLHF[0], {"rewards": [1, True]}, r":2: key 'rewards': \[1, True\] is not two finite numbers"),
        (MM_RLHF[0], {"rewards": [1, float("nan")]}, r":2: key 'rewards': \[1, nan\] is not two finite numbers"),
        (MM_RLHF[0], {"rewards": [float("inf"), 1]}, r":2: key 'rewards': \[inf, 1\] is not two finite numbers"),
        (WILDVISION[0], {"games": []}, r":2: key 'games': 0 games, neither 1 nor 2"),
        (WILDVISION[0], {"games": [{"score": 1}]}, r":2: key 'games': {'score': 1} has no text or null as its score"),
        (WILDVISION[0], {"games": ["A>B"]}, r":2: key 'games': 'A>B' has no text or null as its score"),
        (MM_RLHF[0], {"rewards": None}, r":2: key 'rewards': None is not of type list"),
        (MM_RLHF[0], {"reverse": "False"}, r":2: key 'reverse': 'False' is not of type bool"),
        (MM_RLHF[0], {"reverse": None}, r":2: key 'reverse': None is not of type bool"),
        (MM_RLHF[0], {"image": "other/1.png"}, r":2: the path 'other/1.png' names no category \(mcq"),
        (rewarded("x", "i.png", [0, 1]), {"id": 3}, r":2: key 'id': 3 is not of type str"),
        (rewarded("x", "i.png", [0, 1]), {"rejected": ...}, r":2: key 'rejected' is missing"),
        (rewarded("x", "i.png", [0, 1], Category="vqa"), {"Category": ["vqa"]}, r":2: key 'Category': \['vqa'\] is not of type str"),
        (rewarded("x", "i.png", [0, 1], Category="vqa"), {"Category": "VQA"}, r":2: the category 'VQA' is none of"),
        (MMRB[0], {"output": None}, r":2: key 'output': None is neither a text nor a list of texts"),
        (MMRB[0], {"outputs": []}, r":2: key 'outputs': \[\] is neither a text nor a list of texts"),
        (MMRB[0], {"outputs": ["x", 3]}, r":2: key 'outputs': \['x', 3\] is neither a text"),
        (MMRB[0], {"Meta": {"Category": ["safety"]}}, r":2: the category \['safety'\] is none of"),
        (MMRB[0], {"Label": "C"}, r":2: key 'Label': 'C' is none of 'A', 'B'"),
        (logged_vlrb(0, "x", 1), {"vlreward_score": 1}, r":2: key 'vlreward_score': 1 is not of type dict"),
        (logged_vlrb(0, "x", 1), {"vlreward_score": {"question_id": "x", "score": 0.5}}, r":2: key 'score': 0.5 is none of 0, 1"),
        (logged_vlrb(0, "x", 1), {"vlreward_score": {"score": 1}}, r":2: key 'question_id' is missing"),
        (logged_vlrb(0, "x", 1), {"doc_id": "0"}, r":2: key 'doc_id': '0' is not of type int"),
        (logged_mmrb(0, "x", "vqa", "Output1", "?"), {"target": "A"}, r":2: key 'target': 'A' is none of 'Output1', 'Output2'"),
        (
            logged_mmrb(0, "x", "vqa", "Output1", "?"),
            {"filtered_resps": [["?"]]},
            r":2: key 'filtered_resps': \[\['\?'\]\] is neither a text",
        ),
        (MULTI_CRIT[0], {"overall": []}, r":2: key 'overall': \[\] is not of type dict"),
        (
            MULTI_CRIT[0],
            {"overall": MULTI_CRIT[0]["overall"] | {"criterion": "logic"}},
            r":2: benchmark_type 'open-ended' and criterion 'logic' are",
        ),
        (MULTI_CRIT[0], {"overall": MULTI_CRIT[0]["overall"] | {"preference": "tie"}}, r":2: key 'preference': 'tie' is none of 'model_a'"),
        (MULTI_CRIT[0], {"overall": MULTI_CRIT[0]["overall"] | {"prediction": None}}, r":2: key 'prediction': None is not of type str"),
        (multi_crit_answer(MULTI_CRIT[0]), {"critic": None}, r":2: key 'critic': None is not of type str"),
        (multi_crit_answer(MULTI_CRIT[0]), {"prompt_id": 7}, r":2: key 'prompt_id': 7 is not of type str"),
    ],
)
def test_hostile_result_lines(tmp_path, line, change, message):
    bad = {name: value for name, value in (line | change).items() if value is not ...}
    path = write_lines(tmp_path / "results.jsonl", [line, bad])
    with pytest.raises(ValueError, match=message):
        compared(path, path)
    path.write_text(json.dumps(line) + "\n" + json.dumps(line)[:-3], encoding="utf-8")
    with pytest.raises(ValueError, match=r"results.jsonl:2: the line is cut short"):
        compared(path, path)


def test_empty_result_files(tmp_path):
    with pytest.raises(ValueError, match=r"results.jsonl: empty; give a run folder, judgements.jsonl, or published results"):
        scores.score_file(write_lines(tmp_path / "results.jsonl", []), "vl_rewardbench")
    with pytest.raises(ValueError, match=r"results.jsonl: all 2 requests failed; run the inference again"):
        scores.score_file(write_lines(tmp_path / "results.jsonl", [{"0": None}] * 2), "vl_rewardbench")
    with pytest.raises(ValueError, match=r"results.jsonl: neither judgements \(.jsonl\) nor published results"):
        scores.score_file(write_lines(tmp_path / "results.jsonl", [{"doc_id": 0, "mmmu_acc": {}}]), "vl_rewardbench")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"out_general": [1, 2]}, r"key 'out_general': a hit is neither 0 nor 1"),
        ({"out_general": "11"}, r"key 'out_general': '11' is not of type list"),
        ({"out_all": [1]}, r"out_all does not have the same hits as the groups"),
        ({"out_reasoning": ...}, r"results.json, row 0: key 'out_reasoning' is missing"),
        ({"out_all": ...}, r"results.json: neither judgements \(.jsonl\) nor published results"),
    ],
)
def test_hostile_published_results(tmp_path, change, message):
    document = {name: value for name, value in (golden_document() | change).items() if value is not ...}
    (tmp_path / "results.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        scores.score_file(tmp_path / "results.json", "vl_rewardbench")


def test_wrong_groups_are_told(tmp_path):
    document = golden_document()
    moved = document["out_hallucination"][:301]
    document |= {"out_hallucination": document["out_hallucination"][301:], "out_general": document["out_general"] + moved}
    (tmp_path / "results.json").write_text(json.dumps(document), encoding="utf-8")
    notes = scores.score_file(tmp_path / "results.json", "vl_rewardbench")["notes"]
    assert notes[-1] == "groups of other sizes than the benchmark's: general 484 of 183, hallucination 448 of 749"


# Two files


def test_compare(tmp_path):
    better = [*both(RECORDS[0], "1", "2"), *both(RECORDS[1], "2", "1"), *both(RECORDS[2], "1", "2"), *both(RECORDS[3], "1", "2")]
    result = compared(write(tmp_path / "a", LINES, RECORDS), write(tmp_path / "b", better, RECORDS))
    assert (result["what"], result["a"]["n"], result["a"]["value"], result["b"]["value"]) == ("judgements", 4, 1 / 4, 3 / 4)
    assert result["difference"]["value"] == 1 / 2 and result["difference"]["ci95"][0] < 1 / 2 < result["difference"]["ci95"][1]
    assert result["mcnemar"] == {"items": 4, "only_a": 0, "only_b": 2, "p": 0.5}
    found = result["differences"]["critic"]
    assert found["accuracy"]["difference"]["value"] == (6 - 4) / 8
    # One of the two has an unparsed verdict, so the shares are over other judgements and have no paired difference.
    assert (found["first_share"]["a"]["value"], found["first_share"]["difference"]) == (5 / 7, None)


@pytest.mark.parametrize(
    "only_a, only_b, p", [(0, 0, 1), (3, 3, 1), (0, 5, 0.0625), (1, 5, 0.21875), (0, 1_250, 2.0**-1249 * 2 / 2), (600, 650, None)]
)
def test_mcnemar_exact(only_a, only_b, p):
    found = mcnemar(only_a, only_b)
    assert found == mcnemar(only_b, only_a)
    assert 0.1 < found < 0.2 if p is None else found == pytest.approx(p if only_b < 1_000 else 0, abs=1e-300)


def test_compare_published_results(tmp_path):
    paths = []
    for name, count in (("a", 155), ("b", 165)):
        document = golden_document()
        document["out_general"] = [1] * count + [0] * (183 - count)
        document["out_all"] = document["out_general"] + document["out_hallucination"] + document["out_reasoning"]
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(document), encoding="utf-8")
    result = compared(*paths)
    assert (result["mcnemar"]["items"], result["mcnemar"]["only_b"], round(1_250 * result["difference"]["value"])) == (1_250, 10, 10)
    with pytest.raises(ValueError, match="vl_rewardbench, published cannot be compared with judgements"):
        compared(paths[0], write(tmp_path, LINES, RECORDS))


@pytest.mark.parametrize(
    "lines, num_items",
    [
        # The item without a majority is there too, and wrong.
        (VLRB, 4),
        # Two documents of one id, as several processes write them.
        ([logged_vlrb(0, "svit-3", 1), logged_vlrb(1, "svit-3", 0)], 2),
    ],
)
def test_published_results_are_paired_by_what_they_are(tmp_path, lines, num_items):
    result = compared(write_lines(tmp_path / "a.jsonl", lines), write_lines(tmp_path / "b.jsonl", lines[::-1]))
    assert (result["a"]["value"], result["mcnemar"]) == (1 / 2, {"items": num_items, "only_a": 0, "only_b": 0, "p": 1})


def test_records_of_something_else():
    with pytest.raises(ValueError, match=r"the group 'general' of pair .* is none of mmrb2's \(t2i, edit, interleaved, reasoning\)"):
        scores.score(LINES, RECORDS, "mmrb2")
    exchanged = [RECORDS[0], RECORDS[0].swap()]
    with pytest.raises(ValueError, match="twice with its responses exchanged"):
        scores.score(both(RECORDS[0], "1", "2"), exchanged, "pairs")


def test_the_parts_of_a_comparison_keep_their_order():
    side = compare.Side("same", {f"part {number}": {} for number in range(20)})
    assert list(compare.compare(side, side)["differences"]) == list(side.measures)


def test_token_counts_that_an_engine_leaves_out_do_not_end_a_comparison(tmp_path):
    some = [judgement(RECORDS[0], "12", "1", tokens=None), *LINES[1:]]
    result = compared(write(tmp_path / "a", LINES, RECORDS), write(tmp_path / "b", some, RECORDS))
    found = result["differences"]["critic"]["completion_tokens"]
    assert (found["a"]["n"], found["b"]["n"], found["difference"]) == (8, 7, None)


def test_compare_other_items(tmp_path):
    paths = write(tmp_path / "a", LINES, RECORDS), write(tmp_path / "b", LINES[2:], RECORDS[1:])
    with pytest.raises(ValueError, match=f"{RECORDS[0].pair_id} is only in the first run"):
        compared(*paths)
    with pytest.raises(ValueError, match=r"2 judgements are missing"):
        compared(paths[0], write(tmp_path / "c", LINES[2:], RECORDS))


# The commands


def test_score_command(tmp_path, capsys):
    path = write(tmp_path, LINES, RECORDS)
    assert cli.main(["score", str(path), "--benchmark", "vl_rewardbench", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(scores.score_file(path, "vl_rewardbench")))
    assert all({"overall", "macro", "groups"} <= printed[name].keys() for name in ("official", "strict"))
    assert cli.main(["score", str(path), "--benchmark", "vl_rewardbench"]) == 0
    table = capsys.readouterr().out
    assert all(part in table for part in ("57.14", "25.00", "position consistency", "longer", "hallucination", "Note: 4 items"))
    path.write_text(path.read_text(encoding="utf-8")[:-5], encoding="utf-8")
    assert cli.main(["score", str(path), "--benchmark", "vl_rewardbench"]) == 1
    assert "judgements.jsonl:8: the line is cut short" in capsys.readouterr().err


def test_every_benchmark_prints_a_table(tmp_path, capsys):
    from critic_r1_verl import benchmarks

    for name in benchmarks.MODULES:
        groups = list(benchmarks.module(name).GROUPS) or ["a", "b"]
        records = [record(number, category=group) for number, group in enumerate(groups)]
        path = write(tmp_path / name, [line for each in records for line in both(each, "1", None)], records)
        assert cli.main(["score", str(path), "--benchmark", name]) == 0
        table = capsys.readouterr().out
        assert all(group in table for group in groups)


def test_compare_command(tmp_path, capsys):
    path = write(tmp_path, LINES, RECORDS)
    assert cli.main(["compare", str(path), str(path), "--json"]) == 0
    (comparison,) = json.loads(capsys.readouterr().out)
    assert comparison["differences"]["critic"]["strict"]["difference"]["value"] == 0
    assert cli.main(["compare", str(path), str(path)]) == 0
    assert "exact McNemar p = 1" in " ".join(capsys.readouterr().out.split())
