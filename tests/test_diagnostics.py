"""Diagnostics against closed forms, brute force and tails that are known."""

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from builders import shared
from closed_form import LinearGaussian, TwoLayerLinearGaussian, affine_normal, dense
from scipy import special, stats

from iwae_tf import bounds
from iwae_tf.diagnostics import (
    annealed_log_likelihood,
    annealing,
    bound_sweep,
    collapse,
    coverage,
    draw_log_weights,
    draws,
    error_coverage,
    gradient_noise,
    gradient_snr,
    inference_gaps,
    jackknife,
    kl_per_unit,
    leave_one_out,
    pareto_k,
    posterior_map,
    theory,
    toy_problem,
    trusted_k,
)
from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import layer_statistics, log_likelihood
from iwae_tf.models import IWAE, PIWAE, kept_draws
from iwae_tf.models.bound_model import Batch
from iwae_tf.probability import noise
from iwae_tf.probability.log_weights import JACKKNIFE_POWERS, jackknife_error

SEED = (7, 3)


def gaussian_model(problem, cls=IWAE, *, has_graphs=False, **proposal):
    """A model whose q is the posterior, or moved and stretched from there."""
    model = cls(problem.encoder(**proposal), problem.decoder(), likelihood="normal")
    model.build((None, len(problem.mean)))
    model.encoder[0].supports_jit = not has_graphs  # made sooner than XLA's programs
    return model


@pytest.fixture(scope="module")
def narrow():
    """A model whose q is beside the posterior and too narrow, and its data."""
    problem = LinearGaussian()
    return problem, gaussian_model(problem, shift=0.4, stretch=0.8), problem.data(12)


# Refusals --------------------------------------------------------------------------


def one_map(model, x, **arguments):
    return posterior_map(model, x[:1], **arguments)


@pytest.mark.parametrize(
    "measure, arguments, message",
    [
        (error_coverage, {"num_samples": 24}, "at least 25.*num_samples=24"),
        (error_coverage, {"num_samples": 25, "num_seeds": 1}, "num_seeds=1"),
        (gradient_snr, {"num_draws": 1}, "num_draws=1"),
        (gradient_snr, {"num_groups": 2}, "num_groups=2"),
        (gradient_snr, {"num_samples": 0}, "num_samples=0"),
        (gradient_snr, {"backward_samples": 0}, "backward_samples=0"),
        (gradient_snr, {"gradient_estimator": "x"}, "gradient_estimator=x|'x'"),
        (annealed_log_likelihood, {"seed": 3}, "`seed` must be a pair of integers"),
        (error_coverage, {"seed": 3}, "`seed` must be a pair of integers"),
        (kl_per_unit, {"batch_size": 0}, "batch_size=0"),
        (kl_per_unit, {"num_draws": 0}, "num_draws=0"),
        (posterior_map, {}, "12 examples"),
        (one_map, {"units": (0, 2)}, r"<= 1\. Received: units=2"),
        (one_map, {"units": (1, 1)}, r"two different units.*\(1, 1\)"),
        (one_map, {"units": (1,)}, r"two different units.*\(1,\)"),
        (one_map, {"grid_size": 1}, "at least 2.*grid_size=1"),
        (bound_sweep, {"counts": ()}, "`counts` must not be empty"),
        (lambda *_: jackknife(bounds.iwae, np.zeros([1, 4, 2]), 3), {}, "order=3"),
        (lambda *_: pareto_k(np.zeros([24, 2])), {}, "at least 25"),
    ],
)
def test_a_measurement_refuses(narrow, measure, arguments, message):
    _, model, x = narrow
    with pytest.raises(InvalidInputError, match=message):
        measure(model, x, **arguments)


@pytest.mark.parametrize(
    "measure",
    [
        annealed_log_likelihood,
        bound_sweep,
        draw_log_weights,
        error_coverage,
        gradient_snr,
        inference_gaps,
        posterior_map,
    ],
)
def test_a_measurement_without_labels_refuses_a_conditional_model(measure):
    model = shared("iwae", labels=True)
    arguments = {"num_samples": 30} if measure is draw_log_weights else {}
    with pytest.raises(InvalidInputError, match="must not be conditional.*=3"):
        measure(model, np.zeros([2, 4], np.float32), **arguments)


