"""How pictures and charts are drawn: the only module that knows Matplotlib."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from iwae_tf.io.files import write_atomically
from iwae_tf.plots.inputs import Path, check_path

_DPI = 150
WIDTH = 1000  # Pixels.
_MAX_SIDE = 20_000  # Pixels; the renderer refuses 2**16.
_MAX_SCALE = 8
_MAX_LEGEND = 60
GAP = 2
PAIR_GAP = 12
_FRAME = 160  # Grey level of the gaps.
_TEXT_SIZE = 9
SMALL_TEXT_SIZE = 8
FONT = "DejaVu Sans"  # Ships with Matplotlib.
DARK = "#333333"
GREY = "#8a8a8a"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#aa4499"
LINES = (BLUE, ORANGE, GREEN, PURPLE, DARK, GREY)

# Nine colours that stay apart under colour-vision deficiencies (Paul Tol's "muted"
# scheme) and near-black; the marker tells every further ten apart.
CATEGORIES = (
    *("#332288", "#88ccee", "#117733", "#cc6677", "#ddcc77"),
    *("#aa4499", "#44aa99", "#222222", "#999933", "#882255"),
)
_MARKERS = ("o", "^", "s", "D", "v", "P")

PANELS = (
    ("bound (nats)", ("bound", "inference_bound", "iwae", "elbo")),
    ("KL (nats)", ("kl",)),
    ("effective sample\nsize (draws)", ("ess",)),
)
SERIES = {
    "bound": ("bound", BLUE),
    "inference_bound": ("inference bound", PURPLE),
    "iwae": ("IWAE", GREEN),
    "elbo": ("ELBO", ORANGE),
    "kl": ("KL", BLUE),
    "ess": ("ESS", BLUE),
}


# Pictures: pixels are placed by hand so that none is resampled.


def split_rows(images: np.ndarray, num_columns: int) -> list[np.ndarray]:
    """The images in rows of `num_columns`, the last one perhaps shorter."""
    return [images[i : i + num_columns] for i in range(0, len(images), num_columns)]


def most_in_grid(event_shape: Sequence[int]) -> tuple[int, int]:
    """How many rows and columns of such images fit into one picture, one at least."""
    flat = math.isqrt(event_shape[0])
    tall, wide = event_shape[:2] if len(event_shape) > 1 else (flat, flat)
    rows = (_MAX_SIDE - 2 * PAIR_GAP) // (tall + PAIR_GAP)
    columns = (_MAX_SIDE - GAP) // (wide + GAP)
    return max(rows, 1), max(columns, 1)


def mosaic(
    rows: Sequence[np.ndarray], *, gaps: Sequence[int], width: int
) -> tuple[np.ndarray, list[float]]:
    """A canvas [H, W, 3] with rows of images, and the height of each row's centre."""
    columns = len(rows[0])
    _, tall, wide, _ = rows[0].shape
    scale = (width - GAP * (columns + 1)) // (columns * wide)
    scale = min(scale, (_MAX_SIDE - GAP - sum(gaps)) // (len(rows) * tall))
    scale = min(max(scale, 1), _MAX_SCALE)
    tall, wide = tall * scale, wide * scale
    shape = (sum(gaps) + tall * len(rows) + GAP, GAP + columns * (wide + GAP))
    canvas = np.full((*shape, 3), 255, np.uint8)
    centres, top = [], 0
    for row, gap in zip(rows, gaps):
        top += gap
        for index, image in enumerate(row):
            left = GAP + index * (wide + GAP)
            tile = image.repeat(scale, axis=0).repeat(scale, axis=1)
            bottom, right = top + tall, left + wide
            canvas[top - GAP : bottom + GAP, left - GAP : right + GAP] = _FRAME
            canvas[top:bottom, left:right] = tile
        centres.append(top + tall / 2)
        top += tall
    return canvas, centres


def picture_figure(
    canvas: np.ndarray,
    *,
    title: str | None = None,
    labels: Iterable[tuple[float, str]] = (),
    margin: int = 0,
) -> Figure:
    """A figure that shows the canvas dot for dot, with a title and row labels."""
    height, width = canvas.shape[:2]
    top = 40 if title else 0
    figure = new_figure(height=height + top, width=width + margin, layout=None)
    style = {"family": FONT, "color": DARK, "parse_math": False, "transform": None}
    if title:
        text = figure.text(0, height + 12, title, size=_TEXT_SIZE, **style)
        text_width = text.get_window_extent(figure.canvas.get_renderer()).width
        if text_width > width + margin:
            figure.set_figwidth((math.ceil(text_width) + 0.5) / _DPI)
    for centre, label in labels:
        text = figure.text(margin - 10, height - centre, label, **style)
        text.set(size=SMALL_TEXT_SIZE, ha="right", va="center")
    figure.figimage(canvas, xo=margin, yo=0, origin="upper")
    return figure


# Charts.


def draw_curves(ax: Axes, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """One panel: training solid, validation dashed, equal curves drawn once."""
    drawn: list[tuple[bool, np.ndarray, np.ndarray, list[str]]] = []
    for name, (epochs, values) in curves.items():
        validation = name.startswith("val_")
        for is_dashed, x, y, names in drawn:
            same = is_dashed == validation and np.array_equal(x, epochs)
            if same and np.allclose(values, y):
                names.append(name)
                break
        else:
            drawn.append((validation, epochs, values, [name]))
    for validation, epochs, values, names in drawn:
        labels, colors = zip(*(SERIES[name.removeprefix("val_")] for name in names))
        line, marker = ("--", "s") if validation else ("-", "o")
        look = {"color": colors[0], "linestyle": line, "linewidth": 1.4}
        if len(values) <= 15:
            look |= {"marker": marker, "markersize": 4}
        label = " = ".join(labels) + ", validation" * validation
        ax.plot(epochs, values, label=label, **look)
    _limit_axis(ax, *(np.concatenate(parts) for parts in zip(*curves.values())))
    legend(ax)


def _limit_axis(ax: Axes, epochs: np.ndarray, values: np.ndarray) -> None:
    """Fits the axis to all but the first twentieth, where that one dwarfs the rest."""
    known = np.unique(epochs)
    start = known[math.ceil(len(known) / 20)] if len(known) >= 5 else known[0]
    settled = values[epochs >= start]
    low, high = settled.min(), settled.max()
    if np.ptp(values) <= 1.5 * (high - low) or np.ptp(values) == 0:
        return
    margin = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
    ax.set_ylim(low - margin, high + margin)
    is_below = low - values.min() >= values.max() - high
    extreme = values.min() if is_below else values.max()
    note = f"off the axis before epoch {start:g}: from {extreme:,.1f}"
    note = note.replace("-", "\N{MINUS SIGN}")
    ax.set_title(note, loc="right", color=GREY, size=SMALL_TEXT_SIZE, family=FONT)


def draw_strip(ax: Axes, values: np.ndarray, labels: np.ndarray | None) -> None:
    """One dimension: a histogram, or a strip of points for each label."""
    if labels is None:
        bins = min(60, max(5, math.isqrt(len(values))))
        ax.hist(values, bins=bins, color=BLUE, edgecolor="white", linewidth=0.4)
        style(ax, ylabel="number of images")
        return
    classes, rows = np.unique(labels, return_inverse=True)
    heights = rows + np.random.default_rng(0).uniform(-0.3, 0.3, len(rows))
    _scatter_by_class(ax, values, heights, rows)
    if len(classes) <= 20:
        ax.set_yticks(range(len(classes)), classes)
    style(ax, ylabel="label")


def draw_scatter(ax: Axes, points: np.ndarray, labels: np.ndarray | None) -> None:
    """Points in the plane on equal scales, with a legend of their labels."""
    ax.set_aspect("equal", adjustable="datalim")
    given = np.zeros(len(points)) if labels is None else labels
    classes, rows = np.unique(given, return_inverse=True)
    handles = _scatter_by_class(ax, points[:, 0], points[:, 1], rows)
    for handle, label in zip(handles, classes):
        handle.set_label(str(label))
    if labels is not None and len(handles) <= _MAX_LEGEND:
        columns = math.ceil(len(handles) / 20)
        legend(ax, handles=handles, title="label", ncols=columns)


def _scatter_by_class(
    ax: Axes, x: np.ndarray, y: np.ndarray, rows: np.ndarray
) -> list[Line2D]:
    """Draws points in mixed order, so that no class hides another; legend handles."""
    order = np.random.default_rng(0).permutation(len(rows))
    area = min(max(20_000 / len(rows), 5.0), 24.0)
    num_colors, num_classes = len(CATEGORIES), rows.max() + 1
    markers = [_MARKERS[i // num_colors % len(_MARKERS)] for i in range(num_classes)]
    colors = np.resize(CATEGORIES, num_classes)
    for first in range(0, num_classes, num_colors):
        kept = order[rows[order] // num_colors == first // num_colors]
        look = {"c": colors[rows[kept]], "marker": markers[first], "linewidth": 0}
        ax.scatter(x[kept], y[kept], s=area, **look)
    return [
        Line2D([], [], marker=marker, color=color, linestyle="none")
        for marker, color in zip(markers, colors)
    ]


def draw_variances(ax: Axes, variances: np.ndarray, threshold: float) -> None:
    """Sorted variances on a log axis, what lies below it as triangles on its floor."""
    floor = threshold * 1e-6
    variances = np.sort(variances)[::-1]
    ranks = np.arange(1, len(variances) + 1)
    active = variances > threshold
    below = variances < floor
    idle = ~active & ~below
    ax.set_yscale("log")
    ax.plot(ranks[active], variances[active], "o", color=BLUE, markersize=4)
    ax.plot(ranks[idle], variances[idle], "o", color=BLUE, markersize=4, mfc="white")
    font = {"size": SMALL_TEXT_SIZE, "family": FONT, "textcoords": "offset points"}
    if below.any():
        floors = np.full(below.sum(), floor)
        ax.plot(ranks[below], floors, "v", color=GREY, markersize=4)
        note = f"{below.sum()} below {floor:.0e}, or zero"
        corner = {"xy": (ranks[-1], floor), "xytext": (2, 5), "ha": "right"}
        ax.annotate(note, **corner, **font, color=GREY)
    ax.axhline(threshold, color=ORANGE, linewidth=1.2, linestyle="--")
    note = f"threshold {threshold:g}"  # between the large and the small, if both are
    is_between = active.any() and not active.all()
    place = {"xytext": (0, -4), "va": "top"} if is_between else {"xytext": (0, 3)}
    ax.annotate(note, xy=(1, threshold), **place, **font, color=ORANGE)
    ax.xaxis.set_major_locator(whole_numbers())


def whole_numbers() -> MaxNLocator:
    """Ticks at round whole numbers."""
    return MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])


def legend(ax: Axes, **options: Any) -> None:
    """A frameless legend, right of the axes unless the options place it."""
    prop = {"family": FONT, "size": SMALL_TEXT_SIZE}
    place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0}
    options = place | options | {"frameon": False, "labelcolor": DARK}
    drawn = ax.legend(prop=prop, **options)
    drawn.get_title().set(family=FONT, size=SMALL_TEXT_SIZE, color=DARK)


def style(
    ax: Axes,
    *,
    title: str | None = None,
    xlabel: str | None = None,
    ylabel: str | None = None,
) -> None:
    """Names what is given and gives the axes the look that all charts share."""
    font = {"family": FONT, "size": _TEXT_SIZE, "color": DARK}
    if title is not None:
        ax.set_title(title, loc="left", **font)
    if xlabel is not None:
        ax.set_xlabel(xlabel, **font)
    if ylabel is not None:
        ax.set_ylabel(ylabel, **font)
    ax.grid(True, color="#e6e6e6", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.tick_params(labelsize=SMALL_TEXT_SIZE, labelfontfamily=FONT)
    ax.tick_params(which="both", color=GREY, labelcolor=DARK)
    ax.set_facecolor("white")


def new_figure(
    *,
    height: float,
    width: float = WIDTH,
    layout: Literal["constrained"] | None = "constrained",
) -> Figure:
    """A white figure of that many pixels, apart from any global state."""
    size = ((width + 0.5) / _DPI, (height + 0.5) / _DPI)  # The renderer rounds down.
    figure = Figure(figsize=size, dpi=_DPI, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def new_chart(
    height: float, *grid: int, width: float = WIDTH, **layout: Any
) -> tuple[Figure, Any]:
    """A figure and its axes: one, or an array of a grid of rows and columns."""
    figure = new_figure(height=height, width=width)
    return figure, figure.subplots(*grid, **layout)


def save(figure: Figure, path: Path) -> Path:
    """Writes the figure as a PNG file, whole or not at all; returns the path."""
    check_path(path)
    write_atomically(
        path,
        lambda file: figure.canvas.print_png(file, metadata={"Software": None}),
    )
    return path
