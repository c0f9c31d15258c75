"""Pictures of data and models: NumPy arrays in, one PNG file out.

Every function takes the file's path first and returns it. The file appears whole or
not at all, and its folder is created where it is missing; an OSError says that it
cannot be written. Figures share no state, so several threads may draw at once.
"""

import collections.abc
import math
import numbers
import pathlib

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from iwae_tf.errors import InvalidInputError
from iwae_tf.files import write_atomically

__all__ = [
    "active_units",
    "image_grid",
    "latent",
    "principal_components",
    "reconstructions",
    "training_curves",
]

_DPI = 150
_WIDTH = 1000  # Pixels.
_MAX_SIDE = 20_000  # Pixels; the renderer refuses 2**16.
_MAX_SCALE = 8
_MAX_POINTS = 3000
_MAX_LEGEND = 60
_GAP = 2
_PAIR_GAP = 12
_FRAME = 160  # Grey level of the gaps.
_TEXT_SIZE = 9
_SMALL_TEXT_SIZE = 8
_FONT = "DejaVu Sans"  # Ships with Matplotlib.
_DARK = "#333333"
_GREY = "#8a8a8a"
_BLUE, _ORANGE, _GREEN, _PURPLE = "#0072b2", "#d55e00", "#009e73", "#aa4499"

# Nine colours that stay apart under colour-vision deficiencies (Paul Tol's "muted"
# scheme) and near-black; the marker tells every further ten apart.
_CATEGORIES = (
    *("#332288", "#88ccee", "#117733", "#cc6677", "#ddcc77"),
    *("#aa4499", "#44aa99", "#222222", "#999933", "#882255"),
)
_MARKERS = ("o", "^", "s", "D", "v", "P")

_PANELS = (
    ("bound (nats)", ("bound", "inference_bound", "iwae", "elbo")),
    ("KL (nats)", ("kl",)),
    ("effective sample\nsize (draws)", ("ess",)),
)
_SERIES = {
    "bound": ("bound", _BLUE),
    "inference_bound": ("inference bound", _PURPLE),
    "iwae": ("IWAE", _GREEN),
    "elbo": ("ELBO", _ORANGE),
    "kl": ("KL", _BLUE),
    "ess": ("ESS", _BLUE),
}


def image_grid(path, images, *, num_columns=None, title=None):
    """Draws images as one grid, row by row, each pixel a whole number of dots.

    Args:
      path: where to write; ends in .png.
      images: [N, H, W, 1], [N, H, W, 3], [N, H, W] or flat square [N, H * H], in
        [0, 1]; 0 is black. Means of a Normal likelihood may have to be clipped first.
      num_columns: images in a row; None makes the grid about square.
      title: a line of text above the grid, or None.

    Returns:
      path: as given.

    Raises:
      InvalidInputError: the images cannot be drawn, or another argument is wrong.
    """
    _check_path(path)
    images = _as_images(images, "images")
    if num_columns is None:
        num_columns = math.ceil(math.sqrt(len(images)))
    _check_columns(num_columns)
    rows = _split_rows(images, num_columns)
    canvas, _ = _mosaic(rows, gaps=[_GAP] * len(rows), width=_WIDTH)
    return _save(_picture_figure(canvas, title=title), path)


def reconstructions(path, originals, reconstructions, *, num_columns=10):
    """Draws each image above its reconstruction, in labelled pairs of rows.

    Args:
      path: where to write; ends in .png.
      originals: images as in `image_grid`, [N, *event].
      reconstructions: their reconstructions, [N, *event].
      num_columns: pairs beside each other.

    Returns:
      path: as given.

    Raises:
      InvalidInputError: the images cannot be drawn, or their shapes differ.
    """
    _check_path(path)
    _check_columns(num_columns)
    above = _as_images(originals, "originals")
    below = _as_images(reconstructions, "reconstructions")
    if above.shape[:3] != below.shape[:3]:
        raise InvalidInputError(
            "`reconstructions` must have the shape of `originals`. Received: "
            f"{np.shape(reconstructions)} and {np.shape(originals)}"
        )
    pairs = zip(_split_rows(above, num_columns), _split_rows(below, num_columns))
    rows = [row for pair in pairs for row in pair]
    gaps = [_GAP if index % 2 else _PAIR_GAP for index in range(len(rows))]
    margin = 136
    canvas, centres = _mosaic(rows, gaps=[_GAP, *gaps[1:]], width=_WIDTH - margin)
    names = ("original", "reconstruction")
    labels = [(centre, names[index % 2]) for index, centre in enumerate(centres)]
    return _save(_picture_figure(canvas, labels=labels, margin=margin), path)


