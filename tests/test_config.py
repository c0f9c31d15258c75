"""Configs: what is refused, and schedules and optimisers against formulas in NumPy."""

import math
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from running import refusal

from iwae_tf import bounds, datasets, models
from iwae_tf.config import (
    build_model,
    build_optimizer,
    check_key,
    default_config,
    keys,
    optimizers,
    plainest,
    put,
    set_draws,
    stages,
    validate,
)
from iwae_tf.config.keys import override
from iwae_tf.config.optimizers import last_learning_rate
from iwae_tf.config.stages import with_epochs
from iwae_tf.errors import InvalidInputError
from iwae_tf.models.gradients import GRADIENT_ESTIMATORS
from iwae_tf.models.values import MISSING
from iwae_tf.probability.distributions import LIKELIHOODS

ROOT = pathlib.Path(__file__).parents[1]
# The public surface: a key may be added to it, none may go.
PUBLIC_KEYS = """
model num_groups num_samples beta gradient_estimator latent_dims hidden_dims likelihood
dataset data_dir binarization batch_size epochs optimizer learning_rate lr_schedule
stages weight_average seed eval_split eval_seed eval_num_samples shuffle adam_epsilon
precision jit_compile start_from conditional network conv_channels backward_samples
missing schema image_size color kl_warmup_epochs eval_proposal
early_stopping_epochs free_bits
"""


def make_config(**changes):
    config = default_config()
    config.update(changes)
    return config


def small_config(**changes):
    sizes = {"latent_dims": [3], "hidden_dims": [[6, 5]], "num_samples": 2}
    return make_config(**(sizes | changes))


def constant(optimizer="adam", **changes):
    """An optimiser of a config whose learning rate stays as it is."""
    config = make_config(optimizer=optimizer, lr_schedule="constant", **changes)
    return build_optimizer(config, steps_per_epoch=100)


def reloaded(what):
    """What Keras makes of what it has written of an object."""
    written = keras.saving.serialize_keras_object(what)
    return keras.saving.deserialize_keras_object(written)


# Keys and values -------------------------------------------------------------------


def test_every_config_has_the_public_keys():
    assert set(default_config()) == {*PUBLIC_KEYS.split()}


def test_the_default_is_valid_and_each_is_new():
    validate(default_config())
    one, other = default_config(), default_config()
    one.latent_dims[0] = 7
    assert list(other.latent_dims) == [50]


def bad(rule, **values):
    """Rows of changes and message: each of the values of each key breaks the rule."""
    return [({key: v}, f"`{key}` {rule}") for key in values for v in values[key]]


