"""What is used of Ray, MLflow, Optuna and transformers beyond their public interfaces, each with its reason and the way
to go when it is gone. Nothing else is used, and each is there as it is used: an upgrade that takes one away fails here.

`.ci/newest` runs this, with more, on the newest releases.
"""

import ast
import importlib
import inspect
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import pytest
from ray.train.torch import TorchTrainer
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from sweeps.cluster import joining
from sweeps.outcome import registry
from sweeps.slots import pool
from sweeps.tracking import places, provenance

ROOT = Path(__file__).parents[2]
LIBRARIES = ("ray", "mlflow", "optuna")
# No part of their API.
INTERNAL = (
    "mlflow.utils",
    "mlflow.protos",
    "mlflow.store",
    "mlflow.server",
    "mlflow.tracking",
    "ray.train.v2",
    "ray.core",
)


class Private(NamedTuple):
    """One use. `parameters` are those that we hand over, by position; None: it is no function."""

    where: str
    name: str  # as it stands there
    at: str  # module:attributes
    parameters: tuple[str, ...] | None
    why: str
    instead: str


USES = (
    Private(
        "sweeps/cluster/joining.py",
        "ray._private.ray_constants.ENABLE_RAY_CLUSTER",
        "ray._private.ray_constants:ENABLE_RAY_CLUSTER",
        None,
        "an embedded Ray listens on the loopback interface only, which ray.init cannot be asked for",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before Ray is imported; tests/service/test_embedded_ray.py tells",
    ),
    Private(
        "sweeps/cluster/joining.py",
        "ray._private.services.find_bootstrap_address",
        "ray._private.services:find_bootstrap_address",
        ("temp_dir",),
        "the cluster that `ray start` made this machine part of, before anything joins it",
        "read ray_current_cluster in `temporary()`, whose place ray.init documents",
    ),
    Private(
        "sweeps/cluster/joining.py",
        "ray._private.services.find_gcs_addresses",
        "ray._private.services:find_gcs_addresses",
        (),
        "that file outlives its cluster: whether the cluster still runs",
        "ray.init(address='auto'), which raises ConnectionError after seconds of trying",
    ),
    Private(
        "sweeps/cluster/cluster_file.py",
        "ray.autoscaler._private.util.prepare_config",
        "ray.autoscaler._private.util:prepare_config",
        ("config",),
        "what `ray up` would say of a cluster file, without `ray up`",
        "jsonschema with ray/autoscaler/ray-schema.json, which finds less",
    ),
    Private(
        "sweeps/cluster/cluster_file.py",
        "ray.autoscaler._private.util.validate_config",
        "ray.autoscaler._private.util:validate_config",
        ("config",),
        "the same",
        "the same",
    ),
    Private(
        "sweeps/search/tuning.py",
        "_actor_cache",
        "ray.tune.utils.object_cache:_ObjectCache.increase_max",
        ("self", "key", "by"),
        "Tune keeps one idle actor only, and a new one costs 2 to 10 s a trial",
        "nothing: without that line all works, slower",
    ),
    Private(
        "sweeps/slots/pool.py",
        "ray.train.v2.api.data_parallel_trainer.DataParallelTrainer",
        "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer",
        ("train_loop_per_worker",),
        "a slot of one worker needs no process group, whose import of torch costs its controller 4 s of CPU and 130 MB",
        "ray.train.torch.TorchTrainer, as for a slot of several workers",
    ),
    Private(
        "sweeps/slots/leftovers.py",
        "ray._private.state.state",
        "ray._private.state:state",
        None,
        "who made a placement group, and whether that is dead, which Ray's public table leaves out",
        "leave what a killed Train controller holds, as Ray does, until the driver ends",
    ),
    Private(
        "sweeps/slots/leftovers.py",
        "_connect_and_get_accessor",
        "ray._private.state:GlobalState._connect_and_get_accessor",
        ("self",),
        "the same; tests/service/test_leftovers.py shows what it tells",
        "the same",
    ),
    Private(
        "sweeps/slots/leftovers.py",
        "ray.core.generated.gcs_pb2.PlacementGroupTableData",
        "ray.core.generated.gcs_pb2:PlacementGroupTableData",
        None,
        "the same: how its rows are read",
        "the same",
    ),
    Private(
        "sweeps/slots/leftovers.py",
        "ray._private.state.actors",
        "ray._private.state:actors",
        ("actor_id",),
        "whether the maker was a Train controller and not an actor of the user's",
        "the same",
    ),
    Private(
        "sweeps/slots/job_queue.py",
        "__ray_ready__",
        "ray.actor:ActorClass",
        None,
        "whether an actor answers, whatever its class",
        "a method of the worker that returns at once",
    ),
    Private(
        "audioconfit/encoders/encoder.py",
        "_attn_implementation",
        "transformers:PreTrainedConfig._attn_implementation",
        None,
        "which attention a model runs, to put our mask beside SDPA: transformers' own makes the CPU wait for the GPU",
        "PreTrainedModel.set_attn_implementation sets it and does not tell it; without both a padded step waits once",
    ),
)


def internal(module: str) -> bool:
    """Whether a module of one of the libraries is none of its public ones."""
    top, *rest = module.split(".")
    inside = any(module == one or module.startswith(f"{one}.") for one in INTERNAL)
    return top in LIBRARIES and (inside or any(part.startswith("_") for part in rest))