def training_curves(path, history):
    """Draws bounds, KL and effective sample size against the epoch.

    Draws `bound`, `inference_bound`, `iwae`, `elbo`, `kl`, `ess` and their `val_`
    twins, whichever are there; other names are left out. Values that are not finite
    are skipped. Early epochs that would squash the rest run off the axis, with a note.

    Args:
      path: where to write; ends in .png.
      history: dict of name to list of numbers, one an epoch: bounds and KL in nats,
        `ess` in draws. Without `epoch` the epochs count from 1.

    Returns:
      path: as given.

    Raises:
      InvalidInputError: lists of unequal length, no numbers, or nothing to draw.
    """
    _check_path(path)
    curves = _as_curves(history)
    panels = []
    for label, names in _PANELS:
        drawn = [n for base in names for n in (base, f"val_{base}") if n in curves]
        if drawn:
            panels.append((label, drawn))
    if not panels:
        raise InvalidInputError(
            f"`history` must hold a finite value of one of {', '.join(_SERIES)}. "
            f"Received: {', '.join(map(str, history)) or 'an empty dict'}"
        )
    heights = [1.7 if label.startswith("bound") else 1.0 for label, _ in panels]
    figure = _new_figure(height=90 + 200 * sum(heights))
    layout = {"sharex": True, "squeeze": False, "height_ratios": heights}
    axes = figure.subplots(len(panels), **layout)[:, 0]
    for ax, (label, names) in zip(axes, panels):
        _draw_curves(ax, {name: curves[name] for name in names})
        _style(ax, ylabel=label)
    _style(axes[-1], xlabel="epoch")
    axes[-1].xaxis.set_major_locator(_whole_numbers())
    return _save(figure, path)


def latent(path, means, labels=None, *, explained_variance_note=True):
    """Draws posterior means in the plane, coloured by label.

    Two dimensions are drawn as they are, one as a histogram (a strip for each label
    where there are labels), more by their first two principal components. Of very many
    points a random subset is drawn, and the title says so.

    Args:
      path: where to write; ends in .png.
      means: [N, D], the mean of q(z|x) for each image.
      labels: integers [N], or None; a legend names up to 60 of them.
      explained_variance_note: whether the axes say each component's share of variance.

    Returns:
      path: as given.

    Raises:
      InvalidInputError: `means` or `labels` has the wrong shape or values.
    """
    _check_path(path)
    means = _as_means(means)
    labels = _as_labels(labels, len(means))
    size, dims = means.shape
    points, names, title = _in_the_plane(means, explained_variance_note)
    if size > _MAX_POINTS and (dims > 1 or labels is not None):
        kept = np.random.default_rng(0).choice(size, _MAX_POINTS, replace=False)
        points, labels = points[kept], labels if labels is None else labels[kept]
        title += f" ({_MAX_POINTS:,} of {size:,} images)"
    figure = _new_figure(height=750 if dims > 1 else 500)
    ax = figure.subplots()
    _style(ax, title=title, xlabel=names[0], ylabel=names[-1])
    if dims == 1:
        _draw_strip(ax, points[:, 0], labels)
    else:
        _draw_scatter(ax, points, labels)
    return _save(figure, path)


def principal_components(means):
    """Projects points on their first two principal components.

    means - mean(means) = U S V^T;  projected = U S;  shares = S^2 / sum(S^2)

    Each component's sign makes its largest loading positive.

    Args:
      means: [N, D] with D >= 2.

    Returns:
      projected: float64 [N, 2].
      shares: float64 [2], each component's share of the variance; 0 where all points
        are equal.

    Raises:
      InvalidInputError: `means` is not a finite matrix of two columns or more.
    """
    means = _as_means(means)
    if means.shape[1] < 2:
        raise InvalidInputError(
            f"`means` must have two columns or more. Received: shape {means.shape}"
        )
    centred = means - means.mean(axis=0)
    _, scales, components = np.linalg.svd(centred, full_matrices=False)
    scales = scales / (scales[0] or 1.0)
    projected, shares = np.zeros((len(means), 2)), np.zeros(2)
    for k, component in enumerate(components[:2]):
        sign = 1.0 if component[np.argmax(np.abs(component))] > 0 else -1.0
        projected[:, k] = centred @ component * sign
        shares[k] = scales[k] ** 2 / (np.sum(scales**2) or 1.0)
    return projected, shares


