"""Class labels: what a conditional model knows of them, and how its networks see them.

A conditional model has q(z|x, y), p(z_L|y) and p(x|z, y) for a label y of
`num_classes`. Its densities are those of an unconditional model, within
`model.given(labels)`: there each network is called on the list [inputs, one_hot].
"""

import contextlib
import contextvars
import inspect
import numbers
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike
from tensorflow_probability import distributions as tfd

from iwae_tf.checks import check_count
from iwae_tf.errors import InvalidInputError
from iwae_tf.models.shapes import latent_dim_of, output_row_shape
from iwae_tf.networks.dense import without_row_weights
from iwae_tf.probability.distributions import (
    diagonal_normal,
    split_loc_scale,
    standard_normal,
)

# (model, one-hot labels) of the innermost `given`, in each thread.
_given = contextvars.ContextVar("given", default=(None, None))


class LabelConditioning:
    """The part of `Autoencoder` that knows of labels; it does nothing without them."""

    decoder: list[keras.Layer]  # these two are `Autoencoder`'s
    latent_dims: Any
    num_classes: Any = None
    prior: keras.Layer | None = None

    def _set_classes(self, num_classes, prior):
        """Checks and keeps the constructor's arguments."""
        if num_classes is not None:
            self.num_classes = check_count(num_classes, "num_classes")
        if prior is None:
            return
        if not self.is_conditional:
            raise InvalidInputError(
                "`prior` must be left out without `num_classes`. "
                f"Received: prior={prior!r}"
            )
        if not isinstance(prior, keras.Layer):
            raise InvalidInputError(
                f"`prior` must be a Keras layer or model. Received: prior={prior!r}"
            )
        self.prior = prior

    @property
    def is_conditional(self) -> bool:
        """Whether q, p(z_L) and p(x|z) are given a label."""
        return self.num_classes is not None

    @property
    def generative_networks(self) -> list[keras.Layer]:
        """The networks of p(x, z): the decoder's, and that of p(z_L|y)."""
        return self.decoder if self.prior is None else [*self.decoder, self.prior]

    def given(self, labels: tf.Tensor | None) -> AbstractContextManager[None]:
        """A context in which all densities of the model are given these labels.

        Args:
          labels: integer tensor [B], one an example; None for a model without labels,
            and for the labels of an enclosing `given`.

        Raises:
          InvalidInputError: `labels` for a model that is not conditional.
        """
        if labels is None:
            return contextlib.nullcontext()
        if not self.is_conditional:
            raise InvalidInputError(
                "`labels` must be left out: the model has no `num_classes`. "
                f"Received: labels of shape {np.shape(labels)}"
            )
        return _set(self, one_hot(labels, self.num_classes))

    def condition(self) -> tf.Tensor:
        """The one-hot labels [B, num_classes] of the enclosing `given`.

        Raises:
          InvalidInputError: there is none.
        """
        model, condition = _given.get()
        if model is not self:
            raise InvalidInputError(
                "`labels` must be given: the model is conditional, num_classes="
                f"{self.num_classes}. Received: labels=None"
            )
        return condition

    def network_inputs(self, rows: tf.Tensor) -> tf.Tensor | list[tf.Tensor]:
        """What a network is called on: rows [..., B, ...] flattened to [R, ...].

        Returns:
          `rows` without labels; otherwise [rows, the one-hot label of each row].
        """
        if not self.is_conditional:
            return rows
        condition = self.condition()
        draws = tf.shape(rows)[0] // tf.maximum(tf.shape(condition)[0], 1)
        return [rows, tf.tile(condition, [draws, 1])]

    def top_prior(
        self, active: tf.Tensor | None = None, training: bool = False
    ) -> tfd.Distribution:
        """p(z_L), or p(z_L|y) with batch shape [B]: event shape [D_L].

        Args:
          active: optional bool [D_L]; see `distributions.diagonal_normal`.
          training: whether the network of p(z_L|y) is called as in training.
        """
        if self.prior is None:
            return standard_normal(self.latent_dims[-1], active)
        with without_row_weights():  # a row is an example here, not a draw
            parameters = call_network(self.prior, self.condition(), training)
        return diagonal_normal(*split_loc_scale(parameters), active)

    def standardized(self, latents: tf.Tensor) -> tf.Tensor:
        """z_L [..., B, D_L] in units of p(z_L|y): (z_L - loc_y) / scale_y.

        In these units the prior is N(0, I) for every class, as it is without `prior`.
        """
        if self.prior is None:
            return latents
        top = self.top_prior()
        return (latents - top.mean()) / top.stddev()

    def unstandardized(self, values: tf.Tensor) -> tf.Tensor:
        """The inverse of `standardized`: z_L at `values` [..., D_L]."""
        if self.prior is None:
            return values
        top = self.top_prior()
        return top.mean() + top.stddev() * values

    def check_labels(
        self,
        labels: ArrayLike | tf.Tensor | None,
        num_rows: int | tf.Tensor,
        *,
        name: str = "labels",
    ) -> tf.Tensor | None:
        """`labels` as int32 [num_rows], or what is wrong with them.

        Values are checked outside of a graph; see `one_hot` for those inside.

        Args:
          labels: integers [num_rows], or one integer for all rows; None.
          num_rows: integer or integer scalar.
          name: what a message calls them.

        Returns:
          labels: None where the model is not conditional and none were given, and
            within a `given`.

        Raises:
          InvalidInputError: names the rule that is broken.
        """
        if labels is None:
            if self.is_conditional and _given.get()[0] is not self:
                raise InvalidInputError(
                    f"`{name}` must be given: the model is conditional, num_classes="
                    f"{self.num_classes}. Received: {name}=None"
                )
            return None
        if not self.is_conditional:
            raise InvalidInputError(
                f"`{name}` must be left out: the model has no `num_classes`. "
                f"Received: {name} of shape {np.shape(labels)}"
            )
        return as_labels(labels, num_rows, self.num_classes, name)

    def split_inputs(self, inputs: Any) -> tuple[Any, tf.Tensor | None]:
        """What the model is called on, as x and labels, None without any."""
        if not self.is_conditional:
            return inputs, None
        if not isinstance(inputs, (list, tuple)) or len(inputs) != 2:
            raise InvalidInputError(
                "a conditional model must be called on the pair (x, labels). "
                f"Received: a {type(inputs).__name__}"
            )
        x, labels = inputs
        return x, self.check_labels(labels, tf.shape(x)[0])

    def predict_step(self, data: Any) -> tf.Tensor:
        """As in Keras; a conditional model takes (x, y) as `fit` does."""
        if self.is_conditional:
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            data = (x if y is None else (x, y),)
        return super().predict_step(data)  # type: ignore[misc]  # of keras.Model

    def _check_prior(self):
        """Builds the network of p(z_L|y), which must fit the top layer."""
        if self.prior is None:
            return
        row_shape = output_row_shape(self.prior, (self.num_classes,), "`prior`")
        if latent_dim_of(row_shape, "`prior`") != self.latent_dims[-1]:
            raise InvalidInputError(
                f"`prior` must return loc and log_scale of z{len(self.latent_dims)}, "
                f"size {2 * self.latent_dims[-1]}. Received: size {row_shape[0]}"
            )


