"""Times of training steps through `fit`, each model's in turn with the others'."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import keras
import numpy as np
from ml_collections import ConfigDict

from iwae_tf import datasets
from iwae_tf.config import set_draws
from iwae_tf.models.keras_loop import steps_per_call
from iwae_tf.runs.training import compiled_model

Name = TypeVar("Name", bound=Hashable)
LEAST_STEPS = 10  # of a timed `fit`
CALLS = 3  # of the train function in it, of which the first is not timed


class StepClock(keras.callbacks.Callback):
    """Times the steps of `fit` from the end of its first call of the train function on.

    What `fit` does once, such as building its input pipeline, does not count: it takes
    as long for an epoch of a thousand times the steps.
    """

    counts_batches = True  # lets the package's models take many steps a call

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.ends: list[tuple[int, float]] = []

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        self.ends.append((batch + 1, time.perf_counter()))

    def seconds_a_step(self, steps: int) -> float:
        """Of a `fit` of `steps` steps in all, which took two calls at least."""
        if len(self.ends) < 2:
            raise ValueError(f"{steps} steps in one call: there is nothing to time")
        (first, start), (last, end) = self.ends[0], self.ends[-1]
        return (end - start) / (min(last, steps) - first)


def timed_fit(
    model: keras.Model, data: Any, steps: int, batch_size: int | None = None
) -> Callable[[], float]:
    """`fit` as a function without arguments that returns the seconds of a step.

    Args:
      model: a compiled keras.Model. It has been trained once when this returns, so
        that its programs are compiled.
      data: of `fit`, an array or tf.data.Dataset of one epoch.
      steps: int, in that epoch; two calls of the train function at least.
      batch_size: int, of an array.
    """
    clock = StepClock()

    def run():
        model.fit(data, batch_size=batch_size, verbose=0, callbacks=[clock])
        return clock.seconds_a_step(steps)

    run()
    return run


def measure(
    configs: Mapping[Name, ConfigDict], *, num_rounds: int = 7
) -> dict[Name, list[float]]:
    """Times the training steps of several configs, with their last stage's draws.

    On random images of the data set's shape. All are timed once a round, so that
    whatever slows the machine for a while slows all alike.

    Args:
      configs: dict of a name, anything that is hashable, to valid ConfigDict.
      num_rounds: positive int.

    Returns:
      dict of name to list of floats [num_rounds], seconds a step.
    """
    fits = {name: _fit_of(config) for name, config in configs.items()}
    rounds = [{name: fit() for name, fit in fits.items()} for _ in range(num_rounds)]
    return {name: [seconds[name] for seconds in rounds] for name in fits}


def _fit_of(config):
    """The `timed_fit` of a config."""
    rows = config.batch_size * config.num_groups * config.num_samples
    steps = max(LEAST_STEPS, CALLS * steps_per_call(rows))
    event_shape = datasets.event_shape(config.dataset, data_dir=config.data_dir)
    shape = (steps * config.batch_size, *event_shape)
    images = np.random.default_rng(0).random(shape, np.float32)
    model = compiled_model(config, images, steps)
    set_draws(model, config)
    return timed_fit(model, images, steps, config.batch_size)
