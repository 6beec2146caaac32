"""The rules of the house: imports only look down, the method knows no service, a library has one home, names shadow
nothing, functions and files stay small. `python tests/test_architecture.py` prints the map that the README shows.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("audioconfit", "sweeps")
    for path in sorted((ROOT / package).rglob("*.py"))
}
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# From top to bottom; a room imports rooms of lower floors only.
FLOORS = (
    ("check", "grid", "notebook", "paper", "preflight", "ui"),
    ("sweep",),
    ("terminal", "report"),
    ("search", "outcome"),
    ("request",),
    ("cluster", "trial"),
    ("slots", "tracking"),
    ("interrupt", "faults", "identity"),
)
# Each library and the rooms that may import it.
HOMES = {
    "transformers": {"audioconfit.encoders"},
    "matplotlib": {"audioconfit.figures"},
    "mlflow": {"sweeps.tracking", "sweeps.outcome"},  # runs are tracked; the outcome is registered and served
    "optuna": {"sweeps.search"},
    "ray.tune": {"sweeps.search"},
    "ray.train": {"sweeps.slots"},
    "ray": {"sweeps.search", "sweeps.slots", "sweeps.cluster"},
}
LONGEST_FUNCTION, LONGEST_FILE = 60, 400


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, in full; `from audioconfit import probe` counts as audioconfit.probe."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield whole if whole in MODULES or whole in HOMES else str(node.module)


GRAPH = {module: set(imported(path)) for module, path in MODULES.items()}


def room(module: str) -> str:
    """The room of a module: sweeps.search for sweeps.search.studies."""
    return ".".join(module.split(".")[:2])


def floor(name: str) -> int:
    """A room's floor, the lowest being 0."""
    return next(len(FLOORS) - 1 - number for number, rooms in enumerate(FLOORS) if name in rooms)


def arrows() -> set[tuple[str, str]]:
    """Which room of the service imports which."""
    found = {
        (room(module), room(target))
        for module, targets in GRAPH.items()
        for target in targets
        if module.startswith("sweeps.") and target.startswith("sweeps.")
    }
    return {(here.removeprefix("sweeps."), there.removeprefix("sweeps.")) for here, there in found if here != there}


def test_every_room_has_its_floor() -> None:
    rooms = {room(module).removeprefix("sweeps.") for module in MODULES if module.startswith("sweeps.")}
    assert rooms == {name for rooms in FLOORS for name in rooms}


def test_imports_look_down() -> None:
    assert not [(here, there) for here, there in arrows() if floor(here) <= floor(there)]


@pytest.mark.parametrize("library", HOMES)
def test_a_library_has_its_home(library: str) -> None:
    users = {
        room(module)
        for module, targets in GRAPH.items()
        if any(f"{target}.".startswith(f"{library}.") for target in targets)
    }
    assert users
    assert users <= HOMES[library]


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


@pytest.mark.parametrize("light", ["sweeps.search.trainable", "sweeps.slots.slot"])
def test_a_trials_actor_and_what_a_slots_controller_unpickles_start_without_torch(light: str) -> None:
    def reach(module: str) -> set[str]:
        return GRAPH[module].union(*(reach(target) for target in GRAPH[module] if target in MODULES))

    assert not {name.split(".")[0] for name in reach(light)} & {"torch", "audioconfit", "optuna"}


def test_sweeps_shadows_no_other_module() -> None:
    # `python sweeps/grid.py` puts sweeps/ first on sys.path: select.py or queue/ there would break other modules.
    taken = set(sys.stdlib_module_names) | set(packages_distributions())
    entries = {path.stem for path in (ROOT / "sweeps").iterdir() if path.is_dir() or path.suffix == ".py"}
    assert not entries & (taken - {"__init__", "__pycache__", "sweeps"})


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils", "util", "helpers", "common", "base", "manager", "misc"}
    assert not {path.stem for path in [*MODULES.values(), *TESTS]} & drawers


def declared(*extras: str) -> set[str]:
    """The distributions that pyproject.toml names, with those of some extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {canonicalize_name(Requirement(line).name) for line in lines}


@pytest.mark.parametrize(
    ("paths", "extras"), [(tuple(MODULES.values()), ("aws", "lora")), (tuple(TESTS), ("aws", "onnx", "lora", "dev"))]
)
def test_what_is_imported_is_declared(paths: tuple[Path, ...], extras: tuple[str, ...]) -> None:
    brought = packages_distributions()
    tops = {target.split(".")[0] for path in paths for target in imported(path)}
    for top in tops - set(sys.stdlib_module_names) - {"audioconfit", "sweeps"} - {path.stem for path in TESTS}:
        if top in brought:  # else it is a folder of tests/support
            assert {canonicalize_name(name) for name in brought[top]} & declared(*extras), top


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    nodes = ast.walk(ast.parse(path.read_text()))
    yield from (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_functions_and_files_stay_small() -> None:
    for path in [*MODULES.values(), *TESTS]:
        assert len(path.read_text().splitlines()) <= LONGEST_FILE, path
        for function in functions(path):
            lines = (function.end_lineno or 0) - function.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{path}: {function.name}"


def raises(function: ast.AST) -> Iterator[str]:
    """What a function raises, as it stands there."""
    yield from (ast.unparse(node.exc) for node in ast.walk(function) if isinstance(node, ast.Raise) and node.exc)


def test_what_is_refused_is_an_input_error() -> None:
    # A bare ValueError would be taken for a bug of ours; only pydantic's validators must raise one.
    for module, path in MODULES.items():
        for function in functions(path):
            if not any("validator" in ast.unparse(decorator) for decorator in function.decorator_list):
                bare = [error for error in raises(function) if error.startswith("ValueError")]
                assert not bare, f"{module}: {function.name}"


def sentences(function: ast.AST) -> Iterator[str]:
    """The messages of refusals that stand where they are raised, values as {}."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"InputError", "Halted"} and node.args:
            message = node.args[0]
            if isinstance(message, ast.BinOp):  # lines of their own, and what they have in common
                message = message.right
            if isinstance(message, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in message.values)
            elif isinstance(message, ast.Constant):
                yield str(message.value)


def test_a_refusal_is_a_sentence() -> None:
    for module, path in MODULES.items():
        for message in sentences(ast.parse(path.read_text())):
            first, last = message.strip()[0], message.strip()[-1]
            shown = f"{module}: {message}"
            assert first.isupper() or first in "{-`'", shown
            assert last in ".?" or message.endswith("{}"), shown


def draw() -> str:
    """The rooms of the service from top to bottom, and which lower rooms each of them imports."""
    found = arrows()
    lines = []
    for rooms in FLOORS:
        for name in rooms:
            below = sorted((there for here, there in found if here == name), key=lambda there: (-floor(there), there))
            lines.append(f"{floor(name)}  {name:<10} {'-> ' + ', '.join(below) if below else ''}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    print(draw())
