"""The autoencoder as a Keras model: what it is made of, and what it can be asked."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from numpy.typing import ArrayLike
from tensorflow_probability import distributions as tfd

from iwae_tf.checks import check_count
from iwae_tf.errors import InvalidInputError
from iwae_tf.models.building import refuse_unknown
from iwae_tf.models.inputs import Gate, check_latents
from iwae_tf.models.latent_model import LatentModel
from iwae_tf.models.private import freeze_parts
from iwae_tf.models.saving import SavedByKeras
from iwae_tf.probability import noise
from iwae_tf.probability.distributions import (
    bernoulli_likelihood,
    diagonal_normal,
    discretized_logistic_likelihood,
    mean_of,
    normal_likelihood,
    split_loc_scale,
)
from iwae_tf.schema import Schema

# What `latent` and `gate` are made of, once and for all.
PARTS = (
    *("encoder", "decoder", "likelihood", "num_classes", "prior"),
    *("missing", "schema"),
)
LATENT_STREAM, IMAGE_STREAM = 3, 4  # of the noise of `sample`


class Autoencoder(SavedByKeras):
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
        for counts "poisson" (log_mean) or "negative_binomial" (log_mean and
        log_dispersion; the encoder is given log(1 + x) of counts),
        for tables "mixed" (see `schema`), or a callable from the decoder's output
        [rows, ...] to a TFP distribution with batch shape [rows] and the event shape of
        x. A callable must be registered with
        `keras.saving.register_keras_serializable` for the model to be saved.
      num_classes: number of classes of a conditional model, q(z|x, y), p(z_L|y) and
        p(x|z, y) (Sohn et al. 2015). Each network is then called on the list
        [inputs, one-hot label], float32 [rows, ...] and [rows, num_classes]. `MLP`
        takes this list; wrap a network with one input in `networks.WithLabels`.
      prior: Keras layer or model from one-hot labels [rows, num_classes] to loc and
        log_scale of p(z_L|y), [rows, 2 * latent_dim]. None: N(0, I) for every class.
      missing: what NaN in x means. "refuse": an error. "marginalize": a missing value;
        all bounds are on log p of the observed values, and the encoder receives zero.
        "marginalize_with_mask": the encoder also receives a mask, 1 for observed and 0
        for missing, as more entries on the last axis of its input.
      schema: Schema of the columns, for likelihood="mixed": a family for each column of
        a table. The encoder is given standardised columns, the decoder returns
        `schema.num_parameters` values; see `probability.mixed`.

    Calling the model, and `predict`, returns the mean of p(x|z1) at the mean of
    q(z1|x): [batch, *event]. Nothing else needs a mean. A conditional model is called
    on the pair (x, labels). Its other methods that take x also take `labels`: integers
    [batch], or one integer for the whole batch.

    `latent` is the probabilistic model without Keras, `gate` what checks x and labels.

    Raises:
      InvalidInputError: networks that do not fit each other or x.

    References:
      Sohn, Lee and Yan, 2015. Learning structured output representation using deep
        conditional generative models. NeurIPS 28.
    """

    latent_class = LatentModel

    def __init__(
        self,
        encoder: keras.Layer | Sequence[keras.Layer],
        decoder: keras.Layer | Sequence[keras.Layer],
        *,
        likelihood: str | Callable[[tf.Tensor], tfd.Distribution] = "bernoulli",
        num_classes: int | None = None,
        prior: keras.Layer | None = None,
        missing: str = "refuse",
        schema: Schema | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_unknown(type(self), kwargs)
        super().__init__(**kwargs)
        self.latent = self.latent_class(
            encoder, decoder, likelihood, num_classes=num_classes, prior=prior,
            missing=missing, schema=schema,
        )  # fmt: skip
        self.likelihood, self.schema = likelihood, schema
        # Keras tracks and saves what is an attribute here, under these names.
        self.encoder, self.decoder = self.latent.encoder, self.latent.decoder
        self.prior = prior
        self.gate = Gate(self.latent)  # the last one: see `__setattr__`

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuses another part for a model that is made of the first one."""
        if name in PARTS and "gate" in vars(self):
            raise InvalidInputError(
                f"`{name}` must be given when the model is made: make another model, "
                f"with its weights. Received: {name}={value!r}"
            )
        super().__setattr__(name, value)

    @property
    def num_classes(self) -> int | None:
        """Number of classes of a conditional model."""
        return self.latent.num_classes

    @property
    def is_conditional(self) -> bool:
        """Whether q, p(z_L) and p(x|z) are given a label."""
        return self.latent.num_classes is not None

    @property
    def latent_dims(self) -> list[int]:
        """Size of each stochastic layer, z1 first; None until the model is built."""
        return self.latent.latent_dims

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one x; None until the model is built."""
        return self.latent.event_shape

    @property
    def has_mean(self) -> bool:
        """Whether p(x|z) has one: what `call`, `predict` and `reconstruct` return."""
        y = tf.zeros([1], tf.int32) if self.is_conditional else None
        try:
            mean_of(self.latent.decode(tf.zeros([1, self.latent_dims[0]]), y))
        except InvalidInputError:
            return False
        return True

    def build(self, input_shape: Sequence[Any]) -> None:
        """Creates all variables for x of shape `input_shape` (batch, *event)."""
        if self.built:  # type: ignore[has-type]
            return
        try:
            if self.is_conditional and isinstance(input_shape[0], (list, tuple)):
                input_shape = input_shape[0]  # of the pair (x, labels)
            event_shape = tuple(operator.index(size) for size in input_shape[1:])
        except TypeError as error:
            raise InvalidInputError(
                "`input_shape` must be (batch, *event), event of integers, as "
                f"(None, 784). Received: input_shape={input_shape}"
            ) from error
        self.latent.build(event_shape)
        freeze_parts(self)
        self.built = True

    def check_x(self, x: ArrayLike | tf.Tensor) -> tf.Tensor:
        """`x` as a float32 tensor of the model's event shape; see `inputs.Gate.x`.

        Builds a model that is not built.
        """
        if not self.built:
            self.build(self.gate.floats(x).shape)
        return self.gate.x(x)

    def check_labels(
        self, labels: ArrayLike | tf.Tensor | None, num_rows: int | tf.Tensor
    ) -> tf.Tensor | None:
        """`labels` as int32 [num_rows]; see `inputs.Gate.labels`."""
        return self.gate.labels(labels, num_rows)

    def _with_labels(self, x, labels):
        """x and labels of the methods below."""
        x = self.check_x(x)
        return x, self.check_labels(labels, tf.shape(x)[0])

    def _check_built(self):
        if not self.built:
            raise InvalidInputError(
                "the model must be built first, by `fit`, `build` or a call on data. "
                "Received: a model without variables"
            )

    # What it can be asked -----------------------------------------------------------

    def log_weights(
        self,
        x: ArrayLike | tf.Tensor,
        num_groups: int = 1,
        num_samples: int = 50,
        seed: Sequence[int] = (0, 0),
        *,
        labels: ArrayLike | tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """log p(x, z) - log q(z|x) for M*K draws of z a row.

        In a training loop of your own, maximise the mean over B of `bounds.iwae` of
        these log-weights under a tf.GradientTape.

        Args:
          x: float [B, *event], scored as given.
          num_groups: M.
          num_samples: K.
          seed: pair of integers; row b, draw (m, k) has the same noise in any mode.
          labels: of a conditional model, integers [B], or one for all.
          training: whether the networks are called as in training, with dropout.

        Returns:
          log_weights: float32 [M, K, B].
        """
        num_groups = check_count(num_groups, "num_groups")
        num_samples = check_count(num_samples, "num_samples")
        x, y = self._with_labels(x, labels)
        key, rows = noise.make_key(seed), tf.shape(x)[0]
        draws = self.latent.draw_noise(key, 0, rows, num_groups, num_samples)
        parts = self.latent.log_weights(x, draws, y, training=training)
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
        x, y = self._with_labels(x, labels)
        parameters = self.latent.encode(x, y)
        proposals = [diagonal_normal(*split_loc_scale(parameters))]
        for layer in range(1, len(self.latent_dims)):
            parameters = self.latent.proposal_parameters(layer, proposals[-1].mean(), y)
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
        return self.latent.decode(z, self.check_labels(labels, tf.shape(z)[0]))

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
        return self.latent.sample(draws, self.check_labels(labels, num_images))

    def sample_latent(
        self,
        num_images: int | tf.Tensor,
        seed: Sequence[int] = (0, 0),
        *,
        labels: ArrayLike | tf.Tensor | None = None,
    ) -> tf.Tensor:
        """z1 from the generative model: [num_images, latent_dim]."""
        return self.sample_latents(num_images, seed, labels=labels)[0]

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
        y = self.check_labels(labels, num_images)
        latent = self.sample_latent(num_images, seed, labels=y)
        distribution = self.latent.decode(latent, y)
        if mean:
            return mean_of(distribution)
        return _draw_images(self.latent, distribution, num_images, seed)

    def reconstruct(
        self,
        x: ArrayLike | tf.Tensor,
        seed: Sequence[int] = (0, 0),
        *,
        labels: ArrayLike | tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Mean of p(x|z1) at one draw of z1 ~ q(z1|x): [B, *event]."""
        x, y = self._with_labels(x, labels)
        key = noise.make_key(seed)
        epsilon = noise.normal(key, 0, tf.shape(x)[0], sum(self.latent_dims))
        loc, scale = split_loc_scale(self.latent.encode(x, y))
        z = loc + scale * epsilon[:, : self.latent_dims[0]]
        return mean_of(self.latent.decode(z, y))

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> tf.Tensor:
        """As in Keras; what is no symbol is checked first."""
        leaves = keras.tree.flatten(inputs)
        if not any(isinstance(leaf, keras.KerasTensor) for leaf in leaves):
            self.gate.call(inputs)
        try:
            return super().__call__(inputs, *args, **kwargs)
        except InvalidInputError as error:  # which Keras has put into lines of its own
            raise error.__context__ or error from None

    def call(self, inputs: Any, training: bool = False) -> tf.Tensor:
        """Mean of p(x|z1) at the mean of q(z1|x): [B, *event]."""
        x, y = self.gate.call(inputs)
        loc, _ = split_loc_scale(self.latent.encode(x, y, training))
        return mean_of(self.latent.decode(loc, y, training))

    def predict_step(self, data: Any) -> tf.Tensor:
        """As in Keras; a conditional model takes (x, y) as `fit` does."""
        if self.is_conditional:
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            data = (x if y is None else (x, y),)
        return super().predict_step(data)


def _draw_images(latent, distribution, count, seed):
    """x ~ p(x|z1), from our own noise where we know the likelihood."""
    key = noise.fold_in(noise.make_key(seed), IMAGE_STREAM)
    likelihood, shape = latent.likelihood, (-1, *latent.event_shape)
    size = math.prod(latent.event_shape)
    if likelihood is normal_likelihood:
        normals = tf.reshape(noise.normal(key, 0, count, size), shape)
        return distribution.mean() + distribution.stddev() * normals
    uniforms = tf.reshape(noise.uniform(key, 0, count, size), shape)
    if likelihood is bernoulli_likelihood:
        mean = distribution.mean()
        return tf.cast(uniforms < mean, mean.dtype)
    if likelihood is discretized_logistic_likelihood:
        return distribution.distribution.quantile(uniforms)
    return tf.cast(distribution.sample(seed=noise.seed_tensor(seed)), tf.float32)
