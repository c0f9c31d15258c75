"""Pictures are read back and compared with facts that do not come from the module."""

import concurrent.futures
import math
import os

import matplotlib
import numpy as np
import pytest
from matplotlib import image as matplotlib_image
from matplotlib import style as matplotlib_style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from running import refusal

from iwae_tf import plots
from iwae_tf.plots import separation
from iwae_tf.plots.drawing import CATEGORIES

BLUE, ORANGE, GREEN, GREY = (0, 114, 178), (213, 94, 0), (0, 158, 115), (138,) * 3
GAP = 2


@pytest.fixture
def png(tmp_path):
    return tmp_path / "picture.png"


@pytest.fixture
def figures(monkeypatch):
    """The figures that were written, in order."""
    written = []
    print_png = FigureCanvasAgg.print_png

    def record(canvas, *args, **kwargs):
        written.append(canvas.figure)
        return print_png(canvas, *args, **kwargs)

    monkeypatch.setattr(FigureCanvasAgg, "print_png", record)
    return written


def read(path):
    """The picture as integers [height, width, 3], row 0 on top."""
    return np.rint(255 * matplotlib_image.imread(path)[..., :3]).astype(int)


def where(pixels, color):
    """Top, bottom, left, right of the pixels of exactly this colour."""
    rows, columns = np.nonzero(np.all(pixels == color, axis=-1))
    assert rows.size, f"no pixel of colour {color}"
    return rows.min(), rows.max(), columns.min(), columns.max()


def has(pixels, color):
    return bool(np.any(np.all(pixels == color, axis=-1)))


def history(num_epochs=30):
    epochs = np.arange(1.0, num_epochs + 1)
    bound = -90 - 20 / epochs
    return {
        "epoch": list(epochs),
        "bound": list(bound),
        "elbo": list(bound - 3),
        "kl": list(25 - 5 / epochs),
        "ess": list(5 + 5 / epochs),
        "val_bound": list(bound - 1),
    }


def tiles(pixels, num_images, num_columns, height, width):
    """Cuts a grid without a title into its images, [N, height, width, 3]."""
    scale = ((pixels.shape[1] - GAP) / num_columns - GAP) / width
    assert scale == int(scale) >= 1
    scale = int(scale)
    num_rows = math.ceil(num_images / num_columns)
    assert pixels.shape[0] == GAP + num_rows * (height * scale + GAP)
    images = []
    for k in range(num_images):
        row, column = divmod(k, num_columns)
        top = GAP + row * (height * scale + GAP)
        left = GAP + column * (width * scale + GAP)
        tile = pixels[top : top + height * scale, left : left + width * scale]
        blocks = tile.reshape(height, scale, width, scale, 3)
        assert np.all(blocks == blocks[:, :1, :, :1])  # Nothing is smoothed.
        images.append(blocks[:, 0, :, 0])
    return np.stack(images)


@pytest.mark.parametrize(
    ("shape", "num_columns"),
    [
        ((7, 28, 28, 1), 3),
        ((12, 28, 28), 4),
        ((10, 784), 10),
        ((1, 5, 9, 1), 1),
        ((23, 8, 6, 3), 23),
        ((2, 300, 40, 3), 2),
        ((3, 1), 2),
        ((100, 300, 2, 1), 10),
    ],
)
def test_image_grid_holds_every_pixel(png, shape, num_columns):
    images = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    plots.image_grid(png, images, num_columns=num_columns)
    height, width = shape[1:3] if len(shape) > 2 else [math.isqrt(shape[1])] * 2
    drawn = tiles(read(png), shape[0], num_columns, height, width)
    expected = 255 * images.reshape(shape[0], height, width, -1)
    assert np.max(np.abs(drawn - expected)) <= 0.51
    if shape[-1] != 3:
        assert np.all(drawn == drawn[..., :1])


def test_values_beyond_the_unit_interval_are_drawn_from_black_to_white():
    x = np.array([0.0, 0.25, 1.0, np.nan])
    np.testing.assert_array_equal(plots.in_range(x), [0, 0.25, 1, 0.5])
    np.testing.assert_array_equal(plots.in_range(x, x), [0, 0.25, 1, 0.5])
    data = [np.nan, -1.0, 3.0]
    np.testing.assert_array_equal(plots.in_range([-1, 1, 3, 9], data), [0, 0.5, 1, 1])