# Draws -----------------------------------------------------------------------------


@pytest.mark.xla
@pytest.mark.parametrize("num_samples", [1, 40, 2501])
def test_draws_are_those_of_the_model(narrow, monkeypatch, num_samples):
    _, model, x = narrow
    expected = model.log_weights(x, 1, num_samples, SEED).numpy()[0]
    found = draw_log_weights(model, x, num_samples, SEED)
    assert found.shape == (num_samples, 12)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    monkeypatch.setattr(draws, "VALUES_AT_ONCE", 200)
    parts = list(draws.log_weight_batches(model, x, num_samples, SEED))
    sizes = {1: [12], 40: [5, 5, 2], 2501: [1] * 12}
    assert [part.shape[1] for part in parts] == sizes[num_samples]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), found, atol=1e-5)


# Jackknife -------------------------------------------------------------------------


def exact_expectation(function, count, points=(1.0, 4.0), probability=0.4):
    """E of a function of `count` draws of a two-point variable, by all outcomes."""
    hits = np.arange(count + 1)
    values = np.full([1, count, count + 1], math.log(points[0]))
    for column in hits:
        values[0, :column, column] = math.log(points[1])
    chances = stats.binom.pmf(hits, count, probability)
    return np.sum(chances * function(values))


def test_each_order_of_the_jackknife_leaves_less_bias():
    truth = math.log(0.6 + 0.4 * 4.0)

    def bias(function):
        return abs(truth - exact_expectation(function, 10))

    plain = bias(lambda values: bounds.iwae(tf.constant(values)).numpy())
    first = bias(lambda values: jackknife(bounds.iwae, values, 1)[0])
    second = bias(lambda values: jackknife(bounds.iwae, values, 2)[0])
    assert plain > 0.02 and first < 0.2 * plain and second < 0.5 * first


def test_jackknife_by_hand():
    values = np.random.default_rng(0).normal(size=[1, 6, 3])

    def mean_leaving_out(count):
        kept = itertools.combinations(range(6), 6 - count)
        logs = [special.logsumexp(values[0, list(k)], axis=0) for k in kept]
        return np.mean(logs, axis=0) - math.log(6 - count)

    l0, l1, l2 = map(mean_leaving_out, range(3))
    first, error = jackknife(bounds.iwae, values, 1)
    np.testing.assert_allclose(first, 6 * l0 - 5 * l1, rtol=1e-12)
    second, _ = jackknife(bounds.iwae, values, 2)
    np.testing.assert_allclose(second, 18 * l0 - 25 * l1 + 8 * l2, rtol=1e-12)
    bias, same_error = leave_one_out(values[0])
    np.testing.assert_allclose(first, l0 - bias, rtol=1e-12)
    np.testing.assert_allclose(error, same_error, rtol=1e-12)
    # No divisor to make blocks of: the eleventh draw is left aside.
    prime = np.concatenate([values[:, :5], values], axis=1)
    for each, same in zip(*(jackknife(bounds.iwae, prime[:, :n]) for n in (10, 11))):
        np.testing.assert_allclose(each, same, rtol=1e-12)
    # Nothing left.
    assert np.all(np.isnan(jackknife(bounds.iwae, np.zeros([1, 2, 2]), 2)))
    assert np.all(np.isnan(leave_one_out(np.zeros([1, 2]))))


@pytest.mark.parametrize("spread", [0.1, 2.0, 8.0])
@pytest.mark.parametrize("count", [2, 3, 50])
def test_streamed_jackknife_is_that_of_all_draws(spread, count):
    log_weights = spread * np.random.default_rng(count).normal(size=[count, 40])
    weights = np.exp(log_weights - log_weights.max(axis=0))
    sums = [tf.constant(np.sum(weights**p, 0)) for p in range(1, JACKKNIFE_POWERS + 1)]
    _, expected = leave_one_out(log_weights)
    found = jackknife_error(sums, count).numpy()
    atol = 0.02 if count < 4 else 1e-5  # equal shares of a half are the least exact
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=atol)


