# SPDX-License-Identifier: Apache-2.0
"""critic-r1 select: sample answers, and select one of them by several methods."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from critic_r1_verl import foreign
from critic_r1_verl.cli import flags

if TYPE_CHECKING:
    from critic_r1_verl.evaluate import Place
    from critic_r1_verl.select.plan import Plan


def add_commands(commands: Any) -> None:
    from critic_r1_verl.select.methods import METHODS
    from critic_r1_verl.select.plan import BY_DEFAULT

    select = flags.command(
        commands,
        "select",
        _select,
        "sample answers to questions and select one, by votes and by a judge's verdicts; the same command resumes or adds methods",
        "critic-r1 select --model runs/trained --data runs/data --samples 8 --out runs/eval",
        parents=[flags.engine(), flags.sets()],
    )
    select.add_argument("--samples", type=flags.count, default=8, metavar="N", help="answers to each question (default: %(default)s)")
    select.add_argument("--temperature", type=float, default=1.0, metavar="T", help="for the answers (default: %(default)s)")
    select.add_argument(
        "--method",
        action="append",
        choices=METHODS,
        metavar="NAME",
        help=f"a method, may be repeated: {', '.join(METHODS)} (default: {', '.join(BY_DEFAULT)})",
    )
    select.add_argument(
        "--sweep", type=_numbers, metavar="N,N,...", help="select among the first N samples too, for accuracy against tokens"
    )
    select.add_argument(
        "--diagnose", action="store_true", help="judge right against wrong answers too, and say why selection gains or loses"
    )
    judge = select.add_argument_group("the judge (default: the model itself, greedy, in both orders)")
    judge.add_argument("--judge-model", default="", metavar="M", help="another model, as for --model")
    judge.add_argument("--judge-base-url", metavar="URL", help="a server for the judge, as for --base-url")
    judge.add_argument("--judge-temperature", type=float, metavar="T", help="for verdicts (default: 0, or 1 with --repeats)")
    judge.add_argument("--repeats", type=flags.count, default=1, metavar="K", help="verdicts on each pair in each order (default: 1)")
    judge.add_argument("--without-image", action="store_true", help="show the judge the question and the answers alone")
    judge.add_argument(
        "--weight",
        type=float,
        metavar="W",
        help="of verdicts against votes in vote_then_judge, 0 or more (default: as far as the judge agrees with itself)",
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted({flags.count(part) for part in text.split(",")}))


def _select(arguments: argparse.Namespace) -> int:
    """Sample for all sets, then judge all."""
    from critic_r1_verl import evaluate
    from critic_r1_verl.report import terminal

    plan = _plan(arguments)
    temperature = arguments.judge_temperature if arguments.judge_temperature is not None else float(arguments.repeats > 1)
    settings = flags.settings(
        arguments, judging=temperature, answering=arguments.temperature, samples=arguments.samples, repeats=arguments.repeats
    )
    results = []
    with flags.prepared_sets(arguments, settings.limit) as places:
        engine, facts, settings = flags.start(arguments, settings)
        for place in places:
            evaluate.sample(engine, place, settings, facts)
        if arguments.judge_model or arguments.judge_base_url:
            # The first engine gives its memory back before the second one takes it.
            del engine
            changed = {"model": arguments.judge_model, "base_url": arguments.judge_base_url}
            engine, facts, settings = flags.start(argparse.Namespace(**vars(arguments) | changed), settings)
        for place in places:
            results.append(evaluate.select(engine, place, settings, facts, plan, with_image=not arguments.without_image))
            if not arguments.json:
                terminal.show_metrics(results[-1])
                foreign.say(f"{place.run.folder}\n")
            _explain(arguments, place, plan)
    if arguments.json:
        foreign.say_json(results)
    return 0


def _plan(arguments: argparse.Namespace) -> "Plan":
    """The plan of these flags. ValueError if the sweep goes beyond the samples, or for a bad weight."""
    from critic_r1_verl.select.plan import BY_DEFAULT, Plan

    methods = tuple(dict.fromkeys([*(arguments.method or BY_DEFAULT), *(["duel"] if arguments.diagnose else [])]))
    sweep = arguments.sweep or ()
    if max(sweep, default=0) > arguments.samples:
        raise ValueError(f"--sweep {max(sweep)} is more than --samples {arguments.samples}; draw more samples")
    return Plan(methods, tuple(sorted({*sweep, arguments.samples})), arguments.repeats, arguments.weight)


def _explain(arguments: argparse.Namespace, place: "Place", plan: "Plan") -> None:
    """Write and show what --sweep and --diagnose ask for."""
    from critic_r1_verl.files import write_json
    from critic_r1_verl.report import selection
    from critic_r1_verl.scoring import diagnosis, sweep

    folder: Path = place.run.folder
    if arguments.sweep:
        found = sweep.sweep(place.run)
        write_json(folder / sweep.FILE, found)
        selection.write_chart(found, folder / "sweep.svg")
        if not arguments.json:
            selection.show_sweep(found)
    if arguments.diagnose:
        reasons = diagnosis.diagnose(place.run)
        write_json(folder / diagnosis.FILE, reasons)
        if not arguments.json:
            selection.show_diagnosis(reasons)