def test_image_grid_is_about_square_and_frames_only_images(png):
    plots.image_grid(png, np.zeros((10, 28, 28, 1)))
    pixels = read(png)
    assert abs(pixels.shape[1] / pixels.shape[0] - 4 / 3) < 0.02  # 4 columns, 3 rows.
    black = np.all(pixels == 0, axis=-1)
    scale = math.isqrt(int(black.sum()) // (10 * 784))
    assert black.sum() == 10 * 784 * scale**2
    empty = pixels[-28 * scale :, -28 * scale :]  # The twelfth place.
    assert np.all(empty == 255)
    gap = pixels[1 + 28 * scale + GAP, 5]
    assert np.all(gap == gap[0]) and 0 < gap[0] < 255


def test_image_grid_with_title_keeps_the_grid_below_it(png):
    images = np.random.default_rng(1).uniform(size=(4, 28, 28, 1))
    plots.image_grid(png, images, num_columns=2)
    plain = read(png)
    plots.image_grid(png, images, num_columns=2, title="A price of $5 or $6")
    titled = read(png)
    assert np.array_equal(titled[-plain.shape[0] :, : plain.shape[1]], plain)
    strip = titled[: -plain.shape[0]]
    assert strip.min() < 100 and np.all(strip[:3] == 255)


def test_image_grid_widens_for_a_long_title(png):
    plots.image_grid(png, np.zeros((1, 28, 28, 1)), title="word " * 20)
    pixels = read(png)
    assert pixels.shape[1] > 600
    assert where(pixels[30:], (0, 0, 0))[3] < 300
    strip = pixels[:38]
    last_dark = np.nonzero(strip.min(axis=(0, 2)) < 128)[0].max()
    assert 600 < last_dark < pixels.shape[1]


def test_image_grid_accepts_rounding_just_outside(png):
    plots.image_grid(png, [[[0.0, 1.0 + 5e-7], [-5e-7, 1.0]]])
    drawn = tiles(read(png), 1, 1, 2, 2)
    assert drawn[0, :, :, 0].tolist() == [[0, 255], [0, 255]]


def test_reconstructions_pair_rows(png):
    """Each image is one flat grey of its own, so its place can be found by colour."""
    levels = np.arange(14) * 16 + 10  # None of them the grey of the gaps.
    flat = (levels / 255)[:, None, None] * np.ones((14, 28, 28))
    plots.reconstructions(png, flat[:7], flat[7:, ..., None], num_columns=4)
    pixels = read(png)
    margin = where(pixels, [levels[0]] * 3)[2]
    places = []
    for level in levels:
        place = where(pixels[:, margin:], [level] * 3)
        top, bottom, left, right = place
        assert np.all(pixels[top:bottom, margin + left : margin + right] == level)
        places.append(place)
    side = places[0][1] - places[0][0] + 1
    for k, (above, below) in enumerate(zip(places[:7], places[7:])):
        assert above[2:] == below[2:]
        assert 0 < below[0] - above[1] <= 5
        assert above[2] == (k % 4) * (side + GAP)
    assert places[4][0] - places[7][1] > places[7][0] - places[0][1]
    for place in (places[0], places[7], places[4], places[11]):  # A label each row.
        assert np.any(pixels[place[0] : place[1], : margin - GAP] < 128)


def test_training_curves_panels_and_names(png, figures):
    plots.training_curves(png, history() | {"loss": [1.0] * 7, "lr": ["a"]})
    axes = figures[0].axes
    names = [[t.get_text() for t in ax.get_legend().get_texts()] for ax in axes]
    assert names == [["bound", "bound, validation", "ELBO"], ["KL"], ["ESS"]]
    labels = [ax.get_ylabel().replace("\n", " ") for ax in axes]
    assert labels == ["bound (nats)", "KL (nats)", "effective sample size (draws)"]
    assert axes[-1].get_xlabel() == "epoch"
    assert read(png).shape[1] == 1000


@pytest.mark.parametrize(
    ("missing", "num_panels"), [(["kl"], 2), (["bound", "val_bound", "elbo", "ess"], 1)]
)
def test_training_curves_without_some_columns(png, figures, missing, num_panels):
    plots.training_curves(png, {k: v for k, v in history().items() if k not in missing})
    expected = png.read_bytes()
    plots.training_curves(png, history() | dict.fromkeys(missing, [None] * 30))
    assert png.read_bytes() == expected
    assert [len(figure.axes) for figure in figures] == [num_panels] * 2


def test_training_curves_skip_what_is_not_finite(png):
    full = {"epoch": [1, 2, 3, 4], "kl": [1.0, 2.0, 3.0, 2.5]}
    plots.training_curves(png, full)
    expected = png.read_bytes()
    holes = {
        "epoch": [1, 1.5, 2, 3, math.nan, 4],
        "kl": [1.0, math.nan, 2.0, 3.0, 9.0, 2.5],
        "ess": [math.inf, -math.inf, math.nan, None, None, None],
    }
    plots.training_curves(png, holes)
    assert png.read_bytes() == expected


def test_training_curves_of_one_epoch_shows_a_marker(png):
    plots.training_curves(png, {"epoch": [37], "elbo": [-101.5]})
    pixels = read(png)
    middle = pixels[: pixels.shape[0] - 80, 150:700]  # Left of the legend.
    top, bottom, left, right = where(middle, ORANGE)
    assert 4 <= bottom - top <= 12 and 4 <= right - left <= 12


def test_training_curves_draw_equal_curves_once(png, figures):
    same = {name: history()[name] for name in ("bound", "val_bound", "elbo")}
    same["iwae"] = same["bound"]
    plots.training_curves(png, same)
    assert not has(read(png), GREEN)
    texts = [t.get_text() for t in figures[0].axes[0].get_legend().get_texts()]
    assert texts == ["bound = IWAE", "bound, validation", "ELBO"]
    same["iwae"] = [value + 0.5 for value in same["iwae"]]
    plots.training_curves(png, same)
    assert has(read(png), GREEN)


@pytest.mark.parametrize("first", [-1e4, 1e4])
def test_training_curves_first_epoch_does_not_squash(png, figures, first):
    bound = [first, *np.linspace(-110.0, -90.0, 19)]
    plots.training_curves(png, {"bound": bound})
    ax = figures[0].axes[0]
    low, high = ax.get_ylim()
    assert -115 < low < -110 and -90 < high < -85
    note = ax.get_title("right")
    assert note.startswith("off the axis before epoch 2: from")
    assert f"{abs(first):,.1f}" in note
    pixels = read(png)[:, 150:800]
    top, bottom, _, _ = where(pixels, BLUE)
    assert bottom - top > 200


def test_training_curves_keep_late_values_on_the_axis(png, figures):
    values = [-100.0] * 10 + [-500.0] + [-100.0] * 10
    plots.training_curves(png, {"bound": values})
    low, _ = figures[0].axes[0].get_ylim()
    assert low < -500 and not figures[0].axes[0].get_title("right")


@pytest.mark.parametrize("shape", [(200, 5), (3, 40), (50, 2), (2, 2)])
def test_principal_components_match_the_covariance(shape):
    rng = np.random.default_rng(2)
    means = 7 + rng.normal(size=shape) @ np.diag(rng.uniform(0.1, 3, shape[1]))
    projected, shares = plots.principal_components(means)
    covariance = np.cov(means, rowvar=False, ddof=0)
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    largest = eigenvalues[::-1][:2]
    np.testing.assert_allclose(shares, largest / np.trace(covariance), atol=1e-12)
    np.testing.assert_allclose(projected.var(axis=0), largest, atol=1e-12)
    assert projected.shape == (shape[0], 2)
    expected = (means - means.mean(axis=0)) @ eigenvectors[:, ::-1][:, :2]
    for k in range(2 if largest[1] > 1e-9 else 1):
        sign = np.sign(expected[:, k] @ projected[:, k])
        np.testing.assert_allclose(projected[:, k], sign * expected[:, k], atol=1e-9)


def test_principal_components_have_a_fixed_sign():
    means = np.random.default_rng(3).normal(size=(40, 6))
    projected, _ = plots.principal_components(means)
    for k in range(2):
        loadings = (means - means.mean(axis=0)).T @ projected[:, k]
        assert loadings[np.argmax(np.abs(loadings))] > 0


@pytest.mark.parametrize("size", [1, 5])
def test_principal_components_of_equal_points(size):
    projected, shares = plots.principal_components(np.full((size, 3), 4.0))
    assert np.all(projected == 0) and shares.tolist() == [0, 0]


def test_principal_components_of_huge_values():
    _, shares = plots.principal_components([[1e200, 0, 0], [-1e200, 0, 1e200]])
    np.testing.assert_allclose(shares, [1, 0], atol=1e-12)


def test_latent_axes_state_the_shares(png, figures):
    rng = np.random.default_rng(4)
    means = rng.normal(size=(100, 4)) * [3, 2, 1, 1]
    eigenvalues = np.linalg.eigvalsh(np.cov(means, rowvar=False))[::-1]
    shares = 100 * eigenvalues / eigenvalues.sum()
    plots.latent(png, means)
    (ax,) = figures[0].axes
    name = "principal component"
    assert ax.get_xlabel() == f"{name} 1 ({shares[0]:.1f}% of variance)"
    assert ax.get_ylabel() == f"{name} 2 ({shares[1]:.1f}% of variance)"
    title = ax.get_title("left")
    assert title == "Posterior means, principal components 1 and 2 of 4"


def centre(pixels, color):
    top, bottom, left, right = where(pixels, color)
    return np.array([(left + right) / 2, -(top + bottom) / 2])


def test_latent_of_two_dimensions_is_drawn_to_scale(png, figures):
    """Three points, found by the colours that the legend gives to their labels."""
    means = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 2.0]])
    plots.latent(png, means, [30, -1, 7])
    legend = figures[0].axes[0].get_legend()
    colors = {
        int(text.get_text()): matplotlib.colors.to_rgb(handle.get_color())
        for text, handle in zip(legend.get_texts(), legend.legend_handles)
    }
    assert sorted(colors) == [-1, 7, 30]
    pixels = read(png)[:, :900]  # Left of the legend.
    rgb = {label: np.rint(255 * np.array(c)) for label, c in colors.items()}
    origin, right, up = (centre(pixels, rgb[label]) for label in (30, -1, 7))
    assert abs((right - origin)[1]) <= 1 and abs((up - origin)[0]) <= 1
    assert (right - origin)[0] > 300
    assert abs((right - origin)[0] - 2 * (up - origin)[1]) <= 3
    assert figures[0].axes[0].get_xlabel() == "latent dimension 1"


