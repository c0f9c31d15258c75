"""Signal-to-noise ratio of the gradients of encoder and decoder.

References:
  Rainforth et al., 2018, section 3. https://arxiv.org/abs/1802.04537
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from iwae_tf.checks import check_count
from iwae_tf.diagnostics.draws import check_x
from iwae_tf.errors import InvalidInputError
from iwae_tf.models.bound_model import Batch
from iwae_tf.models.graphs import program_of
from iwae_tf.models.keras_loop import attributes
from iwae_tf.probability import noise

ROWS_AT_ONCE = 20_000  # rows of the decoder: what bounds the memory
MEAN_OF_ABSOLUTE_NORMAL = math.sqrt(2 / math.pi)  # E|N(0, 1)|


class HalfSNR(NamedTuple):
    """Signal-to-noise of the gradient of one half of the model.

    `floor` is what `snr` would be if the gradient were noise alone: an average over R
    draws is never exactly zero. `rms` has that contribution taken out.
    """

    snr: float  # mean over parameters of |mean| / standard deviation
    median: float  # median of the same
    rms: float  # root of the mean square, less 1 / R
    dsnr: float  # mean over draws of |along the mean| / |across it|
    floor: float  # E|N(0, 1)| / sqrt(R)
    num_parameters: int  # whose gradient varies
    num_constant: int  # whose gradient never does, left out of all of the above
    variance: float  # of the gradient, summed over its parameters


class GradientSNR(NamedTuple):
    """Signal-to-noise of a model's gradients, from `num_draws` of them."""

    encoder: HalfSNR
    decoder: HalfSNR
    num_draws: int
    per_parameter: list  # |mean| / sd, an array for each trainable variable
    seconds: float  # that one gradient took