# Bound sweeps ----------------------------------------------------------------------


def test_sweep_from_the_elbo_to_log_p(narrow):
    problem, model, x = narrow
    truth = problem.log_prob(x).mean()
    counts = np.array([1, 10, 64, 1000, 5000])
    found = bound_sweep(model, x, counts=counts, seed=SEED)
    iwae = found["bounds"]["iwae"]
    values, errors = (np.array(iwae[n]) for n in ("value", "standard_error"))
    # KL of two Gaussians of the same number of dimensions, one a unit.
    shift = (0.4 / problem.posterior_scale) ** 2
    kl = 0.5 * np.sum(0.8**2 + shift - 1) - 2 * math.log(0.8)
    assert abs(values[0] - (truth - kl)) < 4 * errors[0] < 0.1
    assert np.all(np.diff(values) > 0)
    assert abs(values[-1] - truth) < 4 * errors[-1]
    assert truth - iwae["corrected"][1] < 0.7 * (truth - values[1])
    assert found["log_likelihood"] == pytest.approx(truth, abs=1e-3)
    low, high = found["interval"]
    assert low - 1e-4 < truth < high + 1e-4 < low + 0.02
    assert found["negative_kl"] == pytest.approx(values[2] - truth, abs=1e-3)


def test_sweep_of_any_bound(narrow):
    _, model, x = narrow
    functions = {"elbo": bounds.elbo, "iwae": bounds.iwae}
    functions["ciwae"] = lambda log_weights: bounds.ciwae(log_weights, 0.3)
    found = bound_sweep(model, x, counts=(1, 10, 100), functions=functions)["bounds"]
    elbo, iwae, ciwae = (np.array(found[name]["value"]) for name in functions)
    np.testing.assert_allclose(elbo, elbo[0], rtol=1e-6)
    np.testing.assert_allclose(ciwae, 0.3 * elbo + 0.7 * iwae, rtol=1e-6)
    # The ELBO has no bias for the jackknife to take out.
    np.testing.assert_allclose(found["elbo"]["corrected"][1:], elbo[1:], rtol=1e-6)


def test_error_of_a_sweep_is_the_spread_between_seeds(narrow):
    _, model, x = narrow
    found = [
        bound_sweep(model, x, counts=(100,), seed=(s, 0))["bounds"]["iwae"]
        for s in range(30)
    ]
    spread = np.std([f["value"][0] for f in found], ddof=1)
    stated = np.sqrt(np.mean([f["standard_error"][0] ** 2 for f in found]))
    assert stated == pytest.approx(spread, rel=0.4)  # 3 / sqrt(2 * 30)


# Proposals -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_k_of_a_known_tail(shape):
    uniforms = np.random.default_rng(0).uniform(size=[5000, 40])
    weights = stats.genpareto.ppf(uniforms, shape)
    found = pareto_k(np.log(weights) - 80.0)
    assert found.mean() == pytest.approx(shape, abs=0.06)
    assert np.all(np.isfinite(pareto_k(np.log(weights[:25]))))
    assert np.all(pareto_k(np.full([100, 2], -80.0)) == -np.inf)  # there is no tail
    wide = stats.norm.ppf(uniforms, scale=3000.0)  # beyond float64
    assert np.all(pareto_k(wide) > 1.0)
    assert trusted_k(5000) == 0.7 and trusted_k(100) == 0.5


def test_k_of_a_proposal_that_is_too_narrow():
    # w of N(0, 1) / N(0, s^2) has the tail index 1 - s^2.
    problem = LinearGaussian(x_dim=3, latent_dim=1)
    model = gaussian_model(problem, stretch=0.6)
    found = log_likelihood(model, problem.data(30), np.int64(5000), SEED)
    assert found.pareto_k.mean() == pytest.approx(1 - 0.6**2, abs=0.1)


