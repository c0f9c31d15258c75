"""Serves a model on this machine and scores 1,000 digits through the client.

    python -m examples.serve_demo --output=runs/serve_demo

Exports a trained model, starts a server that speaks TensorFlow Serving's REST protocol
and fails every tenth request, scores digits through it, compares the numbers with the
SavedModel's in this process and with the Keras model's, and draws their histogram.
"""

import pathlib

import numpy as np
from absl import flags

import iwae_tf
from examples.loopback_server import LoopbackServer
from iwae_tf import cli, datasets, serving
from iwae_tf.io import terminal
from iwae_tf.plots import separation
from iwae_tf.runs.workdir import Workdir, export, load_exported

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run to serve.")
_SAVED_MODEL = flags.DEFINE_string(
    "saved_model", "saved_models/mnist5k_iwae", "Export to serve instead."
)
_OUTPUT = flags.DEFINE_string("output", "runs/serve_demo", "Folder for what is made.")
_NUM_IMAGES = cli.count_flag("num_images", 1000, "Digits, 1,000 at most.")
_NUM_SAMPLES = cli.count_flag("num_samples", 500, "Draws an image, K.")
SEED, BATCH_SIZE = (0, 0), 50
TOLERANCE = 1e-4  # nats


def main():
    """Runs the steps and prints what each of them found."""
    output = pathlib.Path(_OUTPUT.value)
    (output / "scores.csv").unlink(missing_ok=True)  # of an earlier demo
    if _WORKDIR.value:
        workdir = Workdir(_WORKDIR.value)
        model, config = workdir.load_model(), workdir.read_config()
        found = workdir.read_results()
    else:
        (model, config), found = load_exported(_SAVED_MODEL.value), None
    version = export(model, config, output / config.dataset, found)
    print(f"    exported  {version}")
    images = digits()[: _NUM_IMAGES.value]
    served = _through_a_server(version.parent, images, output / "scores.csv")
    differences = {
        "the SavedModel in this process": _difference(
            served, serving.score(images, saved_model=version, **_arguments())
        ),
        "iwae_tf.log_likelihood": _difference(served, _by_keras(model, images)),
    }
    picture = separation.histogram(
        output / "histogram.png",
        {"digits": served.estimate},
        title=f"{len(images):,} digits, {_NUM_SAMPLES.value} draws each",
    )
    for what, difference in differences.items():
        print(f"  difference  {difference:.1e} nats at most from {what}")
    print(f"mean log p(x)  {served.estimate.mean():.2f} nats")
    print(f"      scores  {output / 'scores.csv'}")
    print(f"   histogram  {picture}")
    if not max(differences.values()) <= TOLERANCE:
        raise FloatingPointError(f"the numbers differ by more than {TOLERANCE} nats")
    return 0


def digits():
    """1,000 digits that the model was not trained on, [1000, 28, 28, 1]."""
    parts = [
        datasets.load_arrays("mnist5k", split=split, binarization="fixed").images
        for split in ("test", "validation")
    ]
    return np.concatenate(parts)


def _arguments():
    samples = {"num_samples": _NUM_SAMPLES.value}
    return samples | {"seed": SEED, "batch_size": BATCH_SIZE}


def _through_a_server(folder, images, path):
    """LogLikelihood by way of HTTP, the scores in a file."""
    with (
        LoopbackServer(folder, fault=lambda n: 503 if n % 10 == 9 else None) as server,
        terminal.Progress(len(images), label=server.endpoint) as bar,
    ):
        result = serving.score(
            images,
            endpoint=server.endpoint,
            output=path,
            on_batch=lambda batch: bar.update(len(batch.estimate)),
            **_arguments(),
        )
        count = server.num_predictions
    needed = -(-len(images) // BATCH_SIZE)
    print(f"    requests  {count}, {count - needed} of them failed and sent again")
    return result


def _by_keras(model, images):
    """The library's estimate, each batch with the seed that the client gives it."""
    parts = [
        iwae_tf.log_likelihood(
            model,
            images[start : start + BATCH_SIZE],
            _NUM_SAMPLES.value,
            serving.batch_seed(SEED, start),
        )
        for start in range(0, len(images), BATCH_SIZE)
    ]
    return type(parts[0])(*(np.concatenate(values) for values in zip(*parts)))


def _difference(ours, theirs):
    return float(np.max(np.abs(ours.estimate - theirs.estimate)))


def run():
    """The demo."""
    cli.run(main)


if __name__ == "__main__":
    run()
