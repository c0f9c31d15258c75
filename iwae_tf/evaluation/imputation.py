"""Missing values filled in: E[x_missing | x_observed] and draws of x_missing.

Draws z_k ~ q(z|x) weigh w_k = p(x_observed, z_k) / q(z_k|x), and normalised these are
weights of p(z|x_observed). So a mean over z is a weighted mean, and a draw of z is one
of the z_k, taken by its weight. q is the encoder's, or a proposal fitted to each row.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from iwae_tf.checks import check_choice, check_count
from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import refinement
from iwae_tf.evaluation.compiling import compiled, gathered, over_batches
from iwae_tf.evaluation.importance_sampling import PROPOSALS
from iwae_tf.evaluation.pareto import LEAST_DRAWS, pareto_k
from iwae_tf.evaluation.streaming import CHUNK_SIZE
from iwae_tf.models.autoencoder import Autoencoder
from iwae_tf.models.latent_model import LatentModel
from iwae_tf.probability import noise
from iwae_tf.probability.distributions import standard_normal
from iwae_tf.probability.log_weights import normalized_weights
from iwae_tf.probability.mixed import mixture_mean

ROW_STREAM = 5  # of the noise of draws, beside those of `models.autoencoder`
ROWS_PER_CALL = 500


class Imputation(NamedTuple):
    """Rows with their missing values filled in; what is observed stays as it is."""

    x: np.ndarray  # [B, *event], E[x_missing | x_observed]
    draws: np.ndarray  # [num_imputations, B, *event], of p(x_missing | x_observed)
    effective_sample_size: np.ndarray  # [B], of the K draws of z
    pareto_k: np.ndarray  # [B], of their weights


def impute(
    model: Autoencoder,
    x: ArrayLike | tf.Tensor,
    num_samples: int = 1000,
    seed: Sequence[int] = (0, 0),
    *,
    num_imputations: int = 1,
    labels: ArrayLike | tf.Tensor | None = None,
    proposal: str = "encoder",
) -> Imputation:
    """Fills in the missing values of x: once with their mean, then with draws.

    Single imputation is sum_k w~_k E[x|z_k], the estimate with the least squared error;
    in a categorical column it is the most probable category. Multiple imputation takes
    z_k with probability w~_k and draws x from p(x|z_k). If you analyse each of these
    tables and pool the results, their errors include the uncertainty of x_missing.

    Both are as good as the model and its proposal: see `effective_sample_size` and
    `pareto_k`, which should be below 0.7. They are valid if values are missing at
    random, given the observed ones.

    Args:
      model: a built model with missing="marginalize" or "marginalize_with_mask".
      x: float [B, *event], NaN where it is missing.
      num_samples: K, at least 25.
      seed: pair of integers.
      num_imputations: draws of each row.
      labels: of a conditional model, integers [B], or one for all.
      proposal: "encoder", or "refined" for draws from proposals that are fitted to
        the observed values of each row (see `refine_proposal`). A row with many missing
        values often needs them. If a fit fails, the row gets the encoder's proposal.

    Returns:
      Imputation of float32 arrays.

    Raises:
      InvalidInputError: a model that takes no missing values, or a bad argument.

    References:
      Mattei and Frellsen, 2019. https://arxiv.org/abs/1812.02633
      Rubin, 1987. Multiple imputation for nonresponse in surveys.
    """
    num_samples = check_count(num_samples, "num_samples", LEAST_DRAWS)
    num_imputations = check_count(num_imputations, "num_imputations")
    if not model.latent.takes_missing:
        raise InvalidInputError(
            "`model` must take missing values, missing='marginalize'. Received: "
            f"missing={model.latent.missing!r}"
        )
    key, x = noise.make_key(seed), model.check_x(x)
    y = model.check_labels(labels, len(x))
    check_choice(proposal, "proposal", PROPOSALS)
    size = ROWS_PER_CALL
    if proposal == "refined":
        size = min(size, refinement.rows_at_once(model.latent, CHUNK_SIZE))
    program = compiled(model, impute_in_graph, by_xla=False, proposal=proposal)
    counts = tf.constant(num_samples), num_imputations
    means, draws, sizes, log_weights = over_batches(
        lambda first, x, y: program(x, *counts, key, first, y), (x, y), size
    )
    return Imputation(means, draws.swapaxes(0, 1), sizes, pareto_k(log_weights.T))


def impute_in_graph(
    latent: LatentModel,
    x: tf.Tensor,
    num_samples: tf.Tensor,
    num_imputations: int,
    key: tf.Tensor,
    first_row: tf.Tensor,
    y: tf.Tensor | None = None,
    proposal: str = "encoder",
    num_steps: int | tf.Tensor = refinement.NUM_STEPS,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """`impute` as graph ops, a row at a time: memory does not grow with the batch.

    Args:
      latent: LatentModel.
      x: float32 [B, *event].
      num_samples: K, integer scalar.
      num_imputations: draws of a row.
      key: uint64 [1]; see `noise.make_key`.
      first_row: integer scalar, the first row's index.
      y: labels [B] of a conditional model.
      proposal: "encoder", or "refined", which are fitted to all rows at once.
      num_steps: integer scalar, steps of a fit.

    Returns:
      (means [B, *event], draws [B, num_imputations, *event], effective sample size [B],
      log-weights [B, K]).
    """
    parameters, found = latent.encode(x, y), None
    if proposal == "refined":
        key = noise.fold_in(key, refinement.DRAWS_STREAM)
        directions = refinement.directions(num_steps, sum(latent.latent_dims))
        found = refinement.fit(latent, x, y, parameters, None, directions)

    def one_row(row):
        of_row = gathered((x, y, parameters, found), [row])
        place = first_row + tf.cast(row, tf.int64)
        return _impute_row(latent, of_row, num_samples, num_imputations, key, place)

    event = [*latent.event_shape]
    shapes: tuple[list[Any], ...] = (event, [num_imputations, *event], [], [None])
    return tf.map_fn(
        one_row,
        tf.range(tf.shape(x)[0]),
        fn_output_signature=tuple(tf.TensorSpec(s, tf.float32) for s in shapes),
        parallel_iterations=1,
    )


def _impute_row(latent, of_row, num_samples, num_imputations, key, row):
    """(mean, draws, effective sample size, log-weights) of one row [1, *event]."""
    x, y, parameters, proposal = of_row
    draws = latent.draw_noise(key, row, 1, 1, num_samples)
    u = draws if proposal is None else proposal.draw(draws, 0)
    q = latent.infer(x, u, y, parameters=parameters)
    log_weights = latent.log_joint(x, q.latents, y).total - q.log_prob  # [1, K, 1]
    if proposal is not None:  # in the encoder's noise its own density is N(0, I)
        log_weights += standard_normal(u.shape[-1]).log_prob(u)
        log_weights -= proposal.log_prob(u, num_samples)
    weights = normalized_weights(log_weights, axis=1)[0, :, 0]
    z = tf.reshape(q.latents[0], [-1, latent.latent_dims[0]])
    mean = mixture_mean(latent.decode(z, y), weights)
    # Of each draw, the z_k at which the running sum of the weights passes a uniform.
    row_key = noise.fold_in(noise.fold_in(key, ROW_STREAM), row)
    uniforms = noise.uniform(row_key, 0, 1, num_imputations)[0]
    chosen = tf.searchsorted(tf.cumsum(weights), uniforms * tf.reduce_sum(weights))
    chosen = tf.minimum(chosen, num_samples - 1)
    of_chosen = latent.decode(tf.gather(z, chosen), y)
    drawn = of_chosen.sample(seed=tf.bitcast(row_key, tf.int32)[0])
    is_missing = tf.math.is_nan(x[0])
    filled = (tf.where(is_missing, tf.cast(v, x.dtype), x[0]) for v in (mean, drawn))
    return *filled, 1.0 / tf.reduce_sum(weights**2), log_weights[0, :, 0]
