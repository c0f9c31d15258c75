"""Gradients of a bound: one tape for the encoder, one for the decoder.

`bound_model` records both in `loss_gradients`. Tape E holds x -> z and log q(z|x), tape
D watches z and holds log p(x, z). With u = d bound / d log w, D gives the decoder's
gradient and the pull on z, and E turns the pull on z into the encoder's gradient:

  reparameterized  encoder: E.gradient([z, log q], pull=[u * d log p / dz, -u])
  stl, dreg        encoder: E.gradient(z, pull=v * d (log p - log q) / dz)

where the parameters of q, but not its inputs, are stopped in the last log q; v = u
for STL and the objective's `pathwise_weights` for DReG. The decoder's gradient is
the same for every estimator. PIWAE has its own u for each tape.

With a weight b of the KL term, as in a warm-up, log p(z) and log q count b times, u is
of log w_b = log p(x|z) + b (log p(z) - log q(z|x)), and DReG has (1 - b) u + b v: the
identity that makes (v - u) of the score term for b = 1 makes b (v - u) of it.

With free bits, units z_j whose KL costs nothing are left out of log p(z) and log q.

Where u differs between the two D is asked twice, unless `one_pass` serves.

References:
  Kingma and Welling, 2014. https://arxiv.org/abs/1312.6114
  Roeder, Wu and Duvenaud, 2017 (STL). https://arxiv.org/abs/1703.09194
  Tucker et al., 2019 (DReG). https://arxiv.org/abs/1810.04152
  Bauer and Mnih, 2021 (several layers). https://arxiv.org/abs/2101.11046
  Sonderby et al., 2016 (warm-up). https://arxiv.org/abs/1602.02282
  Kingma et al., 2016 (free bits). https://arxiv.org/abs/1606.04934
"""

import dataclasses
import inspect
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from iwae_tf.bounds import Bound, Objective
from iwae_tf.errors import InvalidInputError
from iwae_tf.models.latent_model import (
    Inference,
    Labels,
    LatentModel,
    LogWeightParts,
    Masks,
    UnitMask,
)
from iwae_tf.probability.distributions import split_loc_scale

GRADIENT_ESTIMATORS = ("reparameterized", "stl", "dreg")


class DrawWeights(NamedTuple):
    """A bound, and the weight of each draw in what is made of it: each [M, K, B].

    Fields that are equal are the same tensor.
    """

    bound: Bound
    generative: tf.Tensor  # in the decoder's gradient
    base: tf.Tensor  # in the gradient of the encoder's bound
    inference: tf.Tensor  # in the estimator of that gradient
    share: tf.Tensor | None  # generative / base where it is bounded


def kl_weight(step: tf.Tensor, num_steps: int) -> tf.Tensor | None:
    """b of a training step, from 0 at the first up to 1; None: no steps of warm-up."""
    if not num_steps:
        return None
    return tf.minimum(tf.cast(step, tf.float32) / num_steps, 1.0)


def scaled(kl_weight: tf.Tensor | None, values: tf.Tensor) -> tf.Tensor:
    """b * values; None is b = 1."""
    return values if kl_weight is None else kl_weight * values


def warmed_up(parts: LogWeightParts, kl_weight: tf.Tensor | None) -> tf.Tensor:
    """log w_b = log p(x|z) + b (log p(z) - log q(z|x)): [M, K, B]; None is b = 1."""
    if kl_weight is None:
        return parts.log_weights
    return parts.log_likelihood + kl_weight * (parts.log_prior - parts.log_proposal)


def check_objective(objective: Objective) -> None:
    """Raises InvalidInputError for what is no objective, or could not be saved."""
    own, base = type(objective), Objective
    if not isinstance(objective, base):
        rule = "be an object of a bounds.Objective, as bounds.ELBO()"
    elif own.bound is base.bound and own.__call__ is base.__call__:
        rule = "have a method bound(log_weights)"
    elif [*inspect.signature(own).parameters] != [
        field.name for field in dataclasses.fields(objective) if field.init
    ]:  # what is no field would not be an argument of the model, nor saved with it
        rule = "be a dataclass whose fields are its arguments, without an __init__"
    else:
        return
    name = getattr(objective, "__name__", own.__name__)
    raise InvalidInputError(f"`objective` must {rule}. Received: objective={name}")


