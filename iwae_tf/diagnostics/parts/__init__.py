"""The parts of a diagnosis: each measures, draws and judges one question."""

from iwae_tf.diagnostics.parts import estimate, learning

PARTS = {
    part.name: part
    for part in (
        estimate.Proposal(),
        estimate.InferenceGaps(),
        estimate.BoundSweep(),
        estimate.ErrorBars(),
        estimate.Annealing(),
        learning.Gradients(),
        learning.Representation(),
        learning.Theory(),
        learning.Toy(),
        estimate.KnownErrorBars(),
    )
}
DEFAULT_PARTS = tuple(name for name in PARTS if name not in ("toy", "known"))
