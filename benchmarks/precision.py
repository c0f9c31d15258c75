"""What mixed precision costs in nats: the test NLL of the demo, by precision.

Trains `mnist5k_iwae` (40 epochs of 4,000 real digits) with three seeds in float32 and
in mixed_bfloat16 and scores the same 500 test images with 5,000 samples. The products
of bfloat16 are rounded in the same way whether a processor has them or not, so the
table is worth the same on each.

    python -m benchmarks.precision

Some minutes on two cores; not a part of `make bench`.
"""

import importlib
import tempfile

from benchmarks import common
from benchmarks.common import Row, Target, spread

SEEDS, SEEDS_QUICK = (0, 1, 2), (0,)
CONFIG = "mnist5k_iwae"
PRECISIONS = ("float32", "mixed_bfloat16")


def nlls_by_precision(seeds, quick):
    """NLLs of runs of the training script: dict of precision to one a seed, in nats."""
    from iwae_tf.studies import runner

    config = importlib.import_module(f"configs.{CONFIG}").get_config()
    if quick:
        config.epochs, config.eval_num_samples = 1, 20
    axes = [f"precision={','.join(PRECISIONS)}", f"seed={','.join(map(str, seeds))}"]
    runs = runner.expand_grid(config, axes)
    with tempfile.TemporaryDirectory() as folder:
        outcomes = runner.run_all(runs, folder)
    found = {precision: [] for precision in PRECISIONS}
    for run, outcome in zip(runs, outcomes):
        if outcome.status != runner.DONE:
            raise RuntimeError(f"{outcome.name}: {outcome.message}")
        found[run.config.precision].append(outcome.nll)
    return found


def measure(options):
    """The NLLs of each precision; bfloat16 is not to be above those of float32."""
    seeds = SEEDS_QUICK if options.quick else SEEDS
    found = nlls_by_precision(seeds, options.quick)
    values = {
        precision: ", ".join(f"{value:.2f}" for value in nlls)
        for precision, nlls in found.items()
    }
    limit = Target("<=", max(found["float32"]))
    what = f"test NLL of {CONFIG}, seeds {', '.join(map(str, seeds))}"
    return [
        Row(f"{what}, {precision}", spread(nlls), "nats", target, values[precision])
        for (precision, nlls), target in zip(found.items(), (None, limit))
    ]


if __name__ == "__main__":
    common.run_script(__doc__, measure)