BETAS = [{}, {"beta": 1.5}, {"beta": -0.1}, {"beta": math.nan}]
LATENT_DIMS = [[], [0], [2.5], [True], 50, "50"]
NO_STAGES = [5, [(5, 10, 1e-3)], [(5, 0, 1e-3, 1e-4)], [(5, 3, 0.0, 1e-4)]]
NO_STAGES += [[(5, 3, "fast", 1e-4)], [(50, 9, 1e-3, 1e-4, 0)]]
BAD_VALUES = [
    *bad("must be one of vae, iwae, miwae, ciwae, piwae. Received", model=["gan"]),
    *bad("must be one of", gradient_estimator=["x"], likelihood=["gamma"]),
    *bad("must be one of", dataset=["cifar"], binarization=["maybe"]),
    *bad("must be one of", optimizer=["sgd"], lr_schedule=["linear"]),
    *bad("must be one of", precision=["float8"], eval_split=["train"], network=["x"]),
    *bad("must be a positive integer", num_samples=[0, -3, 2**31], batch_size=[0]),
    *bad("must be a positive integer", eval_num_samples=[0]),
    *bad("must be an integer >= 0", epochs=[-1], seed=[-1], eval_seed=[2**31]),
    *bad("must be an integer >= 0", early_stopping_epochs=[-1]),
    *bad("must be positive if the schedule has epochs of its own", epochs=[0]),
    *bad("must be auto, or HEIGHT,WIDTH", image_size=["64", "64x64", "0,5"]),
    *bad(
        "must be auto unless the data set is images", image_size=["6,5"], color=["rgb"]
    ),
    *bad("must be a positive integer", num_groups=[0]),
    *bad("must be a positive number", learning_rate=[0.0, math.inf, math.nan]),
    *bad("must be a positive number", adam_epsilon=[0.0]),
    *bad("must be in [0, 1)", weight_average=[1.0, -0.5]),
    *bad("must be a list of positive integers", latent_dims=LATENT_DIMS),
    *bad("must be 1 lists of positive", hidden_dims=[[9, 9], [[9], [9]], [[-1]]]),
    *bad("must be a list of (num_samples, epochs,", stages=NO_STAGES),
    *bad("must be at most the schedule's 3280", epochs=[3281]),
    *bad("must be left out except for ciwae", beta=[0.5]),
    *bad("must be left out except for vae", free_bits=[0.5]),
    ({"model": "vae", "free_bits": 0.0}, "`free_bits` must be a positive number of"),
    *[({"model": "ciwae"} | beta, "`beta` must be in [0, 1]. Rec") for beta in BETAS],
    ({"model": "ciwae", "beta": 1.5}, "`beta` must be in [0, 1]. Received: beta=1.5"),
    ({"num_groups": 2}, "`num_groups` must be 1 for iwae"),
    ({"model": "vae", "num_groups": 8}, "`num_groups` must be 1 for vae"),
    ({"model": "miwae", "num_groups": 0}, "`num_groups` must be a positive integer"),
    (
        {"latent_dims": [100, 50]},
        "`hidden_dims` must be 2 lists of positive integers, one",
    ),
    (
        {"stages": [(8, 9, 1e-3, 1e-4, 2), (50, 9, 1e-3, 1e-4)], "epochs": 18},
        "`stages` must have a num_groups of 1 for iwae",
    ),
    (
        {"stages": [(50, 9, 1e-3, 1e-4, 2)], "epochs": 9, "model": "piwae"},
        "`num_groups` must be that of the last stage, 2. Received: num_groups=1",
    ),
    (
        {"stages": [(5, 3000, 1e-3, 1e-4), (10, 3000, 1e-4, 1e-4)]},
        "`num_samples` must be that of the last stage, 10. Received: num_samples=50",
    ),
    *bad("must be at most the epochs of training, 3280", kl_warmup_epochs=[3281]),
    *bad("must be a positive integer or left out", backward_samples=[0, -2]),
    ({"stages": [(50, 9, 1e-3, 1e-4)]}, "`epochs` must be at most the schedule's 9"),
]


@pytest.mark.parametrize("changes, message", BAD_VALUES)
def test_a_bad_value_is_named_in_one_line(changes, message):
    text = refusal(validate, make_config(**changes))
    assert text.startswith(message)
    assert text in refusal(build_model, make_config(**changes))


@pytest.mark.parametrize("steps, epochs", [(1, 2000), (8, 250), (3, 667), (500, 40)])
def test_no_epochs_are_forty_or_as_many_as_make_2000_steps(steps, epochs):
    config = make_config(epochs=0, lr_schedule="constant")
    validate(config)
    assert with_epochs(config, steps).epochs == epochs and config.epochs == 0
    assert with_epochs(make_config(epochs=3), steps).epochs == 3


def test_unknown_and_missing_keys_are_named():
    config = default_config()
    with config.unlocked():
        config.foo = 1
    with pytest.raises(InvalidInputError, match="`foo` must be a config key, one of"):
        validate(config)
    config = default_config()
    with config.unlocked():
        del config.beta
    with pytest.raises(InvalidInputError, match="`beta` must be in the config"):
        validate(config)
    for name in ("latent_dim", "latent_dims.0"):
        message = rf"`{name}` must be a config key, .*\. Did you mean latent_dims\?$"
        with pytest.raises(InvalidInputError, match=message):
            check_key(name)


