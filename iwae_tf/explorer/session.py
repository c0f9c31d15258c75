"""What the page asks of a model. Answers are of JSON's types, pictures PNG as text."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from iwae_tf import bounds, evaluation, plots
from iwae_tf.checks import check_count, check_integer
from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation.traversals import interpolate
from iwae_tf.models.autoencoder import Autoencoder
from iwae_tf.plots.drawing import CATEGORIES
from iwae_tf.plots.inputs import as_images, in_range, value_range
from iwae_tf.probability.distributions import mean_of
from iwae_tf.probability.log_weights import effective_sample_size
from iwae_tf.probability.pareto import GOOD_K

MOST_SLIDERS = 10  # the units whose posterior means vary most
MOST_DRAWS = 256  # whose weights are drawn
SORTED_BY = ("estimate", "jackknife_error", "effective_sample_size", "pareto_k")


class Session:
    """A model and some images. Each public method answers one question of the page.

    An `image` is the number of one of the images, or H * W * C values in [0, 1], row by
    row, of a picture that was drawn or dropped. A `label` is the class of it, for a
    conditional model. Every method raises InvalidInputError on a bad argument.

    Args:
      model: a built model of images of this package.
      images: float [N, *event].
      labels: integers [N] or None: classes, which a conditional model is given.
      title: of the page.
      facts: (name, value) pairs about the model.
      is_binary: whether pictures that are drawn or dropped become 0 and 1.
      seed: pair of integers.

    Raises:
      InvalidInputError: a model of what is no image, or of a likelihood without a mean.
    """

    def __init__(
        self,
        model: Autoencoder,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        title: str = "Model",
        facts: Sequence[tuple[str, str]] = (),
        is_binary: bool = False,
        seed: tuple[int, int] = (0, 0),
    ) -> None:
        if not plots.makes_images(model):
            raise InvalidInputError(
                "the model must be one of images, with a likelihood that has a mean. "
                f"Received: examples of shape {model.event_shape}, "
                f"likelihood={model.likelihood}"
            )
        self._model, self._images, self._labels = model, images, labels
        self._title, self._facts = title, list(facts)
        self._is_binary, self._seed = is_binary, seed
        self._limits = value_range(images)  # drawn black and white
        are_whole = np.array_equal(np.rint(images), images, equal_nan=True)
        self._are_counts = are_whole and self._limits != (0.0, 1.0)
        given = labels if model.is_conditional else None
        self._means = model.encode(images, labels=given).mean().numpy()
        # The plane: z = origin + point @ axes, for two units z itself.
        if self._means.shape[1] == 2:
            self._origin, self._axes, self._points = np.zeros(2), np.eye(2), self._means
        else:
            columns = max(0, 2 - self._means.shape[1])
            padded = np.pad(self._means, [(0, 0), (0, columns)])
            self._points, _ = plots.principal_components(padded)
            self._origin = self._means.mean(axis=0)
            centred = self._means - self._origin
            self._axes = np.linalg.lstsq(self._points, centred, rcond=None)[0]

    def about(self) -> dict[str, Any]:
        """The model, its images, their places in the plane, and the ranges of units."""
        model, spread = self._model, self._means.std(axis=0)
        units = np.sort(np.argsort(-spread, kind="stable")[:MOST_SLIDERS])
        reach = np.maximum(3.0, np.abs(self._means).max(axis=0))
        pictures = self._pictures(self._images)
        is_plane = self._means.shape[1] == 2
        return {
            "title": self._title,
            "facts": self._facts,
            "height": pictures.shape[1],
            "width": pictures.shape[2],
            "channels": model.event_shape[2] if len(model.event_shape) == 3 else 1,
            "is_binary": self._is_binary,
            "images": [_png(picture) for picture in pictures],
            "labels": None if self._labels is None else self._labels.tolist(),
            "num_classes": model.num_classes,
            "points": np.round(self._points, 4).tolist(),
            "axes": [
                f"unit {i}" if is_plane else f"principal component {i}" for i in (1, 2)
            ],
            "units": [
                {"unit": int(unit), "reach": math.ceil(reach[unit])} for unit in units
            ],
            "num_units": self._means.shape[1],
            "colors": CATEGORIES,
            "good_k": GOOD_K,
        }

    def encode(self, image: Any, label: Any = None) -> dict[str, Any]:
        """The mean of q(z1|x), and what `decode` says of it."""
        x, y = self._example(image, label)
        z = self._model.encode(x, labels=y).mean().numpy()[0]
        return self.decode(z, label=None if y is None else y[0])

    def decode(self, z: Any, point: Any = None, label: Any = None) -> dict[str, Any]:
        """The mean of p(x|z1) at z, moved within the plane to `point` if there is one.

        Returns:
          dict of `picture`, `z` and `point`, the place of z in the plane.
        """
        z = _numbers(z, "z", [self._means.shape[1]])
        here = (z - self._origin) @ np.linalg.pinv(self._axes)
        if point is not None:
            there = _numbers(point, "point", [2])
            z, here = z + (there - here) @ self._axes, there
        labels = None if label is None else [int(label)]
        means = mean_of(self._model.decode(z[np.newaxis], labels=labels)).numpy()
        return {
            "picture": _png(self._pictures(means)[0]),
            "z": z.tolist(),
            "point": here.tolist(),
        }

    def score(
        self,
        image: Any,
        num_samples: int = 5000,
        proposal: str = "encoder",
        label: Any = None,
    ) -> dict[str, Any]:
        """log p(x) of an image with its errors, and its reconstruction."""
        x, y = self._example(image, label)
        found = self._log_likelihood(x, num_samples, labels=y, proposal=proposal)
        copy = self._model.reconstruct(x, self._seed, labels=y).numpy()
        values = {name: _finite(value[0]) for name, value in found._asdict().items()}
        return values | {"reconstruction": _png(self._pictures(copy)[0])}

    def weights(
        self,
        image: Any,
        num_groups: int = 8,
        num_samples: int = 8,
        beta: float = 0.5,
        seed: int = 0,
        label: Any = None,
    ) -> list[dict[str, Any]]:
        """What each bound makes of the same M * K draws of one image.

        The weight of a draw is the derivative of the bound in its log-weight: the
        share that the draw has in the gradient of a training step.

        Returns:
          list of dicts, one a bound and one each for the two halves of PIWAE: `name`,
          `value` in nats, `weights` [M * K] that sum to one, and their `effective`
          number.
        """
        x, y = self._example(image, label)
        num_groups = check_count(num_groups, "num_groups")
        num_samples = check_count(num_samples, "num_samples")
        if num_groups * num_samples > MOST_DRAWS:
            raise InvalidInputError(
                f"`num_samples` must be at most {MOST_DRAWS} draws in all groups. "
                f"Received: {num_groups} groups of {num_samples}"
            )
        check_integer(seed, "seed", 0, 2**31 - 1)
        log_weights = self._model.log_weights(
            x, num_groups, num_samples, (self._seed[0], seed), labels=y
        )
        found = []
        for name, objective in bounds.OBJECTIVES.items():
            settings = {"beta": beta} if hasattr(objective, "beta") else {}
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(log_weights)
                bound = objective(**settings)(log_weights)
            halves = {", encoder": bound.inference, ", decoder": bound.generative}
            if bound.generative is bound.inference:
                halves = {"": bound.generative}
            for half, value in halves.items():
                share = tape.gradient(value, log_weights)
                effective = effective_sample_size(tf.math.log(share))[0]
                found.append(
                    {
                        "name": name.upper() + half,
                        "value": _finite(value[0]),
                        "weights": share.numpy().ravel().tolist(),
                        "effective": _finite(effective),
                    }
                )
        return found

    def interpolate(
        self, image: Any, other: Any, num_steps: int = 12, label: Any = None
    ) -> list[str]:
        """Pictures on the line from one image to another."""
        x, y = self._example(image, label)
        end, _ = self._example(other, label)
        steps = interpolate(self._model, x, end, num_steps, labels=y)[0]
        return [_png(picture) for picture in self._pictures(steps)]

    def scores(self, num_samples: int = 500) -> dict[str, list[float | None]]:
        """What the images can be sorted by, a list of N numbers each."""
        labels = self._labels if self._model.is_conditional else None
        found = self._log_likelihood(self._images, num_samples, labels=labels)
        return {n: [_finite(value) for value in getattr(found, n)] for n in SORTED_BY}

    def _log_likelihood(self, x, num_samples, **options):
        """Without XLA: compiling takes longer than an image."""
        options["jit_compile"] = False
        return evaluation.log_likelihood(
            self._model, x, num_samples, self._seed, **options
        )

    def _pictures(self, images):
        """Bytes [N, H, W, 3]."""
        return as_images(in_range(images, self._limits), "images")

    def _example(self, image, label):
        """x [1, *event] and labels [1] or None."""
        shape = self._model.event_shape
        is_drawn = isinstance(image, list)
        if is_drawn:
            x = _numbers(image, "image", [math.prod(shape)]).reshape(shape)
            low, high = self._limits
            x = low + (high - low) * x
            x = np.rint(x) if self._are_counts else x
            x = (x >= 0.5).astype(np.float32) if self._is_binary else x
        else:
            check_integer(image, "image", 0, len(self._images) - 1)
            x = self._images[image]
        if not self._model.is_conditional:
            return x[np.newaxis], None
        if label is None and not is_drawn and self._labels is not None:
            label = int(self._labels[image])
        return x[np.newaxis], np.array([check_count(label, "label", 0)])


def _numbers(values, name, shape):
    """Finite float32 of a shape."""
    try:
        found = np.asarray(values, np.float32)
    except (TypeError, ValueError):
        found = np.zeros([0], np.float32)
    if list(found.shape) != list(shape) or not np.all(np.isfinite(found)):
        raise InvalidInputError(
            f"`{name}` must be {math.prod(shape)} numbers. Received: {values!r:.80}"
        )
    return found


def _finite(value):
    """A number for JSON, which has none for what is not known."""
    return float(value) if math.isfinite(value) else None


def _png(picture):
    """A data URL of bytes [H, W, 3]."""
    with io.BytesIO() as file:
        Image.fromarray(np.ascontiguousarray(picture)).save(file, "PNG")
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
