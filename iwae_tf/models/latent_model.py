"""The probabilistic model as a plain object: networks in, densities and draws out.

  q(z|x) = q(z_1|x) prod_l q(z_l|z_{l-1})
  p(x,z) = p(x|z_1) prod_l p(z_{l-1}|z_l) p(z_L),  p(z_L) = N(0, I) or p(z_L|y)

`infer` draws z ~ q(z|x) and gives log q(z|x), `log_joint` gives log p(x, z), and their
difference is the log-weights, [M, K, B], that all bounds are made of. Labels y are an
argument: integers [B] of a conditional model (Sohn et al. 2015), None otherwise. Keras,
training and files are not known here.

References:
  Sohn, Lee and Yan, 2015. Learning structured output representation using deep
    conditional generative models. NeurIPS 28.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from iwae_tf.checks import check_choice
from iwae_tf.errors import InvalidInputError
from iwae_tf.models.building import (
    build_networks,
    check_classes,
    check_networks,
    likelihood_of,
    one_hot,
)
from iwae_tf.models.values import MISSING, encoder_inputs
from iwae_tf.networks.wrappers import call_network
from iwae_tf.probability import noise
from iwae_tf.probability.distributions import (
    diagonal_normal,
    log_density,
    split_loc_scale,
    standard_normal,
)
from iwae_tf.schema import Schema


class Inference(NamedTuple):
    """Draws of q(z|x)."""

    latents: list[tf.Tensor]  # [z_1, ..., z_L], each [M, K, B, D_l]
    parameters: list[tf.Tensor]  # loc and log_scale of each q(z_l|z_{l-1})
    log_prob: tf.Tensor  # log q(z|x), [M, K, B]


class LogWeightParts(NamedTuple):
    """log w = log_likelihood + log_prior - log_proposal, each [M, K, B]."""

    log_likelihood: tf.Tensor
    log_prior: tf.Tensor
    log_proposal: tf.Tensor

    @property
    def log_weights(self) -> tf.Tensor:
        return self.log_likelihood + self.log_prior - self.log_proposal


class Joint(NamedTuple):
    """log p(x, z) = log_likelihood + log_prior, each [M, K, B]."""

    log_likelihood: tf.Tensor
    log_prior: tf.Tensor

    @property
    def total(self) -> tf.Tensor:
        return self.log_likelihood + self.log_prior


class UnitMask(NamedTuple):
    """Which latent units of one layer take part; the others are set to a constant."""

    active: tf.Tensor  # bool [D]
    fill: tf.Tensor  # float32 [D]; of the top layer in units of p(z_L|y)


Labels: TypeAlias = tf.Tensor | None  # integers [B] of a conditional model
Masks: TypeAlias = Sequence[UnitMask] | None  # one a layer


class LatentModel:
    """Densities and draws of a latent-variable model with L stochastic layers.

    Args:
      encoder: Keras layer or model, or a sequence of them, [q(z1|x), q(z2|z1), ...].
      decoder: the same for [p(x|z1), p(z1|z2), ...].
      likelihood: name or callable, see `building.likelihood_of`.
      num_classes: number of classes of a conditional model.
      prior: Keras layer from one-hot labels to loc and log_scale of p(z_L|y).
      missing, schema: as of `Autoencoder`, which says what networks take and return.

    In all methods y is `Labels`, masks leave units out (`UnitMask`), and training says
    how networks are called.

    Raises:
      InvalidInputError: arguments that do not fit each other.
    """

    latent_dims: Any = None  # a list of ints, once it is built
    event_shape: Any = None  # of x

    def __init__(
        self,
        encoder: keras.Layer | Sequence[keras.Layer],
        decoder: keras.Layer | Sequence[keras.Layer],
        likelihood: str | Callable[[tf.Tensor], tfd.Distribution] = "bernoulli",
        num_classes: int | None = None,
        prior: keras.Layer | None = None,
        missing: str = "refuse",
        schema: Schema | None = None,
    ) -> None:
        self.encoder = check_networks(encoder, "encoder")
        self.decoder = check_networks(decoder, "decoder")
        if len(self.encoder) != len(self.decoder):
            raise InvalidInputError(
                "`encoder` and `decoder` must have one network for each stochastic "
                f"layer. Received: {len(self.encoder)} and {len(self.decoder)}"
            )
        check_classes(num_classes, prior)
        self.likelihood = likelihood_of(likelihood, schema)
        check_choice(missing, "missing", MISSING)
        self.missing, self.takes_missing = missing, missing != "refuse"
        self.num_classes: Any = num_classes
        self.prior = prior

    @property
    def generative_networks(self) -> list[keras.Layer]:
        """What p(x, z) trains: the decoder, the net of p(z_L|y), layers of p(x|z)."""
        others = (self.prior, self.likelihood)
        return [*self.decoder, *(n for n in others if isinstance(n, keras.Layer))]

    def build(self, event_shape: tuple[int, ...]) -> None:
        """Creates all variables for x of shape [batch, *event_shape].

        Raises:
          InvalidInputError: networks that do not fit each other or x.
        """
        self.latent_dims = build_networks(self, event_shape)
        self.event_shape = event_shape

    # q(z|x) -------------------------------------------------------------------------

    def encode(
        self, x: tf.Tensor, y: Labels = None, training: bool = False
    ) -> tf.Tensor:
        """loc and log_scale of q(z1|x): float32 [B, 2 * D_1]."""
        inputs = encoder_inputs(x, self.likelihood, self.missing)
        return self._call(self.encoder[0], inputs, y, training)

    def proposal_parameters(
        self, layer: int, latents: tf.Tensor, y: Labels = None, training: bool = False
    ) -> tf.Tensor:
        """loc and log_scale of q(z_{layer+1}|z_layer): [..., 2 D]."""
        return self._call(self.encoder[layer], latents, y, training)

    def infer(
        self,
        x: tf.Tensor,
        draws: tf.Tensor,
        y: Labels = None,
        *,
        parameters: tf.Tensor | None = None,
        masks: Masks = None,
        training: bool = False,
    ) -> Inference:
        """Draws z ~ q(z|x), layer by layer from x upwards: z_l = loc + scale * draws.

        Args:
          x: float [B, *event].
          draws: standard normal float [M, K, B, D_1 + ... + D_L].
          parameters: of q(z1|x), where `encode` has been called already.
        """
        if parameters is None:
            parameters = self.encode(x, y, training)
        latents: list[tf.Tensor] = []
        by_layer: list[tf.Tensor] = []
        for layer, epsilon in enumerate(tf.split(draws, self.latent_dims, axis=-1)):
            if layer:
                parameters = self.proposal_parameters(layer, latents[-1], y, training)
            loc, scale = split_loc_scale(parameters)
            latent = loc + scale * epsilon
            if masks:
                fill = masks[layer].fill
                if layer == len(self.latent_dims) - 1:
                    fill = self.unstandardized(fill, y)
                latent = tf.where(masks[layer].active, latent, fill)
            latents.append(latent)
            by_layer.append(parameters)
        log_prob = self.log_proposal(latents, by_layer, masks)
        return Inference(latents, by_layer, log_prob)

    def log_proposal(
        self,
        latents: Sequence[tf.Tensor],
        parameters: Sequence[tf.Tensor],
        masks: Masks = None,
    ) -> tf.Tensor:
        """log q(z|x) at latents and parameters of each layer: [M, K, B]."""
        return sum(
            diagonal_normal(*split_loc_scale(p), active).log_prob(z)
            for z, p, active in zip(latents, parameters, _active(masks, latents))
        )

    def draws_of(
        self, latents: Sequence[tf.Tensor], parameters: tf.Tensor, y: Labels = None
    ) -> tf.Tensor:
        """The inverse of `infer`: the draws [M, K, B, D_1 + ... + D_L] behind latents.

        Args:
          latents: list of [M, K, B, D_l].
          parameters: of q(z1|x), float [B, 2 * D_1].
        """
        draws = []
        for layer, latent in enumerate(latents):
            if layer:
                parameters = self.proposal_parameters(layer, latents[layer - 1], y)
            loc, scale = split_loc_scale(parameters)
            draws.append((latent - loc) / scale)
        return tf.concat(draws, axis=-1)

    # p(x, z) ------------------------------------------------------------------------

    def log_joint(
        self,
        x: tf.Tensor,
        latents: Sequence[tf.Tensor],
        y: Labels = None,
        *,
        masks: Masks = None,
        training: bool = False,
        records: Any = None,
    ) -> Joint:
        """log p(x|z1) and log p(z), of the elements of x that are not missing.

        Args:
          x: float [B, *event].
          latents: list of [M, K, B, D_l].
          records: optional `one_pass.Records` that the decoder's networks add to.
        """
        active = _active(masks, latents)
        log_prior = self.top_prior(y, active[-1], training).log_prob(latents[-1])
        for layer in range(len(latents) - 1, 0, -1):
            parameters = self._call(
                self.decoder[layer], latents[layer], y, training, records
            )
            prior = diagonal_normal(*split_loc_scale(parameters), active[layer - 1])
            log_prior += prior.log_prob(latents[layer - 1])
        rows = tf.reshape(latents[0], [-1, self.latent_dims[0]])
        distribution = self.decode(rows, y, training, records)
        if x.shape[0] != 1:  # one example meets all rows by broadcasting
            draws = tf.shape(latents[0])[:2]
            x = tf.broadcast_to(x, tf.concat([draws, tf.shape(x)], axis=0))
            x = tf.reshape(x, [-1, *self.event_shape])
        log_prob = log_density(distribution, x, self.takes_missing)
        return Joint(tf.reshape(log_prob, tf.shape(latents[0])[:-1]), log_prior)

    def decode(
        self,
        rows: tf.Tensor,
        y: Labels = None,
        training: bool = False,
        records: Any = None,
    ) -> tfd.Distribution:
        """p(x|z1) at rows [R, D_1], R a multiple of B: batch shape [R]."""
        return self.likelihood(self._call(self.decoder[0], rows, y, training, records))

    def prior_parameters(
        self, layer: int, latents: tf.Tensor, y: Labels = None
    ) -> tf.Tensor:
        """loc and log_scale of p(z_layer|z_{layer+1}), z1 being layer 1: [..., 2 D]."""
        return self._call(self.decoder[layer], latents, y)

    def top_prior(
        self, y: Labels = None, active: tf.Tensor | None = None, training: bool = False
    ) -> tfd.Distribution:
        """p(z_L), or p(z_L|y) with batch shape [B]: event shape [D_L].

        Args:
          active: optional bool [D_L]; see `distributions.diagonal_normal`.
          training: how the network of p(z_L|y) is called.
        """
        if self.prior is None:
            return standard_normal(self.latent_dims[-1], active)
        parameters = call_network(self.prior, one_hot(y, self.num_classes), training)
        return diagonal_normal(*split_loc_scale(parameters), active)

    def standardized(self, latents: tf.Tensor, y: Labels = None) -> tf.Tensor:
        """z_L [..., B, D_L] in units of p(z_L|y): (z_L - loc_y) / scale_y.

        In these units the prior is N(0, I) for every class, as it is without `prior`.
        """
        if self.prior is None:
            return latents
        top = self.top_prior(y)
        return (latents - top.mean()) / top.stddev()

    def unstandardized(self, values: tf.Tensor, y: Labels = None) -> tf.Tensor:
        """The inverse of `standardized`: z_L at `values` [..., D_L]."""
        if self.prior is None:
            return values
        top = self.top_prior(y)
        return top.mean() + top.stddev() * values

    def sample(self, draws: tf.Tensor, y: Labels = None) -> list[tf.Tensor]:
        """[z1, z2, ...] from the generative model, the top layer first.

        Args:
          draws: standard normal float [n, D_1 + ... + D_L].
          y: of a conditional model, integers [n].
        """
        latents = tf.split(draws, self.latent_dims, axis=-1)
        latents[-1] = self.unstandardized(latents[-1], y)
        for layer in range(len(latents) - 1, 0, -1):
            loc, scale = split_loc_scale(
                self.prior_parameters(layer, latents[layer], y)
            )
            latents[layer - 1] = loc + scale * latents[layer - 1]
        return latents

    # Both ---------------------------------------------------------------------------

    def log_weights(
        self,
        x: tf.Tensor,
        draws: tf.Tensor,
        y: Labels = None,
        *,
        parameters: tf.Tensor | None = None,
        masks: Masks = None,
        training: bool = False,
    ) -> LogWeightParts:
        """The three parts of log w = log p(x, z) - log q(z|x); see `infer`."""
        how: Any = {"masks": masks, "training": training}
        q = self.infer(x, draws, y, parameters=parameters, **how)
        p = self.log_joint(x, q.latents, y, **how)
        return LogWeightParts(*p, log_proposal=q.log_prob)

    def draw_noise(
        self,
        key: tf.Tensor,
        first_row: int | tf.Tensor,
        num_rows: int | tf.Tensor,
        num_groups: int | tf.Tensor,
        num_samples: int | tf.Tensor,
        *,
        first_draw: int | tf.Tensor = 0,
        all_draws: int | tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Noise of consecutive rows: [M, K, B, D_1 + ... + D_L].

        The one place that knows where a draw's noise lies: draw n of row b, of N draws
        a row, is record b * N + n of the stream.

        Args:
          key: uint64 [1]; see `noise.make_key`.
          first_row: integer scalar.
          num_rows: integer scalar, B.
          num_groups: integer scalar, M.
          num_samples: integer scalar, K.
          first_draw: of one row where only a part of its draws is wanted.
          all_draws: N of a row then. None: M * K, all of them.
        """
        width, count = sum(self.latent_dims), num_groups * num_samples
        all_draws = tf.cast(count if all_draws is None else all_draws, tf.int64)
        first = tf.cast(first_row, tf.int64) * all_draws
        first += tf.cast(first_draw, tf.int64)
        records = noise.normal(key, first, num_rows * count, width)
        shape = [num_rows, num_groups, num_samples, width]
        return tf.transpose(tf.reshape(records, shape), [1, 2, 0, 3])

    def _call(self, network, inputs, y=None, training=False, records=None):
        """A network on [..., *row], as float32 [..., E] in any precision.

        x is [B, *event]; latents [..., B, D] are flattened to rows, and y repeated.
        """
        rows = inputs
        is_latent = network is not self.encoder[0]
        if is_latent:
            rows = tf.reshape(inputs, [-1, inputs.shape[-1]])
        if self.num_classes is not None:
            labels = one_hot(y, self.num_classes)
            repeats = tf.shape(rows)[0] // tf.maximum(tf.shape(labels)[0], 1)
            rows = [rows, tf.tile(labels, [repeats, 1])]
        outputs = call_network(network, rows, training, records)
        outputs = tf.cast(outputs, tf.float32)
        if not is_latent or inputs.shape.rank == 2:
            return outputs
        shape = tf.concat([tf.shape(inputs)[:-1], tf.shape(outputs)[1:]], axis=0)
        return tf.reshape(outputs, shape)


def _active(masks, latents):
    """bool [D_l] of each layer, None without masks."""
    return [mask.active for mask in masks] if masks else [None] * len(latents)
