# SPDX-License-Identifier: Apache-2.0
"""Corpora as rows that verl trains on: `python -m data_prep build --corpus NAME[:PATH] --out DIR`, then `validate` and `inspect`."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_prep import build, embedded, inspection, recipe, validate
from data_prep.corpora import MODULES

DIGITS = "digits"


def main(words: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(words)
    try:
        return arguments.run(arguments)
    except (ValueError, OSError) as error:
        print(f"data_prep: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_prep", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("build", help="write train.parquet, val.parquet, images/ and manifest.json; a killed build goes on")
    command.set_defaults(run=_build)
    sources = command.add_argument_group("what goes in")
    sources.add_argument(
        "--corpus",
        action="append",
        required=True,
        metavar="NAME[:PATH]",
        help=f"a corpus, and the file, folder or hub id to read it from (none: its own hub id); may be repeated. "
        f"{', '.join(MODULES)} ({DIGITS} is the embedded world, without a path and alone)",
    )
    sources.add_argument("--images", action="append", default=[], metavar="NAME=DIR", help="where a corpus's image paths begin")
    sources.add_argument("--column", action="append", default=[], metavar="OURS=THEIRS", help="pairs: how a column is called in the file")
    sources.add_argument("--quota", action="append", default=[], metavar="NAME=N", help="at most N records of a corpus, chosen by hash")
    sources.add_argument("--weight", action="append", default=[], metavar="NAME=W", help="shares of the corpora, instead of quotas")
    sources.add_argument("--limit", type=_count, metavar="N", help="only the first N raw rows of each corpus")
    sources.add_argument("--allow-remote", action="store_true", help="fetch images that are given as http(s) URLs")
    sources.add_argument("--random-labels", action="store_true", help=f"{DIGITS}: the control, training labels drawn by a coin")

    rows = command.add_argument_group("what comes out")
    rows.add_argument("--out", type=Path, required=True, help="folder to write")
    rows.add_argument("--seed", type=int, default=0, help="of every choice by hash")
    rows.add_argument("--val", type=_count, metavar="N", help=f"records held out (default: {build.DEFAULT_VAL}, at most a tenth)")
    rows.add_argument("--both-orders", action="store_true", help="a row for each order of a pair, instead of one")
    rows.add_argument("--ties", type=_ties, default="keep", help="keep (the paper's way), drop, or the largest share that ties may have")
    rows.add_argument(
        "--decontaminate",
        nargs="+",
        default=[],
        metavar="BENCHMARK",
        help="drop what is in a benchmark: NAME or NAME:PATH of a public one or of a corpus, a JSONL file of records, a built parquet file",
    )
    rows.add_argument("--template", metavar="NAME|FILE", help=f"prompt of pairs (default: critic; {DIGITS}: critic_short)")
    rows.add_argument("--policy-template", metavar="NAME|FILE", help=f"prompt of questions (default: policy; {DIGITS}: policy_short)")

    size = command.add_argument_group("how large a prompt may be")
    size.add_argument("--base", metavar="NAME|DIR|HUB_ID", help=f"who measures: a name of recipe/base, or a model ({DIGITS}: nobody)")
    size.add_argument("--no-lengths", action="store_true", help="measure nothing and drop nothing for its length")
    size.add_argument("--max-prompt-tokens", type=_count, metavar="N", help="default: data.max_prompt_length of the recipe")
    size.add_argument(
        "--min-pixels", type=int, metavar="N", help="smaller images are enlarged (default: critic_r1.min_pixels of the recipe)"
    )
    size.add_argument("--max-pixels", type=int, metavar="N", help="larger images are reduced (default: critic_r1.max_pixels of the recipe)")
    command.add_argument("--num-workers", type=_count, default=os.cpu_count() or 1, metavar="N", help="processes (default: all cores)")

    command = commands.add_parser("validate", help="check every row again; exit status 1 if one fails")
    command.set_defaults(run=lambda arguments: validate.validate(arguments.dir))
    command.add_argument("dir", type=Path)

    command = commands.add_parser("inspect", help="show what is in a data folder")
    command.set_defaults(run=_inspect)
    command.add_argument("dir", type=Path)
    command.add_argument("--html", type=Path, metavar="FILE", help="also write a page with a sample of rows")
    command.add_argument("--json", action="store_true", help="figures for programs instead of a table")
    command.add_argument("--seed", type=int, default=0, help="draws the sample")
    command.add_argument("--template", action="append", default=[], metavar="FILE", help="a prompt file of yours that the build used")
    return parser


def _build(arguments: argparse.Namespace) -> int:
    names = [word.partition(":")[0] for word in arguments.corpus]
    if DIGITS in names:
        if arguments.corpus != [DIGITS]:
            raise ValueError(f"--corpus {DIGITS} is a world of its own; build it alone")
        if unused := [flag for flag in ("images", "column", "quota", "weight") if getattr(arguments, flag)]:
            raise ValueError(f"--{unused[0]} is for other corpora than {DIGITS}")
        templates = (embedded.DEFAULT_OPTIONS.critic_template, embedded.DEFAULT_OPTIONS.policy_template)
        options = _options(arguments, embedded.BASE, measured=bool(arguments.base), templates=templates)
        manifest = embedded.build_digits(arguments.out, options=options, random_labels=arguments.random_labels)
    else:
        if arguments.random_labels:
            raise ValueError(f"--random-labels is for --corpus {DIGITS}")
        options = _options(arguments, None, measured=True, templates=("critic", "policy"))
        manifest = build.build(arguments.out, _corpora(arguments, names), options)
    counts = {name: corpus["counts"] for name, corpus in manifest["corpora"].items()}
    for name, count in counts.items():
        skipped = ", ".join(f"{number} {reason}" for reason, number in count["skipped"].items())
        print(f"{name}: read {count['read']}, kept {count['kept']}, skipped {skipped or 'none'}")
    splits = ", ".join(f"{name} {split['rows']} rows" for name, split in manifest["splits"].items())
    beside = "".join(f", {number} in {name}" for name, number in manifest.get("companions", {}).items())
    print(f"{arguments.out}: {splits}{beside}, {manifest['images']['count']} images")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    inspection.inspect(arguments.dir, html=arguments.html, as_json=arguments.json, seed=arguments.seed, templates=arguments.template)
    return 0


def _corpora(arguments: argparse.Namespace, names: list[str]) -> list[build.Corpus]:
    images, quotas, weights = (_by_name(arguments, flag, names) for flag in ("images", "quota", "weight"))
    columns = {theirs: ours for ours, theirs in _assignments("column", arguments.column)}
    if columns and "pairs" not in names:
        raise ValueError("--column is for --corpus pairs:FILE")
    return [
        build.Corpus(
            name=name,
            location=word.partition(":")[2],
            images=Path(images[name]) if name in images else None,
            names=columns if name == "pairs" else {},
            quota=_number("quota", _count, quotas[name]) if name in quotas else None,
            weight=_number("weight", float, weights[name]) if name in weights else None,
        )
        for name, word in zip(names, arguments.corpus, strict=True)
    ]


def _options(arguments: argparse.Namespace, base: str | None, *, measured: bool, templates: tuple[str, str]) -> build.Options:
    """base, measured and templates (of pairs, of questions) hold where no flag says otherwise."""
    told = recipe.read(arguments.base or base)
    flags = (arguments.min_pixels, arguments.max_pixels)
    least, most = (given if flag is None else flag for flag, given in zip(flags, told.pixels, strict=True))
    return build.Options(
        seed=arguments.seed,
        limit=arguments.limit,
        val=arguments.val,
        both_orders=arguments.both_orders,
        ties=arguments.ties,
        decontaminate=arguments.decontaminate,
        pixels=(least, most),
        base=told.model if measured and not arguments.no_lengths else None,
        max_prompt_tokens=told.max_prompt_tokens if arguments.max_prompt_tokens is None else arguments.max_prompt_tokens,
        allow_remote=arguments.allow_remote,
        critic_template=arguments.template or templates[0],
        policy_template=arguments.policy_template or templates[1],
        num_workers=arguments.num_workers,
    )


def _by_name(arguments: argparse.Namespace, flag: str, names: list[str]) -> dict[str, str]:
    given = dict(_assignments(flag, getattr(arguments, flag)))
    if unknown := sorted(given.keys() - set(names)):
        raise ValueError(f"--{flag} {unknown[0]}: no such --corpus in this build")
    return given


def _assignments(flag: str, words: list[str]) -> list[tuple[str, str]]:
    parts = [word.partition("=") for word in words]
    if wrong := [word for word, (name, _, value) in zip(words, parts, strict=True) if not name or not value]:
        raise ValueError(f"--{flag} {wrong[0]}: write it as NAME=VALUE")
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


if __name__ == "__main__":
    sys.exit(main())
