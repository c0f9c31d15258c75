"""Log-likelihoods by proposals fitted to each image, beside the encoder's.

Scores the first 1,000 test digits of MNIST with the models that ship: how good the
weights are, how far seeds differ and what they state of it, whether annealed importance
sampling agrees, and what it costs. The 50 images of annealing are the first 50.

    TFDS_DATA_DIR=... python -m benchmarks.refined --output=benchmarks/refined.json

Half an hour on two cores; not a part of `make bench`.
"""

import time

import numpy as np

from benchmarks import common
from benchmarks.common import Row, Target, spread

DRAWS = 5000
ONE_LAYER, TWO_LAYERS = "mnist-iwae-k50", "mnist-iwae-k50-2l"


def load(name, count):
    """A model that ships, and test images binarised as its own evaluation does."""
    import iwae_tf
    from iwae_tf.datasets import load_arrays

    split = load_arrays("mnist", split="test", binarization="fixed", seed=1)
    return iwae_tf.from_pretrained(name), split.images[:count]


def cost(model, images, rounds):
    """Time of refined proposals by that of the encoder's draws, one ratio a round."""
    import iwae_tf

    def seconds(proposal):
        start = time.monotonic()
        iwae_tf.log_likelihood(model, images, DRAWS, proposal=proposal)
        return time.monotonic() - start

    for proposal in ("encoder", "refined"):
        seconds(proposal)  # compiles
    return [seconds("refined") / seconds("encoder") for _ in range(rounds)]


def quality(name, results, targets):
    """Rows on the weights, over seeds."""
    values = [
        (
            100.0 * np.mean(result.pareto_k <= 0.7),
            np.median(result.effective_sample_size),
            np.quantile(result.effective_sample_size, 0.05),
        )
        for result in results
    ]
    what = ("images with Pareto k <= 0.7", "median effective sample size",
            "5 % quantile of the effective sample size")  # fmt: skip
    return [
        Row(f"{name}: {text}", spread(found), unit, target)
        for text, found, unit, target in zip(what, zip(*values), ("%", "", ""), targets)
    ]


def errors_of_seeds(name, results):
    """Rows on the spread between seeds and on what their errors state of it."""
    estimates = np.stack([result.estimate for result in results]).astype(np.float64)
    means = estimates.mean(axis=1)
    between = np.sqrt(np.mean(estimates.var(axis=0, ddof=1)))
    stated = np.stack([result.jackknife_error for result in results])
    ratio = float(np.sqrt(np.mean(np.square(stated, dtype=np.float64))) / between)
    return [
        Row(f"{name}: NLL, mean over seeds", spread((-means).tolist()), "nats"),
        Row(
            f"{name}: spread of the mean NLL between seeds",
            spread([float(means.std(ddof=1))]),
            "nats",
            Target("<=", 0.004),
        ),
        Row(f"{name}: stated errors by spread", spread([ratio]), "", Target(">=", 0.8)),
    ]


def equal_time(name, model, images, results, ratio):
    """The error of a single image, against that of as many encoder draws as cost so."""
    import iwae_tf

    count = len(images)
    estimates = np.stack([result.estimate[:count] for result in results])
    others = estimates[1:].mean(axis=0)
    draws = round(DRAWS * ratio)
    encoder = iwae_tf.log_likelihood(model, images, draws, (9, 9)).estimate
    refined, plain = (
        float(np.sqrt(np.mean(np.square(found - others, dtype=np.float64))))
        for found in (estimates[0], encoder)
    )
    text = f"{refined:.3f} by {plain:.3f} nats, {draws:,} draws of the encoder"
    return Row(
        f"{name}: error of one image by the encoder's at equal time, {count} images",
        spread([refined / plain]),
        "",
        Target("<=", 0.2),
        text,
    )


def annealing(name, model, images, result, num_steps):
    """How far annealing is from the refined estimate, in joint errors."""
    from iwae_tf.diagnostics import annealed_log_likelihood

    found = annealed_log_likelihood(model, images, num_steps=num_steps)
    count = len(images)
    difference = float(np.mean(found.estimate - result.estimate[:count]))
    squares = found.standard_error**2 + result.jackknife_error[:count] ** 2
    error = float(np.sqrt(np.sum(squares)) / count)
    return Row(
        f"{name}: annealing above refined, in joint errors, {count} images",
        spread([abs(difference) / error]),
        "",
        Target("<=", 2.0),
        f"{difference:+.3f} nats, joint error {error:.3f}, {num_steps} temperatures",
    )


def measure(options):
    """All rows; one layer first."""
    import iwae_tf

    count, seeds, few, anneal = (20, 2, 5, 2) if options.quick else (1000, 8, 100, 50)
    name, (model, images) = "one layer", load(ONE_LAYER, count)
    ratios = cost(model, images[:few], options.rounds)
    results = [
        iwae_tf.log_likelihood(model, images, DRAWS, (seed, 7), proposal="refined")
        for seed in range(seeds)
    ]
    limits = (Target(">=", 99.0), Target(">=", 1000.0), Target(">=", 200.0))
    rows = [
        *quality(name, results, limits),
        *errors_of_seeds(name, results),
        Row(f"{name}: time by the encoder's", spread(ratios), "", Target("<=", 3.0)),
        equal_time(name, model, images[:few], results, float(np.median(ratios))),
        annealing(name, model, images[:anneal], results[0],
                  20 if options.quick else 2400),
    ]  # fmt: skip
    plain = iwae_tf.log_likelihood(model, images[:few], DRAWS)
    rows += quality(f"{name}, encoder's draws", [plain], (None, None, None))
    name, (model, images) = "two layers", load(TWO_LAYERS, count)
    ratios = cost(model, images[:few], options.rounds)
    result = iwae_tf.log_likelihood(model, images, DRAWS, (0, 7), proposal="refined")
    limits = (Target(">=", 95.0), Target(">=", 400.0), None)
    rows += quality(name, [result], limits)
    nll = [float(-result.estimate.mean())]
    return [
        *rows,
        Row(f"{name}: NLL of one seed", spread(nll), "nats"),
        Row(f"{name}: time by the encoder's", spread(ratios), "", Target("<=", 6.0)),
    ]


if __name__ == "__main__":
    common.run_script(__doc__, measure)
