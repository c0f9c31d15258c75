"""Gradients of a bound: separate tapes for encoder and decoder, one forward pass.

Tape E records x -> z and log q(z|x). Tape D watches z and records log p(x, z).
With u = d bound / d log w, D gives the decoder's gradient and the pull on z, and
E turns the pull on z into the encoder's gradient:

  reparameterized  encoder: E.gradient([z, log q], pull=[u * d log p / dz, -u])
  stl, dreg        encoder: E.gradient(z, pull=v * d (log p - log q) / dz)

where the parameters of q, but not its inputs, are stopped in the last log q; v = u
for STL and the objective's `pathwise_weights` for DReG. The decoder's gradient is
the same for every estimator. PIWAE has its own u for each tape.

Where u and v differ D is asked twice, but for DReG through networks in which each
draw is a row of its own: there one backward pass with u serves, rescaled at z.

References:
  Kingma and Welling, 2014. https://arxiv.org/abs/1312.6114
  Roeder, Wu and Duvenaud, 2017 (STL). https://arxiv.org/abs/1703.09194
  Tucker et al., 2019 (DReG). https://arxiv.org/abs/1810.04152
  Bauer and Mnih, 2021 (several layers). https://arxiv.org/abs/2101.11046
"""

from typing import NamedTuple

import tensorflow as tf

from iwae_tf.bounds import Bound

GRADIENT_ESTIMATORS = ("reparameterized", "stl", "dreg")


class LossGradients(NamedTuple):
    """Gradients of the loss, minus the bound, and what it was computed from."""

    gradients: list  # one for each of the model's trainable variables
    parts: NamedTuple  # autoencoder.LogWeightParts, each [M, K, B]
    bound: Bound
    penalty: tf.Tensor  # [], what the networks' regularizers add to the loss


def loss_gradients(model, x, noise, example_weights, penalty_weight=1.0):
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
        decoder_penalty = model.penalty(model.decoder, besides=model.encoder)
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
        [*encoder_variables, *_trainable(model.decoder)],
        [*encoder_gradients, *decoder_gradients],
    )
    penalty = encoder_penalty + decoder_penalty
    return LossGradients(gradients, parts, weights.bound, penalty)


def _decoder_gradients(model, pull_back, latents, weights):
    """The decoder's gradients, and the pull of log p(x, z) on each latent."""
    variables = _trainable(model.decoder)
    if weights.inference is weights.generative:
        return pull_back(weights.generative, [variables, latents])
    if weights.is_one_bound and _rows_are_independent(model):
        # DReG: a row's pull is linear in its weight, and v <= u, so v / u is safe.
        gradients, pull = pull_back(weights.generative, [variables, latents])
        rescale = tf.math.divide_no_nan(weights.inference, weights.generative)
        return gradients, [rescale[..., tf.newaxis] * p for p in pull]
    gradients = pull_back(weights.generative, variables)
    return gradients, pull_back(weights.inference, latents)


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
    """A bound, and its weight on each draw [M, K, B] for decoder and encoder."""

    bound: Bound
    generative: tf.Tensor
    inference: tf.Tensor

    @property
    def is_one_bound(self):
        """Whether both halves of the model maximise the same bound."""
        return self.bound.inference is self.bound.generative


def _row_weights(model, log_weights, example_weights):
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(log_weights)
        bound = model.objective(log_weights)
    generative = tape.gradient(bound.generative, log_weights, example_weights)
    if model.gradient_estimator == "dreg":
        inference = model.objective.pathwise_weights(log_weights) * example_weights
    elif bound.inference is bound.generative:
        inference = generative
    else:
        inference = tape.gradient(bound.inference, log_weights, example_weights)
    return RowWeights(bound, generative, inference)


def _rows_are_independent(model):
    """Whether no network on the latents mixes rows, as batch normalisation would."""
    return all(
        getattr(network, "rows_are_independent", False) and not network.losses
        for network in [*model.decoder, *model.encoder[1:]]
    )


def _trainable(networks):
    return [variable.value for net in networks for variable in net.trainable_variables]


def _in_order_of(variables, sources, gradients):
    """One gradient a variable; those of a shared variable are added up."""
    collected = {}
    for source, gradient in zip(sources, gradients):
        if gradient is not None:
            gradient = tf.convert_to_tensor(gradient)
            earlier = collected.get(id(source))
            collected[id(source)] = gradient if earlier is None else earlier + gradient
    return [collected.get(id(variable.value)) for variable in variables]