def check_free_bits(objective: Objective, latent: LatentModel) -> None:
    """Raises InvalidInputError where an objective and several layers do not go."""
    nats = getattr(objective, "free_bits", None)
    if nats is not None and len(latent.encoder) > 1:
        raise InvalidInputError(
            "`free_bits` must be left out for several stochastic layers. "
            f"Received: free_bits={nats} and {len(latent.encoder)} layers"
        )


def units_that_cost(
    objective: Objective,
    latent: LatentModel,
    q: Inference,
    y: Labels,
    example_weights: tf.Tensor,
) -> Masks:
    """The units of z whose KL has a gradient; None: all of them, without free bits.

    Of max(free_bits, KL_j), with KL_j = mean_b KL(q(z_j|x_b) || p(z_j)), the gradient
    is that of KL_j where KL_j is the larger one, and zero otherwise. The mean is over
    the batch of all replicas, by `example_weights`, and exact, not of draws.

    Args:
      objective: bounds.Objective.
      latent: LatentModel of one layer.
      q: Inference.
      y: Labels.
      example_weights: float [B].
    """
    nats = getattr(objective, "free_bits", None)
    if nats is None:
        return None
    prior = latent.top_prior(y, training=True).distribution
    kl = tfd.kl_divergence(tfd.Normal(*split_loc_scale(q.parameters[0])), prior)
    total = tf.linalg.matvec(kl - nats, example_weights, transpose_a=True)
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        total = context.all_reduce("SUM", total)
    return [UnitMask(total > 0, tf.zeros_like(total))]


def bound_of(objective: Objective, log_weights: tf.Tensor) -> Bound:
    """`objective(log_weights)`, which a user may have written, in their precision.

    Raises:
      InvalidInputError: it is not one value for each example.
    """
    name, bound = type(objective).__name__, objective(log_weights)
    if not isinstance(bound, Bound):
        raise InvalidInputError(
            f"`__call__` of {name} must return a bounds.Bound. "
            f"Received: a {type(bound).__name__}"
        )
    values = {
        id(value): None if value is None else tf.cast(value, log_weights.dtype)
        for value in bound
    }
    for value in values.values():
        if value is None or not value.shape.is_compatible_with(log_weights.shape[2:]):
            received = None if value is None else f"shape={tuple(value.shape)}"
            raise InvalidInputError(
                f"`bound` of {name} must return one value for each "
                "example, [B], from log-weights [M, K, B]. "
                f"Received: {received}"
            )
    return Bound(*(values[id(value)] for value in bound))


def draw_weights(
    objective: Objective,
    estimator: str,
    log_weights: tf.Tensor,
    example_weights: tf.Tensor,
    kl_weight: tf.Tensor | None = None,
) -> DrawWeights:
    """What each draw weighs in the gradient of sum_b example_weights[b] * bound[b].

    Args:
      objective: bounds.Objective.
      estimator: one of `GRADIENT_ESTIMATORS`.
      log_weights: float [M, K, B], see `warmed_up`.
      example_weights: float [B].
      kl_weight: b; None is 1.
    """
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(log_weights)
        bound = bound_of(objective, log_weights)

    def gradient(value):
        found = tape.gradient(value, log_weights, example_weights)
        if found is None:
            raise InvalidInputError(
                f"`bound` of {type(objective).__name__} must be a function of the "
                "log-weights in TensorFlow. Received: one without a gradient"
            )
        return found

    generative = gradient(bound.generative)
    base, share = generative, None
    if bound.inference is not bound.generative:
        base = gradient(bound.inference)
        share = objective.generative_share(log_weights)
    inference = base
    if estimator == "dreg":
        inference = objective.pathwise_weights(log_weights) * example_weights
        if kl_weight is not None:
            inference = kl_weight * inference + (1.0 - kl_weight) * base
    return DrawWeights(bound, generative, base, inference, share)