def gradient_snr(
    model: keras.Model,
    x: np.ndarray | tf.Tensor,
    *,
    num_draws: int = 1000,
    seed: Sequence[int] = (0, 0),
    num_groups: int | None = None,
    num_samples: int | None = None,
    gradient_estimator: str | None = None,
    backward_samples: int | None = None,
    on_progress: Callable[[int], object] | None = None,
) -> GradientSNR:
    """Signal-to-noise ratio of the gradient of the mean bound over `x`.

    SNR  = |E g_i| / sd(g_i) for each parameter i
    DSNR = E[|g_par| / |g_perp|], g_par the part of g along E g, g_perp the rest

    The moments are streamed over `num_draws` gradients, each with noise of its own;
    E g in the DSNR is their mean, and its expectation is over as many further ones.
    What regularizers add to the loss is no part of the bound, and left out.

    Args:
      model: a built model of this package, with something to train in each half.
      x: float [B, *event]; each gradient uses all of it, as given.
      num_draws: R, at least 2.
      seed: pair of integers.
      num_groups: M; None takes the model's. 1 where the bound has no groups.
      num_samples: K; None takes the model's.
      gradient_estimator: None takes the model's.
      backward_samples: draws of a group that go backward; all of them, if it is not
        less than K. None takes the model's.
      on_progress: optional function of the number of gradients just finished.

    Returns:
      GradientSNR.

    Raises:
      InvalidInputError: a bad argument, an estimator that the bound does not have, a
        half of the model without trainable variables.
    """
    num_draws = check_count(num_draws, "num_draws", 2)
    settings = {
        "num_groups": num_groups,
        "num_samples": num_samples,
        "gradient_estimator": gradient_estimator,
        "backward_samples": backward_samples,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    with attributes(model, **given):  # which the model checks
        program = _Program(model, check_x(model, x), noise.make_key(seed))
        mean, squares, dsnrs = program.run(num_draws, on_progress)
    variances = squares / (num_draws - 1)
    deviations = np.sqrt(variances)
    ratios = np.full_like(mean, np.nan)  # where a gradient never varies
    np.divide(np.abs(mean), deviations, out=ratios, where=deviations > 0)
    encoder, decoder = (
        _summarize(ratios[half], variances[half], num_draws, float(dsnr))
        for half, dsnr in zip(program.halves, dsnrs)
    )
    parts = np.split(ratios, np.cumsum(program.sizes)[:-1])
    per_parameter = [p.reshape(v.shape) for p, v in zip(parts, program.variables)]
    return GradientSNR(encoder, decoder, num_draws, per_parameter, program.seconds)


def over_counts(
    counts: Sequence[int], found: Sequence[GradientSNR], half: str
) -> dict[str, list[Any]]:
    """Of one half `counts`, `snr`, `median`, `rms`, `dsnr` and `floor`, a list each."""
    halves = [getattr(each, half) for each in found]
    lists = {n: [getattr(each, n) for each in halves] for n in HalfSNR._fields[:5]}
    return {"counts": list(counts)} | lists


class _Program:
    """Gradients of the mean bound over x, each as one vector, in one program.

    Rows that do not fit `ROWS_AT_ONCE` are worked through in blocks, the last one
    filled up with examples of weight zero.
    """

    seconds = math.nan  # that one gradient took, once it has run

    def __init__(self, model, x, key):
        self.model, self.key = model, key
        self.variables = model.trainable_variables
        self.sizes = [math.prod(v.shape) for v in self.variables]
        own = {id(v) for net in model.encoder for v in net.trainable_variables}
        of_encoder = np.repeat([id(v) in own for v in self.variables], self.sizes)
        self.halves = np.stack([of_encoder, ~of_encoder])  # which elements are whose
        for name, half in zip(("encoder", "decoder"), self.halves):
            if not half.any():
                raise InvalidInputError(
                    "`model` must have trainable variables in encoder and decoder. "
                    f"Received: a model whose {name} has none of its own"
                )
        self.masks = tf.constant(self.halves, tf.float32)
        size = min(len(x), max(1, ROWS_AT_ONCE // model.rows_per_example))
        self.num_blocks = -(-len(x) // size)
        rows = np.arange(self.num_blocks * size).reshape(self.num_blocks, size)
        self.blocks = tf.gather(x, np.minimum(rows, len(x) - 1))
        self.weights = tf.constant((rows < len(x)) / len(x), tf.float32)

    def run(self, num_draws, on_progress):
        """Moments over the first draws, ratios over as many further ones.

        Returns:
          (means [P], sums of squared deviations [P], mean ratios of the two halves).
        """
        program = program_of(self._pass, self.model.supports_xla)
        work = num_draws, on_progress
        nowhere = tf.zeros_like(self.masks)
        mean, squares, _ = self._stream(program, nowhere, 0, *work)
        parts = mean * self.masks
        lengths = tf.norm(parts, axis=1, keepdims=True)
        directions = tf.math.divide_no_nan(parts, lengths)
        start = time.perf_counter()
        _, _, ratios = self._stream(program, directions, num_draws, *work)
        ratios = ratios.numpy() / num_draws
        self.seconds = (time.perf_counter() - start) / num_draws
        return mean.numpy(), squares.numpy(), ratios

    def _stream(self, program, directions, first, num_draws, on_progress):
        """`_pass` over gradients first, ..., first + num_draws - 1."""
        zeros = tf.zeros_like(self.masks[0])
        state = [zeros, zeros, tf.zeros([2])]
        at_once = max(1, min(100, num_draws // 20))  # gradients between two reports
        for done in range(0, num_draws, at_once):
            count = min(at_once, num_draws - done)
            numbers = (tf.constant(number) for number in (first, done, count))
            state = program(state, directions, *numbers)
            if on_progress:
                on_progress(count)
        return state

    def _pass(self, state, directions, first, done, count):
        """Adds gradients first + done, ..., `count` of them, to the moments (Welford's
        update) and, for the unit vector of each half in `directions` [2, P], to the
        sums over draws of |along it| / |across it|."""

        def step(index, state):
            mean, squares, totals = state
            gradient = self._gradient(first + index)
            deviation = gradient - mean
            mean += deviation / tf.cast(index + 1, tf.float32)
            squares += deviation * (gradient - mean)
            halves = gradient * self.masks
            along = tf.reduce_sum(halves * directions, axis=1, keepdims=True)
            across = tf.norm(halves - along * directions, axis=1)
            totals += tf.abs(along[:, 0]) / across
            return index + 1, [mean, squares, totals]

        return _loop(done, done + count, step, state)

    def _gradient(self, index):
        """Gradient number `index`, [P], summed over the blocks."""
        key = noise.fold_in(self.key, index)
        model, size = self.model, self.blocks.shape[1]

        def add_block(block, total):
            place = block * size, size, model.num_groups, model.num_samples
            draws = model.latent.draw_noise(key, *place)
            kept = model.positions(key, *place)
            x, weights = self.blocks[block], self.weights[block]
            batch = Batch(x, None, draws, weights, 0.0, positions=kept)
            found = model.loss_gradients(batch).gradients
            parts = [
                tf.zeros([size]) if gradient is None else tf.reshape(gradient, [size])
                for size, gradient in zip(self.sizes, found)
            ]
            return block + 1, total + tf.concat(parts, axis=0)

        return _loop(0, self.num_blocks, add_block, tf.zeros_like(self.masks[0]))


def _loop(first, end, step, state):
    """The state after `step(index, state)` of every index, in order."""
    _, state = tf.while_loop(
        lambda index, _: index < end, step, [first, state], parallel_iterations=1
    )
    return state


def _summarize(ratios, variances, num_draws, dsnr):
    """HalfSNR of the ratios and variances of one half's parameters."""
    varying = ratios[np.isfinite(ratios)].astype(np.float64)
    if not varying.size:
        raise InvalidInputError(
            "`model` must have gradients that vary between draws. Received: "
            "a half of the model whose gradients are all constant"
        )
    return HalfSNR(
        snr=float(varying.mean()),
        median=float(np.median(varying)),
        rms=float(np.sqrt(max(np.mean(varying**2) - 1.0 / num_draws, 0.0))),
        dsnr=dsnr,
        floor=MEAN_OF_ABSOLUTE_NORMAL / math.sqrt(num_draws),
        num_parameters=int(varying.size),
        num_constant=int(ratios.size - varying.size),
        variance=float(np.sum(variances, dtype=float)),
    )