@pytest.mark.parametrize("stretch, allowed", [(0.75, 0.25), (0.55, 1.0), (1.4, 0.05)])
def test_intervals_have_the_exact_log_p_whatever_the_encoder(stretch, allowed):
    problem = LinearGaussian(x_dim=3, latent_dim=2)
    x = problem.data(400)
    result = log_likelihood(gaussian_model(problem, stretch=stretch), x, 500, SEED)
    low, high = result.interval()
    exact = problem.log_prob(x)
    assert np.mean((low <= exact) & (exact <= high)) > 0.93
    assert np.mean(result.bias_allowance) < allowed


def test_smoothing_keeps_the_scale():
    log_weights = np.random.default_rng(1).normal(size=[2000, 3]) - 80.0
    smoothed, _ = coverage.smoothed_log_weights(log_weights)
    mean = special.logsumexp(smoothed, axis=0) - math.log(2000)
    np.testing.assert_allclose(mean, -79.5, atol=0.1)
    body = log_weights < np.quantile(log_weights, 0.8, axis=0)
    np.testing.assert_allclose(smoothed[body], log_weights[body], atol=1e-6)


# Error bars ------------------------------------------------------------------------


def test_only_the_jackknife_covers_heavy_tails():
    cases = coverage.known_cases(
        spreads=(0.5, 3.0), num_samples=500, num_images=60, num_seeds=30
    )
    for case, smallest in zip(cases, (0.9, 0.75)):
        delta, honest = (case["errors"][n] for n in ("delta method", "jackknife"))
        assert honest["stated"] > smallest * honest["spread"]
        assert honest["repeat_coverage"] >= 0.85
        # The answer is known, and the interval has it, for single images and the mean.
        interval = case["errors"]["interval"]
        assert interval["image_coverage"] > 0.92 and interval["mean_coverage"] > 0.92
    # The premise: the delta method states too little there, and there is a bias.
    assert delta["image_stated"] < 0.8 * delta["image_spread"]
    assert delta["bias"] < -3 * delta["spread"] and honest["mean_coverage"] < 0.2


def test_coverage_of_a_model_is_that_of_its_log_likelihoods(narrow):
    problem, model, x = narrow
    counts = {"num_samples": np.int64(50), "num_seeds": np.int64(3)}
    found = error_coverage(model, x, **counts, seed=SEED)
    seeds = [log_likelihood(model, x, 50, (7, 3 + s)) for s in range(3)]
    means = np.array([s.estimate.mean() for s in seeds])
    delta, honest = (found["errors"][n] for n in ("delta method", "jackknife"))
    assert delta["spread"] == pytest.approx(means.std(ddof=1), rel=1e-3)
    for name, error in (("standard_error", delta), ("jackknife_error", honest)):
        stated = [np.sum(getattr(s, name) ** 2) / 144 for s in seeds]
        assert error["stated"] == pytest.approx(np.sqrt(np.mean(stated)), rel=1e-3)
    exact = problem.log_prob(x).mean()
    assert delta["bias"] == pytest.approx(means.mean() - exact, abs=1e-3)
    assert found["num_seeds"] == 3 and found["num_images"] == 12


def test_each_seed_of_the_coverage_resamples_anew(narrow, monkeypatch):
    _, model, x = narrow
    first_numbers = []

    def spy(log_weights, rng):
        first_numbers.append(rng.bit_generator.state["state"]["state"])
        return error_bars(log_weights, rng)

    error_bars = coverage.error_bars
    monkeypatch.setattr(coverage, "error_bars", spy)
    for seed in ((7, 3), (7, 5), (8, 3)):
        error_coverage(model, x[:2], num_samples=25, num_seeds=2, seed=seed)
    assert len(set(first_numbers)) == 6


