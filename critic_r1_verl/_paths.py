# SPDX-License-Identifier: Apache-2.0
"""Where the recipe folder lies in each kind of installation; standard library only, since Hydra imports it in every application."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def hydra_root() -> Path:
    """The folder that holds recipe/: critic_r1_verl/_hydra in a wheel, the repository root in a checkout or an editable install."""
    for root in (PACKAGE / "_hydra", PACKAGE.parent):
        if (root / "recipe" / "critic_r1.yaml").is_file():
            return root
    raise FileNotFoundError(f"recipe/critic_r1.yaml is neither in {PACKAGE / '_hydra'} nor in {PACKAGE.parent}: reinstall critic-r1-verl")
