"""Time of a training step through `fit`, beside plain Keras and plain PyTorch.

All models are float32 on images [28, 28, 1] with the paper's batch of 20, unless a row
says otherwise. A model is built and compiled with default settings; one `fit` compiles
its programs, and the steps of repeated `fit`s on an array are timed, in turn with those
that they are compared to. What a call of `fit` does once does not count
(`iwae_tf.step_times`).

Arithmetic of a step is three times that of a forward pass: the products of the dense
layers, for the encoder on each image and for all else on each draw.

    python -m benchmarks.training_step
"""

import functools

import keras

import iwae_tf
from benchmarks import common, matmul, models, peers_keras
from benchmarks.common import NO_TORCH, Contender, Row, Target, paired_ratio, spread
from benchmarks.models import BATCH_SIZE, LEARNING_RATE
from iwae_tf.config.optimizers import Muon

KERAS_LIMIT = 6 / 14  # of a plain step
KERAS_LIMIT_ONE_DRAW = 0.9 / 2.3
LARGE_BATCH_SIZE = 200
NO_BF16 = "no bf16 products on this processor"


class Group:
    """Contenders that are timed in turn.

    Args:
      options: Options.
      sizes: models.Sizes.
    """

    def __init__(self, options, sizes):
        self.options = options
        self.sizes = sizes
        self.contenders = {}
        self.flops = {}  # of one step, by name

    def add(self, name, model, draws, *, batch_size=BATCH_SIZE, missing=0):
        """A model of the package; `missing` examples of the last batch are left out."""
        step_flops = models.training_flops(model, batch_size, draws)
        steps = models.steps_in_fit(step_flops, self.options.quick)
        x = models.binary_images(steps * batch_size - missing, self.sizes.event_shape)
        self.flops[name] = step_flops
        self.contenders[name] = models.timed_fit(model, x, steps, batch_size)

    def add_peers(self, step_flops, num_samples):
        """Plain Keras and, where it is installed, plain PyTorch with K draws."""
        steps = models.steps_in_fit(step_flops, self.options.quick)
        x = models.binary_images(steps * BATCH_SIZE, self.sizes.event_shape)
        shape = (self.sizes.event_shape, self.sizes.hidden_dims, self.sizes.latent_dim)
        plain = peers_keras.PlainIWAE(*shape, num_samples)
        plain.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE))
        self.contenders["Keras"] = models.timed_fit(plain, x, steps, BATCH_SIZE)
        self.add_torch(step_flops, "train_iwae", num_samples)

    def add_torch(self, step_flops, epoch, *draws):
        """An epoch of a function of `peers_torch`, where PyTorch is installed."""
        peers = common.torch_peers()
        if peers is None:
            return
        import torch

        steps = models.steps_in_fit(step_flops, self.options.quick)
        x = models.binary_images(steps * BATCH_SIZE, self.sizes.event_shape)
        shape = (self.sizes.event_shape, self.sizes.hidden_dims, self.sizes.latent_dim)
        model = peers.PlainIWAE(*shape)
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        run = functools.partial(
            getattr(peers, epoch),
            model,
            optimizer,
            torch.from_numpy(x),
            BATCH_SIZE,
            *draws,
        )
        run()
        self.contenders["PyTorch"] = Contender(run, steps)

    def add_products(self):
        """The matrix products that a step's rate is a share of."""
        shape = matmul.SMALL_SHAPE if self.options.quick else matmul.SHAPE
        self.contenders |= matmul.tensorflow_contenders(shape)

    def time(self):
        """Seconds a step (an operation for products), dict of float [rounds]."""
        return common.interleave(self.contenders, self.options.rounds)


def time_row(what, seconds, reference=""):
    """Row of the time of a step."""
    return Row(what, spread(1e3 * seconds), "ms", reference=reference)


def ratio_row(what, seconds, others, limit=None, reference=""):
    """Row of one time in units of another, at most `limit`."""
    target = limit and Target("<=", limit)
    return Row(what, paired_ratio(seconds, others), "x", target, reference)