def test_the_other_error_bars():
    rng = np.random.default_rng(0)
    log_weights = 0.5 * rng.normal(size=[5000, 30])
    found = coverage.error_bars(log_weights, rng)
    expected = math.sqrt((math.exp(0.25) - 1) / 5000)
    for name, (estimate, error, _) in found.items():
        assert np.sqrt(np.mean(error**2)) == pytest.approx(expected, rel=0.1), name
        np.testing.assert_allclose(estimate, 0.125, atol=5 * expected)
    few = log_weights[:30]
    rest = [special.logsumexp(np.delete(few, i, 0), axis=0) for i in range(30)]
    reduced = 30 * (special.logsumexp(few, axis=0) - math.log(30))
    reduced -= 29 * (np.mean(rest, axis=0) - math.log(29))
    found = coverage.error_bars(few, rng)["jackknife, bias reduced"][0]
    np.testing.assert_allclose(found, reduced, atol=1e-4)  # the bias is some 5e-3


# Gradients -------------------------------------------------------------------------


@pytest.mark.xla
@pytest.mark.parametrize("rows_at_once, kept", [(20_000, None), (8, None), (8, 2)])
def test_snr_is_that_of_collected_gradients(narrow, monkeypatch, rows_at_once, kept):
    problem, _, x = narrow
    model = gaussian_model(problem, PIWAE, has_graphs=True, shift=0.4)
    monkeypatch.setattr(gradient_noise, "ROWS_AT_ONCE", rows_at_once)
    done, counts = [], {"num_draws": 20, "num_groups": 2, "num_samples": 3}
    counts |= {"backward_samples": kept} if kept else {}
    counts = {name: np.int64(count) for name, count in counts.items()}
    found = gradient_snr(model, x, **counts, seed=SEED, on_progress=done.append)
    assert sum(done) == 40

    def gradient(index):
        key = noise.fold_in(noise.make_key(SEED), index)
        place = 0, len(x), 2, 3
        rows = model.latent.draw_noise(key, *place)
        weights = tf.fill([len(x)], 1 / len(x))
        positions = kept_draws.positions(kept, key, *place)
        batch = Batch(tf.constant(x), None, rows, weights, positions=positions)
        parts = model.loss_gradients(batch).gradients
        return np.concatenate([p.numpy().ravel() for p in parts])

    first, second = (
        np.stack([gradient(i) for i in r]) for r in (range(20), range(20, 40))
    )
    size = sum(v.numpy().size for v in model.encoder[0].trainable_variables)
    parts = slice(size), slice(size, None)
    for half, part in zip((found.encoder, found.decoder), parts):
        mean, deviation = first[:, part].mean(0), first[:, part].std(0, ddof=1)
        ratios = np.abs(mean)[deviation > 0] / deviation[deviation > 0]
        assert half.snr == pytest.approx(ratios.mean(), rel=2e-3)
        assert half.median == pytest.approx(np.median(ratios), rel=2e-3)
        direction = mean / np.linalg.norm(mean)
        along = second[:, part] @ direction
        across = np.linalg.norm(second[:, part] - np.outer(along, direction), axis=1)
        assert half.dsnr == pytest.approx(np.mean(np.abs(along) / across), rel=5e-3)
        total = np.sum(first[:, part].var(0, ddof=1))
        assert half.variance == pytest.approx(total, rel=2e-3)
        assert half.num_parameters + half.num_constant == first[:, part].shape[1]
    shapes = [v.shape for v in model.trainable_variables]
    assert [part.shape for part in found.per_parameter] == shapes


def regularized(**regularizers):
    """A small model of Keras' own layers, which sum in a graph."""
    keras.utils.set_random_seed(1)
    nets = [keras.Sequential([keras.layers.Dense(4, **regularizers)]) for _ in "qp"]
    model = IWAE(*nets, num_samples=2)
    model.build((None, 4))
    nets[0].supports_jit = False
    return model


