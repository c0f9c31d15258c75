"""Where the time of a step goes: each part of IWAE's K=50 step as a program alone.

    python -m benchmarks.parts

Each part runs in a compiled loop, as in `fit`. XLA fuses across their borders in
the whole step, so that they add up to it roughly. "All gradients" holds the three above
it, and the encoder's noise, densities and activations besides.
"""

import tensorflow as tf

from benchmarks import common, matmul, models
from benchmarks.common import Contender, Row
from iwae_tf.models.bound_model import Batch
from iwae_tf.probability import distributions, noise

BATCH_SIZE, NUM_SAMPLES = models.BATCH_SIZE, 50
REPEATS = 10  # of a part in one timed program
TINY = 1e-30  # of one result is added to the next, so that none can be left out


def looped(part, repeats):
    """A program of `repeats` calls of `part`, from (step, carry) to a scalar."""

    @tf.function(autograph=False, jit_compile=True)
    def program():
        return tf.while_loop(
            lambda step, _: step < repeats,
            lambda step, carry: (step + 1, carry + TINY * part(step, carry)),
            [0, 0.0],
        )[1]

    program()
    return Contender(lambda: program().numpy(), repeats)


def products(shapes):
    """Forward and backward products of layers, [rows, inputs, outputs] each."""
    operands = [tuple(map(tf.constant, matmul.operands(shape))) for shape in shapes]

    def part(step, carry):
        total = 0.0
        for inputs, kernel in operands:
            outputs = tf.matmul(inputs + carry, kernel)
            to_inputs = tf.matmul(outputs, kernel, transpose_b=True)
            to_kernel = tf.matmul(inputs, outputs, transpose_a=True)
            total += outputs[0, 0] + to_inputs[0, 0] + to_kernel[0, 0]
        return total

    return part


def layer_shapes(sizes, rows):
    """Shapes of the dense layers of one step of the one-layer model."""
    pixels = sizes.event_shape[0] * sizes.event_shape[1]
    first, second = sizes.hidden_dims
    latent = sizes.latent_dim
    encoder = [(pixels, first), (first, second), (second, 2 * latent)]
    decoder = [(latent, second), (second, first), (first, pixels)]
    draws = rows * NUM_SAMPLES
    return [(rows, *pair) for pair in encoder] + [(draws, *pair) for pair in decoder]


def density(logits, x):
    """log p(x|z) of [rows, pixels] and its gradient."""

    def part(step, carry):
        shifted = logits + carry
        with tf.GradientTape() as tape:
            tape.watch(shifted)
            log_prob = distributions.bernoulli_log_prob(x, shifted)
        slope = tape.gradient(log_prob, shifted)
        return tf.reduce_sum(log_prob) + slope[0, 0]

    return part


def gradients(model, x):
    """All gradients of a step, with its noise."""
    weights = tf.fill([BATCH_SIZE], 1.0 / BATCH_SIZE)

    def part(step, carry):
        draws = model.latent.draw_noise(
            noise.make_key((0, 0)), step, BATCH_SIZE, 1, NUM_SAMPLES
        )
        result = model.loss_gradients(Batch(x + carry, None, draws, weights))
        return tf.add_n([tf.reduce_sum(g[..., :1]) for g in result.gradients])

    return part


def update(model):
    """The optimiser's step on gradients that are at hand."""
    slopes = [tf.ones(v.shape) for v in model.trainable_variables]

    def part(step, carry):
        shifted = [slope + carry for slope in slopes]
        model.optimizer.apply(shifted, model.trainable_variables)
        return tf.reduce_sum(model.trainable_variables[-1].value)

    return part


def measure(options):
    """Milliseconds of each part, and its share of the step through `fit`."""
    sizes = models.sizes_for(options.quick)
    repeats = 2 if options.quick else REPEATS
    model = models.iwae(sizes, NUM_SAMPLES)
    steps = 4 if options.quick else 200
    data = models.binary_images(steps * BATCH_SIZE, sizes.event_shape)
    x = tf.constant(data[:BATCH_SIZE])
    rows = BATCH_SIZE * NUM_SAMPLES
    pixels = x.shape[1] * x.shape[2]
    repeated = tf.repeat(tf.reshape(x, [-1, pixels]), NUM_SAMPLES, axis=0)
    key = noise.make_key((0, 0))

    def normals(step, carry):
        return tf.reduce_sum(noise.normal(key, step, rows, sizes.latent_dim) + carry)

    parts = {
        "products of the layers": products(layer_shapes(sizes, BATCH_SIZE)),
        "noise": normals,
        "Bernoulli density and gradient": density(repeated - 0.5, repeated),
        "all gradients": gradients(model, x),
        "optimiser (Adam)": update(model),
    }
    contenders = {name: looped(part, repeats) for name, part in parts.items()}
    contenders["the step through fit"] = models.timed_fit(
        model, data, steps, BATCH_SIZE
    )
    seconds = common.interleave(contenders, options.rounds)
    whole = seconds["the step through fit"]
    return [
        Row(
            f"IWAE K=50 step, {name}",
            common.spread(1e3 * values),
            "ms",
            reference=f"{common.paired_ratio(values, whole, 100).median:.0f} % of it",
        )
        for name, values in seconds.items()
    ]


if __name__ == "__main__":
    common.run_script(__doc__, measure)
