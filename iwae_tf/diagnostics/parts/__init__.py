"""The parts of a diagnosis: each measures, draws and judges one question."""

from iwae_tf.diagnostics.parts.estimate import (
    Annealing,
    BoundSweep,
    ErrorBars,
    KnownErrorBars,
    Proposal,
)
from iwae_tf.diagnostics.parts.learning import Gradients, Representation, Theory, Toy

PARTS = {
    part.name: part
    for part in (
        Proposal(),
        BoundSweep(),
        ErrorBars(),
        Annealing(),
        Gradients(),
        Representation(),
        Theory(),
        Toy(),
        KnownErrorBars(),
    )
}
DEFAULT_PARTS = tuple(name for name in PARTS if name not in ("toy", "known"))

__all__ = ["DEFAULT_PARTS", "PARTS"]