@pytest.mark.parametrize("rows_at_once", [20_000, 4])
def test_snr_is_of_the_bound_without_what_regularizers_add(monkeypatch, rows_at_once):
    x = np.random.default_rng(0).integers(0, 2, (5, 4)).astype("float32")
    monkeypatch.setattr(gradient_noise, "ROWS_AT_ONCE", rows_at_once)
    decay = keras.regularizers.L2(0.5)
    found, expected = (
        gradient_snr(model, x, num_draws=4)
        for model in (
            regularized(kernel_regularizer=decay, activity_regularizer=decay),
            regularized(),
        )
    )
    pairs = zip(found.per_parameter, expected.per_parameter)
    for one, other in [*pairs, (found[:2], expected[:2])]:
        np.testing.assert_allclose(one, other, rtol=1e-3)


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_snr_of_a_frozen_half_is_refused(half):
    model = regularized()
    getattr(model, half)[0].trainable = False
    with pytest.raises(InvalidInputError, match=f"^`model` must .* whose {half} has"):
        gradient_snr(model, np.ones((2, 4), "float32"), num_draws=2)


@pytest.mark.slow
def test_toy_problem_scales_as_in_theory():
    model, x = toy_problem.toy_problem(num_points=64)

    def snr(num_groups, num_samples, estimator="reparameterized", num_draws=300):
        return gradient_snr(
            model, x, num_draws=num_draws, num_groups=num_groups,
            num_samples=num_samples, gradient_estimator=estimator,
        )  # fmt: skip

    one, groups, samples = snr(1, 1), snr(16, 1), snr(1, 16, num_draws=1200)
    for half in (0, 1):
        assert groups[half].snr / one[half].snr == pytest.approx(4, rel=0.15)
    assert samples.encoder.snr > 1.5 * samples.encoder.floor  # not noise alone
    assert samples.encoder.rms / one.encoder.rms == pytest.approx(1 / 4, rel=0.3)
    assert snr(1, 16, "dreg").encoder.snr > 1.2 * snr(1, 1, "dreg").encoder.snr
    assert model.gradient_estimator == "reparameterized"


@pytest.mark.slow
def test_toy_slopes():
    counts = (1, 4, 16, 64, 128, 256)
    found = toy_problem.toy_slopes(counts=counts, num_points=256)
    *known, last = found["lines"]
    assert last["theory"] is None and last["slope"] > 0.2
    for line in known:
        assert line["slope"] == pytest.approx(line["theory"], abs=0.1)


def test_toy_model_is_its_density():
    model, x = toy_problem.toy_problem(num_points=5, latent_dim=3)
    mean = model.decoder[0].prior_mean.numpy()
    kernel, bias = (w.numpy() for w in model.encoder[0].trainable_variables)
    rows = noise.make_key(SEED)
    draws_of_z = model.latent.draw_noise(rows, 0, 5, 1, 4).numpy()
    latent = x @ kernel + bias + math.sqrt(2 / 3) * draws_of_z
    expected = (
        stats.norm.logpdf(latent, mean)
        + stats.norm.logpdf(x, latent)
        - stats.norm.logpdf(latent, x @ kernel + bias, math.sqrt(2 / 3))
    ).sum(-1)
    found = model.log_weights(x, 1, 4, SEED).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert isinstance(model.objective, bounds.MultiplyImportanceWeighted)
    # Slopes are fitted above the floor.
    counts, snr = [1, 2, 4, 8, 16], np.array([1.0, 2.0, 4.0, 8.0, 0.1])
    assert toy_problem.fitted_slope(counts, snr, 0.05) == pytest.approx(1.0)
    assert toy_problem.fitted_slope(counts, snr, 0.8) is None


# Annealing -------------------------------------------------------------------------


