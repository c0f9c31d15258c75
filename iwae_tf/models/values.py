"""What the values of x may be, and what the encoder is given of them."""

import warnings
from typing import Any

import numpy as np
import tensorflow as tf

from iwae_tf.errors import InvalidInputError
from iwae_tf.probability.discretized_logistic import NUM_LEVELS, is_on_levels
from iwae_tf.probability.distributions import description_of
from iwae_tf.probability.mixed import MixedLikelihood

# What NaN in x is: an error; or a missing value, whose density is integrated out, with
# zero for the encoder, which is by choice given the mask of what is there as well.
MISSING = ("refuse", "marginalize", "marginalize_with_mask")
# What is said of values that are scored although they are none of an element's levels.
OFF_LEVELS = {
    2: (
        "`x` has values between 0 and 1, which a Bernoulli likelihood scores "
        "as they are: binarize it first for a log-likelihood of binary images."
    ),
    NUM_LEVELS: (
        "`x` has values between the 256 levels i / 255. Each is scored as the "
        "nearest level: discretized_logistic is for 8-bit images."
    ),
}


def encoder_inputs(x: tf.Tensor, likelihood: Any, missing: str) -> tf.Tensor:
    """What the encoder is given of x: float32 [B, ...].

    Columns of a schema are standardised; counts of a count likelihood are log(1 + x);
    missing values are zero after it, and with
    "marginalize_with_mask" one more entry for each element, on the last axis, is 1
    where it is there.

    Args:
      x: float [B, *event].
      likelihood: function from the decoder's output to p(x|z).
      missing: one of `MISSING`.
    """
    x = inputs = tf.cast(x, tf.float32)
    if isinstance(likelihood, MixedLikelihood):
        inputs = likelihood.features(x)
    elif missing != "refuse":
        inputs = tf.where(tf.math.is_nan(x), 0.0, x)
    if description_of(likelihood).has_counts:
        inputs = tf.math.log1p(inputs)
    if missing != "marginalize_with_mask":
        return inputs
    is_observed = tf.cast(~tf.math.is_nan(x), tf.float32)
    return tf.concat([inputs, is_observed], axis=-1)


class Values:
    """The rules for elements of x, which are the likelihood's.

    Bernoulli and the discretized logistic take [0, 1], Poisson and the negative
    binomial 0, 1, 2, ..., "mixed" what its columns can be, all others any finite
    value; NaN is taken where it is a missing value.

    Args:
      likelihood: function from the decoder's output to p(x|z).
      missing: one of `MISSING`.
    """

    def __init__(self, likelihood: Any, missing: str = "refuse") -> None:
        description = description_of(likelihood)
        self.num_levels = description.num_levels  # of an element of x
        self.in_unit_interval = description.in_unit_interval
        self._has_counts = description.has_counts
        is_mixed = isinstance(likelihood, MixedLikelihood)
        self._columns: Any = likelihood if is_mixed else None
        self._takes_missing = missing != "refuse"

    def check(self, x: tf.Tensor, name: str = "x") -> None:
        """Raises InvalidInputError for an eager `x` that is empty or unfit."""
        known = self._known(x)
        check_values(known, in_unit_interval=self.in_unit_interval, name=name)
        if self._has_counts and not tf.reduce_all(is_count := _are_counts(known)):
            raise InvalidInputError(
                f"`{name}` must be counts, 0, 1, 2, ..., for its likelihood. Received: "
                f"{known[~is_count][0]:g} in {name}"
            )
        if self._columns is None or bool(tf.reduce_all(is_good := self._fits(x))):
            return
        row, place = tf.where(~is_good)[0].numpy()
        column = self._columns.schema.columns[place]
        raise InvalidInputError(
            f"`{name}` must have values that its columns allow. Received: "
            f"{x[row, place]:g} in column {column.name}, {column.kind}"
        )

    def rules(self, x: tf.Tensor) -> list[tuple[tf.Tensor, str]]:
        """The same inside a graph: conditions, and what to say where one fails."""
        known = self._known(x)
        rules = [(tf.reduce_all(tf.math.is_finite(known)), "x: not finite")]
        if self.in_unit_interval:
            is_within = tf.reduce_all((known >= 0.0) & (known <= 1.0))
            rules.append((is_within, "x: must be in [0, 1]"))
        if self._has_counts:
            is_good = tf.reduce_all(_are_counts(known))
            rules.append((is_good, "x: must be counts, 0, 1, 2, ..."))
        if self._columns is not None:
            rule = "x: must have values that its columns allow"
            rules.append((tf.reduce_all(self._fits(x)), rule))
        return rules

    def _known(self, x):
        """`x`, with zero for what may be missing and is."""
        if not self._takes_missing:
            return x
        return tf.where(tf.math.is_nan(x), tf.zeros_like(x), x)

    def _fits(self, x):
        """Whether each element is missing or a value of its column: bool, as x."""
        return tf.math.is_nan(x) | self._columns.supports(x)


def _are_counts(x):
    """Whether each element is 0, 1, 2, ...: bool, as x."""
    return (x >= 0.0) & (x == tf.floor(x))


class LevelWarning:
    """Warns once of values in [0, 1] that are none of an element's levels.

    Args:
      num_levels: of an element of x; None: unbounded.
    """

    def __init__(self, num_levels: int | None) -> None:
        self._num_levels, self._warned = num_levels, False

    def __call__(self, x: Any) -> None:
        """Looks at x, float [...], NaN where it is missing."""
        if self._num_levels in OFF_LEVELS and not self._warned and self._is_off(x):
            self._warned = True
            warnings.warn(OFF_LEVELS[self._num_levels], stacklevel=4)

    def _is_off(self, x):
        if self._num_levels == 2:
            return bool(tf.reduce_any((x > 0.0) & (x < 1.0)))
        return not is_on_levels(tf.where(tf.math.is_nan(x), tf.zeros_like(x), x))


def check_values(x: tf.Tensor, *, in_unit_interval: bool, name: str = "x") -> None:
    """Raises InvalidInputError for an eager `x` that is empty or cannot be scored."""
    if tf.size(x) == 0:
        raise InvalidInputError(
            f"`{name}` must not be empty. Received: shape={x.shape}"
        )
    # A sum costs less than a look at each value; that of finite ones may overflow.
    if not np.isfinite(tf.reduce_sum(x)) and not tf.reduce_all(tf.math.is_finite(x)):
        raise InvalidInputError(
            f"`{name}` must be finite. Received: NaN or infinity in {name}"
        )
    low, high = float(tf.reduce_min(x)), float(tf.reduce_max(x))
    if in_unit_interval and (low < 0.0 or high > 1.0):
        hint = ", divide by 255" if low >= 0.0 and 1.0 < high <= 255.0 else ""
        raise InvalidInputError(
            f"`{name}` must be in [0, 1]. Received: values in [{low:g}, {high:g}]{hint}"
        )
