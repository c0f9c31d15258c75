"""The one gate for data: whatever way x and labels come in, they are checked here.

  x, labels            arrays and tensors, at once; outside of a graph their values too
  asserted, asserted_labels   the same values inside a graph, as a step is handed them:
                       batches of tf.data and of Python, inputs of a SavedModel

What x may be is the likelihood's to say; see `values`.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from iwae_tf.checks import float_hint
from iwae_tf.errors import InvalidInputError
from iwae_tf.models.latent_model import LatentModel, UnitMask
from iwae_tf.models.values import LevelWarning, Values


class Gate:
    """What comes into a model, checked.

    Args:
      latent: LatentModel, whose likelihood and classes make the rules.
    """

    def __init__(self, latent: LatentModel) -> None:
        self._latent = latent
        self._values = Values(latent.likelihood, latent.missing)
        self.in_unit_interval = self._values.in_unit_interval
        self._warn_of_grey = LevelWarning(self._values.num_levels)

    def x(
        self,
        x: ArrayLike | tf.Tensor,
        name: str = "x",
        *,
        has_values: bool | None = None,
        is_scored: bool = True,
    ) -> tf.Tensor:
        """`x` as a float32 tensor [batch, *event], or what is wrong with it.

        Values are checked outside of a graph. There grey images that are scored under a
        Bernoulli likelihood warn once, since their density is not that of binary
        images; so do values off the 256 levels of the discretized logistic.

        Args:
          x: float [batch, *event].
          name: what a message calls it.
          has_values: whether there are values to check; None: outside of a graph.
          is_scored: whether x is scored as it is, and not binarized first.

        Raises:
          InvalidInputError: names the rule that is broken.
        """
        x = self.floats(x, name)
        event_shape = self._latent.event_shape
        if event_shape is not None:
            if not x.shape.is_compatible_with([None, *event_shape]):
                raise self._wrong_shape(name, tuple(x.shape))
            x = tf.ensure_shape(x, [None, *event_shape])  # of a pipeline: unknown yet
        x = tf.cast(x, tf.float32)  # where what was finite in float64 may not be
        if tf.executing_eagerly() if has_values is None else has_values:
            self._values.check(x, name)
            if is_scored:
                self._warn_of_grey(x)
        return x

    def floats(self, x: ArrayLike | tf.Tensor, name: str = "x") -> tf.Tensor:
        """`x` as a tensor, which must be float."""
        try:
            x = tf.convert_to_tensor(x)
        except (TypeError, ValueError) as error:
            hint = ", use its toarray()" if hasattr(x, "toarray") else ""
            raise InvalidInputError(
                f"`{name}` must be a float array [batch, *event]. "
                f"Received: a {type(x).__name__}{hint}"
            ) from error
        if not x.dtype.is_floating:
            interval = " in [0, 1]" if self.in_unit_interval else ""
            raise InvalidInputError(
                f"`{name}` must be float{interval}. "
                f"Received: dtype={x.dtype.name}, {float_hint(x.dtype.name)}"
            )
        return x

    def labels(
        self,
        labels: ArrayLike | tf.Tensor | None,
        num_rows: int | tf.Tensor,
        name: str = "labels",
    ) -> tf.Tensor | None:
        """`labels` as int32 [num_rows], or what is wrong with them.

        Values are checked outside of a graph; see `asserted_labels` for those inside.

        Args:
          labels: integers [num_rows], or one integer for all rows; None.
          num_rows: integer or integer scalar.
          name: what a message calls them.

        Returns:
          labels: None where the model is not conditional and none were given.

        Raises:
          InvalidInputError: names the rule that is broken.
        """
        num_classes = self._latent.num_classes
        if num_classes is None:
            if labels is None:
                return None
            raise InvalidInputError(
                f"`{name}` must be left out: the model has no `num_classes`. "
                f"Received: {name} of shape {np.shape(labels)}"
            )
        if labels is None:
            raise InvalidInputError(
                f"`{name}` must be given: the model is conditional, num_classes="
                f"{num_classes}. Received: {name}=None"
            )
        return as_labels(labels, num_rows, num_classes, name)

    def arrays(
        self, x: Any, y: Any = None, names: tuple[str, str] = ("x", "y")
    ) -> tf.Tensor:
        """`x` as a tensor, its values and its labels checked."""
        if isinstance(x, (list, tuple, dict)):
            raise InvalidInputError(
                f"`{names[0]}` must be one array [batch, *event]. Received: a "
                f"{type(x).__name__} of {len(x)}"
            )
        x = self.x(x, names[0], has_values=True, is_scored=False)
        self._labels_of_data(y, x, names[1])
        return x

    def batches(self, x: tf.Tensor, y: Any, weights: Any, is_checked: bool) -> None:
        """Checks several batches, one after the other in x, before they are stepped on.

        Args:
          x: [rows, *event].
          y: [rows] or None.
          weights: [rows] or None.
          is_checked: whether the values of x have been checked already.
        """
        self.x(x, has_values=not is_checked, is_scored=False)
        self._labels_of_data(y, x)
        self.weights(weights)

    def weights(self, values: Any) -> None:
        """Raises InvalidInputError for a `sample_weight` that is none."""
        if values is None:
            return
        values = np.asarray(values)
        if values.dtype.kind not in "fiub":
            received = f"dtype={values.dtype}"
        elif len(bad := values[~((values >= 0) & (values < np.inf))]):
            received = f"{bad[0]:g} in sample_weight"
        else:
            return
        raise InvalidInputError(
            f"`sample_weight` must be finite and >= 0. Received: {received}"
        )

    def _labels_of_data(self, y, x, name="y"):
        """`labels`; None for a model without classes, which ignores y of data."""
        if self._latent.num_classes is None:
            return None
        return self.labels(y, tf.shape(x)[0], name)

    def call(self, inputs: Any) -> tuple[tf.Tensor, tf.Tensor | None]:
        """What a model is called on, x or the pair (x, labels): may have no rows."""
        if self._latent.num_classes is None:
            return self._called(inputs), None
        if not isinstance(inputs, (list, tuple)) or len(inputs) != 2:
            raise InvalidInputError(
                "a conditional model must be called on the pair (x, labels). "
                f"Received: a {type(inputs).__name__}"
            )
        x = self._called(inputs[0])
        return x, self.labels(inputs[1], tf.shape(x)[0])

    def _called(self, x):
        x = self.x(x, has_values=False)
        if tf.executing_eagerly() and len(x):
            self._values.check(x)
        return x

    def check_unbuilt(self, num_replicas: int) -> None:
        """Raises InvalidInputError where Keras cannot build the model from a batch."""
        if self._latent.num_classes is not None and num_replicas > 1:
            raise InvalidInputError(
                "a conditional model must be built before replicas train it, by "
                "`build((None, *event))`. Received: a model without variables"
            )

    def batch(self, data: Any) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor]:
        """x [B, *event], labels, a weight an example, of a batch that `fit` hands."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x = self.x(x, is_scored=False)
        y = self._labels_of_data(y, x)
        if sample_weight is None:
            return x, y, tf.ones(tf.shape(x)[:1])
        if tf.executing_eagerly():
            self.weights(sample_weight)
        sample_weight = tf.cast(sample_weight, tf.float32)
        if sample_weight.shape.rank != 1:
            raise InvalidInputError(
                "`sample_weight` must have one value for each example, shape [batch]. "
                f"Received: shape={tuple(sample_weight.shape)}"
            )
        return x, y, sample_weight

    def asserted(self, x: tf.Tensor) -> tf.Tensor:
        """`x`, once its values have been found fit to be scored, inside a graph."""
        return require(x, *self._values.rules(x))

    def asserted_labels(
        self, y: tf.Tensor | None, num_rows: tf.Tensor
    ) -> tf.Tensor | None:
        """`y`, once it has been found to be a class for each row, inside a graph."""
        if y is None:
            return None
        num_classes = self._latent.num_classes
        is_class = tf.reduce_all((y >= 0) & (y < num_classes))
        return require(
            y,
            (is_class, f"y: must be in [0, {num_classes})"),
            (tf.size(y) == num_rows, "y: must have one label a row"),
        )

    @tf.autograph.experimental.do_not_convert
    def asserted_batch(self, *data: Any) -> tuple[Any, ...]:
        """A batch of tf.data as it is, once its values have been found fit.

        Args:
          *data: x, then labels and weights if there are any; or the pair (x, labels).
        """
        is_pair = isinstance(data[0], tuple)
        x, *rest = tf.nest.map_structure(_copied, data[0] if is_pair else data)
        x, rest = self.asserted(self.x(x)), [_of_rank_one(part) for part in rest]
        y = rest[0] if rest else None
        if tf.is_tensor(y) and self._latent.num_classes is not None:
            y = self.labels(y, tf.shape(x)[0], "y")
            with tf.control_dependencies([self.asserted_labels(y, tf.shape(x)[0])]):
                x = tf.identity(x)
        if rest[1:] and tf.is_tensor(rest[1]):
            weights = tf.cast(rest[1], tf.float32)
            is_good = tf.reduce_all((weights >= 0.0) & (weights < np.inf))
            x = require(x, (is_good, "sample_weight: must be finite and >= 0"))
        return ((x, *rest), *data[1:]) if is_pair else (x, *rest)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Turns a failed assertion of `asserted_batch` into an InvalidInputError."""
        try:
            yield
        except tf.errors.InvalidArgumentError as error:
            shape = re.search(r"Shape of tensor .*?(\[.*?\]) is not", error.message)
            if shape:
                raise self._wrong_shape("x", shape[1]) from None
            found = re.fullmatch(r"(x|y|sample_weight): (.*)", refusal(error.message))
            if not found:
                raise
            rule = found[2].replace("not", "must be")
            if found[1] == "y":
                rule = rule.replace("be in", "be integers in") + ", one an example"
            raise InvalidInputError(
                f"`{found[1]}` {rule}. Received: other values in a batch of the data"
            ) from None

    def _wrong_shape(self, name, shape):
        return InvalidInputError(
            f"`{name}` must have the shape [batch, *event], event "
            f"{self._latent.event_shape}. Received: shape={shape}"
        )


def _copied(part):
    """A tensor in memory of its own: that of an array which Python yields is the
    array's, and TensorFlow may write the result of a step into it."""
    return tf.raw_ops.DeepCopy(x=part) if isinstance(part, tf.Tensor) else part