@pytest.mark.xla
@pytest.mark.parametrize("base", annealing.BASES)
def test_annealing_encloses_log_p(base):
    problem = LinearGaussian()
    model = gaussian_model(problem, has_graphs=True, shift=0.6, stretch=0.5)
    latents, x = model.sample_latents(10, SEED), model.sample(10, SEED).numpy()
    truth = problem.log_prob(x)
    options = {"num_steps": 50, "num_chains": 32, "num_leapfrog_steps": 4, "base": base}
    lower = annealed_log_likelihood(model, x, **options)
    upper = annealed_log_likelihood(model, x, latents=latents, **options)
    for found in (lower, upper):
        difference = found.estimate - truth
        stated = np.sqrt(np.sum(found.standard_error**2)) / 10
        # Chains that start from one exact z have its error in common.
        error = max(stated, difference.std(ddof=1) / math.sqrt(10))
        assert abs(np.mean(difference)) < 4 * error < 0.8
        assert np.all(found.acceptance > 0.4)
    slack = 4 * np.hypot(lower.standard_error, upper.standard_error) + 0.05
    assert np.all(lower.estimate < truth + slack)
    assert np.all(upper.estimate > truth - slack)


def test_annealing_of_two_layers_in_batches(monkeypatch):
    problem = TwoLayerLinearGaussian()
    model = gaussian_model(problem, has_graphs=True)
    latents, x = model.sample_latents(5, SEED), model.sample(5, SEED).numpy()
    monkeypatch.setattr(annealing, "CHAINS_AT_ONCE", 8)  # two images
    counts = {"num_steps": 3, "num_chains": 4, "num_leapfrog_steps": 2}
    options = {name: np.int64(count) for name, count in counts.items()}
    for behind in (None, latents):
        done = []
        options |= {"latents": behind, "on_progress": done.append}
        found = annealed_log_likelihood(model, x, **options)
        # q is the posterior: every weight is p(x), whatever the path.
        np.testing.assert_allclose(found.estimate, problem.log_prob(x), atol=1e-3)
        assert done == [2, 2, 1]


def test_near_seeds_anneal_with_draws_of_their_own(narrow, monkeypatch):
    """No batch is another one of a near seed, no pilot run another's main run."""
    _, model, x = narrow
    seeds = []

    def compiled(model, function, num_chains, **_):
        def run(x, latents, num_steps, step_size, seed):
            seeds.append(tuple(seed.numpy()))
            shape = [num_chains, len(x)]
            return tf.random.stateless_normal(shape, seed), tf.fill(shape[1:], 0.5)

        return run

    monkeypatch.setattr(annealing, "compiled", compiled)
    monkeypatch.setattr(annealing, "CHAINS_AT_ONCE", 8)  # two images
    estimates = [
        annealed_log_likelihood(model, x[:6], num_chains=4, seed=seed).estimate
        for seed in [(0, 0), (0, 2), (0, 2**20), (0, 2**20 + 2), (2, 0), (-1, -1)]
    ]
    # Of each batch the main run, and pilot runs of all steps but the smallest.
    assert len(seeds) == 6 * 3 * len(annealing.STEP_SIZES)
    assert len(set(seeds)) == len(seeds)
    assert len(np.unique(estimates)) == np.size(estimates)


def test_the_noise_behind_latents():
    problem = TwoLayerLinearGaussian()
    model, x = gaussian_model(problem), tf.constant(problem.data(3))
    expected = model.latent.draw_noise(noise.make_key(SEED), 0, 3, 1, 4)
    q = model.latent.infer(x, expected)
    found = model.latent.draws_of(q.latents, model.latent.encode(x))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    first = model.sample_latents(6, SEED)[0]
    np.testing.assert_array_equal(first, model.sample_latent(6, SEED))


# Representation --------------------------------------------------------------------


@pytest.mark.parametrize("problem", [LinearGaussian(), TwoLayerLinearGaussian()])
def test_kl_of_all_units_is_that_of_the_bound(problem):
    model, x = gaussian_model(problem), problem.data(20)
    kls = kl_per_unit(model, x, SEED, num_draws=2000, batch_size=7)
    assert [len(kl) for kl in kls] == model.latent_dims
    # q is the posterior: E log p(x|z) - KL = log p(x).
    draws_of_z = model.latent.draw_noise(noise.make_key((1, 1)), 0, 20, 1, 2000)
    parts = model.latent.log_weights(tf.constant(x), draws_of_z)
    expected = np.mean(parts.log_likelihood) - problem.log_prob(x).mean()
    assert sum(kl.sum() for kl in kls) == pytest.approx(expected, abs=0.03)
    if len(kls) == 1:  # in closed form
        scale = problem.posterior_scale
        loc = (x - problem.offset) @ problem.posterior_map.T
        exact = 0.5 * (loc**2 + scale**2 - 1) - np.log(scale)
        np.testing.assert_allclose(kls[0], exact.mean(axis=0), rtol=1e-4)