def active_units(path, variances, *, threshold=0.01):
    """Draws the sorted variances of the posterior means, one panel a stochastic layer.

    Args:
      path: where to write; ends in .png.
      variances: sequence of [D_l] arrays, the variance over the data of each latent
        dimension's posterior mean.
      threshold: a unit is active where its variance is larger.

    Returns:
      path: as given.

    Raises:
      InvalidInputError: a variance is negative or not finite, or a shape is wrong.

    References:
      Burda et al., 2016. https://arxiv.org/abs/1509.00519
    """
    _check_path(path)
    if not (_is_number(threshold) and threshold > 0):
        raise InvalidInputError(
            f"`threshold` must be a positive number. Received: threshold={threshold}"
        )
    layers = _as_variances(variances)
    num_columns = min(len(layers), 2)
    num_rows = math.ceil(len(layers) / num_columns)
    figure = _new_figure(height=60 + 390 * num_rows)
    axes = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False).ravel()
    for index, (ax, layer) in enumerate(zip(axes, layers)):
        _draw_variances(ax, layer, threshold)
        active = np.count_nonzero(layer > threshold)
        _style(ax, title=f"layer {index + 1}: {active} of {len(layer)} units active")
        _style(ax, xlabel="latent dimension, sorted")
        if index % num_columns == 0:
            _style(ax, ylabel="variance of posterior mean")
    for ax in axes[len(layers) :]:
        ax.set_visible(False)
    return _save(figure, path)


# Arguments: checked and turned into arrays.


def _check_path(path):
    """Refuses a path that does not name a PNG file."""
    if pathlib.Path(path).suffix.lower() != ".png":
        raise InvalidInputError(f"`path` must end in .png. Received: path={path}")


def _check_columns(num_columns):
    """Refuses a number of columns that is not a whole number above zero."""
    if not (_is_number(num_columns) and num_columns >= 1 and num_columns % 1 == 0):
        raise InvalidInputError(
            "`num_columns` must be a whole number above 0. Received: "
            f"num_columns={num_columns}"
        )


def _is_number(value):
    """Whether the value is one finite real number."""
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _as_array(value, name, rule):
    """A finite float64 array, or an error that names the argument and its rule."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        received = f"a {type(value).__name__} that is no array of numbers"
        message = f"`{name}` must be {rule}. Received: {received}"
        raise InvalidInputError(message) from error
    if not np.all(np.isfinite(array)):
        bad = np.count_nonzero(~np.isfinite(array))
        raise InvalidInputError(
            f"`{name}` must be finite. Received: {bad} NaN or infinite values"
        )
    return array


def is_image(event_shape):
    """Whether examples of this shape can be drawn by `image_grid`."""
    if len(event_shape) == 1:
        return math.isqrt(event_shape[0]) ** 2 == event_shape[0]
    return len(event_shape) == 2 or (len(event_shape) == 3 and event_shape[2] in (1, 3))


def _as_images(images, name):
    """Images of any drawable shape as bytes [N, H, W, 3]."""
    rule = "images [N, H, W, 1 or 3], [N, H, W] or flat square [N, H * H]"
    array = _as_array(images, name, rule)
    shape = array.shape
    if array.ndim == 2 and math.isqrt(shape[1]) ** 2 == shape[1]:
        array = array.reshape(-1, math.isqrt(shape[1]), math.isqrt(shape[1]))
    if array.ndim == 3:
        array = array[..., np.newaxis]
    if array.ndim != 4 or array.shape[3] not in (1, 3) or array.size == 0:
        raise InvalidInputError(f"`{name}` must be {rule}. Received: shape {shape}")
    low, high = array.min(), array.max()
    if low < -1e-6 or high > 1 + 1e-6:  # Rounding may step just outside.
        raise InvalidInputError(
            f"`{name}` must be in [0, 1]. Received: values from {low:.4g} to {high:.4g}"
        )
    array = np.rint(255 * np.clip(array, 0, 1)).astype(np.uint8)
    return np.broadcast_to(array, (*array.shape[:3], 3))


def _as_curves(history):
    """Each known name's (epochs, values), finite values only, empty curves left out."""
    if not isinstance(history, collections.abc.Mapping):
        raise InvalidInputError(
            f"`history` must be a dict of lists. Received: a {type(history).__name__}"
        )
    columns = {}
    for name, values in history.items():
        if name == "epoch" or str(name).removeprefix("val_") in _SERIES:
            columns[name] = _as_column(name, values)
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        raise InvalidInputError(
            f"`history` must hold lists of one length. Received: lengths {sizes}"
        )
    epochs = columns.pop("epoch", np.arange(1, max(sizes.values(), default=0) + 1))
    curves = {}
    for name, values in columns.items():
        kept = np.isfinite(values) & np.isfinite(epochs)
        if kept.any():
            curves[name] = (epochs[kept], values[kept])
    return curves