def private_uses(path: Path) -> Iterator[str]:
    """Imports of internal modules, what is called of those, and attributes with an underscore of what is not ours."""
    tree = ast.parse(path.read_text())
    ours = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    ours |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _of_self(node)}
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if internal(name.name))
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                if internal(whole) and not inspect.ismodule(_found(whole)):
                    yield whole
                elif internal(whole):
                    modules[name.asname or name.name] = whole
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or _of_self(node):
            continue
        if isinstance(node.value, ast.Name) and node.value.id in modules:
            yield f"{modules[node.value.id]}.{node.attr}"
        elif node.attr.startswith("_") and node.attr not in ours and not _of_python(node.attr):
            yield node.attr


def _of_python(name: str) -> bool:
    return name == "_exit" or (name.startswith("__") and not name.startswith("__ray"))


def _of_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def _found(whole: str) -> Any:
    try:
        return importlib.import_module(whole)
    except ImportError:
        module, _, name = whole.rpartition(".")
        return getattr(importlib.import_module(module), name)


def test_nothing_private_is_used_but_what_the_table_has() -> None:
    paths = [*(ROOT / "sweeps").rglob("*.py"), *(ROOT / "audioconfit").rglob("*.py")]
    found = {(str(path.relative_to(ROOT)), name) for path in paths for name in private_uses(path)}
    assert found == {(use.where, use.name) for use in USES}


@pytest.mark.parametrize("code", ["from optuna._hyperband import x", "from mlflow.utils import y", "trial._trial_id"])
def test_a_private_use_is_seen(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "_found", lambda whole: None)
    (tmp_path / "new.py").write_text(code)
    assert list(private_uses(tmp_path / "new.py"))


@pytest.mark.parametrize("use", USES, ids=lambda use: use.name)
def test_it_is_there_as_it_is_used(use: Private) -> None:
    module, _, attributes = use.at.partition(":")
    found: Any = importlib.import_module(module)
    for name in attributes.split("."):
        found = getattr(found, name)
    if use.parameters is not None:
        parameters = inspect.signature(found).parameters
        assert tuple(parameters)[: len(use.parameters)] == use.parameters
        required = [name for name, one in parameters.items() if one.default is one.empty]
        assert set(required) <= set(use.parameters)


def test_tunes_controller_has_its_cache() -> None:
    # An attribute of its instances; the busy slots of tests/benchmarks/test_overhead.py show what it does.
    from ray.tune.execution.tune_controller import TuneController

    assert "self._actor_cache = _ObjectCache(" in inspect.getsource(TuneController.__init__)


def test_a_slot_lacks_two_of_trains_callbacks_and_no_others(local_ray: None) -> None:
    # Train's own method says which. Instead: nothing, with two processes more for each slot, which do no harm.
    def names(kind: Any) -> list[str]:
        return [type(one).__name__ for one in kind(print)._create_default_callbacks()]

    for usual, lean in [(DataParallelTrainer, pool.OneWorker), (TorchTrainer, type("", (pool.Lean, TorchTrainer), {}))]:
        assert set(pool.NEEDLESS) <= set(names(usual))
        assert names(lean) == [name for name in names(usual) if name not in pool.NEEDLESS]


def test_an_actor_says_that_it_is_ready(local_ray: None) -> None:
    import ray

    class Idle:
        pass

    actor: Any = ray.remote(num_cpus=0)(Idle).remote()
    assert ray.get(actor.__ray_ready__.remote(), timeout=60)


def test_the_head_has_its_resource(local_ray: None) -> None:
    # An undocumented name: jobs.py and tuning.py keep the queue and the proxies on the head by it. Instead: affinity to
    # the driver's node, which need not be the head.
    import ray

    assert ray.cluster_resources()["node:__internal_head__"] == 1.0


@pytest.mark.parametrize("set_", [{}, {"RAY_TMPDIR": "/r"}, {"TMPDIR": "/t"}, {"RAY_TMPDIR": "/r", "TMPDIR": "/t"}])
def test_ray_keeps_its_sessions_where_we_think(set_: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._common.utils import get_default_ray_temp_dir

    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in set_.items():
        monkeypatch.setenv(name, value)
    assert joining.temporary() == get_default_ray_temp_dir()


def test_mlflows_tags_are_called_what_we_call_them() -> None:
    # Documented as its system tags; that of the versions is not.
    from mlflow.utils import mlflow_tags as known

    assert registry.SHOWN_VERSIONS == known.MLFLOW_MODEL_VERSIONS
    written = provenance.tags({"command": "python grid.py", "version": "0.2", "commit": "abc"})
    system = {known.MLFLOW_SOURCE_NAME, known.MLFLOW_SOURCE_TYPE, known.MLFLOW_GIT_COMMIT, known.MLFLOW_USER}
    assert {name for name in written if name.startswith("mlflow.")} == system
    data = provenance.Data("tones", "f" * 40, {"train": 3}).as_input()
    assert [tag.key for tag in data.tags] == [known.MLFLOW_DATASET_CONTEXT]


def test_mlflows_database_has_the_columns_that_a_move_rewrites(tmp_path: Path) -> None:
    # Its schema is its own. Instead: a storage that was moved is begun anew under another name.
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}").search_experiments()
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        tables = {table for table, _ in places.COLUMNS}
        there = {table: connection.execute(f"PRAGMA table_info({table})").fetchall() for table in tables}
    for table, column in places.COLUMNS:
        assert column in {name for _, name, *_ in there[table]}
