# SPDX-License-Identifier: Apache-2.0
"""Finds the recipe folder in each kind of installation. Standard library only, because Hydra imports this module in every application."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def hydra_root() -> Path:
    """The folder that holds recipe/: critic_r1_verl/_hydra in a wheel, the repository root in a checkout or an editable install.

    FileNotFoundError if neither holds recipe/critic_r1.yaml.
    """
    for root in (PACKAGE / "_hydra", PACKAGE.parent):
        if (root / "recipe" / "critic_r1.yaml").is_file():
            return root
    raise FileNotFoundError(f"recipe/critic_r1.yaml is neither in {PACKAGE / '_hydra'} nor in {PACKAGE.parent}: reinstall critic-r1-verl")