def _as_column(name, values):
    """One list of the history as float64 [epochs]; None becomes NaN."""
    try:
        column = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        column = None
    if column is None or column.ndim != 1:
        raise InvalidInputError(
            "`history` must hold lists of numbers, one an epoch. Received: "
            f"something else as {name!r}"
        )
    return column


def _as_means(means):
    """Posterior means as float64 [N, D] with N, D >= 1."""
    array = _as_array(means, "means", "a matrix [N, D]")
    if array.ndim != 2 or array.size == 0:
        raise InvalidInputError(
            f"`means` must be a matrix [N, D]. Received: shape {array.shape}"
        )
    return array


def _as_labels(labels, size):
    """Labels as integers [size], or None."""
    if labels is None:
        return None
    array = _as_array(labels, "labels", "integers [N]")
    if array.shape != (size,) or np.any(array != np.rint(array)):
        raise InvalidInputError(
            f"`labels` must be {size} integers, one for each row of `means`. "
            f"Received: {np.asarray(labels).dtype} of shape {array.shape}"
        )
    return array.astype(np.int64)


def _as_variances(variances):
    """One float64 [D_l] array for each stochastic layer."""
    rule = "a list of arrays [D], one for each stochastic layer"
    if not np.iterable(variances) or len(variances) == 0:
        received = "an empty list" if np.iterable(variances) else variances
        raise InvalidInputError(f"`variances` must be {rule}. Received: {received}")
    layers = [_as_array(layer, "variances", rule) for layer in variances]
    for layer in layers:
        if layer.ndim != 1 or layer.size == 0:
            raise InvalidInputError(
                f"`variances` must be {rule}. Received: an entry of shape {layer.shape}"
            )
        if layer.min() < 0:
            raise InvalidInputError(
                f"`variances` must be 0 or more. Received: {layer.min():.4g}"
            )
    return layers


# Pictures: pixels are placed by hand so that none is resampled.


def _split_rows(images, num_columns):
    """The images in rows of `num_columns`, the last one perhaps shorter."""
    num_columns = int(num_columns)
    return [images[i : i + num_columns] for i in range(0, len(images), num_columns)]


def _mosaic(rows, *, gaps, width):
    """A canvas [H, W, 3] with rows of images, and the height of each row's centre."""
    columns = len(rows[0])
    _, tall, wide, _ = rows[0].shape
    scale = (width - _GAP * (columns + 1)) // (columns * wide)
    scale = min(max(scale, 1), _MAX_SCALE)
    tall, wide = tall * scale, wide * scale
    shape = (sum(gaps) + tall * len(rows) + _GAP, _GAP + columns * (wide + _GAP))
    if max(shape) > _MAX_SIDE:
        raise InvalidInputError(
            f"`images` must fit {_MAX_SIDE} pixels a side, in fewer images or other "
            f"columns. Received: a grid of {shape[0]} x {shape[1]} pixels"
        )
    canvas = np.full((*shape, 3), 255, np.uint8)
    centres, top = [], 0
    for row, gap in zip(rows, gaps):
        top += gap
        for index, image in enumerate(row):
            left = _GAP + index * (wide + _GAP)
            tile = image.repeat(scale, axis=0).repeat(scale, axis=1)
            bottom, right = top + tall, left + wide
            canvas[top - _GAP : bottom + _GAP, left - _GAP : right + _GAP] = _FRAME
            canvas[top:bottom, left:right] = tile
        centres.append(top + tall / 2)
        top += tall
    return canvas, centres