def test_latent_of_one_dimension(png, figures):
    means = np.random.default_rng(5).normal(size=(500, 1))
    plots.latent(png, means)
    plots.latent(png, means, np.arange(500) % 3)
    histogram, strip = (figure.axes[0] for figure in figures)
    assert sum(bar.get_height() for bar in histogram.patches) == 500
    assert [t.get_text() for t in strip.get_yticklabels()] == ["0", "1", "2"]
    assert sum(len(c.get_offsets()) for c in strip.collections) == 500


def test_latent_colours_follow_the_labels(png, figures):
    """Fifty labels: every pair of colour and marker is used by one label alone."""
    labels = np.repeat(np.arange(50), 3)
    plots.latent(png, np.c_[labels, labels, labels + 1.0], labels)
    ax = figures[0].axes[0]
    handles = ax.get_legend().legend_handles
    looks = [(h.get_color(), h.get_marker()) for h in handles]
    assert len(set(looks)) == 50
    drawn = {}
    for marker_points in ax.collections:
        outline = marker_points.get_paths()[0].vertices.tobytes()
        colors = marker_points.get_facecolors()
        for (x, _), color in zip(marker_points.get_offsets(), colors):
            drawn.setdefault((outline, tuple(color)), set()).add(round(x, 6))
    assert len(drawn) == 50 and all(len(places) == 1 for places in drawn.values())


