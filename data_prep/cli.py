# SPDX-License-Identifier: Apache-2.0
"""The commands build, inspect and validate of `critic-r1 data`. `python -m data_prep` runs the same commands."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from critic_r1_verl import cli, foreign
from critic_r1_verl.cli import flags
from critic_r1_verl.data_folder import rows_file, without_held_out
from critic_r1_verl.training import recipe
from data_prep import build, inspection, preview, validate, vocabulary
from data_prep.corpora import MODULES, load, parse
from data_prep.options import Corpus, Options
from data_prep.splits import DEFAULTS

PAIRS = "pairs"
"""The only corpus whose columns --column can rename."""

BUILD_EXAMPLES = """critic-r1 data build --corpus pairs:mine.jsonl --column question:prompt --out runs/data
  critic-r1 data build --corpus rlaif_v --corpus vlfeedback:FOLDER --quota rlaif_v:20000 --decontaminate vl_rewardbench --out runs/data
  critic-r1 data build --corpus my_converter.py:raw.parquet --out runs/data"""


def main(words: Sequence[str] | None = None) -> int:
    """Run `critic-r1 data WORDS...`, by default with the words of the command line, and return its exit status."""
    return cli.main(["data", *(sys.argv[1:] if words is None else words)])


def add_commands(subparsers: Any) -> None:
    """Add build, inspect and validate to an argparse subparsers object.

    Each sets `run`, a function of the arguments that returns the exit status and raises ValueError or OSError for a mistake of the user.
    """
    _add_build(subparsers)

    example = "critic-r1 data inspect runs/data --html runs/data.html"
    command = flags.command(subparsers, "inspect", _inspect, "show what is in a data folder", example)
    command.add_argument("dir", type=Path, help="the data folder")
    command.add_argument("--html", type=Path, metavar="FILE", help="also write an HTML page, with a sample of the rows")
    command.add_argument("--seed", type=int, default=0, help="seed of the sample (default: 0)")
    command.add_argument("--json", action="store_true", help="print JSON instead of tables")

    summary = "check a data folder row by row; the exit status is 1 if something is wrong"
    command = flags.command(subparsers, "validate", _validate, summary, "critic-r1 data validate runs/data")
    command.add_argument("dir", type=Path, help="the data folder")
    command.add_argument("--json", action="store_true", help="print JSON instead of lines")


def _add_build(subparsers: Any) -> None:
    summary = "write a data folder (the rows of each split, records.jsonl, images/, manifest.json); the same command resumes a killed build"
    command = flags.command(subparsers, "build", _build, summary, BUILD_EXAMPLES)
    sources = command.add_argument_group("input")
    sources.add_argument(
        "--corpus",
        action="append",
        required=True,
        metavar="NAME[:PATH]",
        help="a corpus, and the file, folder or hub id to read it from (default: the hub id of the corpus); may be repeated. NAME is one "
        f"of {', '.join(MODULES)}, or the path of your own converter file, which ends in .py",
    )
    sources.add_argument(
        "--images", action="append", default=[], metavar="NAME:DIR", help="folder to which the image paths of a corpus are relative"
    )
    sources.add_argument(
        "--column", action="append", default=[], metavar="OURS:THEIRS", help=f"{PAIRS}: read column OURS from column THEIRS"
    )
    sources.add_argument(
        "--answer",
        action="append",
        default=[],
        metavar="SPELLING=MEANING",
        help="corpora with labels of unknown spelling, such as llava_critic_grpo: what a spelling means, one of "
        f"{', '.join(vocabulary.MEANINGS)}; may be repeated",
    )
    sources.add_argument(
        "--max-unread",
        type=flags.share,
        default=Options.max_unread,
        metavar="SHARE",
        help="rows of a corpus whose answer, or whose prompt, may be unreadable (default: %(default)s)",
    )
    sources.add_argument(
        "--quota", action="append", default=[], metavar="NAME:N", help="take at most N records of a corpus, chosen by hash"
    )
    sources.add_argument(
        "--weight", action="append", default=[], metavar="NAME:W", help="relative share of a corpus; for all corpora or none"
    )
    sources.add_argument("--limit", type=flags.count, metavar="N", help="read only the first N raw rows of each corpus")
    sources.add_argument("--allow-remote", action="store_true", help="download images that are given as http(s) URLs")

    rows = command.add_argument_group("output")
    rows.add_argument("--out", type=Path, metavar="DIR", help="the folder to write")
    rows.add_argument("--dry-run", action="store_true", help="show the layout and the first row of each corpus as it is read, and stop")
    rows.add_argument("--seed", type=int, default=0, help="seed of every choice by hash (default: 0)")
    for name, default in reversed(DEFAULTS.items()):
        help = f"records in the {name} split; 0 for none (default: {default}, but at most a tenth of all)"
        rows.add_argument(f"--{name}", type=_count_or_none, metavar="N", help=help)
    rows.add_argument("--both-orders", action="store_true", help="write a row for each of the two orders of a pair")
    rows.add_argument("--ties", type=_ties, default="keep", help="keep (as in the paper), drop, or the largest share of ties, such as 0.1")
    rows.add_argument(
        "--decontaminate",
        nargs="+",
        default=[],
        metavar="BENCHMARK",
        help="drop records that repeat an item of a benchmark: NAME or NAME:PATH of a public benchmark or of a corpus, a data folder "
        "(its test split), or a .jsonl file of records",
    )
    rows.add_argument("--template", default=Options.template, metavar="NAME|FILE", help="prompt of pairs (default: %(default)s)")
    rows.add_argument(
        "--question-template", default=Options.question_template, metavar="NAME|FILE", help="prompt of questions (default: %(default)s)"
    )
    rows.add_argument("--json", action="store_true", help="print a summary of the manifest as JSON")

    size = command.add_argument_group("size of a prompt")
    size.add_argument(
        "--base",
        metavar="NAME|DIR|HUB_ID",
        help="the model whose processor measures prompts: a name in recipe/base, whose limits then apply, a folder or a hub id "
        "(default: the base of the recipe)",
    )
    size.add_argument("--no-lengths", action="store_true", help="do not measure prompts, and drop none for its length")
    size.add_argument("--max-prompt-tokens", type=flags.count, metavar="N", help="default: data.max_prompt_length of the recipe")
    for name, effect in (("min", "smaller images are enlarged"), ("max", "larger images are reduced")):
        help = f"{effect} (default: critic_r1.{name}_pixels of the recipe)"
        size.add_argument(f"--{name}-pixels", type=flags.count, metavar="N", help=help)
    help = "processes (default: one for each core)"
    command.add_argument("--num-workers", type=flags.count, default=os.cpu_count() or 1, metavar="N", help=help)


def _build(arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        for line in preview.dry_run(_corpora(arguments), _options(arguments)):
            foreign.say(line)
        return 0
    if arguments.out is None:
        raise ValueError("--out is missing: name the folder to write, or only look at the first row by --dry-run")
    manifest = build.build(arguments.out, _corpora(arguments), _options(arguments))
    counts = {name: corpus["counts"] for name, corpus in manifest["corpora"].items()}
    if arguments.json:
        shown = ("splits", "paid_in_one_notation", "files", "images")
        foreign.say_json({"out": str(arguments.out), "corpora": counts, **{key: manifest[key] for key in shown}})
        return 0
    for name, count in counts.items():
        skipped = ", ".join(f"{number} {reason}" for reason, number in count["skipped"].items())
        foreign.say(f"{name}: read {count['read']}, kept {count['kept']}, skipped {skipped or 'none'}")
        for layout, number in count.get("layouts", {}).items():
            foreign.say(f"{name}: {number} read in the layout {layout}")
        if count.get("unread"):
            foreign.say(f"{name}: answers not read, which --answer SPELLING=MEANING can map: {vocabulary.listing(count['unread'])}")
        if count.get("unread_prompts"):
            foreign.say(f"{name}: prompts not read, by their headings: {vocabulary.listing(count['unread_prompts'])}")
    splits = ", ".join(f"{name} {split['rows']} rows" for name, split in manifest["splits"].items())
    foreign.say(f"{arguments.out}: {splits}, {manifest['images']['count']} images")
    if number := manifest["paid_in_one_notation"]:
        foreign.say(f"{number} answers are paid in their own notation only: critic-r1 data validate {arguments.out} names them")
    if not manifest["splits"]["val"]["rows"]:
        settings = without_held_out(str(arguments.out / rows_file("train")))
        foreign.say(f"nothing is held out, so a training on it is not validated; it needs {settings}")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    inspection.inspect(arguments.dir, html=arguments.html, as_json=arguments.json, seed=arguments.seed)
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    return validate.validate(arguments.dir, arguments.json)


def _corpora(arguments: argparse.Namespace) -> list[Corpus]:
    parsed = [parse(word) for word in arguments.corpus]
    modules = [load(converter) for converter, _ in parsed]
    names = [module.NAME for module in modules]
    images, quotas, weights = (_by_name(arguments, flag, names) for flag in ("images", "quota", "weight"))
    columns = {theirs: ours for ours, theirs in _assignments("column", arguments.column)}
    if columns and PAIRS not in names:
        raise ValueError(f"--column is for --corpus {PAIRS}:FILE")
    answers = vocabulary.parse(arguments.answer)
    if answers and not any(hasattr(module, "LABEL") for module in modules):
        raise ValueError(f"--answer is for corpora with labels of unknown spelling; no such corpus is among {', '.join(names)}")
    return [
        Corpus(
            converter=converter,
            location=location,
            images=Path(images[name]) if name in images else None,
            columns=columns if name == PAIRS else {},
            answers=answers if hasattr(module, "LABEL") else {},
            quota=_number("quota", flags.count, quotas[name]) if name in quotas else None,
            weight=_number("weight", float, weights[name]) if name in weights else None,
        )
        for name, module, (converter, location) in zip(names, modules, parsed, strict=True)
    ]


def _options(arguments: argparse.Namespace) -> Options:
    """The options of the command line; the recipe gives the values of flags that are not set."""
    defaults = recipe.read(arguments.base)
    min_pixels, max_pixels = defaults.pixels
    return Options(
        pixels=(arguments.min_pixels or min_pixels, arguments.max_pixels or max_pixels),
        seed=arguments.seed,
        limit=arguments.limit,
        val=arguments.val,
        test=arguments.test,
        both_orders=arguments.both_orders,
        ties=arguments.ties,
        decontaminate=arguments.decontaminate,
        base=None if arguments.no_lengths else defaults.model,
        max_prompt_tokens=arguments.max_prompt_tokens or defaults.max_prompt_tokens,
        allow_remote=arguments.allow_remote,
        max_unread=arguments.max_unread,
        template=arguments.template,
        question_template=arguments.question_template,
        num_workers=arguments.num_workers,
    )


def _by_name(arguments: argparse.Namespace, flag: str, names: list[str]) -> dict[str, str]:
    given = dict(_assignments(flag, getattr(arguments, flag)))
    if unknown := sorted(given.keys() - set(names)):
        raise ValueError(f"--{flag} {unknown[0]}: no such --corpus in this build; the corpora are {', '.join(names)}")
    return given


def _assignments(flag: str, words: list[str]) -> list[tuple[str, str]]:
    parts = [word.partition(":") for word in words]
    if wrong := [word for word, (name, _, value) in zip(words, parts, strict=True) if not name or not value]:
        raise ValueError(f"--{flag} {wrong[0]}: write it as NAME:VALUE")
    return [(name, value) for name, _, value in parts]


def _number(flag: str, kind: Callable[[str], Any], text: str) -> Any:
    try:
        return kind(text)
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise ValueError(f"--{flag}: {error}") from error


def _count_or_none(text: str) -> int:
    return 0 if text == "0" else flags.count(text)


def _ties(text: str) -> str | float:
    if text in ("keep", "drop"):
        return text
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is neither keep nor drop nor a share such as 0.1") from error