@pytest.mark.parametrize("beta", [0, 0.0, 0.5, 1, 1.0])
def test_betas_that_are_good(beta):
    validate(make_config(model="ciwae", beta=beta))


def test_the_choices_are_what_the_code_knows():
    """The table is read without TensorFlow, and so without these modules."""
    choices = {key.name: key.rule.choices for key in keys.KEYS if key.rule.choices}
    assert choices["model"] == tuple(bounds.OBJECTIVES) == tuple(models.MODELS)
    assert choices["gradient_estimator"] == tuple(GRADIENT_ESTIMATORS)
    assert choices["likelihood"] == (*LIKELIHOODS, "mixed")
    assert choices["missing"] == MISSING
    assert choices["dataset"] == datasets.DATASETS
    assert choices["binarization"] == datasets.BINARIZATIONS


def test_the_page_on_the_command_line_has_every_key_and_its_choices():
    page = (ROOT / "docs/howto/command_line.md").read_text()
    table = page[page.index("## The keys") : page.index("The defaults are in")]
    rows = [set(re.findall(r"`([^`]+)`", row)) for row in table.splitlines()]
    for key in keys.KEYS:
        assert any({key.name, *key.rule.choices} <= row for row in rows), key.name


def test_values_are_put_in_with_the_type_of_their_key():
    config = default_config()
    put(config, "learning_rate", 1)
    assert config.learning_rate == 1.0 and isinstance(config.learning_rate, float)
    put(config, "shuffle", "false")
    assert config.shuffle is False
    for key, value in (("seed", "a"), ("shuffle", "no"), ("data_dir", 3)):
        with pytest.raises(InvalidInputError, match=f"`{key}` must have the type of"):
            put(config, key, value)


# Stages ----------------------------------------------------------------------------


@pytest.mark.parametrize("schedule, digits", [("burda", 18), ("burda_code", 5)])
def test_burda_stages_are_the_papers_or_their_codes(schedule, digits):
    # "learning rates 0.001 * 10^(-i/7) for 3^i passes, i = 0 ... 7"
    found = stages(make_config(lr_schedule=schedule, learning_rate=1e-3, num_samples=5))
    assert sum(stage.epochs for stage in found) == 3280 == (3**8 - 1) // 2
    exact = [10.0 ** -(3 + i / 7) for i in range(8)]
    rates = [stage.first_rate for stage in found]
    assert rates == pytest.approx([round(rate, digits) for rate in exact], abs=1e-12)
    assert (rates == pytest.approx(exact)) == (schedule == "burda")
    assert [stage[1:] for stage in found] == [
        (3**i, rate, rate, 1) for i, rate in enumerate(rates)
    ]
    assert {stage.num_samples for stage in found} == {5}


def test_constant_and_cosine_have_one_stage():
    settings = {"epochs": 12, "learning_rate": 2e-3, "num_samples": 7}
    assert stages(make_config(lr_schedule="constant", **settings)) == [
        (7, 12, 2e-3, 2e-3, 1)
    ]
    assert stages(make_config(lr_schedule="cosine", **settings)) == [
        (7, 12, 2e-3, pytest.approx(2e-5), 1)
    ]


@pytest.mark.parametrize("lr_schedule", ["constant", "cosine", "burda"])
def test_stages_of_the_config_go_first(lr_schedule):
    given = [(5, 60, 1.5e-3, 2e-4), (50, 8, 3e-4, 1e-5)]
    config = make_config(stages=given, lr_schedule=lr_schedule, epochs=68)
    validate(config)
    assert stages(config) == [(*stage, 1) for stage in given]
    assert stages(config)[1].num_samples == 50


