"""Blame: whose the error is that a job has raised. The one place that decides it; the job queue acts on it."""

from audioconfit import memory
from audioconfit.errors import Damaged
from audioconfit.training import Diverged
from sweeps import faults
from sweeps.faults import Halted, Unusable
from sweeps.slots.bench import Fault

# What settings can bring about, beside a GPU whose memory runs out.
RECIPES_OWN = (ValueError, ArithmeticError, MemoryError, Diverged)
# A package or a file that its node lacks, a network that it does not reach; no setting of a recipe brings it about.
SLOTS_OWN = (ImportError, OSError)


def of(error: BaseException) -> Fault:
    """Whose fault it is."""
    if isinstance(error, Unusable):
        return Fault.NODE
    if isinstance(error, Halted | Damaged) or faults.is_full(error):
        return Fault.STORAGE
    if isinstance(error, RECIPES_OWN) or memory.ran_out(error):
        return Fault.RECIPE
    return Fault.SLOT if isinstance(error, SLOTS_OWN) else Fault.UNCLEAR
