"""The rules of the layout: imports point one way, the method knows no service, file names shadow nothing."""

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("audioconfit", "sweeps")
    for path in sorted((ROOT / package).rglob("*.py"))
}
ONLY_IMPORTERS = {
    "transformers": "audioconfit.encoders",
    "matplotlib": "audioconfit.figures",
    "mlflow": ("sweeps.tracking", "sweeps.registry", "sweeps.served"),
    "optuna": ("sweeps.studies", "sweeps.ledger", "sweeps.halving", "sweeps.search", "sweeps.selection"),
    "ray": "sweeps",
}


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, in full; `from audioconfit import probe` counts as audioconfit.probe."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield whole if whole in MODULES else str(node.module)


GRAPH = {module: set(imported(path)) for module, path in MODULES.items()}


@pytest.mark.parametrize("library", ONLY_IMPORTERS)
def test_a_library_has_its_one_place(library: str) -> None:
    users = {module for module, targets in GRAPH.items() if any(name.split(".")[0] == library for name in targets)}
    assert users
    assert all(module.startswith(ONLY_IMPORTERS[library]) for module in users), users


def test_the_method_knows_no_service() -> None:
    strangers = {"ray", "optuna", "mlflow", "sweeps"}
    for module, targets in GRAPH.items():
        if module.startswith("audioconfit"):
            assert not {name.split(".")[0] for name in targets} & strangers, module


def test_imports_have_no_cycle() -> None:
    reached: dict[str, set[str]] = {}

    def below(module: str, way: tuple[str, ...]) -> set[str]:
        assert module not in way, " -> ".join([*way, module])
        if module not in reached:
            inside = {name for name in GRAPH[module] if name in MODULES and name != module}
            reached[module] = inside.union(*(below(name, (*way, module)) for name in inside))
        return reached[module]

    for module in MODULES:
        below(module, ())


def test_sweeps_shadows_no_other_module() -> None:
    # `python sweeps/grid.py` puts sweeps/ first on sys.path: select.py there would break subprocess.
    taken = set(sys.stdlib_module_names) | set(packages_distributions())
    assert not {path.stem for path in (ROOT / "sweeps").glob("*.py")} & (taken - {"__init__", "sweeps"})


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils", "util", "helpers", "common", "base", "manager", "misc"}
    assert not {path.stem for path in MODULES.values()} & drawers
