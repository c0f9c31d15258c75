"""Rows in, scores out: a model wherever it is, and one in this process.

Scores of a server are checked as those of this process are: see `checked_scores`.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import LogLikelihood
from iwae_tf.models.values import LevelWarning
from iwae_tf.saved_model import (
    call_signature,
    inputs_of,
    load_saved_model,
    signature_of,
)
from iwae_tf.saved_model.signatures import ABOUT, LEVELS, SIGNATURES, TAKES_MISSING
from iwae_tf.serving.answers import checked_scores, shortened

INPUTS, STEPS, LABELS = ("x", "num_samples", "seed"), "num_steps", "y"


class Scorer:
    """Rows in, scores out: a signature of one version of a model.

    A server that moves on to a new version in the middle of a job must not mix its
    numbers into it: a scorer keeps to the version that it found at the start.

    Args:
      proposal: "encoder" or "refined", which decides the signature.
      identity: str, which tells two models apart.
      inputs: names of the inputs.
      shape: of `x`, [batch, *event].
      facts: what tells what x may be, by name: the outputs of the signature `about`,
        and for older exports, which do not have it, the names of all signatures.
    """

    def __init__(
        self,
        proposal: str,
        identity: str,
        inputs: Iterable[str],
        shape: Sequence[int],
        facts: Iterable[str],
    ) -> None:
        if set(inputs) - {LABELS, STEPS} != set(INPUTS):
            raise foreign(identity, SIGNATURES[proposal])
        self._inputs = set(inputs)
        self.identity, self.event_shape = identity, tuple(shape)[1:]
        self.takes_labels = LABELS in inputs
        self.takes_missing = not {TAKES_MISSING, "impute"}.isdisjoint(facts)
        levels = [number for name, number in LEVELS.items() if name in facts]
        self.warn_of_grey = LevelWarning(levels[0] if levels else None)

    def __call__(
        self,
        x: np.ndarray,
        num_samples: int,
        seed: Sequence[int],
        labels: np.ndarray | None = None,
    ) -> LogLikelihood:
        """Scores of images [N, *event], with labels int32 [N] where it takes them.

        Raises:
          InvalidInputError: the model refuses an image, or its scores are none.
          ConnectionError: the server gave no answer that can be used.
        """
        return self._ask(inputs_of(self._inputs, x, num_samples, seed, labels))

    def _ask(self, inputs: dict[str, np.ndarray]) -> LogLikelihood:
        raise NotImplementedError


class InProcessScorer(Scorer):
    """A SavedModel, run here. Its arguments are those of `open_scorer`."""

    def __init__(
        self, saved_model: str | os.PathLike[str], proposal: str = "encoder"
    ) -> None:
        version, self.signatures = load_saved_model(saved_model)
        self._score = signature_of(self.signatures, SIGNATURES[proposal])
        digest = hashlib.sha256()
        for file in ("saved_model.pb", "variables/variables.index"):
            digest.update((version / file).read_bytes())
        specs = self._score.structured_input_signature[1]
        identity = f"{version.parent.name}/{version.name} {digest.hexdigest()}"
        facts = {*self.signatures}
        if ABOUT in facts:
            facts |= self.signatures[ABOUT].structured_outputs.keys()
        super().__init__(proposal, identity, specs, specs["x"].shape, facts)

    def _ask(self, inputs: dict[str, np.ndarray]) -> LogLikelihood:
        outputs = call_signature(self._score, inputs)
        try:
            return scores_of(outputs, inputs)
        except ValueError as error:
            raise InvalidInputError(
                f"`saved_model` must give scores. Received: {error}"
            ) from error


def scores_of(
    outputs: Mapping[str, Any], inputs: Mapping[str, np.ndarray]
) -> LogLikelihood:
    """The `LogLikelihood` in what a signature answers to some inputs."""
    return checked_scores(outputs, len(inputs["x"]), int(inputs["num_samples"]))


def refused(url: str, reason: str) -> InvalidInputError:
    return InvalidInputError(f"{url} refused: {shortened(reason)}")


def foreign(url: str, signature: str) -> InvalidInputError:
    return InvalidInputError(
        f"`endpoint` must serve an export of this package, with the signature "
        f"`{signature}` of {', '.join(INPUTS)}. Received: {url}, which has none"
    )