def test_collapse_is_named():
    encoder = affine_normal(np.zeros([2, 3]), np.zeros(2), np.ones(2))
    blind = IWAE(encoder, dense(np.ones([2, 3]), np.zeros(3)))
    binary = np.random.default_rng(0).integers(0, 2, [20, 3]).astype("float32")
    problem = LinearGaussian()
    for model, x, is_collapsed in (
        (blind, binary, True),
        (gaussian_model(problem), problem.data(50), False),
    ):
        (layer,) = collapse(layer_statistics(model, x), kl_per_unit(model, x))
        assert layer["collapsed"] == (layer["active"] == 0) == is_collapsed
        assert ("posterior collapse" in layer["verdict"]) == is_collapsed


def test_posterior_on_a_grid(narrow):
    problem, model, x = narrow
    for row in x[:3]:
        found = posterior_map(model, row[np.newaxis])
        exact = problem.log_prob(row)
        assert found.log_evidence == pytest.approx(exact, abs=0.01)
        mode = np.unravel_index(np.argmax(found.posterior), found.posterior.shape)
        mean = problem.posterior_map @ (row - problem.offset)
        for value, axis, index in zip(mean, found[:2], mode[::-1]):
            assert abs(axis[index] - value) <= 0.51 * (axis[1] - axis[0])
        np.testing.assert_allclose(found.loc, mean + 0.4, atol=1e-5)
        scale = 0.8 * problem.posterior_scale
        np.testing.assert_allclose(found.scale, scale, rtol=1e-4)
        np.testing.assert_allclose(found.refined_loc, mean, atol=1e-3)
        exact = np.diag(problem.posterior_scale**2)
        np.testing.assert_allclose(found.refined_covariance, exact, atol=1e-3)


# Theory ----------------------------------------------------------------------------


def test_bias_of_log_mean_is_exact():
    found = theory.log_mean_bias(points=(1.0, 100.0), probability=0.05, counts=(1, 7))
    rng = np.random.default_rng(0)
    draws_of_x = np.where(rng.uniform(size=[400_000, 7]) < 0.05, 100.0, 1.0)
    logs = np.log(draws_of_x.mean(axis=1))
    assert found["expected"][0] == pytest.approx(0.05 * math.log(100.0))
    error = logs.std() / math.sqrt(len(logs))
    assert found["expected"][1] == pytest.approx(logs.mean(), abs=4 * error)
    assert found["limit"] == pytest.approx(math.log(5.95))
    many = theory.log_mean_bias(counts=(10, 100, 10_000))["expected"]
    assert many[0] < many[1] < many[2] < theory.log_mean_bias()["limit"]
    assert many[2] == pytest.approx(theory.log_mean_bias()["limit"], abs=0.01)


def test_outlying_draws_cost_the_elbo_and_not_iwae():
    found = theory.draw_contributions(num_draws=1000)
    terms, weights = (np.array(found[n]) for n in ("elbo_terms", "iwae_weights"))
    assert terms.sum() == pytest.approx(found["elbo"])
    assert weights.sum() == pytest.approx(1.0)
    # -KL(N(1, 2^2) || N(0, 1)), and log p(x) = 0.
    assert found["elbo"] == pytest.approx(-0.5 * (4 + 1 - 1) + math.log(2), abs=0.03)
    assert found["iwae"] == pytest.approx(0.0, abs=0.01)
    assert terms.argmin() == 999 and weights[999] < 1e-6
