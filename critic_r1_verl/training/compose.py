# SPDX-License-Identifier: Apache-2.0
"""verl's whole configuration, composed from the installed verl's own YAML, the recipe and the overrides of a run; verl is not imported."""

import importlib.util
from pathlib import Path
from typing import Any

from critic_r1_verl.training import experiment


def quoted(text: str) -> str:
    """A text as the value of a Hydra override, whatever is in it."""
    return "'" + text.replace("'", "\\'") + "'"


def compose(recipe: str, overrides: list[str]) -> Any:
    """verl's configuration (a DictConfig, not resolved) as main_ppo composes it. ValueError with Hydra's reason, in one line."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    spec = importlib.util.find_spec("verl")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("verl is not installed in this Python; run `make setup`")
    experiment.register()
    yaml_folder = str(Path(spec.submodule_search_locations[0]) / "trainer" / "config")
    try:
        with initialize_config_dir(yaml_folder, version_base=None):
            config = hydra_compose("ppo_trainer", overrides=[f"+recipe={recipe}", *overrides])
        # verl resolves everything too, but later and in another process; this includes the name of the run.
        OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        reason = str(error).split("Config search path")[0]
        raise ValueError(" ".join(reason.split())) from error
    return config