def test_a_stage_may_have_draws_outside_the_log_of_its_own():
    given = [(1, 6, 1e-3, 1e-4, 8), (2, 4, 1e-3, 1e-4)]
    settings = {"num_groups": 32, "num_samples": 2, "epochs": 10}
    config = make_config(model="miwae", stages=given, **settings)
    validate(config)
    assert [stage.num_groups for stage in stages(config)] == [8, 32]
    model = build_model(config)
    assert (model.num_groups, model.num_samples) == (8, 1)
    set_draws(model, stages(config)[1])
    assert (model.num_groups, model.num_samples) == (32, 2)


# Equal objectives -------------------------------------------------------------------


def draws(model, num_samples, num_groups=1, **other):
    sizes = {"num_samples": num_samples, "num_groups": num_groups}
    return {"model": model} | sizes | other


def one_group(model, last=4):
    return draws(model, last, stages=[(2, 1, 1e-3, 1e-3), (last, 1, 1e-3, 1e-3)])


EQUAL = {
    "MIWAE of one group": (one_group("miwae"), one_group("iwae")),
    "PIWAE of one group": (one_group("piwae"), one_group("iwae")),
    "MIWAE of one draw inside": (
        draws("miwae", 1, 4, stages=[(1, 1, 1e-3, 1e-3, 2), (1, 1, 1e-3, 1e-3)]),
        one_group("vae"),
    ),
    "IWAE of one draw": (draws("iwae", 1), draws("vae", 1)),
    "CIWAE of beta 0": (one_group("ciwae") | {"beta": 0.0}, one_group("iwae")),
    "CIWAE of beta 1": (one_group("ciwae") | {"beta": 1.0}, one_group("vae")),
    "all draws that there are": (
        draws("iwae", 3, backward_samples=4),
        draws("iwae", 3),
    ),
    "DReG of the VAE": (
        one_group("vae"),
        one_group("vae") | {"gradient_estimator": "stl"},
    ),
}
OTHERS = {
    "another number of draws": (one_group("iwae"), one_group("iwae", 5)),
    "VAE of as many draws": (one_group("iwae"), one_group("vae")),
    "beta between": (one_group("ciwae") | {"beta": 0.5}, one_group("iwae")),
    "two groups": (draws("miwae", 2, 2), draws("iwae", 4)),
    "PIWAE of one draw inside": (draws("piwae", 1, 4), draws("miwae", 1, 4)),
    "fewer draws that go backward": (
        one_group("iwae") | {"backward_samples": 2},
        one_group("iwae"),
    ),
    "another estimator": (
        one_group("iwae"),
        one_group("iwae") | {"gradient_estimator": "stl"},
    ),
    "a first stage of two groups": (
        draws("miwae", 4, 1, stages=[(2, 1, 1e-3, 1e-3, 2), (4, 1, 1e-3, 1e-3)]),
        draws("iwae", 4, 1, stages=[(4, 1, 1e-3, 1e-3), (4, 1, 1e-3, 1e-3)]),
    ),
}


def pair_of(settings):
    """Their configs with DReG, whose draws in the stages are not all the same."""
    shared = {"gradient_estimator": "dreg", "batch_size": 4, "lr_schedule": "constant"}
    return [small_config(**(shared | {"epochs": 1} | own)) for own in settings]


@pytest.mark.parametrize("name", EQUAL)
def test_objectives_that_are_equal_train_the_same_weights(name):
    configs = pair_of(EQUAL[name])
    ours, theirs = map(plainest, configs)
    assert ours.to_dict() == theirs.to_dict()
    validate(ours)
    x = np.random.default_rng(0).uniform(size=(4, 28, 28, 1)).astype(np.float32)
    trained = []
    for config in configs:
        model = build_model(config)
        model.compile(keras.optimizers.SGD(0.01), jit_compile=False)
        for stage in stages(config):
            set_draws(model, stage)
            model.train_step(x)
            model.train_step(x)
        trained.append(model.get_weights())
    for one, other in zip(*trained):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", OTHERS)