def _of_rank_one(values):
    """Labels or weights of a pipeline, one an example where their rank is unknown."""
    is_unknown = tf.is_tensor(values) and values.shape.rank is None
    return tf.ensure_shape(values, [None]) if is_unknown else values


def check_latents(z: ArrayLike | tf.Tensor, latent_dim: int) -> tf.Tensor:
    """`z`, numbers [rows, latent_dim], as a float32 tensor."""
    rule = f"`z` must be numbers [rows, {latent_dim}]."
    try:
        z = tf.cast(tf.convert_to_tensor(z), tf.float32)
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise InvalidInputError(f"{rule} Received: a {type(z).__name__}") from error
    if not z.shape.is_compatible_with([None, latent_dim]):
        raise InvalidInputError(f"{rule} Received: shape={tuple(z.shape)}")
    return z


def check_masks(
    masks: Iterable[UnitMask] | None, latent_dims: Sequence[int]
) -> list[UnitMask] | None:
    """`masks` as tensors, one `UnitMask` for each stochastic layer; None stays None."""
    if masks is None:
        return None
    try:
        checked = [
            UnitMask(tf.convert_to_tensor(active, tf.bool), tf.cast(fill, tf.float32))
            for active, fill in masks
        ]
    except (TypeError, ValueError):
        checked = []
    shapes = [[tuple(part.shape) for part in mask] for mask in checked]
    if shapes != [[(size,), (size,)] for size in latent_dims]:
        raise InvalidInputError(
            "`masks` must have a UnitMask for each layer, `active` of booleans and "
            f"`fill` of numbers, of {' and '.join(map(str, latent_dims))} units. "
            f"Received: {f'shapes {shapes}' if shapes else f'a {type(masks).__name__}'}"
        )
    return checked


