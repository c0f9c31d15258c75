"""Speed and memory of the NLL: `iwae_tf.log_likelihood` with 5,000 draws an image.

An image-sample is one draw of one image. The ceiling is what the matrix products of
the decoder alone would take at the rate measured beside. Peers score five images at a
time in chunks of 1,000 draws each, 5,000 rows of the decoder.

    python -m benchmarks.log_likelihood
"""

import functools
import pathlib
import resource

import numpy as np

from benchmarks import common
from benchmarks.common import NO_TORCH, Contender, Row, Target, paired_ratio, spread

NUM_SAMPLES = 5000
NUM_IMAGES, NUM_IMAGES_QUICK = 60, 2
PEER_IMAGES, PEER_CHUNK = 5, 1000  # at once: images, draws of each
MEMORY_SAMPLES = (1000, 100_000)
MEMORY_IMAGES = 3
MEMORY_LIMIT = 1.1  # of the peak with the smaller number of draws
CEILING_PERCENT = 70
RATE = 0.6  # million image-samples a second


def peak_memory(num_samples, quick):
    """Peak resident memory of this process in MB after scoring a few images."""
    import iwae_tf
    from benchmarks import models

    sizes = models.sizes_for(quick)
    images = models.binary_images(MEMORY_IMAGES, sizes.event_shape)
    iwae_tf.log_likelihood(models.iwae(sizes), images, num_samples=num_samples)
    status = pathlib.Path("/proc/self/status")
    if status.is_file():  # getrusage would count the parent's pages as well
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def memory_row(options):
    """Peak memory with many draws, against few, each in a fresh process."""
    few, many = MEMORY_SAMPLES
    peaks = {
        count: common.call_in_subprocess(
            "benchmarks.log_likelihood", "peak_memory", count, options.quick
        )
        for count in MEMORY_SAMPLES
    }
    return Row(
        f"peak memory of the NLL at K={many:,}",
        spread([peaks[many]]),
        "MB",
        Target("<=", MEMORY_LIMIT * peaks[few]),
        f"K={few:,}: {common.formatted(peaks[few], 'MB')}",
    )


def rate_target(machine):
    """The rate that two cores with AVX-512 are to reach, in millions; others: None."""
    is_meant = "avx512f" in machine["flags"] and machine["cores"] == 2
    return Target(">=", RATE) if is_meant else None


def contenders(options):
    """Ours, the peers and the products, warmed up.

    Returns:
      contenders: dict of Contender; the unit of work is an image-sample, and one
        operation for the products.
      flops: arithmetic of the decoder's products for one image-sample.
    """
    import iwae_tf
    from benchmarks import matmul, models, peers_keras

    sizes = models.sizes_for(options.quick)
    count = NUM_IMAGES_QUICK if options.quick else NUM_IMAGES
    x = models.binary_images(count, sizes.event_shape)
    work = count * NUM_SAMPLES
    shape = (sizes.event_shape, sizes.hidden_dims, sizes.latent_dim)
    model = models.iwae(sizes)
    run = functools.partial(iwae_tf.log_likelihood, model, x, num_samples=NUM_SAMPLES)
    made = {"ours": Contender(run, work)}

    plain = peers_keras.make_log_likelihood(
        peers_keras.PlainIWAE(*shape, 1), NUM_SAMPLES, PEER_CHUNK
    )
    made["Keras"] = Contender(functools.partial(_by_parts, plain, x), work)
    peers = common.torch_peers()
    if peers:
        import torch

        score = functools.partial(
            peers.log_likelihood,
            peers.PlainIWAE(*shape),
            num_samples=NUM_SAMPLES,
            chunk_size=PEER_CHUNK,
        )
        run = functools.partial(_by_parts, score, torch.from_numpy(x))
        made["PyTorch"] = Contender(run, work)
    for contender in made.values():
        contender.run()
    product = matmul.SMALL_SHAPE if options.quick else matmul.SHAPE
    made |= matmul.tensorflow_contenders(product)
    return made, models.network_flops(model.decoder[0], 1)


def _by_parts(score, x):
    """`score` of a few images at a time, float [N]."""
    parts = range(0, len(x), PEER_IMAGES)
    return np.concatenate([score(x[i : i + PEER_IMAGES]).numpy() for i in parts])


def measure(options):
    """All rows of this table."""
    from benchmarks import matmul

    made, flops = contenders(options)
    seconds = common.interleave(made, options.rounds)
    products, ours = seconds[matmul.better(seconds)], seconds["ours"]
    what = f"NLL, {NUM_SAMPLES:,} samples"
    ceiling = common.formatted(1e-6 / (flops * np.median(products)))
    rows = [
        Row(
            f"{what}, image-samples a second",
            spread(1e-6 / ours),
            "M",
            rate_target(common.machine()),
        ),
        Row(
            f"{what}, share of the ceiling of the decoder's products",
            paired_ratio(flops * products, ours, 100),
            "%",
            Target(">=", CEILING_PERCENT),
            f"ceiling: {ceiling} M a second; {matmul.describe(seconds)}",
        ),
    ]
    for name, library in (("Keras", "Keras and TFP"), ("PyTorch", "PyTorch")):
        label = f"{what}, time in units of plain {library}"
        if name not in seconds:
            rows.append(Row(label, None, note=NO_TORCH))
            continue
        rate = common.formatted(1e-6 / np.median(seconds[name]), "M a second")
        value = paired_ratio(ours, seconds[name])
        rows.append(Row(label, value, "x", reference=f"plain {library}: {rate}"))
    return [*rows, memory_row(options)]


if __name__ == "__main__":
    common.run_script(__doc__, measure)
