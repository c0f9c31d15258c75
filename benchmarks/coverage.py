"""How often the 95 % intervals of `log_likelihood` hold.

Where the answer is known: log-normal weights, and a Gaussian posterior that is sampled
from a narrower Gaussian. On images that a model has drawn, where annealed importance
sampling bounds log p(x) from both sides. And on test digits of MNIST, where the
reference is the estimate from the refined draws of all seeds.

    TFDS_DATA_DIR=... python -m benchmarks.coverage --output=benchmarks/coverage.json

A quarter of an hour on two cores; not a part of `make bench`.
"""

import numpy as np
from scipy import special

from benchmarks import common
from benchmarks.common import Row, Target, spread
from benchmarks.refined import DRAWS, ONE_LAYER, load

NARROW = ((1, 0.5), (1, 0.3), (10, 0.7), (10, 0.5))  # dimensions, variance of q
NEAR = Target(">=", 90.0)
SHARES = ("image_coverage", "mean_coverage")


def rows_of(name, found, target=NEAR):
    """Coverage of the interval, beside that of the jackknife error alone."""
    interval, alone = (found["errors"][n] for n in ("interval", "jackknife"))
    what = ("one image", f"the mean of {found['num_images']}")
    return [
        Row(
            f"{name}: intervals of {text} that hold",
            spread([100.0 * interval[share]]),
            "%",
            target,
            f"{100.0 * alone[share]:.1f} % without the bias",
        )
        for text, share in zip(what, SHARES)
    ]


def known(quick):
    """Where log E w is 0."""
    from iwae_tf.diagnostics import coverage

    sizes = {"num_samples": DRAWS, "num_images": 100, "num_seeds": 4 if quick else 20}
    rows = []
    for case in coverage.known_cases(spreads=(1.0, 2.0, 3.0), **sizes):
        rows += rows_of(f"log-normal, s = {case['spread_of_log_w']:g}", case)
    for width, variance in NARROW:
        rng, seeds = np.random.default_rng(0), []
        for _ in range(sizes["num_seeds"]):
            square = variance * rng.chisquare(width, [DRAWS, sizes["num_images"]])
            weights = square * (1 / variance - 1) / 2 + width * np.log(variance) / 2
            seeds.append(coverage.error_bars(weights, rng))
        found = coverage.compare(seeds, np.zeros(sizes["num_images"]))
        name = f"N(0, I) from N(0, {variance:g} I), {width} dimensions"
        rows += rows_of(f"{name} (k = {1 - variance:g})", found)
    return rows


def digits(model, images, num_seeds):
    """Test digits under several seeds."""
    import iwae_tf
    from iwae_tf.diagnostics import coverage

    rows, reference = [], None
    for proposal in ("refined", "encoder"):
        seeds = []
        for seed in range(num_seeds):
            found = iwae_tf.log_likelihood(
                model, images, DRAWS, (seed, 11), proposal=proposal
            )
            parts = [found.estimate, found.jackknife_error, found.bias_allowance]
            interval = np.asarray(parts, np.float64)
            alone = interval * np.array([1.0, 1.0, 0.0])[:, np.newaxis]
            seeds.append({"interval": interval, "jackknife": alone})
        if reference is None:
            estimates = [each["interval"][0] for each in seeds]
            reference = special.logsumexp(estimates, axis=0) - np.log(num_seeds)
        rows += rows_of(f"test digits, {proposal}", coverage.compare(seeds, reference))
    return rows


def simulated(model, count, num_steps):
    """Images drawn from the model: annealing bounds log p(x) from both sides."""
    import iwae_tf
    from iwae_tf.diagnostics import annealed_log_likelihood

    x, latents = model.sample(count, (5, 5)), model.sample_latents(count, (5, 5))
    low = annealed_log_likelihood(model, x, num_steps=num_steps)
    high = annealed_log_likelihood(model, x, num_steps=num_steps, latents=latents)
    rows = []
    for proposal in ("encoder", "refined"):
        found = iwae_tf.log_likelihood(model, x, DRAWS, (5, 11), proposal=proposal)
        start, end = found.interval()
        meets = end >= low.estimate - 2 * low.standard_error
        meets &= start <= high.estimate + 2 * high.standard_error
        summary = iwae_tf.evaluation.summarize(found)
        bounds = f"{low.estimate.mean():.3f} to {high.estimate.mean():.3f} by annealing"
        means = [-end for end in reversed(summary.interval)]
        rows.append(
            Row(
                f"{count} images of the model, {proposal}: intervals that meet "
                "annealing's bounds",
                spread([100.0 * meets.mean()]),
                "%",
                NEAR,
                f"mean log p(x) {means[0]:.3f} to {means[1]:.3f}, {bounds}",
            )
        )
    return rows


def measure(options):
    """All rows."""
    count, seeds, steps = (8, 2, 20) if options.quick else (100, 16, 600)
    model, images = load(ONE_LAYER, count)
    return [
        *known(options.quick),
        *digits(model, images, seeds),
        *simulated(model, count // 2, steps),
    ]


if __name__ == "__main__":
    common.run_script(__doc__, measure)