def as_labels(
    labels: Any, num_rows: int | tf.Tensor, num_classes: int, name: str = "labels"
) -> tf.Tensor:
    """Integers as an int32 tensor [num_rows]; see `Gate.labels`."""
    rule = f"must be integers in [0, {num_classes}), one an example"
    labels = labels if tf.is_tensor(labels) else np.asarray(labels)
    dtype = np.dtype(getattr(labels.dtype, "as_numpy_dtype", labels.dtype))
    if not np.issubdtype(dtype, np.integer):
        raise InvalidInputError(f"`{name}` {rule}. Received: dtype={dtype}")
    labels = tf.convert_to_tensor(labels)
    is_eager = tf.executing_eagerly()
    if is_eager:
        values = labels.numpy()
        bad = values[(values < 0) | (values >= num_classes)]
        if bad.size:
            raise InvalidInputError(f"`{name}` {rule}. Received: {name}={bad[0]}")
    labels = tf.cast(labels, tf.int32)
    if labels.shape.rank == 0:
        return tf.fill([num_rows], labels)
    if labels.shape.rank != 1 or (is_eager and len(labels) != num_rows):
        expected = int(num_rows) if is_eager else "batch"
        raise InvalidInputError(
            f"`{name}` {rule}, [{expected}]. Received: shape={tuple(labels.shape)}"
        )
    return labels


def finite(values: tf.Tensor, name: str) -> tuple[tf.Tensor, str]:
    """The rule inside a graph that an input holds no NaN or infinity."""
    return tf.reduce_all(tf.math.is_finite(values)), f"{name}: not finite"


def require(tensor: tf.Tensor, *rules: tuple[Any, ...]) -> tf.Tensor:
    """`tensor`, once each rule (a condition, and what to say) has been found kept."""
    checks = [tf.debugging.Assert(holds, list(words)) for holds, *words in rules]
    with tf.control_dependencies(checks):
        return tf.identity(tensor)


def refusal(message: str) -> str:
    """What was wrong, from TensorFlow's report on a failed assertion."""
    found = re.search(r"assertion failed: \[(.*?)\]( \[Op|\s*\[\[|$)", message, re.S)
    return " ".join((found[1] if found else message).split())