def test_latent_with_too_many_labels_has_no_legend(png, figures):
    plots.latent(png, np.random.default_rng(6).normal(size=(90, 2)), np.arange(90))
    assert figures[0].axes[0].get_legend() is None


def test_latent_says_when_it_draws_a_subset(png, figures):
    means = np.random.default_rng(7).normal(size=(9000, 3))
    plots.latent(png, means, np.arange(9000) % 10)
    ax = figures[0].axes[0]
    drawn = sum(len(c.get_offsets()) for c in ax.collections)
    assert f"({drawn:,} of 9,000 images)" in ax.get_title("left")
    everything, _ = plots.principal_components(means)
    rows = {tuple(row) for row in np.round(everything, 9)}
    shown = [tuple(p) for c in ax.collections for p in np.round(c.get_offsets(), 9)]
    assert len(set(shown)) == drawn and rows.issuperset(shown)


def test_active_units_titles_count_by_the_rule(png, figures):
    layers = [np.r_[np.full(23, 0.5), np.full(27, 1e-4)], [0.01, 0.0100001, 0.0]]
    plots.active_units(png, layers)
    titles = [ax.get_title("left") for ax in figures[0].axes]
    assert titles == ["layer 1: 23 of 50 units active", "layer 2: 1 of 3 units active"]
    ax = figures[0].axes[0]
    assert ax.get_yscale() == "log"
    assert any(np.all(np.asarray(line.get_ydata()) == 0.01) for line in ax.lines)