def test_other_objectives_keep_their_name(name):
    one, other = map(plainest, pair_of(OTHERS[name]))
    assert one.to_dict() != other.to_dict()


# Learning rates --------------------------------------------------------------------


def rate_at(schedule, step):
    """Through a graph, as an optimiser calls it."""
    return float(tf.function(schedule)(tf.constant(step, tf.int64)))


def test_piecewise_cosine_at_ends_and_in_between():
    schedule = optimizers.PiecewiseCosine([(10, 1.0, 0.2), (4, 0.5, 0.5), (8, 0.4, 0)])

    def cosine(first, last, share):
        return last + (first - last) * (1 + math.cos(math.pi * share)) / 2

    expected = {
        0: 1.0,
        1: cosine(1.0, 0.2, 0.1),
        5: 0.6,
        9: cosine(1.0, 0.2, 0.9),
        10: 0.5,  # a piece starts where the one before would end
        12: 0.5,
        13: 0.5,
        14: 0.4,
        16: cosine(0.4, 0.0, 0.25),
        18: 0.2,
        21: cosine(0.4, 0.0, 7 / 8),
        22: 0.0,
        1000: 0.0,
    }
    for step, rate in expected.items():
        assert rate_at(schedule, step) == pytest.approx(rate, abs=1e-7), step


def test_piecewise_cosine_far_into_a_long_run():
    # float32 cannot count 3,280 epochs of 2,980 steps: 9.8 million.
    schedule = optimizers.PiecewiseCosine([(2**25, 1.0, 0.0), (2, 0.5, 0.25)])
    assert rate_at(schedule, 2**25 - 1) < 1e-6
    assert rate_at(schedule, 2**25) == 0.5
    assert rate_at(schedule, 2**25 + 1) == pytest.approx(0.375)


def test_a_schedule_is_serialized():
    schedule = optimizers.PiecewiseCosine([(10, 1.0, 0.2), (4, 0.5, 0.5)])
    loaded = reloaded(schedule)
    assert isinstance(loaded, optimizers.PiecewiseCosine)
    for step in range(16):
        assert rate_at(loaded, step) == rate_at(schedule, step)


@pytest.mark.parametrize("optimizer", ["adam", "muon", "burda_adam"])
def test_an_optimizer_follows_the_stages(optimizer):
    config = make_config(
        optimizer=optimizer, stages=[(5, 2, 1e-2, 1e-2), (50, 2, 1e-3, 1e-4)], epochs=4
    )
    made = build_optimizer(config, steps_per_epoch=3)
    rates = []
    for step in range(14):
        made.iterations.assign(step)
        rates.append(float(made.learning_rate))
    assert rates[:6] == pytest.approx([1e-2] * 6)
    middle = 1e-4 + 9e-4 * (1 + math.cos(math.pi * 3 / 6)) / 2
    assert [rates[6], rates[9], rates[12], rates[13]] == pytest.approx(
        [1e-3, middle, 1e-4, 1e-4]
    )
    # What is recorded of an epoch is the rate of its last step.
    for around in (made, keras.optimizers.LossScaleOptimizer(made)):
        for done, rate in ((0, 1e-2), (6, 1e-2), (10, middle)):
            made.iterations.assign(done)
            assert last_learning_rate(around) == pytest.approx(rate)
    assert last_learning_rate(constant(learning_rate=0.5)) == 0.5


# Optimisers ------------------------------------------------------------------------


def steps_of(optimizer, start, gradients):
    """Values of a variable after each step of an optimiser."""
    variable = keras.Variable(start, dtype="float32")
    optimizer.build([variable])
    values = []
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient, tf.float32)], [variable])
        values.append(variable.numpy().astype(np.float64))
    return values