def as_labels(
    labels: Any, num_rows: int | tf.Tensor, num_classes: int, name: str = "labels"
) -> tf.Tensor:
    """Integers as an int32 tensor [num_rows]; see `LabelConditioning.check_labels`."""
    rule = f"must be integers in [0, {num_classes}), one an example"
    if isinstance(labels, numbers.Integral) and not isinstance(labels, bool):
        labels = np.array(labels, np.int64)
    if not tf.is_tensor(labels):
        labels = np.asarray(labels)
        if not np.issubdtype(labels.dtype, np.integer):
            raise InvalidInputError(f"`{name}` {rule}. Received: dtype={labels.dtype}")
    labels = tf.convert_to_tensor(labels)
    if not labels.dtype.is_integer:
        raise InvalidInputError(f"`{name}` {rule}. Received: dtype={labels.dtype.name}")
    if tf.executing_eagerly():
        values = labels.numpy()
        bad = values[(values < 0) | (values >= num_classes)]
        if bad.size:
            raise InvalidInputError(f"`{name}` {rule}. Received: {name}={bad[0]}")
    labels = tf.cast(labels, tf.int32)
    if labels.shape.rank == 0:
        return tf.fill([num_rows], labels)
    fits = labels.shape.rank == 1
    if fits and tf.executing_eagerly():
        fits = labels.shape[0] == int(num_rows)
    if not fits:
        expected = f" [{int(num_rows)}]" if tf.executing_eagerly() else " [batch]"
        raise InvalidInputError(
            f"`{name}` {rule},{expected}. Received: shape={tuple(labels.shape)}"
        )
    return labels


def one_hot(labels: tf.Tensor, num_classes: int) -> tf.Tensor:
    """float32 [B, num_classes]; NaN for a label that is not in [0, num_classes).

    A compiled program cannot raise: NaN there makes the bound of the example NaN.
    """
    is_class = (labels >= 0) & (labels < num_classes)
    encoded = tf.one_hot(tf.cast(labels, tf.int32), num_classes)
    return tf.where(is_class[:, tf.newaxis], encoded, np.float32(np.nan))


def call_network(network: keras.Layer, inputs: Any, training: bool) -> tf.Tensor:
    """Calls a network, with `training` where it takes it."""
    if "training" in inspect.signature(network.call).parameters:
        return network(inputs, training=training)
    return network(inputs)


@contextlib.contextmanager
def _set(model, condition):
    token = _given.set((model, condition))
    try:
        yield
    finally:
        _given.reset(token)