@pytest.mark.parametrize("zeros", [0, 12])
def test_active_units_show_zeros_on_the_log_axis(png, figures, zeros):
    variances = np.r_[0.9, 0.3, np.zeros(zeros), 1e-5]
    plots.active_units(png, [variances])
    ax = figures[0].axes[0]
    low, high = ax.get_ylim()
    points = [line.get_xydata() for line in ax.lines if line.get_linestyle() == "None"]
    points = np.concatenate(points)
    assert sorted(points[:, 0]) == list(range(1, zeros + 4))
    assert np.all((points[:, 1] > low) & (points[:, 1] < high))
    np.testing.assert_allclose(np.sort(points[:, 1])[zeros:], [1e-5, 0.3, 0.9])
    frame = ax.get_window_extent()
    rows = slice(int(frame.y0) + 4, int(frame.y1) - 4)
    inside = read(png)[::-1][rows, int(frame.x0) + 4 :]
    assert has(inside, GREY) == (zeros > 0)


@pytest.mark.parametrize("variances", [[0.9, 0.3], [0.9, 0.3, 1e-5], [1e-3, 1e-5]])
def test_the_threshold_is_named_inside_the_axes(png, figures, variances):
    """Below its line where units lie below, and not across the axis where none do."""
    plots.active_units(png, [variances])
    ax = figures[0].axes[0]
    (note,) = ax.texts
    assert note.get_window_extent().y0 > ax.get_window_extent().y0


def test_active_units_of_three_layers(png, figures):
    plots.active_units(png, [np.full(n + 1, 0.1) for n in range(3)])
    shown = [ax.get_title("left") for ax in figures[0].axes if ax.get_visible()]
    assert shown[2] == "layer 3: 3 of 3 units active" and len(shown) == 3


def count(path, color):
    """How many pixels have this colour, "#rrggbb"."""
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return np.sum(np.all(np.abs(read(path) - rgb) < 5, axis=-1))


def test_each_set_of_scores_is_drawn(tmp_path):
    rng = np.random.default_rng(0)
    sets = {
        "digits": rng.normal(-100, 10, 300),
        "far below": rng.normal(-5000, 10, 300),
        "all equal": np.full(20, -90.0),
    }
    path = separation.histogram(tmp_path / "h.png", sets)
    assert count(path, CATEGORIES[0]) > 500
    assert count(path, CATEGORIES[2]) > 100
    one = separation.histogram(tmp_path / "one.png", {"digits": [1.0]}, title="one")
    assert count(one, CATEGORIES[0]) > 100


def test_roc_curves_are_drawn(tmp_path):
    curves = {"good": ([0, 0, 1], [0, 1, 1]), "bad": ([0, 1, 1], [0, 0, 1])}
    path = separation.roc(tmp_path / "roc.png", curves)
    assert min(count(path, color) for color in CATEGORIES[:2]) > 300


IMAGES = np.full((2, 4, 4, 1), 0.5)


def bad(draw, rule, *cases):
    """Rows of function, arguments and message: each (received, *arguments) is bad."""
    return [(draw, arguments, f"{rule}. Received: {r}") for r, *arguments in cases]


