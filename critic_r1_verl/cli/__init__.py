# SPDX-License-Identifier: Apache-2.0
"""The program critic-r1: parses the flags, calls the function of a command, reports errors in one line. One file per group of commands."""

import argparse
import os

from critic_r1_verl import children, foreign
from critic_r1_verl.cli import data, measuring, policy, scoring, selecting, serving, studying, training

DEBUG = "CRITIC_R1_DEBUG"


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 after an error, 130 after Ctrl-C, or that of the training."""
    arguments = parse(argv)
    children.end_with_parent()
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if os.environ.get(DEBUG) == "1":
            raise
        foreign.say(f"critic-r1: {message(error)}", stderr=True)
        return 1


def message(error: Exception) -> str:
    """The text of an error in one line."""
    if isinstance(error, ModuleNotFoundError):
        text = f"{error}; install what is missing with `make setup`"
    elif isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments of one command; `run` is the function to call with them."""
    parser = argparse.ArgumentParser(
        prog="critic-r1",
        description="LLaVA-Critic-R1 on verl: build data, check, train, export, evaluate, select, score, report.",
        epilog=f"`critic-r1 COMMAND --help` shows the flags of a command and an example. {DEBUG}=1 shows the traceback of an error.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (data, training, measuring, policy, selecting, scoring, studying, serving):
        group.add_commands(commands)
    arguments, rest = parser.parse_known_args(argv)
    # argparse ends a list of positional arguments at the first flag, but overrides may come before and after flags.
    if unknown := [word for word in rest if word.startswith("-") or not hasattr(arguments, "overrides")]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        arguments.overrides += rest
    return arguments
