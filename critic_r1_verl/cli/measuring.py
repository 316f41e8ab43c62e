# SPDX-License-Identifier: Apache-2.0
"""critic-r1 eval and judge: measure a model, and judge a single pair."""

import argparse
from pathlib import Path
from typing import Any

from critic_r1_verl import foreign
from critic_r1_verl.cli import flags


def add_commands(commands: Any) -> None:
    engine, sets = flags.engine(), flags.sets()
    evaluate = flags.command(
        commands,
        "eval",
        _eval,
        "judge pairs in both orders, answer questions, and score both; the same command resumes an interrupted run",
        "critic-r1 eval --model runs/trained --data runs/data --benchmark vl_rewardbench --out runs/eval",
        parents=[engine, sets],
    )
    evaluate.add_argument(
        "--temperature", type=float, metavar="T", help="for judgements (default: 0, or 1 with --repeats); answers are greedy"
    )
    evaluate.add_argument("--repeats", type=flags.count, default=1, metavar="K", help="judge each order K times; the majority counts")

    judge = flags.command(
        commands,
        "judge",
        _judge,
        "judge one pair in both orders and show the reasoning",
        'critic-r1 judge --model runs/trained --image cat.jpg --question "What is it?" --response "A cat." --response "A dog."',
        parents=[engine],
    )
    judge.add_argument("--image", type=Path, action="append", required=True, metavar="FILE", help="an image; may be repeated, in order")
    judge.add_argument("--question", required=True, metavar="TEXT")
    judge.add_argument("--response", action="append", required=True, metavar="TEXT", help="a response; give two")
    judge.add_argument("--temperature", type=float, default=0.0, metavar="T", help="for judgements (default: %(default)s)")
    judge.add_argument("--json", action="store_true", help="print the verdict and both judgements as JSON")


def _eval(arguments: argparse.Namespace) -> int:
    from critic_r1_verl import evaluate
    from critic_r1_verl.report import terminal

    temperature = arguments.temperature if arguments.temperature is not None else float(arguments.repeats > 1)
    settings = flags.settings(arguments, judging=temperature, answering=0.0, repeats=arguments.repeats)
    results = []
    with flags.prepared_sets(arguments, settings.limit) as places:
        engine, facts, settings = flags.start(arguments, settings)
        for place in places:
            results.append(evaluate.evaluate(engine, place, settings, facts))
            if not arguments.json:
                terminal.show_metrics(results[-1])
                foreign.say(f"{place.run.folder}\n")
    if arguments.json:
        foreign.say_json(results)
    elif len(results) > 1:
        terminal.show_summary(results)
    return 0


def _judge(arguments: argparse.Namespace) -> int:
    from critic_r1_verl import evaluate
    from critic_r1_verl.report import terminal

    if len(arguments.response) != 2:
        raise ValueError(f"--response is given {len(arguments.response)} time(s); give it once for each of the two responses")
    if missing := [file for file in arguments.image if not file.is_file()]:
        raise ValueError(f"{missing[0]}: no such image file")
    settings = flags.settings(arguments, judging=arguments.temperature, answering=0.0)
    engine, _, settings = flags.start(arguments, settings)
    first, second = arguments.response
    result = evaluate.judge_one(engine, arguments.image, arguments.question, (first, second), settings)
    if arguments.json:
        foreign.say_json(result)
    else:
        terminal.show_judgement(result)
    return 0
