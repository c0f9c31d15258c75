"""Optimisers and learning-rate schedules of the configs."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule as Schedule

from iwae_tf.models.private import learning_rate_of

MUON_RATE = 8.0  # Muon's step on a matrix, in units of Adam's learning rate
POLAR_STEPS = (  # a, b, c of x -> a x + b x^3 + c x^5, nearest to 1 from 0.03 to 1
    (7.3625, -20.7434, 15.1606),
    (2.9175, -2.1824, 0.4755),
    (2.0463, -1.4295, 0.3934),
)


@keras.saving.register_keras_serializable("iwae_tf")
class Muon(keras.optimizers.Muon):
    """Orthogonalised momentum for matrices, Adam for the rest.

    A matrix [inputs, outputs] moves by 8 * rate * sqrt(max(1, outputs / inputs))
    along its orthogonalised Nesterov momentum, everything else by Adam at `rate`;
    no weight decay. Keras scales by the larger side alone, and takes five steps of
    one fixed polynomial where three of the best ones come nearer (Polar Express).

    Args:
      learning_rate: float or schedule, in the units of Adam's.
      **kwargs: of keras.optimizers.Optimizer.

    References:
      Jordan et al., 2024. https://kellerjordan.github.io/posts/muon
      Amsel et al., 2025, algorithm 1. https://arxiv.org/abs/2505.16932
    """

    def __init__(self, learning_rate: float | Schedule = 1e-3, **kwargs: Any) -> None:
        fixed = {
            "rms_rate": None,
            "weight_decay": None,
            "adam_weight_decay": None,
            "adam_lr_ratio": 1.0,
        }
        super().__init__(learning_rate, **{**kwargs, **fixed})

    def lr_adjust(self, x: tf.Tensor) -> tf.Tensor:
        inputs, outputs = x.shape
        return x * (MUON_RATE * math.sqrt(max(1.0, outputs / inputs)))

    def zeropower_via_newtonschulz5(self, x: tf.Tensor, steps: int) -> tf.Tensor:
        """The polar factor of `x`: its singular values become one, or nearly so.

        Every iterate is x times a polynomial in its Gram matrix, and such polynomials
        commute. So the iteration is one on matrices of the shorter side. The Frobenius
        norm of the Gram matrix, (sum s^4)^(1/2), bounds the largest singular value
        more closely than that of `x`, so that fewer steps reach the small ones.

        Args:
          x: float [inputs, outputs].
          steps: not used; POLAR_STEPS says how many.
        """
        ops = keras.ops
        is_tall = x.shape[0] > x.shape[1]
        transposed = ops.transpose(x)
        gram = transposed @ x if is_tall else x @ transposed
        square = ops.norm(gram) + 1e-14
        gram = gram / square
        product, identity = None, ops.eye(min(x.shape), dtype=x.dtype)
        for a, b, c in POLAR_STEPS:
            factor = a * identity + b * gram + c * (gram @ gram)
            product = factor if product is None else factor @ product
            gram = gram @ factor @ factor  # the last one is pruned with the graph
        product = product / ops.sqrt(square)
        return x @ product if is_tall else product @ x


@keras.saving.register_keras_serializable("iwae_tf")
class BurdaAdam(keras.optimizers.Adam):
    """Adam as in the published code of Burda et al., which differs from their text.

    beta_1 = 0.99, second moments that start at one, and gradients summed over the
    batch, so that epsilon = 1e-4 is relative to a sum. On gradients of the mean the
    same steps come from second moments that start at 1 / batch_size^2 and
    epsilon = 1e-4 / batch_size. That the code applies each step's moments one step
    late is not reproduced.

    Args:
      learning_rate: float or schedule.
      batch_size: examples a step.
      **kwargs: of keras.optimizers.Optimizer.

    References:
      https://github.com/yburda/iwae, optimizers.py
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 20,
        **kwargs: Any,
    ) -> None:
        for name in ("beta_1", "epsilon"):
            kwargs.pop(name, None)
        super().__init__(
            learning_rate, beta_1=0.99, epsilon=1e-4 / batch_size, **kwargs
        )
        self.batch_size = batch_size

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        for velocity in self._velocities:
            velocity.assign(keras.ops.full_like(velocity, self.batch_size**-2))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "batch_size": self.batch_size}


@keras.saving.register_keras_serializable("iwae_tf")
class PiecewiseCosine(Schedule):
    """Half a cosine from a first to a last rate on each of several pieces.

    A piece whose two rates are equal is constant; after the last piece its last
    rate stays.

    Args:
      pieces: list of (steps, first rate, last rate).
    """

    def __init__(self, pieces: Iterable[Sequence[float]]) -> None:
        self.pieces = [
            (int(steps), float(first), float(last)) for steps, first, last in pieces
        ]

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        ops = keras.ops
        step = ops.cast(step, "int64")
        rate, start = None, 0
        for steps, first, last in self.pieces:
            share = ops.clip(ops.cast(step - start, "float32") / steps, 0.0, 1.0)
            here = last + (first - last) * 0.5 * (1.0 + ops.cos(math.pi * share))
            rate = here if rate is None else ops.where(step >= start, here, rate)
            start += steps
        return rate

    def get_config(self) -> dict[str, Any]:
        return {"pieces": self.pieces}


def last_learning_rate(optimizer: keras.Optimizer) -> float:
    """The learning rate of the last step; a schedule is at that of the next one.

    Where a stage ends the two differ: the next step is one of the next stage.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of float16
    schedule = learning_rate_of(optimizer)
    if not isinstance(schedule, Schedule):
        return float(optimizer.learning_rate)
    return float(schedule(max(int(optimizer.iterations.numpy()) - 1, 0)))