def share_row(what, seconds, step_flops, products, percent, reference):
    """Row of a step's arithmetic as a share of what the products could have done."""
    value = paired_ratio(step_flops * products, seconds, 100)
    return Row(what, value, "%", Target(">=", percent), reference)


def peer_rows(what, seconds, name, limit):
    """Rows of a step in units of those of plain Keras and plain PyTorch."""
    keras_time = f"plain Keras: {common.milliseconds(seconds['Keras'])}"
    rows = [
        ratio_row(
            f"{what}, in steps of plain Keras and TFP",
            seconds[name],
            seconds["Keras"],
            limit,
            keras_time,
        )
    ]
    return [*rows, torch_row(what, seconds, name)]


def torch_row(what, seconds, name):
    """Row of a step in units of that of plain PyTorch."""
    what = f"{what}, in steps of plain PyTorch"
    if "PyTorch" not in seconds:
        return Row(what, None, note=NO_TORCH)
    reference = f"plain PyTorch: {common.milliseconds(seconds['PyTorch'])}"
    return ratio_row(what, seconds[name], seconds["PyTorch"], reference=reference)


def fifty_draws(options, sizes):
    """IWAE with K = 50: against the products, the peers and variants of itself."""
    group = Group(options, sizes)
    group.add_products()
    model = models.iwae(sizes)
    group.add("ours", model, 50)
    group.add("ragged", model, 50, missing=3)
    dreg = models.iwae(sizes, gradient_estimator="dreg")
    group.add("dreg", dreg, 50)
    networks = models.two_layer_networks(sizes)
    two_layers = models.compiled(iwae_tf.IWAE, networks, sizes, num_samples=50)
    group.add("two layers", two_layers, 50)
    if common.has_bf16_products():
        group.add("bfloat16", models.iwae(sizes, dtype="mixed_bfloat16"), 50)
    group.add_peers(group.flops["ours"], 50)
    seconds = group.time()

    what, layers = "IWAE K=50, batch 20", "two stochastic layers, IWAE K=50"
    products = seconds[matmul.better(seconds)]
    rates, ours = matmul.describe(seconds), seconds["ours"]
    itself = f"{what}: {common.milliseconds(ours)}"
    rows = [
        time_row(f"{what}, a step", ours),
        share_row(
            f"{what}, share of the rate of matrix products",
            ours,
            group.flops["ours"],
            products,
            60,
            rates,
        ),
        *peer_rows(what, seconds, "ours", KERAS_LIMIT),
        ratio_row(
            f"{what}, last batch of 17, in steps of 20",
            seconds["ragged"],
            ours,
            reference=itself,
        ),
        ratio_row(
            "IWAE K=50, DReG, in reparameterized steps",
            seconds["dreg"],
            ours,
            1.1,
            itself,
        ),
        time_row(f"{layers}, a step", seconds["two layers"], itself),
        share_row(
            f"{layers}, share of the rate of matrix products",
            seconds["two layers"],
            group.flops["two layers"],
            products,
            50,
            rates,
        ),
    ]
    what = "IWAE K=50, mixed_bfloat16, in float32 steps"
    if "bfloat16" not in seconds:
        return [*rows, Row(what, None, target=Target("<", 1.0), unit="x", note=NO_BF16)]
    value = paired_ratio(seconds["bfloat16"], ours)
    return [*rows, Row(what, value, "x", Target("<", 1.0), itself)]


def one_draw(options, sizes):
    """VAE with K = 1 against the peers."""
    group = Group(options, sizes)
    networks = models.one_layer_networks(sizes)
    group.add("ours", models.compiled(iwae_tf.VAE, networks, sizes), 1)
    group.add_peers(group.flops["ours"], 1)
    seconds = group.time()
    what = "VAE K=1, batch 20"
    return [
        time_row(f"{what}, a step", seconds["ours"]),
        *peer_rows(what, seconds, "ours", KERAS_LIMIT_ONE_DRAW),
    ]


