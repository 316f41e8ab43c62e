# SPDX-License-Identifier: Apache-2.0
"""The converters: one module for each public corpus, one for the user's own pairs, and any converter file of the user.

data_prep/corpus.py describes the interface. A module is imported only when it is needed.
"""

import ast
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
    """Converter and location of NAME[:PATH] or FILE.py[:PATH]; the location is "" if no path is given.

    >>> parse("pairs:mine.jsonl"), parse("../mine.py:data/raw:1"), parse("rlaif_v")
    (('pairs', 'mine.jsonl'), ('../mine.py', 'data/raw:1'), ('rlaif_v', ''))
    """
    file = re.match(r"(.+?\.py)(?::(.*))?$", word, re.DOTALL)
    if file:
        return file[1], file[2] or ""
    converter, _, location = word.partition(":")
    return converter, location


def load(converter: str) -> Any:
    """The module of a corpus, by its name or by the path of a converter file, which ends in .py.

    ValueError for an unknown name, or for a file that is missing, cannot be imported or lacks a constant.
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


def file_identity(converter: str) -> dict[str, Any] | None:
    """Name and sha256 of the user's converter file; None for a module of this package, which the version of the package identifies.

    If the file imports other files of its folder, directly or indirectly, "imports" holds their names and sha256.
    """
    if not converter.endswith(".py"):
        return None
    file, *imported = _with_imports(Path(converter))
    identity: dict[str, Any] = {"file": file.name, "sha256": file_sha256(file)}
    return identity | {"imports": {other.name: file_sha256(other) for other in imported}} if imported else identity


def _with_imports(file: Path) -> list[Path]:
    """A Python file, and the files of its folder that it imports, directly or indirectly."""
    files = [file]
    for importer in files:
        for node in ast.walk(ast.parse(importer.read_bytes())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            beside = [file.with_name(f"{name}.py") for name in names]
            files += [imported for imported in beside if imported.is_file() and imported not in files]
    return files


@cache
def _load_file(path: str, sha: str) -> Any:
    """Import a converter file under a module name that depends on its path and content, so that a changed file is imported again."""
    name = f"data_prep_converter_{hashlib.sha256(f'{path}:{sha}'.encode()).hexdigest()[:12]}"
    spec = spec_from_file_location(name, path)
    assert spec and spec.loader, "a file whose name ends in .py has a loader"
    module = module_from_spec(spec)
    # Dataclasses and pickle look up the module by its name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    # A converter file can raise any exception at import; the user has to correct the file.
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"--corpus {path}: the converter file cannot be imported: {type(error).__name__}: {error}") from error
    if missing := [constant for constant in (*CONSTANTS, "convert") if not hasattr(module, constant)]:
        raise ValueError(f"--corpus {path}: the converter file does not define {', '.join(missing)}; see data_prep/corpus.py")
    if not re.fullmatch(r"[\w-]+", str(module.NAME)):
        raise ValueError(f"--corpus {path}: NAME is {module.NAME!r}; use letters, digits, - and _ only, because files are named by it")
    return module