def encoder_gradients(
    latent: LatentModel,
    estimator: str,
    tape: tf.GradientTape,
    q: Inference,
    pull: Sequence[tf.Tensor],
    weights: tf.Tensor,
    penalty: tuple[tf.Tensor, tf.Tensor],
    kl_weight: tf.Tensor | None = None,
    masks: Masks = None,
) -> list[tf.Tensor | None]:
    """Gradients of the loss, one for each of the encoder's trainable variables.

    Args:
      latent: LatentModel.
      estimator: one of `GRADIENT_ESTIMATORS`.
      tape: persistent, of `q` and the penalty.
      q: Inference.
      pull: of -log p(x, z) on each latent, already weighted.
      weights: float [M, K, B], of the draws in the encoder's gradient.
      penalty: what the encoder's regularizers add to the loss, and its weight.
      kl_weight: b, how often log q counts; None is 1.
      masks: of `units_that_cost`, which `q.log_prob` obeys.
    """
    weights = scaled(kl_weight, weights)
    targets, pulls = [*q.latents, penalty[0]], [penalty[1]]
    if estimator == "reparameterized":
        targets, pulls = [*targets, q.log_prob], [*pulls, weights]
    else:
        stopped = _stopped_pull(latent, tape, q, weights, masks)
        pull = [ours + theirs for ours, theirs in zip(pull, stopped)]
    variables = trainable(latent.encoder)
    return tape.gradient(targets, variables, output_gradients=[*pull, *pulls])


def _stopped_pull(latent, tape, q, weights, masks):
    """The pull of -log q on each latent, the parameters of q stopped.

    log q(z_l|z_{l-1}) pulls on z_l directly, and on z_{l-1} through the network that
    made its loc and scale.
    """
    with tf.GradientTape() as inner:
        inner.watch([q.latents, q.parameters])
        log_proposal = latent.log_proposal(q.latents, q.parameters, masks)
    pull, parameter_pull = inner.gradient(
        log_proposal, [q.latents, q.parameters], output_gradients=weights
    )
    for layer in range(1, len(q.latents)):
        pull[layer - 1] += tape.gradient(
            q.parameters[layer],
            q.latents[layer - 1],
            output_gradients=parameter_pull[layer],
        )
    return pull


def penalty(
    networks: Iterable[keras.Layer], besides: Iterable[keras.Layer] = ()
) -> tf.Tensor:
    """Sum of the regularization losses of `networks`, in float32.

    Weights that also belong to the networks of `besides` are left to those.
    """
    counted = {id(v) for net in besides for v in net.trainable_variables}
    losses = [loss for net in networks for loss in net.losses]
    losses += [
        -variable.regularizer(variable)
        for net in networks
        for variable in net.trainable_variables
        if id(variable) in counted and variable.regularizer is not None
    ]
    return tf.add_n([tf.zeros([]), *(tf.cast(loss, tf.float32) for loss in losses)])


def trainable(networks: Iterable[keras.Layer]) -> list[Any]:
    """The trainable variables of networks, one that they share once."""
    values = (v.value for net in networks for v in net.trainable_variables)
    return list({id(value): value for value in values}.values())


def by_source(pairs: Iterable[tuple[Any, Any]]) -> dict[int, tf.Tensor]:
    """Of pairs (source, gradient or None) the gradients, by the id of the source.

    Those of a source that comes up more than once are added up.
    """
    found: dict[int, tf.Tensor] = {}
    for source, gradient in pairs:
        if gradient is not None:
            gradient = tf.convert_to_tensor(gradient)
            earlier = found.get(id(source))
            found[id(source)] = gradient if earlier is None else earlier + gradient
    return found