def test_adam_is_kingma_and_bas_with_its_epsilon():
    gradients = np.random.default_rng(0).normal(size=[10, 4])
    optimizer = constant(adam_epsilon=1e-2, learning_rate=0.1)
    found = steps_of(optimizer, np.zeros(4), gradients)
    x, m, v = np.zeros([3, 4])
    for t, gradient in enumerate(gradients, 1):
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        # The "efficient" form of the paper's section 2, epsilon beside the raw root.
        x = x - 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-2)
        np.testing.assert_allclose(found[t - 1], x, rtol=1e-4, atol=1e-6)


def test_burda_adam_is_adam_on_summed_gradients_from_second_moments_of_one():
    batch_size, rate = 20, 1e-3
    scales = np.array([1e-4, 1e-2, 1.0, 30.0])  # below and above epsilon and v0
    means = np.random.default_rng(1).normal(size=[10, 4]) * scales
    optimizer = constant("burda_adam", learning_rate=rate, batch_size=batch_size)
    assert isinstance(optimizer, optimizers.BurdaAdam)
    found = steps_of(optimizer, np.zeros(4), means)
    x, m, v = np.zeros(4), np.zeros(4), np.ones(4)
    for t, mean in enumerate(means, 1):
        gradient = batch_size * mean
        m = 0.99 * m + 0.01 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        alpha = rate * np.sqrt(1 - 0.999**t) / (1 - 0.99**t)
        x = x - alpha * m / (np.sqrt(v) + 1e-4)
        np.testing.assert_allclose(found[t - 1], x, rtol=2e-4, atol=1e-9)
    assert np.all(x != 0)


def test_burda_adam_keeps_its_moments_when_built_again_and_is_serialized():
    optimizer = optimizers.BurdaAdam(1e-3, batch_size=4)
    variable = keras.Variable(np.zeros(2))
    optimizer.build([variable])
    optimizer.apply([tf.ones(2)], [variable])
    moments = [v.numpy() for v in optimizer.variables]
    optimizer.build([variable])
    for one, other in zip(optimizer.variables, moments):
        np.testing.assert_array_equal(one, other)
    loaded = reloaded(optimizer)
    assert loaded.batch_size == 4
    assert (loaded.beta_1, loaded.epsilon) == (0.99, 1e-4 / 4)


@pytest.mark.parametrize("shape, stretch", [((12, 48), 2.0), ((48, 12), 1.0)])
def test_muon_moves_a_matrix_by_an_orthogonal_step_of_the_right_size(shape, stretch):
    rate = 1e-3
    gradient = np.random.default_rng(0).normal(size=shape)
    optimizer = constant("muon", learning_rate=rate)
    (value,) = steps_of(optimizer, np.zeros(shape), [gradient])
    step = -value / (8 * rate * stretch)
    size = np.linalg.svd(step, compute_uv=False)
    np.testing.assert_allclose(size, 1.0, atol=0.05)
    exact_left, _, exact_right = np.linalg.svd(gradient, full_matrices=False)
    exact = exact_left @ exact_right
    cosine = np.sum(step * exact) / np.linalg.norm(step) / np.linalg.norm(exact)
    assert cosine > 0.999


def test_muon_moves_vectors_by_adam_and_decays_nothing():
    vector, matrix = (
        constant("muon", learning_rate=1e-2, adam_epsilon=1e-8) for _ in range(2)
    )
    gradient = np.array([3.0, -0.01, 200.0])
    (value,) = steps_of(vector, np.ones(3), [gradient])
    np.testing.assert_allclose(value, 1 - 1e-2 * np.sign(gradient), rtol=1e-4)
    still = steps_of(matrix, np.ones([3, 4]), np.zeros([5, 3, 4]))
    np.testing.assert_allclose(still[-1], 1.0, atol=1e-6)


