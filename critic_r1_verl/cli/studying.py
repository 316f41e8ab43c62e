# SPDX-License-Identifier: Apache-2.0
"""critic-r1 study run, self-improve and report: what each change to the recipe does, over several seeds."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from critic_r1_verl import foreign
from critic_r1_verl.cli import flags

if TYPE_CHECKING:
    from critic_r1_verl.study.run import Settings


def add_commands(commands: Any) -> None:
    parser = commands.add_parser(
        "study", help="run studies of the recipe, and tabulate them", description=__doc__.partition(": ")[2].capitalize()
    )
    studies = parser.add_subparsers(required=True, metavar="COMMAND")

    run = flags.command(
        studies,
        "run",
        _run,
        "train, export and measure a study with each seed; the same command resumes, and skips what is finished",
        "critic-r1 study run no_kl --seeds 1,2,3 --out runs/studies",
    )
    run.add_argument("names", metavar="NAME,...", help="base, critic_r1 (the recipe as it is), files of recipe/study; or all")
    improve = flags.command(
        studies,
        "self-improve",
        _self_improve,
        "let a model train on its own verdicts for several rounds, beside controls; the same command resumes",
        "critic-r1 study self-improve self,truth,coin --rounds 3 --seeds 1,2,3 --out runs/rounds",
    )
    improve.add_argument(
        "rewards",
        type=_rewards,
        metavar="REWARD,...",
        help="self (the model's own verdicts), coin (random ones), truth (the answers of the data); controls need no critic",
    )
    improve.add_argument(
        "--rounds", type=flags.count, default=3, metavar="N", help="answer, judge, train and measure so often (default: 3)"
    )
    improve.add_argument("--no-stop", action="store_true", help="say what the guards see, but go on")
    for parser in (run, improve):
        _add_common(parser)

    report = flags.command(
        studies,
        "report",
        _report,
        "tabulate all studies that have run, with intervals over items, the spread over seeds, and paired differences from critic_r1",
        "critic-r1 study report runs/studies",
    )
    report.add_argument("out", type=Path, metavar="OUT", help="the --out of `critic-r1 study run`; gets study.json, study.md and study.svg")
    report.add_argument("--json", action="store_true", help="print the numbers as JSON instead of tables")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides for each training")
    parser.add_argument("--seeds", type=_seeds, default=(1,), metavar="N,N,...", help="train with each of these seeds (default: 1)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a data folder of `critic-r1 data build` (default: the recipe's)")
    parser.add_argument("--model", default="", metavar="M", help="folder or hub id of the base (default: the recipe's)")
    parser.add_argument(
        "--samples", type=flags.count, default=4, metavar="N", help="sampled answers to each question (default: %(default)s)"
    )
    parser.add_argument("--limit", type=flags.count, default=0, metavar="N", help="measure on N pairs and N questions, chosen by hash")
    parser.add_argument("--keep-checkpoints", action="store_true", help="do not remove them once the model is exported")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="write each run to DIR/NAME/seed-N/, or resume it there")


def _rewards(text: str) -> tuple[str, ...]:
    from critic_r1_verl.study.self_improve import REWARDS

    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in REWARDS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(REWARDS)}")
    return names


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(flags.count(part) for part in text.split(","))


def _run(arguments: argparse.Namespace) -> int:
    from critic_r1_verl.study import run

    settings = _settings(arguments)
    runs = run.planned(arguments.names.split(","), arguments.seeds, arguments.out)
    failed = run.run(runs, settings)
    if failed:
        foreign.say(f"critic-r1: {len(failed)} of {len(runs)} runs failed: {'; '.join(each.name for each in failed)}", stderr=True)
    return int(bool(failed))


def _self_improve(arguments: argparse.Namespace) -> int:
    from critic_r1_verl.study import self_improve

    settings = _settings(arguments)
    failed = self_improve.run(arguments.rewards, arguments.seeds, arguments.rounds, settings, arguments.out, no_stop=arguments.no_stop)
    if failed:
        foreign.say(f"critic-r1: {'; '.join(failed)}", stderr=True)
    return int(bool(failed))


def _settings(arguments: argparse.Namespace) -> "Settings":
    from critic_r1_verl.study.run import Settings

    given = ("data", "model", "samples", "limit", "keep_checkpoints")
    return Settings(overrides=tuple(arguments.overrides), **{name: getattr(arguments, name) for name in given})


def _report(arguments: argparse.Namespace) -> int:
    from critic_r1_verl.files import write_json
    from critic_r1_verl.report import studies
    from critic_r1_verl.study import table

    found = table.tabulate(arguments.out)
    write_json(arguments.out / "study.json", found)
    studies.write(found, arguments.out)
    if arguments.json:
        foreign.say_json(found)
    else:
        studies.show(found)
        foreign.say(f"study.json, study.md and study.svg in {arguments.out}")
    return 0
