# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, read from the sources."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "critic_r1_verl"

# A room (a module, or a package with all its modules) imports from layers above its own in this list, never from below or beside it; a new
# room has to be given its place.
LAYERS = (
    {"_paths", "foreign"},
    {"files", "images", "hub", "chat_template", "children"},
    {"supervise", "records", "cpu", "grading", "stages"},
    {"devices", "verdict", "prompts", "tokens"},
    {"reward", "lines", "data_folder"},
    {"benchmarks", "rows", "engines", "mixture", "pairing"},
    {"dataset", "sampler", "journal", "critics"},
    {"critic_reward"},
    {"critic_sampler", "judge", "answer", "select", "training"},
    {"scoring"},
    {"study"},
    {"evaluate", "report", "gateway", "policy_benchmarks"},
    {"cli"},
)

HEAVY = {
    "torch",
    "verl",
    "vllm",
    "transformers",
    "datasets",
    "ray",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "PIL",
    "sklearn",
    "transfer_queue",
    "openai",
    "httpx",
    "httpx2",
}
# verl calls these and the CPU backend: where they are imported, verl is there already.
HEAVY_ALLOWED = {"dataset", "sampler", "critic_sampler", "cpu"}
IMPORTERS = {"verl": {"dataset", "sampler", "critic_sampler", "training", "cpu"}, "vllm": {"engines", "cpu"}}
MAX_LINES = 300


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@functools.cache
def imports(path: Path, *, executed_only: bool = False) -> tuple[str, ...]:
    """Dotted names that a file imports; with executed_only those that importing the file itself imports."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif executed_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    return tuple(visit(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))))


def module(path: Path) -> str:
    """records for critic_r1_verl/records.py, cpu for critic_r1_verl/cpu/platform.py, __init__ for the package itself."""
    return path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")


def layer(name: str) -> int:
    found = [number for number, layer in enumerate(LAYERS) if name in layer]
    assert len(found) == 1, f"{name}: give this module its place in LAYERS"
    return found[0]


def own(names: Iterator[str]) -> set[str]:
    """The modules of the package among dotted names; `from critic_r1_verl import __version__` is none."""
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == PACKAGE and len(part) > 1} - {"__version__"}


@pytest.mark.parametrize(
    "path", [path for path in sources(PACKAGE) if module(path) != "__init__"], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_import_order(path: Path) -> None:
    importer = module(path)
    assert [name for name in own(imports(path)) - {importer} if layer(name) >= layer(importer)] == []


@pytest.mark.parametrize("folder", [PACKAGE, "data_prep", "examples"])
def test_no_module_is_large(folder: str) -> None:
    sizes = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in sources(folder)}
    assert {path: size for path, size in sizes.items() if size > MAX_LINES} == {}


@pytest.mark.parametrize("host", IMPORTERS)
def test_few_modules_know_the_host(host: str) -> None:
    users = {module(path) for path in sources(PACKAGE) if host in {name.split(".")[0] for name in imports(path)}}
    assert users <= IMPORTERS[host]


def test_nothing_heavy_is_imported_at_module_level() -> None:
    light = [path for path in sources(PACKAGE) if module(path) not in HEAVY_ALLOWED] + sources("data_prep") + sources("hydra_plugins")
    found = {
        path.relative_to(ROOT).as_posix(): {name.split(".")[0] for name in imports(path, executed_only=True)} & HEAVY for path in light
    }
    assert {path: names for path, names in found.items() if names} == {}


def test_light_modules_are_light_when_imported() -> None:
    """The same, as Python sees it: what a third package imports in turn is in it too."""
    light = [path.relative_to(ROOT).with_suffix("") for path in sources(PACKAGE) if module(path) not in HEAVY_ALLOWED]
    names = sorted(".".join(path.parts).removesuffix(".__init__") for path in light if path.name != "__main__")
    program = f"import sys, {', '.join(names)}; print(*(sys.modules.keys() & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_package_does_not_know_data_prep_examples_or_tests() -> None:
    files = [path for folder in (PACKAGE, "hydra_plugins") for path in sources(folder)]
    # The program mounts the commands of data_prep; the library below it does not know them.
    used = {name.split(".")[0] for path in files if path != ROOT / PACKAGE / "cli" / "data.py" for name in imports(path)}
    assert used.isdisjoint({"data_prep", "examples", "tests", "recipe"})


@pytest.mark.parametrize("folder", [PACKAGE, "data_prep", "examples"])
def test_only_one_module_writes_to_the_terminal(folder: str) -> None:
    """Else the text of a model, a file or a server could reach the terminal with its control characters, or as markup."""
    names = ("print", "Console", "TextColumn", "Text", "track")
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.func.id}"
        for path in set(sources(folder)) - {ROOT / PACKAGE / "foreign.py"}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
    ]
    assert found == []


def test_folders_that_are_not_packages() -> None:
    """verl ships a package `tests`, and its checkouts one named `recipe`; Hydra's plugins share a namespace."""
    assert sources("recipe") == []
    assert not (ROOT / "tests" / "__init__.py").exists()
    assert not (ROOT / "hydra_plugins" / "__init__.py").exists()


@pytest.mark.parametrize("folder", [PACKAGE, "data_prep", "hydra_plugins", "examples", "tests"])
def test_every_source_names_its_licence_and_says_what_it_is(folder: str) -> None:
    for path in sources(folder):
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n"), path
        # A test file is named after what it tests.
        assert folder == "tests" or ast.get_docstring(ast.parse(text)), f"{path}: no docstring"
