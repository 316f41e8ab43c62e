# SPDX-License-Identifier: Apache-2.0
"""critic-r1 data: the commands of data_prep/cli.py, which are also available as `python -m data_prep`."""

from typing import Any


def add_commands(commands: Any) -> None:
    from data_prep import cli

    parser = commands.add_parser("data", help="build, inspect and validate data folders", description=cli.__doc__)
    cli.add_commands(parser.add_subparsers(required=True, metavar="COMMAND"))
