"""Tells digits from what is none by log p(x), and measures where that fails.

    python -m examples.anomaly_detection --output=runs/anomaly
    python -m examples.anomaly_detection --fashion_mnist=DIR --omniglot=DIR

An image is rejected where its log-likelihood is low. AUROC is the probability that an
image of the model's test split has a higher score than an anomaly. Made anomalies need
no data: digits turned by a quarter, digits with half of their ink, empty images.
"""

import json
import pathlib

import numpy as np
from absl import flags
from scipy import stats
from sklearn import metrics

from examples import auroc
from iwae_tf import cli, datasets, serving
from iwae_tf.config.files import read_config
from iwae_tf.io.files import write_json
from iwae_tf.plots import separation
from iwae_tf.saved_model import load_saved_model

_SAVED_MODEL = flags.DEFINE_string(
    "saved_model", "saved_models/mnist5k_iwae", "Export of a model of 28 x 28 images."
)
_FASHION = flags.DEFINE_string(
    "fashion_mnist", None, "Folder of Fashion-MNIST's four IDX files."
)
_OMNIGLOT = flags.DEFINE_string("omniglot", None, "Burda et al.'s chardata.mat.")
_OUTPUT = flags.DEFINE_string("output", "runs/anomaly", "Folder for what is made.")
_NUM_IMAGES = cli.count_flag("num_images", 500, "Images of each set, at most.")
_NUM_SAMPLES = cli.count_flag("num_samples", 1000, "Draws an image, K.")
NORMAL = "test images"


def main():
    """Scores all sets; writes results.json, histogram.png and roc.png."""
    output = pathlib.Path(_OUTPUT.value)
    version, _ = load_saved_model(_SAVED_MODEL.value)
    sets = image_sets(
        read_config(version.parent / "config.json"),
        _NUM_IMAGES.value,
        fashion_mnist=_FASHION.value,
        omniglot=_OMNIGLOT.value,
    )
    scores, ink = {}, {}
    for name, images in sets.items():
        print(f"scoring {len(images)} {name}", flush=True)
        found = serving.score(
            images, saved_model=version, num_samples=_NUM_SAMPLES.value
        )
        scores[name] = found.estimate.astype(np.float64)
        ink[name] = images.sum(axis=(1, 2, 3))
    found = describe(scores, ink)
    found |= {"num_samples": _NUM_SAMPLES.value, "saved_model": version.parent.name}
    write_json(output / "results.json", found)
    separation.histogram(output / "histogram.png", scores)
    separation.roc(output / "roc.png", roc_curves(scores, found))
    print(json.dumps(found, indent=2))
    print(f"figures and results.json are in {output}")
    return 0


def image_sets(config, count, *, fashion_mnist=None, omniglot=None):
    """Named images, the model's own test split first, all binarized once.

    The made anomalies are of the validation split, so that no image is in two sets.

    Args:
      config: ConfigDict of the model.
      count: images of a set, at most.
      fashion_mnist: optional folder of IDX files.
      omniglot: optional folder of chardata.mat.

    Returns:
      sets: dict of name to float32 [N, 28, 28, 1].
    """

    def load(name, split, **arguments):
        return datasets.load_arrays(name, split=split, **arguments).images[:count]

    own = {"name": config.dataset, "data_dir": config.data_dir}
    grey = load(split="validation", **own)
    sets = {
        NORMAL: load(split="test", binarization="fixed", **own),
        "turned by 90 degrees": draw(np.rot90(grey, axes=(1, 2)), 1),
        "half of the ink": draw(0.5 * grey, 2),
        "empty images": np.zeros_like(grey),
    }
    if config.dataset not in ("mnist", "mnist5k"):
        sets["MNIST digits"] = load("mnist5k", "test", binarization="fixed")
    if fashion_mnist:
        folder = {"data_dir": fashion_mnist, "binarization": "fixed"}
        sets["Fashion-MNIST"] = load("idx", "test", **folder)
    if omniglot:
        folder = {"data_dir": omniglot, "binarization": "fixed"}
        sets["Omniglot"] = load("omniglot", "test", **folder)
    return sets


def draw(grey, seed):
    """Binary images from grey levels."""
    uniform = np.random.default_rng(seed).random(grey.shape)
    return (uniform < grey).astype(np.float32)


def describe(scores, ink):
    """AUROC of log p(x), of its distance from the normal, and of the ink alone.

    Args:
      scores: dict of name to log-likelihoods [N], `NORMAL` first.
      ink: dict of name to the number of lit pixels [N].

    Returns:
      dict of JSON values.
    """
    normal, normal_ink = scores[NORMAL], ink[NORMAL]
    # The centre comes from half of the normal images, which are then left out.
    centre, held_out = np.median(normal[::2]), normal[1::2]

    def as_json(result):
        return {"auroc": result.value, "standard_error": result.standard_error}

    anomalies = {
        name: {
            "num_images": len(values),
            "mean_log_likelihood": values.mean(),
            "log_likelihood": as_json(auroc.auroc(normal, values)),
            "typicality": as_json(
                auroc.auroc(-np.abs(held_out - centre), -np.abs(values - centre))
            ),
            "few_pixels": as_json(auroc.auroc(-normal_ink, -ink[name])),
        }
        for name, values in scores.items()
        if name != NORMAL
    }
    return {
        "num_test_images": len(normal),
        "mean_log_likelihood": normal.mean(),
        "highest_log_likelihood": normal.max(),
        "spearman_of_log_likelihood_and_ink": stats.spearmanr(
            normal, normal_ink
        ).statistic,
        "anomalies": anomalies,
    }


def roc_curves(scores, found):
    """Rates of rejected normal images and of rejected anomalies, by threshold."""
    curves, normal = {}, scores[NORMAL]
    for name, values in scores.items():
        if name == NORMAL:
            continue
        is_anomaly = np.repeat([0, 1], [len(normal), len(values)])
        rejected = -np.concatenate([normal, values])
        rates = metrics.roc_curve(is_anomaly, rejected)[:2]
        result = found["anomalies"][name]["log_likelihood"]
        label = f"{name}: {result['auroc']:.3f} +- {result['standard_error']:.3f}"
        curves[label] = rates
    return curves


def run():
    """The example."""
    cli.run(main)


if __name__ == "__main__":
    run()