def grouped_draws(options, sizes):
    """PIWAE with M = K = 8 against IWAE with as many draws."""
    group = Group(options, sizes)
    kinds = {"own": models.one_layer_networks, "user's": models.keras_networks}
    for kind, networks in kinds.items():
        iwae = models.compiled(iwae_tf.IWAE, networks(sizes), sizes, num_samples=64)
        group.add(f"iwae, {kind}", iwae, 64)
        piwae = models.compiled(
            iwae_tf.PIWAE, networks(sizes), sizes, num_groups=8, num_samples=8
        )
        group.add(f"piwae, {kind}", piwae, 64)
    group.add_torch(group.flops["piwae, own"], "train_piwae", 8, 8)
    seconds = group.time()
    names = {
        "own": ("networks of the package", 1.1),
        "user's": ("keras.Sequential of keras.layers.Dense", 1.4),
    }
    rows = [
        ratio_row(
            f"PIWAE(8,8) in steps of IWAE K=64, {name}",
            seconds[f"piwae, {kind}"],
            seconds[f"iwae, {kind}"],
            limit,
            f"IWAE K=64: {common.milliseconds(seconds[f'iwae, {kind}'])}",
        )
        for kind, (name, limit) in names.items()
    ]
    return [*rows, torch_row("PIWAE(8,8), batch 20", seconds, "piwae, own")]


def large_batch(options, sizes):
    """K = 5 on batches of 200, by Adam and by Muon."""
    group = Group(options, sizes)
    optimizers = {"Adam": keras.optimizers.Adam, "Muon": Muon}
    for name, make in optimizers.items():
        model = models.iwae(sizes, num_samples=5, optimizer=make(LEARNING_RATE))
        group.add(name, model, 5, batch_size=LARGE_BATCH_SIZE)
    seconds = group.time()
    what = "IWAE K=5, batch 200"
    adam = common.milliseconds(seconds["Adam"])
    return [
        time_row(f"{what}, Adam, a step", seconds["Adam"]),
        time_row(f"{what}, Muon, a step", seconds["Muon"], f"Adam: {adam}"),
    ]


def few_draws_backward(options, sizes):
    """DReG on batches of 200: 8 draws backward of 50 and of 200, by Adam and Muon."""
    group = Group(options, sizes)
    settings = {
        "all": {"num_samples": 50},
        "few": {"num_samples": 50, "backward_samples": 8},
        "few of 200": {"num_samples": 200, "backward_samples": 8},
    }
    for optimizer in (keras.optimizers.Adam, Muon):
        for name, draws in settings.items():
            arguments = {"gradient_estimator": "dreg", **draws}
            made = models.iwae(sizes, optimizer=optimizer(LEARNING_RATE), **arguments)
            name, size = f"{name}, {optimizer.__name__}", LARGE_BATCH_SIZE
            group.add(name, made, draws["num_samples"], batch_size=size)
    seconds = group.time()
    limits = {"few": ("K=50", 0.5), "few of 200": ("K=200", 1.6)}
    return [
        ratio_row(
            f"{draws}, 8 draws backward, batch 200, {optimizer}, in steps of K=50 with "
            "all backward",
            seconds[f"{name}, {optimizer}"],
            seconds[f"all, {optimizer}"],
            limit,
            f"all of K=50: {common.milliseconds(seconds[f'all, {optimizer}'])}",
        )
        for optimizer in ("Adam", "Muon")
        for name, (draws, limit) in limits.items()
    ]


def measure(options):
    """All rows of this table."""
    rows = []
    for part in (
        fifty_draws,
        one_draw,
        grouped_draws,
        large_batch,
        few_draws_backward,
    ):
        rows += part(options, models.sizes_for(options.quick))
    return rows


if __name__ == "__main__":
    common.run_script(__doc__, measure)
