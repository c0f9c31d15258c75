"""Networks as a latent-variable model builds and calls them."""

import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from iwae_tf.checks import check_count, did_you_mean
from iwae_tf.errors import InvalidInputError
from iwae_tf.models.values import encoder_inputs
from iwae_tf.probability.distributions import (
    bernoulli_likelihood,
    description_of,
    get_likelihood,
)
from iwae_tf.probability.mixed import MixedLikelihood
from iwae_tf.schema import Schema

RESHAPING = tuple(
    getattr(keras.layers, name)
    for name in ("Reshape", "Flatten", "Permute", "Cropping2D")
)
ROWS = 2  # on which networks are tried: one would be any number by broadcasting
SIGMOIDS = (keras.activations.sigmoid, keras.activations.hard_sigmoid)


def check_networks(
    networks: keras.Layer | Sequence[keras.Layer], name: str
) -> list[keras.Layer]:
    """One Keras layer or a sequence of them, as a list."""
    if isinstance(networks, keras.Layer):
        return [networks]
    is_sequence = isinstance(networks, (list, tuple)) and len(networks) > 0
    if not is_sequence or not all(isinstance(n, keras.Layer) for n in networks):
        raise InvalidInputError(
            f"`{name}` must be a Keras layer or a sequence of them, one a stochastic "
            f"layer. Received: {name}={networks!r}"
        )
    return list(networks)


def likelihood_of(
    likelihood: str | Callable[[tf.Tensor], tfd.Distribution], schema: Schema | None
) -> Callable[[tf.Tensor], tfd.Distribution]:
    """The function from a decoder's output to p(x|z); "mixed" is that of a schema.

    Raises:
      InvalidInputError: an unknown name, or a schema that is missing or one too many.
    """
    if (likelihood == "mixed") != (schema is not None):
        raise InvalidInputError(
            "`schema` must be given for likelihood='mixed', and only for it. Received: "
            f"likelihood={likelihood!r}, schema={schema!r}"
        )
    return get_likelihood(likelihood) if schema is None else MixedLikelihood(schema)


def refuse_unknown(model_class: type, keywords: Mapping[str, Any]) -> None:
    """Raises InvalidInputError for a keyword of a model that nothing takes."""
    known: set[str] = set()
    for base in model_class.__mro__:
        known |= inspect.signature(base.__init__).parameters.keys()  # type: ignore[misc]
    for name in keywords.keys() - known:
        raise InvalidInputError(
            f"`{name}` must be left out: {model_class.__name__} has no such argument. "
            f"Received: {name}={keywords[name]!r}{did_you_mean(name, known)}"
        )


def check_classes(num_classes: int | None, prior: keras.Layer | None) -> None:
    """Raises InvalidInputError for classes or a p(z_L|y) that no model can have."""
    if num_classes is not None:
        check_count(num_classes, "num_classes")
    elif prior is not None:
        raise InvalidInputError(
            f"`prior` must be left out without `num_classes`. Received: prior={prior!r}"
        )
    if prior is not None and not isinstance(prior, keras.Layer):
        raise InvalidInputError(
            f"`prior` must be a Keras layer or model. Received: prior={prior!r}"
        )


