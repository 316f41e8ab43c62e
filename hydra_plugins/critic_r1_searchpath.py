# SPDX-License-Identifier: Apache-2.0
"""Puts recipe/ on Hydra's search path, so that `+recipe=critic_r1` composes in any Hydra application, verl's main_ppo first of all.

Hydra finds plugins in the namespace package hydra_plugins (which therefore has no __init__.py) and imports them in every application: this
module stays light.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from critic_r1_verl._paths import hydra_root
from critic_r1_verl.training import experiment

experiment.register()


class CriticR1SearchPath(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="critic_r1_verl", path=hydra_root().as_uri())