IMAGE_RULE = "images [N, H, W, 1 or 3], [N, H, W] or flat square [N, H * H]"
BAD_INPUT = [
    *bad(
        plots.image_grid,
        f"`images` must be {IMAGE_RULE}",
        ("shape (3, 783)", np.zeros((3, 783))),
        ("shape (3, 4, 4, 2)", np.zeros((3, 4, 4, 2))),
        ("shape (0, 4, 4)", np.zeros((0, 4, 4))),
    ),
    *bad(
        plots.image_grid,
        "`images` must be in [0, 1]",
        ("values from 255 to 255", IMAGES * 510),
        ("values from nan to nan", IMAGES * np.nan),
    ),
    *bad(
        lambda path, count: plots.image_grid(path, IMAGES, num_columns=count),
        "`num_columns` must be a positive integer",
        *[(f"num_columns={count}", count) for count in (0, 1.5)],
    ),
    *bad(
        lambda path, images: plots.image_grid(path.with_suffix(".jpg"), images),
        "`path` must end in .png",
        ("path={path}.jpg", IMAGES),
    ),
    *bad(
        lambda path, labels: plots.latent(path, np.zeros((2, 2)), labels),
        "`labels` must be 2 integers, one for each row of `means`",
        ("float64 of shape (2,)", [0.5, 1.0]),
        ("int64 of shape (3,)", np.zeros(3, int)),
    ),
    *bad(
        plots.reconstructions,
        "`reconstructions` must have the shape of `originals`",
        ("(1, 4, 4, 1) and (2, 4, 4, 1)", IMAGES, IMAGES[:1]),
    ),
    *bad(
        plots.reconstructions,
        "`reconstructions` must be in [0, 1]",
        ("values from -0.5 to -0.5", IMAGES, IMAGES - 1),
    ),
    *bad(
        separation.histogram,
        "`scores` must hold 1 to 10 sets",
        *[(size, {str(n): [1.0] for n in range(size)}) for size in (0, 11)],
    ),
    *bad(separation.roc, "`curves` must hold 1 to 10 sets", ("0", {})),
]


@pytest.mark.parametrize(("draw", "arguments", "message"), BAD_INPUT)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, draw, arguments, message):
    path = tmp_path / "new_folder" / "picture.png"
    expected = message.replace("{path}", str(path.with_suffix("")))
    assert refusal(draw, path, *arguments) == expected
    assert list(tmp_path.iterdir()) == []


DRAWINGS = {
    "image_grid": lambda p: plots.image_grid(p, IMAGES, title="title"),
    "reconstructions": lambda p: plots.reconstructions(p, IMAGES, IMAGES),
    "training_curves": lambda p: plots.training_curves(p, {"kl": [3.0, 2.0]}),
    "latent": lambda p: plots.latent(p, np.eye(12), np.arange(12)),
    "active_units": lambda p: plots.active_units(p, [[0.5, 0.001, 0.0]]),
}
every_drawing = pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)


def test_path_is_returned_and_its_folder_made(tmp_path):
    path = str(tmp_path / "a" / "b" / "picture.PNG")
    assert plots.image_grid(path, IMAGES) is path
    assert os.listdir(tmp_path / "a" / "b") == ["picture.PNG"]
    assert read(path).ndim == 3


@every_drawing
def test_failed_write_keeps_the_old_file_and_leaves_no_other(png, draw, monkeypatch):
    def fail(canvas, file, **_):
        file.write(b"half a picture")
        raise OSError(28, "No space left on device")

    png.write_bytes(b"old")
    monkeypatch.setattr(FigureCanvasAgg, "print_png", fail)
    with pytest.raises(OSError, match="No space"):
        draw(png)
    assert png.read_bytes() == b"old"
    assert os.listdir(png.parent) == [png.name]


@every_drawing
def test_look_does_not_depend_on_global_settings(tmp_path, draw):
    path = tmp_path / "plain.png"
    assert draw(path) is path
    with matplotlib_style.context("dark_background"):
        dark = draw(tmp_path / "dark.png")
    assert dark.read_bytes() == path.read_bytes()


def test_threads_may_draw_at_once(tmp_path):
    def draw(job):
        name, folder = job
        return DRAWINGS[name](tmp_path / folder / f"{name}.png").read_bytes()

    expected = [draw((name, "serial")) for name in DRAWINGS]
    with concurrent.futures.ThreadPoolExecutor(max_workers=5) as pool:
        assert list(pool.map(draw, [(n, "threads") for n in DRAWINGS])) == expected


def test_written_files_follow_the_umask(png):
    reference = png.with_name("reference")
    reference.touch()
    plots.image_grid(png, IMAGES)
    assert png.stat().st_mode == reference.stat().st_mode


def test_pictures_are_small(png):
    rng = np.random.default_rng(8)
    plots.latent(png, rng.normal(size=(20_000, 50)), np.arange(20_000) % 10)
    assert png.stat().st_size < 300_000