def output_row_shape(
    network: keras.Layer,
    row_shape: Sequence[int],
    name: str,
    num_classes: int | None = None,
) -> tuple[int, ...]:
    """Builds `network` for rows of a shape; returns the shape of a row of its output.

    Args:
      network: Keras layer.
      row_shape: tuple of ints.
      name: what a message calls the network.
      num_classes: optional int; the network is then called on [rows, one-hot labels].

    Raises:
      InvalidInputError: the network does not take such rows.
    """
    inputs, rule = keras.KerasTensor((ROWS, *row_shape)), "must take rows"
    refusals: tuple[type[Exception], ...] = (ValueError,)
    if num_classes is not None:
        inputs = [inputs, keras.KerasTensor((ROWS, num_classes))]
        rule = (
            f"must take a list [inputs, one-hot labels of {num_classes} classes], as "
            "networks.WithLabels(network) does, with inputs"
        )
        refusals = (ValueError, TypeError)  # of a layer that took the list for a tensor
    try:
        output = network(inputs)
    except refusals as error:
        # Keras wraps the reason into a title, blank lines and bold type.
        lines = re.sub(r"\x1b\[\d+m", "", str(error)).splitlines()
        reason = [line for line in lines if line and "encountered" not in line]
        raise InvalidInputError(
            f"{name} {rule} of shape {tuple(row_shape)}. Received: {reason[0]}"
        ) from error
    if isinstance(output, (list, tuple, dict)):
        raise InvalidInputError(
            f"{name} must return one tensor; of two, say what the second one is: "
            "networks.TwoHeads(network, second='log_variance') or 'log_scale'. "
            f"Received: a {type(output).__name__} of {len(output)}"
        )
    if output.shape[:1] not in ((ROWS,), (None,)):
        raise InvalidInputError(
            f"{name} must return a row for each row. "
            f"Received: shape={tuple(output.shape)} of {ROWS} rows"
        )
    return tuple(output.shape[1:])


def latent_dim_of(row_shape: Sequence[int], name: str, latent: str) -> int:
    """Size of the latent whose loc and log_scale a network returns as one row."""
    if len(row_shape) != 1 or row_shape[0] % 2:
        raise InvalidInputError(
            f"{name} must return an even number of values in each row, 2 * latent_dim, "
            f"loc and log_scale of {latent} concatenated. "
            f"Received: rows of shape {row_shape}"
        )
    return row_shape[0] // 2


def build_networks(latent: Any, event_shape: tuple[int, ...]) -> list[int]:
    """Creates the variables of a LatentModel's networks; returns its latent sizes.

    Raises:
      InvalidInputError: networks that do not fit each other or x.
    """
    num_classes = latent.num_classes
    latent_dims: list[int] = []
    if isinstance(latent.likelihood, MixedLikelihood):
        names = latent.likelihood.schema.names
        if event_shape != (len(names),):
            raise InvalidInputError(
                f"`x` must have the {len(names)} columns of the schema. Received: rows "
                f"of shape {event_shape}"
            )
    inputs = encoder_inputs(
        tf.zeros((1, *event_shape)), latent.likelihood, latent.missing
    )
    row_shape = tuple(inputs.shape[1:])
    for layer, network in enumerate(latent.encoder, 1):
        name = f"`encoder` of layer {layer}"
        row_shape = output_row_shape(network, row_shape, name, num_classes)
        row_shape = (latent_dim_of(row_shape, name, f"z{layer}"),)
        latent_dims += row_shape

    def build_prior(network, size, classes, name, layer):
        """p(z_layer|z_{layer+1}) or p(z_layer|y), from rows of `size`."""
        row_shape = output_row_shape(network, (size,), name, classes)
        wanted = latent_dims[layer - 1]
        if row_shape != (2 * wanted,):
            raise InvalidInputError(
                f"{name} must return 2 x {wanted} = {2 * wanted} values in each row, "
                f"loc and log_scale of z{layer}. Received: rows of shape {row_shape}"
            )

    for layer, size in enumerate(latent_dims[1:], 1):
        name = f"`decoder` of layer {layer + 1}"
        build_prior(latent.decoder[layer], size, num_classes, name, layer)
    row_shape = output_row_shape(
        latent.decoder[0], latent_dims[:1], "`decoder` of layer 1", num_classes
    )
    _check_likelihood(latent, row_shape, event_shape)
    if latent.likelihood is bernoulli_likelihood and _ends_in_sigmoid(
        latent.decoder[0]
    ):
        warnings.warn(
            "`decoder` ends in a sigmoid, but likelihood='bernoulli' reads its outputs "
            "as logits: remove the activation of the last layer.",
            stacklevel=2,
        )
    if latent.prior is not None:
        build_prior(latent.prior, num_classes, None, "`prior`", len(latent_dims))
    return latent_dims


