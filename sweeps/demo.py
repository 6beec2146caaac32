"""The demo: generated corpora in the real layouts, our own small backbones, the same way through. No network or GPU."""

from audioconfit import synthesis
from sweeps.plan import Plan


def write_corpora(plan: Plan) -> Plan:
    """The plan with its data generated: a small stand-in for each of its datasets, in the corpus' own layout."""
    folder = plan.storage.absolute() / "demo-data"
    for name in plan.datasets:
        synthesis.write(name, folder)
    return plan.model_copy(update={"data": folder, "allow_incomplete": True})
