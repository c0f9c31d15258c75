"""Pictures of scores: what is drawn, and what cannot be."""

import numpy as np
import pytest
from matplotlib import image

from iwae_tf.errors import InvalidInputError
from iwae_tf.plots import scores as score_plots
from iwae_tf.plots.drawing import CATEGORIES


def pixels_of(path, color):
    """How many pixels of a picture have a colour of the series."""
    rgb = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return np.sum(np.all(np.abs(image.imread(path)[..., :3] - rgb) < 0.02, axis=-1))


def test_each_set_of_scores_is_drawn(tmp_path):
    rng = np.random.default_rng(0)
    sets = {
        "digits": rng.normal(-100, 10, 300),
        "far below": rng.normal(-5000, 10, 300),
        "all equal": np.full(20, -90.0),
    }
    path = score_plots.histogram(tmp_path / "h.png", sets)
    assert pixels_of(path, CATEGORIES[0]) > 500
    assert pixels_of(path, CATEGORIES[2]) > 100
    one = score_plots.histogram(tmp_path / "one.png", {"digits": [1.0]}, title="one")
    assert pixels_of(one, CATEGORIES[0]) > 100


def test_roc_curves_are_drawn(tmp_path):
    curves = {"good": ([0, 0, 1], [0, 1, 1]), "bad": ([0, 1, 1], [0, 0, 1])}
    path = score_plots.roc(tmp_path / "roc.png", curves)
    assert min(pixels_of(path, color) for color in CATEGORIES[:2]) > 300


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "`scores` must hold 1 to 10 sets"),
        ({"a": []}, "`scores` must hold non-empty lists"),
        ({"a": [1.0, np.nan]}, "`scores` must be finite"),
        ({"a": [[1.0]]}, "`scores` must hold non-empty lists"),
        ({str(n): [1.0] for n in range(11)}, "1 to 10 sets"),
    ],
)
def test_scores_that_cannot_be_drawn(tmp_path, scores, message):
    with pytest.raises(InvalidInputError, match=message):
        score_plots.histogram(tmp_path / "h.png", scores)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({}, "`curves` must hold 1 to 10 curves"),
        ({"a": ([0, 1], [0, 2])}, "rates in"),
        ({"a": [0, 1]}, "rates in"),
        ({"a": ([0, 1], [0])}, "pairs of lists of one length"),
    ],
)
def test_curves_that_cannot_be_drawn(tmp_path, curves, message):
    with pytest.raises(InvalidInputError, match=message):
        score_plots.roc(tmp_path / "r.png", curves)
    assert not list(tmp_path.iterdir())