def _picture_figure(canvas, *, title=None, labels=(), margin=0):
    """A figure that shows the canvas dot for dot, with a title and row labels."""
    height, width = canvas.shape[:2]
    top = 40 if title else 0
    figure = _new_figure(height=height + top, width=width + margin, layout=None)
    style = {"family": _FONT, "color": _DARK, "parse_math": False, "transform": None}
    if title:
        text = figure.text(0, height + 12, title, size=_TEXT_SIZE, **style)
        text_width = text.get_window_extent(figure.canvas.get_renderer()).width
        if text_width > width + margin:
            figure.set_figwidth((math.ceil(text_width) + 0.5) / _DPI)
    for centre, label in labels:
        text = figure.text(margin - 10, height - centre, label, **style)
        text.set(size=_SMALL_TEXT_SIZE, ha="right", va="center")
    figure.figimage(canvas, xo=margin, yo=0, origin="upper")
    return figure


# Charts.


def _in_the_plane(means, explained_variance_note):
    """Points of one or two dimensions, the names of their axes, and a title."""
    dims = means.shape[1]
    if dims <= 2:
        names = [f"latent dimension {k + 1}" for k in range(dims)]
        title = "the one latent dimension" if dims == 1 else "both latent dimensions"
        return means, names, f"Posterior means, {title}"
    points, shares = principal_components(means)
    names = ["principal component 1", "principal component 2"]
    if explained_variance_note:
        names = [f"{n} ({share:.1%} of variance)" for n, share in zip(names, shares)]
    return points, names, f"Posterior means, principal components 1 and 2 of {dims}"


def _draw_curves(ax, curves):
    """One panel: training solid, validation dashed, equal curves drawn once."""
    drawn = []
    for name, (epochs, values) in curves.items():
        label, color = _SERIES[name.removeprefix("val_")]
        validation = name.startswith("val_")
        for line, labels in drawn:
            same = validation == (line.get_linestyle() == "--")
            same = same and np.array_equal(epochs, line.get_xdata())
            if same and np.allclose(values, line.get_ydata()):
                labels.append(label)
                break
        else:
            line = Line2D(epochs, values, color=color, linewidth=1.4)
            line.set_linestyle("--" if validation else "-")
            if len(values) <= 15:
                line.set(marker="s" if validation else "o", markersize=4)
            ax.add_line(line)
            drawn.append((line, [label]))
    for line, labels in drawn:
        validation = ", validation" * (line.get_linestyle() == "--")
        line.set_label(" = ".join(labels) + validation)
    ax.autoscale_view()
    _limit_axis(ax, *(np.concatenate(parts) for parts in zip(*curves.values())))
    _legend(ax, handles=[line for line, _ in drawn])


def _limit_axis(ax, epochs, values):
    """Fits the axis to all but the first twentieth, where that one dwarfs the rest."""
    known = np.unique(epochs)
    start = known[math.ceil(len(known) / 20)] if len(known) >= 5 else known[0]
    settled = values[epochs >= start]
    low, high = settled.min(), settled.max()
    if np.ptp(values) <= 1.5 * (high - low) or np.ptp(values) == 0:
        return
    margin = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
    ax.set_ylim(low - margin, high + margin)
    below, above = low - values.min(), values.max() - high
    extreme, y, va = (values.min(), 0.05, "bottom")
    if above > below:
        extreme, y, va = (values.max(), 0.95, "top")
    note = f"off the axis before epoch {start:g}: from {extreme:,.1f}"
    note = note.replace("-", "\N{MINUS SIGN}")
    text = ax.text(0.985, y, note, ha="right", va=va, transform=ax.transAxes)
    text.set(color=_GREY, size=_SMALL_TEXT_SIZE, family=_FONT)


def _draw_strip(ax, values, labels):
    """One dimension: a histogram, or a strip of points for each label."""
    if labels is None:
        bins = min(60, max(5, math.isqrt(len(values))))
        ax.hist(values, bins=bins, color=_BLUE, edgecolor="white", linewidth=0.4)
        _style(ax, ylabel="number of images")
        return
    classes, rows = np.unique(labels, return_inverse=True)
    heights = rows + np.random.default_rng(0).uniform(-0.3, 0.3, len(rows))
    _scatter_by_class(ax, values, heights, rows)
    if len(classes) <= 20:
        ax.set_yticks(range(len(classes)), classes)
    _style(ax, ylabel="label")


def _draw_scatter(ax, points, labels):
    """Points in the plane on equal scales, with a legend of their labels."""
    ax.set_aspect("equal", adjustable="datalim")
    rows = np.zeros(len(points), np.int64)
    if labels is None:
        _scatter_by_class(ax, *points.T, rows)
        return
    classes, rows = np.unique(labels, return_inverse=True)
    handles = _scatter_by_class(ax, *points.T, rows)
    for handle, label in zip(handles, classes):
        handle.set_label(str(label))
    if len(handles) <= _MAX_LEGEND:
        columns = math.ceil(len(handles) / 20)
        _legend(ax, handles=handles, title="label", ncols=columns)


