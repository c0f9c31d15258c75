"""Gradients of a bound: separate tapes for encoder and decoder, one forward pass.

Tape E records x -> z and log q(z|x). Tape D watches z and records log p(x, z).
With u = d bound / d log w, D gives the decoder's gradient and the pull on z, and
E turns the pull on z into the encoder's gradient:

  reparameterized  encoder: E.gradient([z, log q], pull=[u * d log p / dz, -u])
  stl, dreg        encoder: E.gradient(z, pull=v * d (log p - log q) / dz)

where the parameters of q, but not its inputs, are stopped in the last log q; v = u
for STL and the objective's `pathwise_weights` for DReG. The decoder's gradient is
the same for every estimator. PIWAE has its own u for each tape.

Where the weights differ D is asked twice, but for networks in which each draw is a row
of its own. A row's backward signal is linear in its weight, so there one pass with the
weights of the encoder's bound serves: rescaled at z for DReG, and where a layer sums
the rows up (see `dense`) for PIWAE's decoder.

References:
  Kingma and Welling, 2014. https://arxiv.org/abs/1312.6114
  Roeder, Wu and Duvenaud, 2017 (STL). https://arxiv.org/abs/1703.09194
  Tucker et al., 2019 (DReG). https://arxiv.org/abs/1810.04152
  Bauer and Mnih, 2021 (several layers). https://arxiv.org/abs/2101.11046
"""

from typing import Any, NamedTuple

import tensorflow as tf

from iwae_tf.bounds import Bound
from iwae_tf.networks.dense import row_weights

GRADIENT_ESTIMATORS = ("reparameterized", "stl", "dreg")


class LossGradients(NamedTuple):
    """Gradients of the loss, minus the bound, and what it was computed from."""

    gradients: list[tf.Tensor | None]  # one for each of the model's trainable variables
    parts: Any  # autoencoder.LogWeightParts, each [M, K, B]
    bound: Bound
    penalty: tf.Tensor  # [], what the networks' regularizers add to the loss


def loss_gradients(
    model: Any,
    x: tf.Tensor,
    noise: tf.Tensor,
    example_weights: tf.Tensor,
    penalty_weight: float | tf.Tensor = 1.0,
) -> LossGradients:
    """Gradients of penalty_weight * penalty - sum_b example_weights[b] * bound[b].

    Args:
      model: ImportanceWeightedAutoencoder, built.
      x: float [B, *event].
      noise: float [M, K, B, sum of latent dims].
      example_weights: float [B].
      penalty_weight: float, of what the networks' regularizers add.

    Returns:
      LossGradients, `gradients` in the order of `model.trainable_variables`.
    """
    penalty_weight = tf.convert_to_tensor(penalty_weight, tf.float32)
    is_pathwise = model.gradient_estimator != "reparameterized"
    with tf.GradientTape(persistent=True) as encoder_tape:
        parameters = model.proposal_parameters(x, training=True)
        latents, parameters = model.sample_proposal(parameters, noise, training=True)
        log_proposal = model.log_proposal(latents, parameters)
        encoder_penalty = model.penalty(model.encoder)
    with tf.GradientTape(persistent=True) as decoder_tape:
        decoder_tape.watch(latents)
        parts = model.log_joint(x, latents, training=True)
        log_joint = parts.log_likelihood + parts.log_prior
        decoder_penalty = model.penalty(
            model.generative_networks, besides=model.encoder
        )
    parts = parts._replace(log_proposal=log_proposal)

    weights = _row_weights(model, parts.log_weights, example_weights)

    def pull_back(row_weights, sources):
        return decoder_tape.gradient(
            [log_joint, decoder_penalty],
            sources,
            output_gradients=[-row_weights, penalty_weight],
        )

    decoder_gradients, pull = _decoder_gradients(model, pull_back, latents, weights)
    targets, pulls = [*latents, encoder_penalty], [penalty_weight]
    if is_pathwise:
        stopped = _stopped_pull(
            model, encoder_tape, latents, parameters, weights.inference
        )
        pull = [ours + theirs for ours, theirs in zip(pull, stopped)]
    else:
        targets, pulls = [*targets, log_proposal], [*pulls, weights.inference]
    encoder_variables = _trainable(model.encoder)
    encoder_gradients = encoder_tape.gradient(
        targets, encoder_variables, output_gradients=[*pull, *pulls]
    )
    gradients = _in_order_of(
        model.trainable_variables,
        [*encoder_variables, *_trainable(model.generative_networks)],
        [*encoder_gradients, *decoder_gradients],
    )
    penalty = encoder_penalty + decoder_penalty
    return LossGradients(gradients, parts, weights.bound, penalty)


