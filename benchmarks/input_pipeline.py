"""What the data cost of a training step, as a share of its time.

The reference is `fit` of a model that takes x as it is on one batch in memory, again
and again. Beside it, as many steps on an array and on the `tf.data` pipeline that the
training script uses, with images as they are and with binary pixels drawn anew at
each step; the draws count as data, too.

    python -m benchmarks.input_pipeline
"""

import tensorflow as tf

import iwae_tf
from benchmarks import common, models
from benchmarks.common import Row, paired_ratio
from benchmarks.models import BATCH_SIZE
from iwae_tf import datasets

BINARIZATIONS = ("none", "dynamic")


def fits(model_class, sizes, draws, quick):
    """Calls of `fit` by (binarization, source of the data), warmed up.

    Args:
      model_class: of the package.
      sizes: models.Sizes.
      draws: K.
      quick: whether a few steps do.

    Returns:
      contenders: dict of Contender; the unit of work is a step.
    """
    contenders = {}
    for binarization in BINARIZATIONS:
        networks = models.one_layer_networks(sizes)
        model = models.compiled(
            model_class, networks, sizes, num_samples=draws, binarization=binarization
        )
        step_flops = models.training_flops(model, BATCH_SIZE, draws)
        steps = models.steps_in_fit(step_flops, quick)
        x = models.binary_images(steps * BATCH_SIZE, sizes.event_shape)
        pipeline = datasets.batches(x, batch_size=BATCH_SIZE, seed=0, epochs=1)
        sources = {"array": (x, BATCH_SIZE), "tf.data": (pipeline, None)}
        if binarization == "none":
            batch = tf.data.Dataset.from_tensors(x[:BATCH_SIZE])
            sources["no pipeline"] = (batch.cache().repeat(steps), None)
        for source, (data, batch_size) in sources.items():
            fit = models.timed_fit(model, data, steps, batch_size)
            contenders[binarization, source] = fit
    return contenders


def rows_of(what, contenders, rounds):
    """One row a source and binarization: the share of its time that data take."""
    seconds = common.interleave(contenders, rounds)
    without = seconds.pop(("none", "no pipeline"))
    reference = f"a step without a pipeline: {common.milliseconds(without)}"
    return [
        Row(
            f"data's share of a step, {what}, {source}, binarization={binarization}",
            paired_ratio(values - without, values, 100),
            "%",
            reference=reference,
        )
        for (binarization, source), values in seconds.items()
    ]


def measure(options):
    """All rows of this table."""
    sizes = models.sizes_for(options.quick)
    cases = {"IWAE K=50": (iwae_tf.IWAE, 50), "VAE K=1": (iwae_tf.VAE, 1)}
    rows = []
    for what, (model_class, draws) in cases.items():
        contenders = fits(model_class, sizes, draws, options.quick)
        rows += rows_of(what, contenders, options.rounds)
    return rows


if __name__ == "__main__":
    common.run_script(__doc__, measure)
