"""Arguments of the pictures, checked and turned into arrays."""

import math
import os
import pathlib
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from iwae_tf.errors import InvalidInputError

Path = str | os.PathLike[str]


def check_path(path: Path) -> None:
    """Refuses a path that does not name a PNG file."""
    if pathlib.Path(path).suffix.lower() != ".png":
        raise InvalidInputError(f"`path` must end in .png. Received: path={path}")


def is_image(event_shape: Sequence[int]) -> bool:
    """Whether examples of this shape can be drawn by `image_grid`."""
    if len(event_shape) == 1:
        return math.isqrt(event_shape[0]) ** 2 == event_shape[0]
    return len(event_shape) == 2 or (len(event_shape) == 3 and event_shape[2] in (1, 3))


def makes_images(model: Any) -> bool:
    """Whether what a model decodes can be drawn by `image_grid`."""
    is_table = model.schema is not None
    return not is_table and is_image(model.event_shape) and model.has_mean


def in_range(images: ArrayLike, data: ArrayLike = ()) -> np.ndarray:
    """Values of images or means as they are drawn: in [0, 1], missing ones grey.

    Args:
      images: float [...].
      data: float [...], images whose values may be beyond [0, 1], such as counts: their
        lowest is black then, and their highest white.
    """
    low, high = value_range(data)
    scaled = (np.asarray(images) - low) / (high - low)
    return np.clip(np.nan_to_num(scaled, nan=0.5), 0.0, 1.0)


def value_range(data: ArrayLike) -> tuple[float, float]:
    """The values that are drawn black and white: 0 and 1, or those of data beyond."""
    known = np.ravel(data)
    known = known[~np.isnan(known)]
    return float(known.min(initial=0.0)), float(known.max(initial=1.0))


def as_images(images: ArrayLike, name: str) -> np.ndarray:
    """Images of any drawable shape as bytes [N, H, W, 3].

    Raises:
      InvalidInputError: they have another shape, or values outside of [0, 1].
    """
    rule = "images [N, H, W, 1 or 3], [N, H, W] or flat square [N, H * H]"
    array = np.asarray(images, np.float64)
    shape = array.shape
    if array.ndim == 2 and math.isqrt(shape[1]) ** 2 == shape[1]:
        array = array.reshape(-1, math.isqrt(shape[1]), math.isqrt(shape[1]))
    if array.ndim == 3:
        array = array[..., np.newaxis]
    if array.ndim != 4 or array.shape[3] not in (1, 3) or array.size == 0:
        raise InvalidInputError(f"`{name}` must be {rule}. Received: shape {shape}")
    low, high = array.min(), array.max()
    if not (low >= -1e-6 and high <= 1 + 1e-6):  # rounding may step just outside
        raise InvalidInputError(
            f"`{name}` must be in [0, 1]. Received: values from {low:.4g} to {high:.4g}"
        )
    array = np.rint(255 * np.clip(array, 0, 1)).astype(np.uint8)
    return np.broadcast_to(array, (*array.shape[:3], 3))


def as_curves(
    history: Mapping[str, ArrayLike], names: Container[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each known name's (epochs, values), finite values only, empty curves left out."""
    columns = {
        name: np.asarray(values, np.float64)  # None becomes NaN
        for name, values in history.items()
        if name == "epoch" or name.removeprefix("val_") in names
    }
    size = max(map(len, columns.values()), default=0)
    epochs = columns.pop("epoch", np.arange(1, size + 1))
    curves = {}
    for name, values in columns.items():
        kept = np.isfinite(values) & np.isfinite(epochs)
        if kept.any():
            curves[name] = (epochs[kept], values[kept])
    return curves


def as_labels(labels: ArrayLike | None, size: int) -> np.ndarray | None:
    """Labels as integers [size], or None."""
    if labels is None:
        return None
    array = np.asarray(labels)
    if array.shape != (size,) or np.any(array != np.rint(array)):
        raise InvalidInputError(
            f"`labels` must be {size} integers, one for each row of `means`. "
            f"Received: {array.dtype} of shape {array.shape}"
        )
    return array.astype(np.int64)