def _decoder_gradients(model, pull_back, latents, weights):
    """Gradients of the networks of p(x, z), and the pull of log p(x, z) on each z."""
    variables = _trainable(model.generative_networks)
    is_split = weights.generative is not weights.base
    is_pathwise = weights.inference is not weights.base
    needed = ["takes_row_weights"] * is_split + ["rows_are_independent"] * is_pathwise
    if (is_split and weights.share is None) or not _all_have(model.decoder, needed):
        gradients = pull_back(weights.generative, variables)
        return gradients, pull_back(weights.inference, latents)
    share, by_example = None, []
    if is_split:
        # p(z_L|y) has a row an example, not one a draw that `share` could scale.
        count = len(_trainable(model.decoder))
        variables, by_example = variables[:count], variables[count:]
        share = tf.reshape(tf.broadcast_to(weights.share, tf.shape(weights.base)), [-1])
    with row_weights(share):
        gradients, pull = pull_back(weights.base, [variables, latents])
    if by_example:
        gradients = [*gradients, *pull_back(weights.generative, by_example)]
    if is_pathwise:  # a row's pull is linear in its weight, and v <= u: v / u is safe
        rescale = tf.math.divide_no_nan(weights.inference, weights.base)
        pull = [rescale[..., tf.newaxis] * p for p in pull]
    return gradients, pull


def _stopped_pull(model, encoder_tape, latents, parameters, weights):
    """The pull of -log q on each latent, the parameters of q stopped.

    log q(z_l|z_{l-1}) pulls on z_l directly, and on z_{l-1} through the network that
    made its loc and scale.
    """
    with tf.GradientTape() as tape:
        tape.watch([latents, parameters])
        log_proposal = model.log_proposal(latents, parameters)
    pull, parameter_pull = tape.gradient(
        log_proposal, [latents, parameters], output_gradients=weights
    )
    for layer in range(1, len(latents)):
        pull[layer - 1] += encoder_tape.gradient(
            parameters[layer],
            latents[layer - 1],
            output_gradients=parameter_pull[layer],
        )
    return pull


class RowWeights(NamedTuple):
    """A bound, and the weight of each draw in what is made of it: each [M, K, B].

    Fields that are equal are the same tensor.
    """

    bound: Bound
    generative: tf.Tensor  # in the decoder's gradient
    base: tf.Tensor  # in the gradient of the encoder's bound
    inference: tf.Tensor  # in the estimator of that gradient
    share: tf.Tensor | None  # generative / base where it is bounded


def _row_weights(model, log_weights, example_weights):
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(log_weights)
        bound = model.objective(log_weights)
    generative = tape.gradient(bound.generative, log_weights, example_weights)
    base, share = generative, None
    if bound.inference is not bound.generative:
        base = tape.gradient(bound.inference, log_weights, example_weights)
        share = model.objective.generative_share(log_weights)
    inference = base
    if model.gradient_estimator == "dreg":
        inference = model.objective.pathwise_weights(log_weights) * example_weights
    return RowWeights(bound, generative, base, inference, share)


def _all_have(networks, attributes):
    """Whether every network has the attributes and no loss of its own on activities."""
    return all(
        getattr(network, attribute, False) and not network.losses
        for network in networks
        for attribute in attributes
    )


def _trainable(networks):
    values = (v.value for net in networks for v in net.trainable_variables)
    return list({id(value): value for value in values}.values())


def _in_order_of(variables, sources, gradients):
    """One gradient a variable; those of a shared variable are added up."""
    collected: dict[int, tf.Tensor] = {}
    for source, gradient in zip(sources, gradients):
        if gradient is not None:
            gradient = tf.convert_to_tensor(gradient)
            earlier = collected.get(id(source))
            collected[id(source)] = gradient if earlier is None else earlier + gradient
    return [collected.get(id(variable.value)) for variable in variables]
