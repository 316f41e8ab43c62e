# SPDX-License-Identifier: Apache-2.0
"""The commands build, inspect and validate: `critic-r1 data ...` and `python -m data_prep ...` have the same parser."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from critic_r1_verl.training import recipe
from data_prep import build, inspection, validate
from data_prep.corpora import MODULES, load, parse
from data_prep.options import Corpus, Options
from data_prep.splits import DEFAULTS

PAIRS = "pairs"
"""The corpus whose columns can be named by --column."""

BUILD_EXAMPLE = """examples:
  critic-r1 data build --corpus pairs:mine.jsonl --column question:prompt --out runs/data
  critic-r1 data build --corpus rlaif_v --corpus vlfeedback:FOLDER --quota rlaif_v:20000 --decontaminate vl_rewardbench --out runs/data
  critic-r1 data build --corpus my_converter.py:raw.parquet --out runs/data
"""
INSPECT_EXAMPLE = """example:
  critic-r1 data inspect runs/data --html runs/data.html
"""
VALIDATE_EXAMPLE = """example:
  critic-r1 data validate runs/data
"""


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_prep", description="Corpora as rows that verl trains on.")
    add_commands(parser.add_subparsers(dest="command", required=True))
    arguments = parser.parse_args(words)
    try:
        return arguments.run(arguments)
    except (ValueError, OSError) as error:
        print(f"critic-r1: {error}", file=sys.stderr)
        return 1


def add_commands(subparsers: Any) -> None:
    """Add build, inspect and validate to an argparse subparsers object. Each sets `run`, a function of the arguments that returns the
    exit status; it raises ValueError or OSError for a mistake of the user.
    """
    _add_build(subparsers)

    command = _add(subparsers, "inspect", "show what is in a data folder", INSPECT_EXAMPLE)
    command.set_defaults(run=_inspect)
    command.add_argument("dir", type=Path, help="the data folder")
    command.add_argument("--html", type=Path, metavar="FILE", help="also write a page with a sample of rows")
    command.add_argument("--seed", type=int, default=0, help="draws the sample (default: 0)")
    command.add_argument("--json", action="store_true", help="print JSON instead of tables")

    command = _add(subparsers, "validate", "check a data folder again, row by row; exit status 1 if something is wrong", VALIDATE_EXAMPLE)
    command.set_defaults(run=lambda arguments: validate.validate(arguments.dir, arguments.json))
    command.add_argument("dir", type=Path, help="the data folder")
    command.add_argument("--json", action="store_true", help="print JSON instead of lines")


def _add(subparsers: Any, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    return subparsers.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_build(subparsers: Any) -> None:
    summary = "write a data folder (the rows of each split, records.jsonl, images/, manifest.json); a killed build can be run again"
    command = _add(subparsers, "build", summary, BUILD_EXAMPLE)
    command.set_defaults(run=_build)
    sources = command.add_argument_group("what goes in")
    sources.add_argument(
        "--corpus",
        action="append",
        required=True,
        metavar="NAME[:PATH]",
        help="a corpus, and the file, folder or hub id to read it from (default: its own hub id); may be repeated. NAME is one of "
        f"{', '.join(MODULES)}, or the path of your own converter file, which ends in .py",
    )
    sources.add_argument(
        "--images", action="append", default=[], metavar="NAME:DIR", help="the folder that a corpus's image paths start from"
    )
    sources.add_argument(
        "--column", action="append", default=[], metavar="OURS:THEIRS", help=f"{PAIRS}: the name that a column has in the file"
    )
    sources.add_argument("--quota", action="append", default=[], metavar="NAME:N", help="at most N records of a corpus, chosen by hash")
    sources.add_argument("--weight", action="append", default=[], metavar="NAME:W", help="shares of the corpora, instead of quotas")
    sources.add_argument("--limit", type=_count, metavar="N", help="only the first N raw rows of each corpus")
    sources.add_argument("--allow-remote", action="store_true", help="fetch images that are given as http(s) URLs")

    rows = command.add_argument_group("what comes out")
    rows.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")
    rows.add_argument("--seed", type=int, default=0, help="of every choice by hash (default: 0)")
    for name, default in reversed(DEFAULTS.items()):
        rows.add_argument(f"--{name}", type=_count, metavar="N", help=f"records held out for {name} (default: {default}, at most a tenth)")
    rows.add_argument("--both-orders", action="store_true", help="a row for each order of a pair, instead of one")
    rows.add_argument("--ties", type=_ties, default="keep", help="keep (as in the paper), drop, or the largest share that ties may have")
    rows.add_argument(
        "--decontaminate",
        nargs="+",
        default=[],
        metavar="BENCHMARK",
        help="drop what is in a benchmark: NAME or NAME:PATH of a public benchmark or of a corpus, a data folder (its test split), "
        "a .jsonl file of records",
    )
    rows.add_argument("--template", default=Options.template, metavar="NAME|FILE", help="prompt of pairs (default: %(default)s)")
    rows.add_argument(
        "--question-template", default=Options.question_template, metavar="NAME|FILE", help="prompt of questions (default: %(default)s)"
    )
    rows.add_argument("--json", action="store_true", help="print a summary of the manifest as JSON")

    size = command.add_argument_group("how large a prompt may be")
    size.add_argument(
        "--base",
        metavar="NAME|DIR|HUB_ID",
        help="whose limits hold and whose processor measures prompts: a name of recipe/base, or a model (default: the recipe's)",
    )
    size.add_argument("--no-lengths", action="store_true", help="measure nothing and drop nothing for its length")
    size.add_argument("--max-prompt-tokens", type=_count, metavar="N", help="default: data.max_prompt_length of the recipe")
    size.add_argument(
        "--min-pixels", type=_count, metavar="N", help="smaller images are enlarged (default: critic_r1.min_pixels of the recipe)"
    )
    size.add_argument(
        "--max-pixels", type=_count, metavar="N", help="larger images are reduced (default: critic_r1.max_pixels of the recipe)"
    )
    command.add_argument("--num-workers", type=_count, default=os.cpu_count() or 1, metavar="N", help="processes (default: all cores)")


def _build(arguments: argparse.Namespace) -> int:
    manifest = build.build(arguments.out, _corpora(arguments), _options(arguments))
    counts = {name: corpus["counts"] for name, corpus in manifest["corpora"].items()}
    if arguments.json:
        summary = {"out": str(arguments.out), "corpora": counts, **{key: manifest[key] for key in ("splits", "files", "images")}}
        print(json.dumps(summary, indent=2, ensure_ascii=False))
        return 0
    for name, count in counts.items():
        skipped = ", ".join(f"{number} {reason}" for reason, number in count["skipped"].items())
        print(f"{name}: read {count['read']}, kept {count['kept']}, skipped {skipped or 'none'}")
    splits = ", ".join(f"{name} {split['rows']} rows" for name, split in manifest["splits"].items())
    print(f"{arguments.out}: {splits}, {manifest['images']['count']} images")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    inspection.inspect(arguments.dir, html=arguments.html, as_json=arguments.json, seed=arguments.seed)
    return 0


def _corpora(arguments: argparse.Namespace) -> list[Corpus]:
    parsed = [parse(word) for word in arguments.corpus]
    names = [load(converter).NAME for converter, _ in parsed]
    images, quotas, weights = (_by_name(arguments, flag, names) for flag in ("images", "quota", "weight"))
    columns = {theirs: ours for ours, theirs in _assignments("column", arguments.column)}
    if columns and PAIRS not in names:
        raise ValueError(f"--column is for --corpus {PAIRS}:FILE")
    return [
        Corpus(
            converter=converter,
            location=location,
            images=Path(images[name]) if name in images else None,
            columns=columns if name == PAIRS else {},
            quota=_number("quota", _count, quotas[name]) if name in quotas else None,
            weight=_number("weight", float, weights[name]) if name in weights else None,
        )
        for name, (converter, location) in zip(names, parsed, strict=True)
    ]


def _options(arguments: argparse.Namespace) -> Options:
    """The flags, and the recipe's values where a flag is not given."""
    told = recipe.read(arguments.base)
    flags = (arguments.min_pixels, arguments.max_pixels)
    least, most = (given if flag is None else flag for flag, given in zip(flags, told.pixels, strict=True))
    return Options(
        pixels=(least, most),
        seed=arguments.seed,
        limit=arguments.limit,
        val=arguments.val,
        test=arguments.test,
        both_orders=arguments.both_orders,
        ties=arguments.ties,
        decontaminate=arguments.decontaminate,
        base=None if arguments.no_lengths else told.model,
        max_prompt_tokens=arguments.max_prompt_tokens or told.max_prompt_tokens,
        allow_remote=arguments.allow_remote,
        template=arguments.template,
        question_template=arguments.question_template,
        num_workers=arguments.num_workers,
    )


def _by_name(arguments: argparse.Namespace, flag: str, names: list[str]) -> dict[str, str]:
    given = dict(_assignments(flag, getattr(arguments, flag)))
    if unknown := sorted(given.keys() - set(names)):
        raise ValueError(f"--{flag} {unknown[0]}: no such --corpus in this build; there are {', '.join(names)}")
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
        raise ValueError(f"--{flag}: {text!r} is not a number{' above 0' if kind is _count else ''}") from error


def _count(text: str) -> int:
    if text.isdecimal() and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")


def _ties(text: str) -> str | float:
    if text in ("keep", "drop"):
        return text
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is none of keep, drop, or a share such as 0.1") from error
