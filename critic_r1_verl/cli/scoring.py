# SPDX-License-Identifier: Apache-2.0
"""critic-r1 score, compare and report: the commands that compute numbers and pages from files, without a model."""

import argparse
from pathlib import Path
from typing import Any

from critic_r1_verl import foreign
from critic_r1_verl.cli import flags


def add_commands(commands: Any) -> None:
    score = flags.command(
        commands,
        "score",
        _score,
        "compute the scores of runs again, or the official and the strict score of a file of judgements or published results",
        "critic-r1 score results.json --benchmark vl_rewardbench",
    )
    score.add_argument("path", type=Path, metavar="RUN|FILE", help="a folder of runs, judgements.jsonl, or a published result file")
    score.add_argument("--benchmark", metavar="NAME", help="the benchmark of a file (vl_rewardbench, ...); not for a folder")
    score.add_argument("--json", action="store_true", help="print the scores as JSON, shares in [0, 1]")

    compare = flags.command(
        commands,
        "compare",
        _compare,
        "show the paired differences of two runs or files on the same items, with intervals and a test",
        "critic-r1 compare runs/eval/base runs/eval/trained",
    )
    compare.add_argument("a", type=Path, metavar="A", help="a folder of runs, judgements.jsonl, or a published result file")
    compare.add_argument("b", type=Path, metavar="B", help="another one of the same kind; differences are B - A")
    compare.add_argument("--json", action="store_true", help="print the comparisons as JSON, shares in [0, 1]")

    report = flags.command(
        commands,
        "report",
        _report,
        "write an HTML page about the runs of a model, with or without a comparison, and print their numbers",
        "critic-r1 report runs/eval/trained --against runs/eval/base --out runs/report.html",
    )
    report.add_argument("runs", type=Path, metavar="RUN", help="a folder of runs: the --out of eval and select")
    report.add_argument("--against", type=Path, metavar="RUN", help="runs of another model on the same sets, such as those of the base")
    report.add_argument("--control", type=Path, metavar="RUN", help="runs of a third model, such as one trained on random labels")
    report.add_argument("--training", type=Path, metavar="FILE", help="training.jsonl of a training, whose steps are drawn as curves")
    report.add_argument("--out", type=Path, metavar="FILE", help="the page to write (default: RUN/report.html)")
    report.add_argument("--svg", type=Path, metavar="FILE", help="also write the main chart of the page as an SVG file")
    report.add_argument("--json", action="store_true", help="print the numbers of the page as JSON instead of tables")


def _score(arguments: argparse.Namespace) -> int:
    from critic_r1_verl import benchmarks
    from critic_r1_verl.report import terminal
    from critic_r1_verl.scoring import run, score

    path: Path = arguments.path
    if path.is_dir():
        if arguments.benchmark:
            raise ValueError(f"{path}: --benchmark is only for files; a run folder knows its benchmark")
        results = [run.metrics(each) for each in run.runs_in(path)]
    elif not arguments.benchmark:
        raise ValueError(f"{path}: give its benchmark with --benchmark: {', '.join((*benchmarks.MODULES, *benchmarks.LEADERBOARDS))}")
    else:
        results = [score.score_file(path, arguments.benchmark)]
    if arguments.json:
        foreign.say_json(results if path.is_dir() else results[0])
    else:
        for result in results:
            terminal.show_metrics(result)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from critic_r1_verl.report import terminal
    from critic_r1_verl.scoring import compare

    results, others = compare.compare_paths(arguments.a, arguments.b)
    if others:
        foreign.say(f"critic-r1: only in one of the two folders, not compared: {', '.join(others)}", stderr=True)
    if arguments.json:
        foreign.say_json(results)
    else:
        for result in results:
            terminal.show_comparison(result)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from critic_r1_verl.report import collect, page, terminal

    report = collect.collect(arguments.runs, against=arguments.against, control=arguments.control, training=arguments.training)
    out = arguments.out or arguments.runs / "report.html"
    page.write(report, out)
    if arguments.svg:
        page.write_chart(report, arguments.svg)
    if arguments.json:
        foreign.say_json(collect.numbers(report))
    else:
        terminal.show_report(report)
        foreign.say(f"report: {out}")
    return 0
