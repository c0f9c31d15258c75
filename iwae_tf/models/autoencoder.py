"""The probabilistic model: networks in, densities, draws and log-weights out."""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Self

import keras
import tensorflow as tf
from numpy.typing import ArrayLike
from tensorflow_probability import distributions as tfd

from iwae_tf.checks import check_count
from iwae_tf.errors import InvalidInputError
from iwae_tf.models.conditional import LabelConditioning, call_network
from iwae_tf.models.inputs import check_float, check_latents, check_values
from iwae_tf.models.shapes import check_networks, latent_dim_of, output_row_shape
from iwae_tf.probability import noise
from iwae_tf.probability.discretized_logistic import is_on_levels
from iwae_tf.probability.distributions import (
    bernoulli_likelihood,
    diagonal_normal,
    discretized_logistic_likelihood,
    get_likelihood,
    normal_likelihood,
    split_loc_scale,
)

LATENT_STREAM, IMAGE_STREAM = 3, 4  # of the noise of `sample`


class LogWeightParts(NamedTuple):
    """log w = log_likelihood + log_prior - log_proposal, each [M, K, B]."""

    log_likelihood: tf.Tensor
    log_prior: tf.Tensor
    log_proposal: tf.Tensor

    @property
    def log_weights(self) -> tf.Tensor:
        return self.log_likelihood + self.log_prior - self.log_proposal


class UnitMask(NamedTuple):
    """Which latent units of one layer take part; the others are set to a constant."""

    active: tf.Tensor  # bool [D]
    fill: tf.Tensor  # float32 [D]; of the top layer in units of p(z_L|y)


