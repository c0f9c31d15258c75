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
from iwae_tf.errors import InvalidInputError

GRADIENT_ESTIMATORS = ("reparameterized", "stl", "dreg")


class LossGradients(NamedTuple):
    """Gradients of the loss, minus the bound, and what it was computed from."""

    gradients: list  # one for each of the model's trainable variables
    parts: NamedTuple  # models.LogWeightParts, each [M, K, B]
    bound: Bound
    penalty: tf.Tensor  # [], what the networks' regularizers add to the loss


def loss_gradients(model, x, noise, example_weights):
    """Gradients of -sum_b example_weights[b] * bound[b] plus regularizers.

    Args:
      model: ImportanceWeightedAutoencoder, built.
      x: float [B, *event].
      noise: float [M, K, B, sum of latent dims].
      example_weights: float [B].

    Returns:
      LossGradients, `gradients` in the order of `model.trainable_variables`.
    """
    is_pathwise = model.gradient_estimator != "reparameterized"
    with tf.GradientTape() as encoder_tape:
        parameters = model.proposal_parameters(x, training=True)
        latents, proposals = model.sample_proposals(parameters, noise, training=True)
        log_proposal = sum(q.log_prob(z) for q, z in zip(proposals, latents))
        encoder_penalty = _penalty(model.encoder)
    with tf.GradientTape(persistent=True) as decoder_tape:
        decoder_tape.watch(latents)
        parts = model.log_joint(x, latents, training=True)._replace(
            log_proposal=log_proposal
        )
        target = parts.log_likelihood + parts.log_prior
        if is_pathwise:
            target -= model.log_proposal_at(parameters, latents, training=True)
        decoder_penalty = _penalty(model.decoder)

    bound, generative, inference = _row_weights(
        model, parts.log_weights, example_weights
    )
    decoder_variables = _trainable(model.decoder)
    encoder_variables = _trainable(model.encoder)

    def pull_back(weights, sources):
        return decoder_tape.gradient(
            [target, decoder_penalty],
            sources,
            output_gradients=[-weights, tf.ones_like(decoder_penalty)],
        )

    if inference is generative:
        decoder_gradients, latent_pull = pull_back(
            generative, [decoder_variables, latents]
        )
    elif bound.inference is bound.generative and _rows_are_independent(model):
        # DReG: a row's pull is linear in its weight, and v <= u, so v / u is safe.
        decoder_gradients, latent_pull = pull_back(
            generative, [decoder_variables, latents]
        )
        rescale = tf.math.divide_no_nan(inference, generative)[..., tf.newaxis]
        latent_pull = [rescale * pull for pull in latent_pull]
    else:
        decoder_gradients = pull_back(generative, decoder_variables)
        latent_pull = pull_back(inference, latents)
    targets, pull = [*latents, encoder_penalty], [*latent_pull, tf.ones([])]
    if not is_pathwise:
        targets, pull = [*targets, log_proposal], [*pull, inference]
    encoder_gradients = encoder_tape.gradient(
        targets, encoder_variables, output_gradients=pull
    )
    gradients = _in_order_of(
        model.trainable_variables,
        [*encoder_variables, *decoder_variables],
        [*encoder_gradients, *decoder_gradients],
    )
    return LossGradients(gradients, parts, bound, encoder_penalty + decoder_penalty)


def check_gradient_estimator(estimator):
    """Raises InvalidInputError unless `estimator` is one that exists."""
    if estimator not in GRADIENT_ESTIMATORS:
        raise InvalidInputError(
            f"`gradient_estimator` must be one of {', '.join(GRADIENT_ESTIMATORS)}. "
            f"Received: gradient_estimator={estimator!r}"
        )


def _row_weights(model, log_weights, example_weights):
    """The bound, and its weight on each draw for the decoder and for the encoder."""
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
    return bound, generative, inference


def _rows_are_independent(model):
    """Whether no network on the latents mixes rows, as batch normalisation would."""
    return all(
        getattr(network, "rows_are_independent", False) and not network.losses
        for network in [*model.decoder, *model.encoder[1:]]
    )


def _penalty(networks):
    """Sum of the networks' regularization losses."""
    losses = [tf.cast(loss, tf.float32) for net in networks for loss in net.losses]
    return tf.add_n(losses) if losses else tf.zeros([])


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