def test_muon_is_serialized():
    optimizer = optimizers.Muon(optimizers.PiecewiseCosine([(5, 0.1, 0.01)]))
    gradients = np.random.default_rng(0).normal(size=[4, 3, 5])
    ours, theirs = (
        steps_of(each, np.ones([3, 5]), gradients)
        for each in (reloaded(optimizer), optimizer)
    )
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("shape", [(20, 50), (200, 784), (784, 200), (7, 7)])
def test_muon_finds_the_polar_factor_of_singular_values_over_a_wide_range(shape):
    """Those above 0.03 of the bound end within 0.05 of one; small ones grow."""
    random = np.random.default_rng(1)
    left, _ = np.linalg.qr(random.normal(size=(shape[0], min(shape))))
    right, _ = np.linalg.qr(random.normal(size=(shape[1], min(shape))))
    values = np.geomspace(1.0, 1e-3, min(shape))
    matrix = (left * values) @ right.T
    found = optimizers.Muon().zeropower_via_newtonschulz5(matrix.astype("float32"), 5)
    factors = np.einsum("ir,ij,jr->r", left, np.asarray(found), right)
    bound = np.sum(values**4) ** 0.25
    is_large = values > 0.03 * bound
    np.testing.assert_allclose(factors[is_large], 1.0, atol=0.05)
    assert np.all(factors[~is_large] > 20 * values[~is_large] / bound)
    rest = np.asarray(found) - (left * factors) @ right.T
    assert np.abs(rest).max() < 1e-3


def test_muon_polynomials_are_the_best_ones_by_chebyshevs_theorem():
    """A best odd quintic misses one by the same amount, with four changing signs."""
    low, high = 0.03, 1.0
    for a, b, c in optimizers.POLAR_STEPS:
        x = np.linspace(low, high, 200_001)
        miss = a * x + b * x**3 + c * x**5 - 1.0
        turns = np.flatnonzero(np.diff(np.sign(np.diff(miss)))) + 1
        extremes = miss[[0, *turns, -1]]
        assert len(extremes) == 4
        worst = np.abs(miss).max()
        np.testing.assert_allclose(
            extremes, worst * np.array([-1, 1, -1, 1]), atol=2e-3
        )
        low, high = 1.0 - worst, 1.0 + worst


def test_weight_average_is_keras_own():
    optimizer = build_optimizer(make_config(weight_average=0.75), steps_per_epoch=1)
    assert optimizer.use_ema and optimizer.ema_momentum == 0.75
    assert not build_optimizer(make_config(), steps_per_epoch=1).use_ema


# Models ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_each_model_is_built_by_its_name(name):
    changes = {"num_groups": 3} if name in ("miwae", "piwae") else {}
    if name == "ciwae":
        changes = {"beta": 0.25}
    model = build_model(small_config(model=name, num_samples=4, seed=6, **changes))
    assert type(model) is models.MODELS[name]
    assert model.built and model.event_shape == (28, 28, 1)
    assert (model.num_samples, model.num_groups) == (4, changes.get("num_groups", 1))
    assert model.get_config().get("beta") == changes.get("beta")
    assert (model.gradient_estimator, model.binarization) == (
        "reparameterized",
        "dynamic",
    )


@pytest.mark.parametrize("likelihood, channels", [("bernoulli", 1), ("normal", 2)])
def test_shapes_of_one_layer(likelihood, channels):
    model = build_model(small_config(likelihood=likelihood, binarization="none"))
    pixels = 784 * channels
    assert [tuple(w.shape) for w in model.trainable_variables] == [
        *[(784, 6), (6,), (6, 5), (5,), (5, 6), (6,)],
        *[(3, 5), (5,), (5, 6), (6,), (6, pixels), (pixels,)],
    ]
    assert model.binarization == "none"
    assert model.decode(tf.zeros([2, 3])).event_shape == (28, 28, 1)
    assert model.log_weights(np.zeros([2, 28, 28, 1], "float32"), 1, 4).shape == (
        *(1, 4),
        2,
    )