class Autoencoder(LabelConditioning, keras.Model):
    """q(z|x), p(z) and p(x|z) with any number of stochastic layers z_1, ..., z_L.

    q(z|x) = q(z_1|x) prod_l q(z_l|z_{l-1})
    p(x,z) = p(x|z_1) prod_l p(z_{l-1}|z_l) N(z_L; 0, I)

    Args:
      encoder: Keras layer or model, or a sequence of them, [q(z1|x), q(z2|z1), ...].
        Each maps [rows, ...] to loc and log_scale, [rows, 2 * latent_dim].
      decoder: the same for [p(x|z1), p(z1|z2), ...]. The first maps
        [rows, latent_dim] to the parameters of p(x|z).
      likelihood: "bernoulli" (decoder returns logits), "normal" or, for 8-bit images,
        "discretized_logistic" (both loc and log_scale concatenated on the last axis),
        or a callable from the decoder's output [rows, ...] to a TFP distribution with
        batch shape [rows] and the event shape of x. A callable must be registered with
        `keras.saving.register_keras_serializable` for the model to be saved.
      num_classes: number of classes of a conditional model, q(z|x, y), p(z_L|y) and
        p(x|z, y) (Sohn et al. 2015). Each network is then called on the list
        [inputs, one-hot label], float32 [rows, ...] and [rows, num_classes]; an `MLP`
        takes it as it is, `networks.WithLabels` makes a network of one input take it.
      prior: Keras layer or model from one-hot labels [rows, num_classes] to loc and
        log_scale of p(z_L|y), [rows, 2 * latent_dim]. None: N(0, I) for every class.

    Calling the model, and `predict`, returns the mean of p(x|z1) at the mean of
    q(z1|x): [batch, *event]. A conditional model is called on the pair (x, labels),
    and wherever else it takes x it takes `labels` as well: integers
    [batch], or one integer for the whole batch.

    Raises:
      InvalidInputError: networks that do not fit each other or x.

    References:
      Sohn, Lee and Yan, 2015. Learning structured output representation using deep
        conditional generative models. NeurIPS 28.
    """

    def __init__(
        self,
        encoder: keras.Layer | Sequence[keras.Layer],
        decoder: keras.Layer | Sequence[keras.Layer],
        *,
        likelihood: str | Callable[[tf.Tensor], tfd.Distribution] = "bernoulli",
        num_classes: int | None = None,
        prior: keras.Layer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.encoder = check_networks(encoder, "encoder")
        self.decoder = check_networks(decoder, "decoder")
        if len(self.encoder) != len(self.decoder):
            raise InvalidInputError(
                "`encoder` and `decoder` must have one network a stochastic layer. "
                f"Received: {len(self.encoder)} and {len(self.decoder)}"
            )
        self._set_classes(num_classes, prior)
        self.likelihood = likelihood
        self.latent_dims: Any = None  # until it is built
        self.event_shape: Any = None
        self.likelihood_function = get_likelihood(likelihood)
        self._warned_of_grey = False

    # Construction ---------------------------------------------------------------

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates all variables for x of shape `input_shape` (batch, *event)."""
        if self.built:  # type: ignore[has-type]
            return
        if self.is_conditional and isinstance(input_shape[0], (list, tuple)):
            input_shape = input_shape[0]  # of the pair (x, labels)
        event_shape = tuple(int(size) for size in input_shape[1:])
        latent_dims: list[int] = []
        row_shape = event_shape
        for layer, network in enumerate(self.encoder, 1):
            name = f"`encoder` of layer {layer}"
            row_shape = output_row_shape(network, row_shape, name, self.num_classes)
            row_shape = (latent_dim_of(row_shape, name),)
            latent_dims += row_shape
        self._check_decoder(latent_dims, event_shape)
        self.latent_dims, self.event_shape = latent_dims, event_shape
        self._check_prior()
        self.built = True

    def _check_decoder(self, latent_dims, event_shape):
        """Builds the decoder's networks; their outputs must fit x and the latents."""
        for layer in range(1, len(latent_dims)):
            name = f"`decoder` of layer {layer + 1}"
            row_shape = output_row_shape(
                self.decoder[layer], (latent_dims[layer],), name, self.num_classes
            )
            if latent_dim_of(row_shape, name) != latent_dims[layer - 1]:
                raise InvalidInputError(
                    f"{name} must return loc and log_scale of z{layer}, size "
                    f"{2 * latent_dims[layer - 1]}. Received: size {row_shape[0]}"
                )
        row_shape = output_row_shape(
            self.decoder[0],
            (latent_dims[0],),
            "`decoder` of layer 1",
            self.num_classes,
        )
        found = tuple(self.likelihood_function(tf.zeros((1, *row_shape))).event_shape)
        if found != event_shape:
            raise InvalidInputError(
                "`decoder` and `likelihood` must give p(x|z) the event shape of x, "
                f"{event_shape}. Received: {found}"
            )

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        likelihood = self.likelihood
        if _share_a_layer(self.encoder, self.generative_networks):
            raise InvalidInputError(
                "`encoder` and `decoder` must have no layer in common for the model to "
                "be saved. Received: a shared layer"
            )
        classes = {}
        if self.is_conditional:
            prior = None if self.prior is None else serialize(self.prior)
            classes = {"num_classes": self.num_classes, "prior": prior}
        return {
            "name": self.name,
            "dtype": serialize(self.dtype_policy),
            "encoder": [serialize(network) for network in self.encoder],
            "decoder": [serialize(network) for network in self.decoder],
            "likelihood": (
                _serialize_likelihood(likelihood)
                if callable(likelihood)
                else likelihood
            ),
            **classes,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        deserialize = keras.saving.deserialize_keras_object
        config = dict(config)
        for name in ("encoder", "decoder"):
            config[name] = [deserialize(c, custom_objects) for c in config[name]]
        for name in ("likelihood", "prior", "dtype"):
            if isinstance(config.get(name), dict):
                config[name] = deserialize(config[name], custom_objects)
        return cls(**config)

    @property
    def is_bernoulli(self) -> bool:
        """Whether p(x|z) is of binary x, so that x has to lie in [0, 1]."""
        return self.likelihood_function is bernoulli_likelihood

    @property
    def is_eight_bit(self) -> bool:
        """Whether p(x|z) is of 256 grey levels, x = i / 255."""
        return self.likelihood_function is discretized_logistic_likelihood

    @property
    def in_unit_interval(self) -> bool:
        """Whether x has to lie in [0, 1]."""
        return self.is_bernoulli or self.is_eight_bit

    @property
    def supports_xla(self) -> bool:
        """Whether XLA can compile every layer of the networks, to advantage."""
        return all(
            layer.supports_jit and not getattr(layer, "is_slow_under_xla", False)
            for layer in self._flatten_layers()
        )

    # Densities ------------------------------------------------------------------

    def proposal_parameters(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """loc and log_scale of q(z1|x): float32 [B, 2 * latent_dim]."""
        inputs = self.network_inputs(tf.cast(x, tf.float32))
        outputs = call_network(self.encoder[0], inputs, training)
        return tf.cast(outputs, tf.float32)

    def sample_proposal(
        self,
        parameters: tf.Tensor,
        draws: tf.Tensor,
        *,
        masks: Sequence[UnitMask] | None = None,
        training: bool = False,
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Draws z ~ q(z|x), layer by layer from x upwards.

        Args:
          parameters: float [B, 2 * D_1], of q(z1|x).
          draws: standard normal float [M, K, B, D_1 + ... + D_L].
          masks: optional list of UnitMask, one a layer.

        Returns:
          latents: list of [M, K, B, D_l].
          parameters: list of loc and log_scale of q(z_l|z_{l-1}), that of z_1 as given
            and [M, K, B, 2 * D_l] above.
        """
        latents: list[tf.Tensor] = []
        all_parameters: list[tf.Tensor] = []
        for layer, epsilon in enumerate(tf.split(draws, self.latent_dims, axis=-1)):
            if layer:
                parameters = self._apply(self.encoder[layer], latents[-1], training)
            loc, scale = split_loc_scale(parameters)
            latent = loc + scale * epsilon
            if masks:
                fill = masks[layer].fill
                if layer == len(self.latent_dims) - 1:
                    fill = self.unstandardized(fill)
                latent = tf.where(masks[layer].active, latent, fill)
            latents.append(latent)
            all_parameters.append(parameters)
        return latents, all_parameters

    def proposal_noise(
        self, parameters: Sequence[tf.Tensor], latents: Sequence[tf.Tensor]
    ) -> tf.Tensor:
        """The `draws` that make `sample_proposal` return these latents.

        Args:
          parameters: float [B, 2 * D_1], of q(z1|x).
          latents: list of [M, K, B, D_l].

        Returns:
          draws: [M, K, B, D_1 + ... + D_L].
        """
        draws = []
        for layer, latent in enumerate(latents):
            if layer:
                parameters = self._apply(self.encoder[layer], latents[layer - 1])
            loc, scale = split_loc_scale(parameters)
            draws.append((latent - loc) / scale)
        return tf.concat(draws, axis=-1)

    def log_proposal(
        self,
        latents: Sequence[tf.Tensor],
        parameters: Sequence[tf.Tensor],
        *,
        masks: Sequence[UnitMask] | None = None,
    ) -> tf.Tensor:
        """log q(z|x) of what `sample_proposal` returned: [M, K, B]."""
        active = [mask.active for mask in masks] if masks else [None] * len(latents)
        return sum(
            diagonal_normal(*split_loc_scale(p), a).log_prob(z)
            for z, p, a in zip(latents, parameters, active)
        )

    def log_joint(
        self,
        x: tf.Tensor,
        latents: Sequence[tf.Tensor],
        *,
        masks: Sequence[UnitMask] | None = None,
        training: bool = False,
    ) -> LogWeightParts:
        """log p(x|z1) and log p(z), as LogWeightParts whose log_proposal is None."""
        active = [mask.active for mask in masks] if masks else [None] * len(latents)
        log_prior = self.top_prior(active[-1], training).log_prob(latents[-1])
        for layer in range(len(latents) - 1, 0, -1):
            parameters = self.prior_parameters(layer, latents[layer], training)
            prior = diagonal_normal(*split_loc_scale(parameters), active[layer - 1])
            log_prior += prior.log_prob(latents[layer - 1])
        return LogWeightParts(
            self._log_likelihood(x, latents[0], training), log_prior, None
        )

    def prior_parameters(
        self, layer: int, latents: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """loc and log_scale of p(z_layer|z_{layer+1}), z1 being layer 1: [..., 2 D]."""
        return self._apply(self.decoder[layer], latents, training)

    def log_weight_parts(
        self,
        x: tf.Tensor,
        parameters: tf.Tensor,
        draws: tf.Tensor,
        *,
        masks: Sequence[UnitMask] | None = None,
    ) -> LogWeightParts:
        """The three parts of log w for given noise; see `sample_proposal`."""
        latents, by_layer = self.sample_proposal(parameters, draws, masks=masks)
        log_proposal = self.log_proposal(latents, by_layer, masks=masks)
        parts = self.log_joint(x, latents, masks=masks)
        return parts._replace(log_proposal=log_proposal)

    def penalty(
        self, networks: Iterable[keras.Layer], besides: Iterable[keras.Layer] = ()
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

    def draw_noise(
        self,
        key: tf.Tensor,
        first_row: int | tf.Tensor,
        num_rows: int | tf.Tensor,
        num_groups: int,
        num_samples: int,
    ) -> tf.Tensor:
        """Noise of all draws of consecutive rows: [M, K, B, sum of latent dims].

        A row's M*K draws are consecutive records of the stream.
        """
        self._check_built()
        draws = num_groups * num_samples
        first = tf.cast(first_row, tf.int64) * draws
        records = noise.normal(key, first, num_rows * draws, sum(self.latent_dims))
        shape = [num_rows, num_groups, num_samples, sum(self.latent_dims)]
        return tf.transpose(tf.reshape(records, shape), [1, 2, 0, 3])

    # Public inference -----------------------------------------------------------

    def log_weights(
        self,
        x: ArrayLike | tf.Tensor,
        num_groups: int = 1,
        num_samples: int = 50,
        seed: Sequence[int] = (0, 0),
        *,
        labels: ArrayLike | tf.Tensor | None = None,
    ) -> tf.Tensor:
        """log p(x, z) - log q(z|x) for M*K draws of z a row.

        Args:
          x: float [B, *event], scored as given.
          num_groups: M.
          num_samples: K.
          seed: pair of integers; row b, draw (m, k) has the same noise in any mode.
          labels: of a conditional model, integers [B], or one for all.

        Returns:
          log_weights: float32 [M, K, B].
        """
        num_groups = check_count(num_groups, "num_groups")
        num_samples = check_count(num_samples, "num_samples")
        x = self.check_x(x)
        labels = self.check_labels(labels, tf.shape(x)[0])
        draws = self.draw_noise(
            noise.make_key(seed), 0, tf.shape(x)[0], num_groups, num_samples
        )
        with self.given(labels):
            parts = self.log_weight_parts(x, self.proposal_parameters(x), draws)
        return parts.log_weights

    def encode(
        self, x: ArrayLike | tf.Tensor, *, labels: ArrayLike | tf.Tensor | None = None
    ) -> tfd.Distribution:
        """q(z1|x) as a TFP distribution, batch shape [B], event shape [latent_dim]."""
        return self.encode_layers(x, labels=labels)[0]

    def encode_layers(
        self, x: ArrayLike | tf.Tensor, *, labels: ArrayLike | tf.Tensor | None = None
    ) -> list[tfd.Distribution]:
        """[q(z1|x), q(z2|z1), ...], each layer at the mean of the one below."""
        x = self.check_x(x)
        proposals: list[tfd.Distribution] = []
        with self.given(self.check_labels(labels, tf.shape(x)[0])):
            parameters = self.proposal_parameters(x)
            for layer in range(len(self.encoder)):
                if layer:
                    parameters = self._apply(self.encoder[layer], proposals[-1].mean())
                proposals.append(diagonal_normal(*split_loc_scale(parameters)))
        return proposals

    def decode(
        self, z: ArrayLike | tf.Tensor, *, labels: ArrayLike | tf.Tensor | None = None
    ) -> tfd.Distribution:
        """p(x|z1) as a TFP distribution.

        Args:
          z: float [rows, latent_dim of z1].
          labels: of a conditional model, integers [rows], or one for all.

        Returns:
          distribution: batch shape [rows], the event shape of x.

        Raises:
          InvalidInputError: a model that is not built, or a bad `z`.
        """
        self._check_built()
        z = check_latents(z, self.latent_dims[0])
        labels = self.check_labels(labels, tf.shape(z)[0])
        with self.given(labels):
            return self._decode(z)

    def sample_latent(
        self,
        num_images: int | tf.Tensor,
        seed: Sequence[int] = (0, 0),
        *,
        labels: ArrayLike | tf.Tensor | None = None,
    ) -> tf.Tensor:
        """z1 from the generative model: [num_images, latent_dim]."""
        return self.sample_latents(num_images, seed, labels=labels)[0]

    def sample_latents(
        self,
        num_images: int | tf.Tensor,
        seed: Sequence[int] = (0, 0),
        *,
        labels: ArrayLike | tf.Tensor | None = None,
    ) -> list[tf.Tensor]:
        """All layers from the generative model, the top first, as [z1, z2, ...]."""
        if not tf.is_tensor(num_images) and num_images != 0:  # no rows are no mistake
            check_count(num_images, "num_images")
        self._check_built()
        key = noise.fold_in(noise.make_key(seed), LATENT_STREAM)
        draws = noise.normal(key, 0, num_images, sum(self.latent_dims))
        latents = tf.split(draws, self.latent_dims, axis=-1)
        with self.given(self.check_labels(labels, num_images)):
            latents[-1] = self.unstandardized(latents[-1])
            for layer in range(len(latents) - 1, 0, -1):
                parameters = self.prior_parameters(layer, latents[layer])
                loc, scale = split_loc_scale(parameters)
                latents[layer - 1] = loc + scale * latents[layer - 1]
        return latents

    def sample(
        self,
        num_images: int | tf.Tensor,
        seed: Sequence[int] = (0, 0),
        *,
        labels: ArrayLike | tf.Tensor | None = None,
        mean: bool = False,
    ) -> tf.Tensor:
        """Images from the generative model.

        Args:
          num_images: how many, n.
          seed: pair of integers.
          labels: of a conditional model, integers [n], or one for all.
          mean: return the mean of p(x|z1) instead of a draw from it.

        Returns:
          images: float [n, *event].
        """
        if not tf.is_tensor(num_images):
            check_count(num_images, "num_images")
        self._check_built()
        with self.given(self.check_labels(labels, num_images)):
            distribution = self._decode(self.sample_latent(num_images, seed))
        if mean:
            return distribution.mean()
        return self._draw_images(distribution, num_images, seed)

    def _draw_images(self, distribution, num_images, seed):
        """x ~ p(x|z1), from our own noise where we know the likelihood."""
        key = noise.fold_in(noise.make_key(seed), IMAGE_STREAM)
        size, shape = math.prod(self.event_shape), (-1, *self.event_shape)
        if self.is_bernoulli:
            uniforms = noise.uniform(key, 0, num_images, size)
            mean = distribution.mean()
            return tf.cast(tf.reshape(uniforms, shape) < mean, mean.dtype)
        if self.likelihood_function is normal_likelihood:
            normals = tf.reshape(noise.normal(key, 0, num_images, size), shape)
            return distribution.mean() + distribution.stddev() * normals
        if self.is_eight_bit:
            uniforms = noise.uniform(key, 0, num_images, size)
            return distribution.distribution.quantile(tf.reshape(uniforms, shape))
        return distribution.sample(seed=noise.seed_tensor(seed))

    def reconstruct(
        self,
        x: ArrayLike | tf.Tensor,
        seed: Sequence[int] = (0, 0),
        *,
        labels: ArrayLike | tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Mean of p(x|z1) at one draw of z1 ~ q(z1|x): [B, *event]."""
        x = self.check_x(x)
        key = noise.make_key(seed)
        epsilon = noise.normal(key, 0, tf.shape(x)[0], sum(self.latent_dims))
        with self.given(self.check_labels(labels, tf.shape(x)[0])):
            loc, scale = split_loc_scale(self.proposal_parameters(x))
            z = loc + scale * epsilon[:, : self.latent_dims[0]]
            return self._decode(z).mean()

    def call(self, x: Any, training: bool = False) -> tf.Tensor:
        """Mean of p(x|z1) at the mean of q(z1|x): [B, *event]."""
        x, labels = self.split_inputs(x)
        with self.given(labels):
            loc, _ = split_loc_scale(self.proposal_parameters(x, training))
            return self._decode(loc, training).mean()

    def check_x(
        self, x: ArrayLike | tf.Tensor, *, has_values: bool | None = None
    ) -> tf.Tensor:
        """`x` as a float32 tensor of the model's event shape, or what is wrong.

        Values are checked outside of a graph. Grey images under a Bernoulli likelihood
        warn once, since their density is not that of binary images; so do values off
        the 256 levels of the discretized logistic, which count as the nearest level.

        Args:
          x: float [batch, *event].
          has_values: whether there are values to check; None: outside of a graph.
        """
        x = check_float(x)
        if not self.built:
            self.build(x.shape)
        if x.shape.rank is None or tuple(x.shape[1:]) != self.event_shape:
            raise InvalidInputError(
                f"`x` must have the shape [batch, *event], event {self.event_shape}. "
                f"Received: shape={tuple(x.shape)}"
            )
        if tf.executing_eagerly() if has_values is None else has_values:
            check_values(x, in_unit_interval=self.in_unit_interval)
            self._warn_of_grey(x)
        return tf.cast(x, tf.float32)

    def _warn_of_grey(self, x):
        if not self.in_unit_interval or self._warned_of_grey:
            return
        if self.is_eight_bit:
            if not bool(is_on_levels(x)):
                self._warned_of_grey = True
                warnings.warn(
                    "`x` has values off the 256 levels i / 255, each scored as the "
                    "nearest level: discretized_logistic is for 8-bit images.",
                    stacklevel=4,
                )
        elif bool(tf.reduce_any((x > 0.0) & (x < 1.0))):
            self._warned_of_grey = True
            warnings.warn(
                "`x` has values between 0 and 1, scored under a Bernoulli likelihood "
                "as given: binarize it first for a log-likelihood of binary images.",
                stacklevel=4,
            )

    # Helpers --------------------------------------------------------------------

    def _apply(self, network, latents, training=False):
        """A network on the last axis of [..., D], as float32 [..., E]."""
        flat = tf.reshape(latents, [-1, latents.shape[-1]])
        outputs = call_network(network, self.network_inputs(flat), training)
        outputs = tf.cast(outputs, tf.float32)
        shape = tf.concat([tf.shape(latents)[:-1], tf.shape(outputs)[1:]], axis=0)
        return tf.reshape(outputs, shape)

    def _decode(self, rows, training=False):
        """p(x|z1) at rows [R, D_1]; the likelihood gets float32 in any precision."""
        inputs = self.network_inputs(rows)
        outputs = call_network(self.decoder[0], inputs, training)
        return self.likelihood_function(tf.cast(outputs, tf.float32))

    def _log_likelihood(self, x, latents, training):
        """log p(x|z1) of x [B, *event] at latents [M, K, B, D_1]: [M, K, B]."""
        rows = tf.reshape(latents, [-1, self.latent_dims[0]])
        distribution = self._decode(rows, training)
        if x.shape[0] != 1:  # one example meets all rows by broadcasting
            draws = tf.shape(latents)[:2]
            x = tf.broadcast_to(x, tf.concat([draws, tf.shape(x)], axis=0))
            x = tf.reshape(x, [-1, *self.event_shape])
        return tf.reshape(distribution.log_prob(x), tf.shape(latents)[:-1])

    def _check_built(self):
        if not self.built:
            raise InvalidInputError(
                "the model must be built first, by `fit`, `build` or a call on data. "
                "Received: a model without variables"
            )


def _share_a_layer(first, second):
    """Whether two lists of networks have a variable in common."""
    ours = {id(variable) for network in first for variable in network.weights}
    return any(id(v) in ours for network in second for v in network.weights)


def _serialize_likelihood(likelihood):
    """A registered callable's config; refuses one that could not be loaded again."""
    target = likelihood if hasattr(likelihood, "__name__") else type(likelihood)
    registered = keras.saving.get_registered_name(target)
    if keras.saving.get_registered_object(registered) is not target:
        raise InvalidInputError(
            "`likelihood` must be registered with "
            "keras.saving.register_keras_serializable for the model to be saved. "
            f"Received: likelihood={target.__name__}"
        )
    return keras.saving.serialize_keras_object(likelihood)