def _scatter_by_class(ax, x, y, rows):
    """Draws points in mixed order, so that no class hides another; legend handles."""
    order = np.random.default_rng(0).permutation(len(rows))
    area = min(max(20_000 / len(rows), 5.0), 24.0)
    handles = []
    for index in range(rows.max() + 1):
        marker = _MARKERS[index // len(_CATEGORIES) % len(_MARKERS)]
        color = _CATEGORIES[index % len(_CATEGORIES)]
        handles.append(Line2D([], [], marker=marker, color=color, linestyle="none"))
        if index % len(_CATEGORIES) == 0:
            kept = order[rows[order] // len(_CATEGORIES) == index // len(_CATEGORIES)]
            colors = np.asarray(_CATEGORIES)[rows[kept] % len(_CATEGORIES)]
            points = ax.scatter(x[kept], y[kept], s=area, c=colors, marker=marker)
            points.set(linewidth=0)
    return handles


def _draw_variances(ax, variances, threshold):
    """Sorted variances on a log axis, what lies below it as triangles on its floor."""
    floor = threshold * 1e-6
    variances = np.sort(variances)[::-1]
    ranks = np.arange(1, len(variances) + 1)
    active = variances > threshold
    below = variances < floor
    idle = ~active & ~below
    ax.set_yscale("log")
    ax.plot(ranks[active], variances[active], "o", color=_BLUE, markersize=4)
    ax.plot(ranks[idle], variances[idle], "o", color=_BLUE, markersize=4, mfc="white")
    font = {"size": _SMALL_TEXT_SIZE, "family": _FONT, "textcoords": "offset points"}
    if below.any():
        floors = np.full(below.sum(), floor)
        ax.plot(ranks[below], floors, "v", color=_GREY, markersize=4)
        note = f"{below.sum()} below {floor:.0e}, or zero"
        corner = {"xy": (ranks[-1], floor), "xytext": (2, 5), "ha": "right"}
        ax.annotate(note, **corner, **font, color=_GREY)
    ax.axhline(threshold, color=_ORANGE, linewidth=1.2, linestyle="--")
    note = f"threshold {threshold:g}"  # Below the large ones, or above all.
    place = {"xytext": (0, -4), "va": "top"} if active.any() else {"xytext": (0, 3)}
    ax.annotate(note, xy=(1, threshold), **place, **font, color=_ORANGE)
    ax.xaxis.set_major_locator(_whole_numbers())


def _whole_numbers():
    """Ticks at round whole numbers."""
    return MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])


def _legend(ax, **options):
    """A frameless legend right of the axes."""
    prop = {"family": _FONT, "size": _SMALL_TEXT_SIZE}
    place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0}
    options |= {"frameon": False, "labelcolor": _DARK}
    legend = ax.legend(prop=prop, **place, **options)
    legend.get_title().set(family=_FONT, size=_SMALL_TEXT_SIZE, color=_DARK)


def _style(ax, *, title=None, xlabel=None, ylabel=None):
    """Names what is given and gives the axes the look that all charts share."""
    font = {"family": _FONT, "size": _TEXT_SIZE, "color": _DARK}
    if title is not None:
        ax.set_title(title, loc="left", **font)
    if xlabel is not None:
        ax.set_xlabel(xlabel, **font)
    if ylabel is not None:
        ax.set_ylabel(ylabel, **font)
    ax.grid(True, color="#e6e6e6", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(_GREY)
    ax.tick_params(labelsize=_SMALL_TEXT_SIZE, labelfontfamily=_FONT)
    ax.tick_params(which="both", color=_GREY, labelcolor=_DARK)
    ax.set_facecolor("white")


def _new_figure(*, height, width=_WIDTH, layout="constrained"):
    """A white figure of that many pixels, apart from any global state."""
    size = ((width + 0.5) / _DPI, (height + 0.5) / _DPI)  # The renderer rounds down.
    figure = Figure(figsize=size, dpi=_DPI, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure, path):
    """Writes the figure beside its path, then renames it into place."""
    write_atomically(
        path,
        lambda file: figure.canvas.print_png(file, metadata={"Software": None}),
    )
    return path