def test_shapes_of_two_layers():
    model = build_model(
        small_config(latent_dims=[4, 3], hidden_dims=[[6, 5], [7]], dataset="omniglot")
    )
    assert model.latent_dims == [4, 3]
    q1 = [(784, 6), (6,), (6, 5), (5,), (5, 8), (8,)]
    q2 = [(4, 7), (7,), (7, 6), (6,)]
    p_x = [(4, 5), (5,), (5, 6), (6,), (6, 784), (784,)]
    p_z1 = [(3, 7), (7,), (7, 8), (8,)]
    assert sorted(tuple(w.shape) for w in model.trainable_variables) == sorted(
        q1 + q2 + p_x + p_z1
    )


def test_the_output_starts_at_the_mean_image():
    mean = np.random.default_rng(0).uniform(0.1, 0.9, [28, 28, 1])
    mean[0, 0], mean[0, 1] = 0.0, 1.0
    bernoulli = build_model(small_config(), mean_image=mean).decoder[0].out.bias
    expected = np.clip(mean, 1e-3, 1 - 1e-3).reshape(-1)
    np.testing.assert_allclose(tf.sigmoid(bernoulli.value), expected, rtol=1e-5)
    normal = build_model(small_config(likelihood="normal"), mean_image=mean)
    loc, log_scale = np.split(
        normal.decoder[0].out.bias.numpy().reshape(28, 28, 2), 2, axis=-1
    )
    np.testing.assert_allclose(loc, mean, rtol=1e-6)
    np.testing.assert_array_equal(log_scale, 0.0)


def test_the_same_config_gives_the_same_weights_and_another_seed_others():
    layers = {"latent_dims": [4, 3], "hidden_dims": [[6, 5], [7]]}
    keras.utils.set_random_seed(1)
    one = build_model(small_config(seed=3, **layers))
    keras.utils.set_random_seed(2)
    same = build_model(small_config(seed=3, **layers))
    other = build_model(small_config(seed=4, **layers))
    kernels = 0
    for a, b, c in zip(*(model.trainable_variables for model in (one, same, other))):
        np.testing.assert_array_equal(a, b)
        if len(a.shape) == 2:
            kernels += 1
            assert np.all(a.numpy() != c.numpy())
    assert kernels == 10
    draws = [model.seed for model in (one, same, other)]
    assert draws[0] == draws[1] != draws[2]


def test_networks_of_a_model_do_not_start_alike():
    model = build_model(
        small_config(latent_dims=[5, 5], hidden_dims=[[12, 12], [12, 12]])
    )
    square = [
        w.numpy() for w in model.trainable_variables if tuple(w.shape) == (12, 12)
    ]
    assert len(square) == 4
    for i, one in enumerate(square):
        for other in square[:i]:
            assert not np.array_equal(one, other)


def test_precision_is_the_networks_alone():
    config = small_config(precision="mixed_bfloat16")
    model = build_model(config)
    assert model.encoder[0].compute_dtype == "bfloat16"
    assert {w.dtype for w in model.trainable_variables} == {"float32"}
    log_weights = model.log_weights(np.zeros([2, 28, 28, 1], "float32"), 1, 3)
    assert log_weights.dtype == tf.float32
    assert keras.config.dtype_policy().name == "float32"


def test_another_data_set_is_not_read_as_a_folder_of_images():
    config = default_config()
    config.dataset, config.image_size, config.color = "images", "64,64", "gray"
    same = override(config.copy_and_resolve_references(), data_dir="elsewhere")
    assert (same.image_size, same.color) == ("64,64", "gray")
    other = override(config, dataset="npz", data_dir="a.npz")
    assert (other.image_size, other.color) == ("auto", "auto")
    words = refusal(override, other, dataset="mnist5k", data_dir="a.npz")
    assert words.startswith("`data_dir` must be left out where the data set is mnist5k")
