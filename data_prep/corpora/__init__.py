# SPDX-License-Identifier: Apache-2.0
"""The converters: one module for each public corpus, one for the user's own pairs, and any converter file that the user has written.

The interface is described in data_prep/corpus.py. A module is imported only when it is asked for.
"""

import hashlib
import re
import sys
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from critic_r1_verl.files import file_sha256

MODULES = {
    name: f"data_prep.corpora.{name}"
    for name in (
        "llava_critic_113k",
        "llava_critic_grpo",
        "llava_rlhf",
        "mm_rlhf",
        "mmpr",
        "pairs",
        "povid",
        "r1_reward_rl",
        "rlaif_v",
        "rlhf_v",
        "vlfeedback",
        "wildvision",
        "geometry3k",
        "mmk12",
        "thinklite_hard",
        "virl39k",
    )
}

CONSTANTS = ("NAME", "HUB", "CONFIG", "SPLIT", "REVISION", "LICENCE", "GRADE", "COLUMNS")


def parse(word: str) -> tuple[str, str]:
    """Converter and location of NAME[:PATH] or FILE.py[:PATH]; the location is "" where none is given.

    >>> parse("pairs:mine.jsonl"), parse("../mine.py:data/raw:1"), parse("rlaif_v")
    (('pairs', 'mine.jsonl'), ('../mine.py', 'data/raw:1'), ('rlaif_v', ''))
    """
    file = re.match(r"(.+?\.py)(?::(.*))?$", word, re.DOTALL)
    if file:
        return file[1], file[2] or ""
    converter, _, location = word.partition(":")
    return converter, location


def load(converter: str) -> Any:
    """The module of a corpus, by its name or by the path of a converter file that ends in .py.

    ValueError lists the names there are, or says what is wrong with the file.
    """
    if converter.endswith(".py"):
        file = Path(converter).resolve()
        if not file.is_file():
            raise ValueError(f"--corpus {converter}: no such converter file")
        return _load_file(str(file), file_sha256(file))
    if converter not in MODULES:
        names = ", ".join(sorted(MODULES))
        raise ValueError(f"--corpus {converter}: no such corpus; there are {names}, or give the path of a converter file that ends in .py")
    return import_module(MODULES[converter])


def file_identity(converter: str) -> dict[str, str] | None:
    """Name and sha256 of the user's converter file; None for a module of this package, whose version says what it does."""
    if not converter.endswith(".py"):
        return None
    file = Path(converter)
    return {"file": file.name, "sha256": file_sha256(file)}


@cache
def _load_file(path: str, sha: str) -> Any:
    """Import a converter file under a name of its own, which follows from its path and content: a changed file is imported again."""
    name = f"data_prep_converter_{hashlib.sha256(f'{path}:{sha}'.encode()).hexdigest()[:12]}"
    spec = spec_from_file_location(name, path)
    assert spec and spec.loader, "a file whose name ends in .py has a loader"
    module = module_from_spec(spec)
    # Dataclasses and pickle look the module up by its name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    # Whatever the user's file raises when it is imported, it is that file that has to be corrected.
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"--corpus {path}: the converter file cannot be imported: {type(error).__name__}: {error}") from error
    if missing := [constant for constant in (*CONSTANTS, "convert") if not hasattr(module, constant)]:
        raise ValueError(f"--corpus {path}: the converter file does not define {', '.join(missing)}; see data_prep/corpus.py")
    return module
