"""The parts of a diagnosis: each computes, draws and judges one question."""
