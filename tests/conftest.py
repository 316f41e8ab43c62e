# SPDX-License-Identifier: Apache-2.0
"""What all tests share: a model, faked at the one seam critic_r1_verl.generate, and a faster way to compose the recipe."""

import functools
import gc
import importlib.metadata
import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import omegaconf
import pytest
import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource

from critic_r1_verl.engines.base import Completion, Done, Request
from critic_r1_verl.training.compose import compose

# Looking for entry points reads the metadata of all that is installed, and a version is read from the whole of a package's metadata.
importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)
importlib.metadata.version = functools.cache(importlib.metadata.version)
# A composed configuration is ten thousand small objects; looking for garbage among them again and again takes a third of these tests' time.
gc.set_threshold(100_000)
# Hydra reads a hundred files of verl for each composition, with the slow one of the two loaders; they give the same. Neither files nor
# interpolations change while the tests run, so each is parsed once.
yaml.SafeLoader = yaml.CSafeLoader
RECIPES = Path(__file__).resolve().parents[1] / "recipe"
parse_once = functools.cache(omegaconf.grammar_parser.parse)
omegaconf.base.parse = omegaconf._utils.parse = parse_once
load_config = FileConfigSource.load_config


@functools.cache
def loaded(path: str, config_path: str) -> bytes:
    return pickle.dumps(load_config(FileConfigSource(provider="main", path=f"file://{path}"), config_path))


FileConfigSource.load_config = lambda source, config_path: pickle.loads(loaded(source.path, config_path))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--hunt-seconds", type=float, default=0.5, help="how long test_grading.py hunts for the slowest answer")


class Scripted:
    """A model that writes the text or Completion of `reply(prompt, sample)`, in the order of `arrival(places)`. asked: its requests."""

    name = "scripted"
    left_out = ()

    def __init__(self, reply: Callable[[str, int], str | Completion], die_after: int | None = None, arrival: Callable = list) -> None:
        self.reply, self.die_after, self.arrival = reply, die_after, arrival
        self.asked: list[Request] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[Done]:
        numbered, done = enumerate(requests), 0
        while taken := list(numbered):
            for place in self.arrival(range(len(taken))):
                if done == self.die_after:
                    raise KeyboardInterrupt
                index, request = taken[place]
                self.asked.append(request)
                said = [self.reply(request.prompt, sample) for sample in range(request.sampling.samples)]
                yield index, [each if isinstance(each, Completion) else Completion(each, 9, 5) for each in said]
                done += 1


@pytest.fixture(scope="session")
def scripted() -> type[Scripted]:
    return Scripted


@functools.cache
def composed(recipe: str, groups: tuple[str, ...] = ()) -> bytes:
    """Hydra composes the recipe alone; a file of recipe/ is then merged on top, as Hydra does it (tests/test_recipe.py compares)."""
    if not groups:
        return pickle.dumps(compose(recipe, []))
    config = pickle.loads(composed(recipe, groups[:-1]))
    with omegaconf.open_dict(config):
        config.merge_with(omegaconf.OmegaConf.load(RECIPES / f"{groups[-1].removeprefix('+recipe/').replace('=', '/')}.yaml"))
    return pickle.dumps(config)


def compose_quickly(recipe: str, overrides: list[str]) -> Any:
    """What compose returns for overrides like KEY=VALUE, +KEY=VALUE and +recipe/KIND=NAME, which take Hydra half a second each time."""
    config = pickle.loads(composed(recipe, tuple(word for word in overrides if word.startswith("+recipe/"))))
    for word in overrides:
        if not word.startswith("+recipe/"):
            key, _, value = word.partition("=")
            parsed = yaml.load(value, Loader=omegaconf._utils.get_yaml_loader())
            omegaconf.OmegaConf.update(config, key.lstrip("+"), parsed, force_add=word.startswith("+"))
    return config


@pytest.fixture(scope="session")
def quick_compose() -> Callable[[str, list[str]], Any]:
    return compose_quickly
