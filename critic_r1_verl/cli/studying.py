# SPDX-License-Identifier: Apache-2.0
"""critic-r1 study run and report: what each change to the recipe does, over several seeds."""

import argparse
from pathlib import Path
from typing import Any

from critic_r1_verl import foreign
from critic_r1_verl.cli import flags


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
    run.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides for each training")
    run.add_argument("--seeds", type=_seeds, default=(1,), metavar="N,N,...", help="train with each of these seeds (default: 1)")
    run.add_argument("--data", type=Path, metavar="DIR", help="a data folder of `critic-r1 data build` (default: the recipe's)")
    run.add_argument("--model", default="", metavar="M", help="folder or hub id of the base (default: the recipe's)")
    run.add_argument("--samples", type=flags.count, default=4, metavar="N", help="sampled answers to each question (default: %(default)s)")
    run.add_argument("--limit", type=flags.count, default=0, metavar="N", help="measure on N pairs and N questions, chosen by hash")
    run.add_argument("--keep-checkpoints", action="store_true", help="do not remove them once the model is exported")
    run.add_argument("--out", type=Path, required=True, metavar="DIR", help="write each run to DIR/NAME/seed-N/, or resume it there")

    report = flags.command(
        studies,
        "report",
        _report,
        "tabulate all studies that have run, with intervals over items, the spread over seeds, and paired differences from critic_r1",
        "critic-r1 study report runs/studies",
    )
    report.add_argument("out", type=Path, metavar="OUT", help="the --out of `critic-r1 study run`; gets study.json, study.md and study.svg")
    report.add_argument("--json", action="store_true", help="print the numbers as JSON instead of tables")


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(flags.count(part) for part in text.split(","))


def _run(arguments: argparse.Namespace) -> int:
    from critic_r1_verl.study import run

    given = ("data", "model", "samples", "limit", "keep_checkpoints")
    settings = run.Settings(overrides=tuple(arguments.overrides), **{name: getattr(arguments, name) for name in given})
    runs = run.planned(arguments.names.split(","), arguments.seeds, arguments.out)
    failed = run.run(runs, settings)
    if failed:
        foreign.say(f"critic-r1: {len(failed)} of {len(runs)} runs failed: {'; '.join(each.name for each in failed)}", stderr=True)
    return int(bool(failed))


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