def _check_likelihood(latent, row_shape, event_shape):
    """Raises InvalidInputError unless it makes p(x|z) of the decoder's rows."""
    likelihood = latent.likelihood
    parameters = description_of(likelihood).parameters
    if parameters and event_shape:
        *axes, last = event_shape
        count, names = len(parameters), " and ".join(parameters)
        wanted, what = (*axes, count * last), f"a {names} for each element of x"
        if count > 1:
            what = f"{count} x {last} values for {names} on the last axis"
        if row_shape != wanted:
            raise InvalidInputError(
                f"`decoder` of layer 1 must return rows of shape {wanted}, {what}, for "
                f"x of shape {event_shape}. Received: rows of shape {row_shape}"
            )
    try:
        with tf.GradientTape() as tape:
            distribution = likelihood(tf.zeros((ROWS, *row_shape)))
        found = tuple(distribution.event_shape)
        batch_shape = tuple(distribution.batch_shape)
    except InvalidInputError:
        raise
    except Exception as error:  # of a likelihood of the user's
        reason = " ".join(str(error).split())[:200]
        raise InvalidInputError(
            "`likelihood` must make a TFP distribution of the decoder's output, [rows, "
            f"*{row_shape}]. Received: {type(error).__name__}: {reason}"
        ) from error
    is_batch = distribution.batch_shape.is_compatible_with([ROWS])
    if found != event_shape or not is_batch:
        raise InvalidInputError(
            "`likelihood` must have the batch shape [rows], as tfd.Independent makes "
            f"it, and the event shape of x, {event_shape}. Received: batch shape "
            f"{batch_shape}, event shape {found}, of {ROWS} rows of shape {row_shape}"
        )
    variables = [*tape.watched_variables(), *distribution.trainable_variables]
    networks = [*latent.encoder, *latent.generative_networks]
    known = {id(v.value) for n in networks for v in n.trainable_variables}
    strays = [v.name for v in variables if id(v) not in known]
    if strays and not isinstance(likelihood, keras.Layer):
        raise InvalidInputError(
            "`likelihood` must be a keras.Layer to have trainable variables, which "
            "would be neither trained nor saved with the model: set trainable=False "
            f"if they are constants. Received: {strays[0]}"
        )
    if latent.takes_missing and not _is_factorized(distribution):
        raise InvalidInputError(
            "`likelihood` must be a tfd.Independent over all axes of x where values "
            f"are missing, as every likelihood with a name is. Received: {distribution}"
        )


def _ends_in_sigmoid(network):
    """Whether the last layer of a Keras model that does not only reshape is one."""
    while inner := getattr(network, "operations", getattr(network, "layers", None)):
        network = [part for part in inner if not isinstance(part, RESHAPING)][-1]
    is_keras = type(network).__module__.startswith("keras.")  # whose `activation` ends
    is_activation = is_keras and getattr(network, "activation", None) in SIGMOIDS
    return is_activation or type(network).__name__ == "Sigmoid"


def _is_factorized(distribution):
    """Whether each element of x has a density of its own."""
    if not hasattr(distribution, "reinterpreted_batch_ndims"):  # tfd.Independent
        return False
    return distribution.distribution.event_shape.rank == 0


def one_hot(labels: tf.Tensor | None, num_classes: int) -> tf.Tensor:
    """float32 [B, num_classes]; NaN for a label that is not in [0, num_classes).

    A compiled program cannot raise: NaN there makes the bound of the example NaN.
    """
    if labels is None:
        raise InvalidInputError(
            "`labels` must be given: the model is conditional, num_classes="
            f"{num_classes}. Received: labels=None"
        )
    is_class = (labels >= 0) & (labels < num_classes)
    encoded = tf.one_hot(tf.cast(labels, tf.int32), num_classes)
    return tf.where(is_class[:, tf.newaxis], encoded, np.float32(np.nan))
