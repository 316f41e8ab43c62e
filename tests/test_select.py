# SPDX-License-Identifier: Apache-2.0
"""Selection among sampled answers: what each method picks, what it asks for, and that a killed run resumes and ends the same."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import pytest

from critic_r1_verl import lines, prompts
from critic_r1_verl.critics.answers import AnswerCritic
from critic_r1_verl.critics.pairwise import PairwiseCritic
from critic_r1_verl.engines.base import Completion, Done, Request, Sampling
from critic_r1_verl.lines import Answer, Match, Selection
from critic_r1_verl.records import Image, QuestionRecord
from critic_r1_verl.select.budget import FIRST
from critic_r1_verl.select.calls import Call, Judge, Unanswered
from critic_r1_verl.select.candidates import Candidates, by_question, group_answers
from critic_r1_verl.select.methods import DEFAULT, METHODS, Options
from critic_r1_verl.select.plan import Plan, selections_of, verdicts_of
from critic_r1_verl.select.run import judge_answers

IMAGE = Image(path="images/a.png", sha256="0" * 64)
OPTIONS = Options()
CRITIC = AnswerCritic(PairwiseCritic(prompts.load("critic_short"), Sampling(8)))
FREE = ("single", "random", "majority", "oracle")


def question(number: int) -> QuestionRecord:
    return QuestionRecord(images=(IMAGE,), question=f"Q{number}?", answer="7", source="t")


def judged(question_id: str, call: Call, choice: str) -> Match:
    said = {"text": "", "prompt_tokens": 9, "image_tokens": 4, "completion_tokens": 5, "model": "m", "template_sha": "0"}
    return Match(question_id=question_id, **asdict(call), choice=choice, status="parsed", **said)


def sampled(*answers: str | None, asked: QuestionRecord | None = None) -> dict[str, list[Answer]]:
    said = [
        Answer(
            question_id=(asked or question(0)).question_id,
            kind="sample",
            sample=sample,
            answer=answer,
            status="parsed" if answer else "missing",
            correct=answer == "7",
            text=f"<think>I see {answer}</think> {sample % 2}",
            prompt_tokens=9,
            completion_tokens=5,
            model="m",
            template_sha="0",
        )
        for sample, answer in enumerate(answers)
    ]
    return by_question(said)


def grouped(*votes: int, right: int | None = 0) -> Candidates:
    """Candidates with groups of these sizes, of consecutive samples; the samples of one group are right."""
    groups, start = [], 0
    for size in votes:
        groups.append(tuple(range(start, start + size)))
        start += size
    return Candidates(start, tuple(groups), frozenset(groups[right]) if right is not None else frozenset())


def select(method: str, candidates: Candidates, answer: Callable[[Call], str | None], options: Options = OPTIONS) -> tuple:
    """The picks of a method and the calls that it made, with a judge that answers every call."""
    verdicts: dict[Call, str | None] = {}
    while True:
        judge = Judge(verdicts)
        try:
            return METHODS[method](candidates, judge, options), judge
        except Unanswered as missing:
            assert not verdicts.keys() & set(missing.calls), "asked for what is known"
            verdicts |= {call: answer(call) for call in missing.calls}


def prefers(*order: int) -> Callable[[Call], str | None]:
    """A judge for whom samples earlier in this order are better, and those not in it worst; it gives a verdict of every kind."""

    def rank(sample: int) -> int:
        return order.index(sample) if sample in order else len(order)

    def answer(call: Call) -> str:
        if call.kind == "pair":
            first, second = map(rank, call.shown)
            return "tie" if first == second else "1" if first < second else "2"
        best = min(range(len(call.shown)), key=lambda place: rank(call.shown[place]))
        return {"score": str(max(0, 10 - rank(call.shown[0]))), "choice": str(best + 1), "revision": "new"}[call.kind]

    return answer


@pytest.mark.parametrize(
    ("method", "candidates", "picks", "num_calls"),
    [
        ("single", grouped(2, 3), (0,), 0),
        ("random", grouped(1, 2), (0, 1, 2), 0),
        ("majority", grouped(1, 3, 2), (1,), 0),
        ("majority", grouped(2, 1, 2), (0, 3), 0),
        ("oracle", grouped(2, 1, right=1), (2,), 0),
        ("oracle", grouped(2, 1, right=None), (0,), 0),
        # (0, 1) are equal, (2, 3) differ and 3 wins, then 0 loses to 3.
        ("knockout", grouped(3, 1), (3,), 4),
        ("knockout_one_order", grouped(3, 1), (3,), 2),
        ("knockout", grouped(4), (0,), 0),
        ("round_robin", grouped(5, 2, 1), (7,), 6),
        ("swiss", grouped(5, 2, 1), (7,), 4),
        ("swiss", grouped(1, 1, 1, 1), (3,), 8),
        ("weighted_vote", grouped(3, 1), (3,), 2),
        ("vote_then_judge", grouped(2, 1), (2,), 2),
        # The lead of 5 to 1 is more than two verdicts can turn, so they are not asked for.
        ("vote_then_judge", grouped(5, 1), (0,), 0),
        ("vote_then_judge", grouped(3, 2, 1), (5,), 6),
        ("pointwise", grouped(3, 1), (3,), 2),
        ("pointwise", grouped(3), (0,), 0),
        ("one_shot", grouped(3, 1), (3,), 2),
        ("refine", grouped(3, 1), (Call("revision", (0,)),), 1),
        ("duel", grouped(2, 3, 1, right=2), (5,), 2),
        ("duel", grouped(2, 1, right=None), (0,), 0),
    ],
)
def test_a_method_picks_what_the_judge_prefers(method: str, candidates: Candidates, picks: tuple, num_calls: int) -> None:
    later_is_better = prefers(*reversed(range(candidates.num_samples)))
    found, judge = select(method, candidates, later_is_better)
    assert (found, len(judge.asked)) == (picks, num_calls)


@pytest.mark.parametrize("verdict", [None, "tie", "1"], ids=["no verdict", "tie", "always the first"])
def test_without_a_skilled_judge_votes_decide_or_nothing_does(verdict: str | None) -> None:
    """No method guesses: what the judge does not tell is taken from the votes, or the answers stay tied; the knock-out has an order."""
    said = {"pair": verdict, "score": verdict and "5", "choice": None, "revision": None}
    others = {"single": (0,), "oracle": (0,), "random": tuple(range(6)), "knockout": (0,), "duel": (0, 1)}
    for method in METHODS.keys() - {"knockout_one_order"}:
        picks, judge = select(method, grouped(1, 3, 2), lambda call: said[call.kind])
        assert (method, picks) == (method, others.get(method, (1,)))
        assert judge.undecided == len(judge.compared)


def test_the_choices_in_two_orders_must_agree_to_outvote() -> None:
    always_last = {"choice": lambda call: str(len(call.shown))}
    picks, _ = select("one_shot", grouped(1, 3, 2), lambda call: always_last[call.kind](call))
    assert picks == (4,), "the last of each order got one choice each, and of these the one with more votes is taken"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("votes", [(1,), (4,), (1, 1), (2, 1, 1), (1,) * 9])
def test_every_method_ends_and_compares_no_answer_with_an_equal_one(method: str, votes: tuple[int, ...]) -> None:
    candidates = grouped(*votes)
    picks, judge = select(method, candidates, prefers(*range(9)))
    assert picks and all(isinstance(pick, Call) or 0 <= pick < candidates.num_samples for pick in picks)
    for call in judge.asked:
        groups = [candidates.group_of(sample) for sample in call.shown]
        assert len({*groups}) == len(groups)


def test_repeats_show_other_members_of_a_group() -> None:
    _, judge = select("vote_then_judge", grouped(2, 2), prefers(3, 2, 1, 0), Options(repeats=3))
    assert [(call.shown, call.repeat) for call in judge.asked] == [
        (shown, repeat) for repeat, pair in enumerate([(0, 2), (1, 3), (0, 2)]) for shown in (pair, pair[::-1])
    ]


@pytest.mark.parametrize(
    ("contents", "texts", "groups"),
    [
        (["7", "3", "7"], ["", "", ""], ((0, 2), (1,))),
        (["1/2", "0.5", r"\frac{1}{2}", "0.25"], [""] * 4, ((0, 1, 2), (3,))),
        ([None, "7", None, "7"], ["", "", "", ""], ((1, 3),)),
        ([None, None, None], ["a", "<think>b</think>", "a"], ((0, 2), (1,))),
    ],
)
def test_answers_are_equal_by_the_grader_of_the_reward(contents: list, texts: list, groups: tuple) -> None:
    assert group_answers(contents, texts).groups == groups


def test_the_first_samples_are_those_of_a_smaller_run() -> None:
    candidates = group_answers([None, "3", "7", "3", "7", "7"], [""] * 6, right=(2, 4, 5))
    assert candidates.first(4).groups == ((1, 3), (2,)) and candidates.first(4).largest() == [(1, 3)]
    assert candidates.first(1).groups == ((0,),)


# Judges of known accuracy: the exact expectation of each method on two groups, by all outcomes of its verdicts.


@pytest.mark.parametrize("accuracy", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("bias", [0.0, 0.2])
@pytest.mark.parametrize(
    ("votes", "method"), [((1, 1), "knockout"), ((1, 1), "vote_then_judge"), ((2, 1), "vote_then_judge"), ((1, 2), DEFAULT)]
)
def test_the_expectation_of_a_noisy_judge(accuracy: float, bias: float, votes: tuple[int, int], method: str) -> None:
    """Group 0 is right. A verdict is right with accuracy + bias if the right answer stands first, else with accuracy - bias."""
    chance = {True: min(1.0, accuracy + bias), False: max(0.0, accuracy - bias)}
    expected = 0.0
    for first_right in (True, False):
        for second_right in (True, False):
            probability = (chance[True] if first_right else 1 - chance[True]) * (chance[False] if second_right else 1 - chance[False])

            def answer(call: Call, outcomes: Mapping[bool, bool] = {True: first_right, False: second_right}) -> str:
                right_first = call.shown[0] < votes[0]
                return "1" if outcomes[right_first] is right_first else "2"

            picks, _ = select(method, grouped(*votes), answer)
            expected += probability * sum(pick < votes[0] for pick in picks) / len(picks)
    both, none = chance[True] * chance[False], (1 - chance[True]) * (1 - chance[False])
    split = 1 - both - none
    # An undecided match sends the first answer on, stays tied, or is decided by the votes.
    exact = {
        ((1, 1), "knockout"): both + split,
        ((1, 1), "vote_then_judge"): both + split / 2,
        ((2, 1), "vote_then_judge"): both + split,
        ((1, 2), "vote_then_judge"): both,
    }
    assert expected == pytest.approx(exact[votes, method])


# The run: verdicts from an engine into matches.jsonl.


def prefers_seven(prompt: str, _: int) -> str:
    first, second = (prompt.split(f"Response {n}: ")[1].splitlines()[0] for n in (1, 2))
    return f"<think>t</think> \\boxed{{{1 if '7' in first else 2 if '7' in second else 1}}}"


def run(samples: dict[str, list[Answer]], model, out: Path, plan: Plan, critic: AnswerCritic = CRITIC) -> list[Selection]:
    questions = {question(number).question_id: question(number) for number in range(len(samples))}
    matches = judge_answers(questions, samples, plan, model, critic, out, root=Path("/data"))
    return selections_of(plan, questions.values(), samples, verdicts_of(matches))


def test_matches_are_kept_with_texts_and_tokens(scripted, tmp_path: Path) -> None:
    (selection,) = run(sampled("3", "7", "4"), scripted(prefers_seven), tmp_path / "m.jsonl", Plan(("knockout",), (3,)))
    matches = list(lines.read(tmp_path / "m.jsonl", Match))
    assert [match.key[1:] for match in matches] == [("pair", shown, 0) for shown in ((0, 1), (1, 0), (1, 2), (2, 1))]
    assert [match.choice for match in matches] == ["2", "1", "1", "2"]
    assert {(match.text[:7], match.prompt_tokens, match.completion_tokens) for match in matches} == {("<think>", 9, 5)}
    assert (selection.sample, selection.correct, selection.calls, selection.comparisons, selection.undecided) == (1, 1.0, 4, 2, 0)
    assert (selection.answer_tokens, selection.judge_tokens) == (9 + 3 * 5, 4 * (9 + 5))


def test_methods_share_their_verdicts_and_can_be_added(scripted, tmp_path: Path) -> None:
    samples, out = sampled("3", "7", "7", "4"), tmp_path / "m.jsonl"
    run(samples, scripted(prefers_seven), out, Plan(("round_robin",), (4,)))
    more = scripted(prefers_seven)
    selections = run(samples, more, out, Plan(("round_robin", "swiss", "vote_then_judge", "duel"), (2, 4)))
    assert more.asked == []
    assert {(line.method, line.samples): line.correct for line in selections}["duel", 4] == 1
    # With two samples, a third one is worth more than verdicts.
    assert {(line.method, line.samples): line.correct for line in selections}["vote_then_judge", 2] == 0.5


@pytest.mark.parametrize("die_after", [1, 5, 9, 14])
def test_a_killed_run_resumes_and_ends_with_the_same_bytes(scripted, tmp_path: Path, die_after: int) -> None:
    samples = sampled("3", "4", "5", "7") | sampled("7", "3", "4", "5", asked=question(1))
    plan = Plan(("knockout", "swiss", "pointwise"), (4,))

    def reply(prompt: str, sample: int) -> str:
        return prefers_seven(prompt, sample) if "Response 1" in prompt else f"<think>t</think> \\boxed{{{9 if '7' in prompt else 2}}}"

    whole = run(samples, scripted(reply), tmp_path / "whole.jsonl", plan)
    with pytest.raises(KeyboardInterrupt):
        run(samples, scripted(reply, die_after=die_after), tmp_path / "cut.jsonl", plan)
    assert run(samples, scripted(reply), tmp_path / "cut.jsonl", plan) == whole
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


class Stack:
    """A model that holds up to `room` requests and answers the newest one first. `curious`: whether it asks for more after their end."""

    name = "scripted"
    left_out = ()

    def __init__(self, room: int, curious: bool = True) -> None:
        self.room, self.curious = room, curious
        self.num_runs = 0
        self.in_flight: list[int] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[Done]:
        self.num_runs += 1
        numbered = enumerate(requests if self.curious else list(requests))
        held: list[tuple[int, Request]] = []
        while True:
            held += islice(numbered, self.room - len(held))
            if not held:
                return
            self.in_flight.append(len(held))
            index, request = held.pop()
            yield index, [Completion(prefers_seven(request.prompt, 0), 9, 5)]


def test_each_question_goes_on_by_itself(tmp_path: Path) -> None:
    """With 16 questions of three rounds, four requests are in flight until the last question."""
    model = Stack(4)
    samples = {key: value for number in range(16) for key, value in sampled(*"34567348", asked=question(number)).items()}
    run(samples, model, tmp_path / "m.jsonl", Plan(("knockout",), (8,)))
    assert model.num_runs == 1 and len(model.in_flight) == 16 * 14
    assert all(number == 4 for number in model.in_flight[: -(14 + 4)])


def test_the_order_of_arrival_and_the_kind_of_engine_change_nothing(scripted, tmp_path: Path) -> None:
    """Also where votes are judged in waves: the judge has skill, so that all of them are."""
    samples: dict[str, list[Answer]] = {}
    for number in range(20):
        samples |= sampled(*("77773333" if number % 2 else "43374777"), asked=question(number))
    plan = Plan(("vote_then_judge", "knockout"), (4, 8))
    engines = {
        "whole": scripted(prefers_seven),
        "backwards": scripted(prefers_seven, arrival=reversed),
        "stack": Stack(3),
        "wide": Stack(1000),
        "incurious": Stack(5, curious=False),
    }
    found = {name: run(samples, engine, tmp_path / name, plan) for name, engine in engines.items()}
    for die_after in (3, 30, 40):
        with pytest.raises(KeyboardInterrupt):
            run(samples, scripted(prefers_seven, die_after=die_after), tmp_path / "cut", plan)
    found["cut"] = run(samples, scripted(prefers_seven), tmp_path / "cut", plan)
    assert all(selections == found["whole"] for selections in found.values())
    assert len({(tmp_path / name).read_bytes() for name in found}) == 1
    judged = [line for line in found["whole"] if line.method == "vote_then_judge" and line.samples == 8 and line.calls]
    assert len(judged) > FIRST and sum(line.correct for line in judged) / len(judged) > 0.9


def test_a_missing_verdict_and_a_missing_sample_are_named() -> None:
    with pytest.raises(ValueError, match=r"question [0-9a-f]{20}: a verdict on the samples 0 and 1 is missing for knockout; run `critic"):
        selections_of(Plan(("knockout",), (2,)), [question(0)], sampled("3", "7"), {})
    with pytest.raises(ValueError, match=r"question [0-9a-f]{20}: 2 of 4 samples; run `critic-r1 select` again"):
        selections_of(Plan(("majority",), (4,)), [question(0)], sampled("3", "7"), {})


@pytest.mark.parametrize(
    ("kind", "text", "choice", "status"),
    [
        ("score", r"\boxed{8}", "8", "parsed"),
        ("score", r"<think>t</think> \boxed{10/10}", "10", "parsed"),
        ("score", r"\boxed{11}", None, "missing"),
        ("score", r"\boxed{good}", None, "missing"),
        ("choice", r"\boxed{Response 3}", "3", "parsed"),
        ("choice", r"\boxed{4}", None, "missing"),
        ("choice", r"\boxed{0}", None, "missing"),
        ("choice", r"\boxed{1} or \boxed{2}", None, "ambiguous"),
        ("revision", r"<think>No.</think> \boxed{\frac{1}{2}}", r"\frac{1}{2}", "parsed"),
        ("revision", "no box", None, "missing"),
        ("pair", r"\boxed{2}", "2", "parsed"),
    ],
)
def test_verdicts_of_every_kind_are_read(kind: str, text: str, choice: str | None, status: str) -> None:
    assert CRITIC.read(kind, Completion(text), 3)[1:] == (choice, status)
    assert CRITIC.read(kind, Completion(text, end="refused"), 3)[1:] == (None, "refused")


@pytest.mark.parametrize("kind", ["pair", "score", "choice", "revision"])
def test_the_judge_is_shown_answers_without_think_tags_and_the_image_only_if_asked(kind: str) -> None:
    shown = {"pair": 2, "choice": 3}.get(kind, 1)
    answers = [f"<think>I see {number}.</think> <image> \\boxed{{{number}}}" for number in range(shown)]
    for with_image in (True, False):
        request = replace(CRITIC, with_image=with_image).request(kind, question(0), answers, Path("/data"), 2)
        assert request.images == ((Path("/data/images/a.png"),) if with_image else ())
        assert request.prompt.count("<image>") == len(request.images) and request.sampling.seed == 2
        assert all(f"I see {number}." in request.prompt for number in range(shown)) and "<think>I" not in request.prompt


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (lambda: Plan(("best",)), "method 'best' is unknown; give one of single, random"),
        (lambda: Plan((), (2,)), "give at least one method"),
        (lambda: Plan(samples=(0,)), "numbers of samples of 1 or more"),
        (lambda: Plan.from_json({"methods": ["single"]}), "incomplete .*weight"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(plan: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan()


def test_a_plan_is_the_same_after_its_file() -> None:
    plan = Plan(("swiss", "knockout"), (2, 8), 3, 0.7)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan and Plan.from_json(Plan().to_json()) == Plan()
