"""Streamed log-likelihoods against closed forms and NumPy; active units built to be."""

import functools
import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
from builders import (
    PROBLEMS,
    binary,
    build,
    classes,
    data_of,
    exact_model,
    log_prob_of,
)
from closed_form import ConditionalLinearGaussian, affine_normal, dense
from scipy import special, stats
from tensorflow.python.framework.func_graph import FuncGraph

from iwae_tf import evaluation
from iwae_tf.errors import InvalidInputError
from iwae_tf.evaluation import (
    LogLikelihood,
    active_masks,
    active_units,
    compiling,
    count_active,
    importance_sampling,
    layer_statistics,
    log_likelihood,
    stream_draws,
    summarize,
)
from iwae_tf.evaluation.pareto import LEAST_DRAWS, pareto_k
from iwae_tf.models import IWAE, programs
from iwae_tf.models.latent_model import UnitMask
from iwae_tf.networks import MLP
from iwae_tf.saved_model import export_saved_model

SEED = (7, 3)


def reference(log_weights):
    """The three estimates in float64 from log-weights [K, B]."""
    log_weights = np.asarray(log_weights, np.float64)
    count = len(log_weights)
    weights = special.softmax(log_weights, axis=0)
    squares = np.sum(weights**2, axis=0)
    # The variance of w over its squared mean, over K: the delta method.
    scaled = np.exp(log_weights - special.logsumexp(log_weights, axis=0)) * count
    error = np.sqrt(np.var(scaled, axis=0, ddof=1) / count)
    # Leaving each draw out in turn; with one draw there is nothing left.
    left_out = np.log1p(-np.minimum(weights, 1 - 2**-52 if count > 1 else np.nan))
    jackknife = np.sqrt((count - 1) * np.var(left_out, axis=0))
    shape = pareto_k(log_weights) if count >= LEAST_DRAWS else np.nan * squares
    highest = shape + 2 * (1 + shape) / np.sqrt(int(min(count / 5, 3 * np.sqrt(count))))
    return LogLikelihood(
        special.logsumexp(log_weights, axis=0) - np.log(count),
        error,
        1 / squares,
        jackknife,
        shape,
        np.log(1 + weights.max(axis=0) / (1 - np.minimum(highest, 0.95))),
        0 * squares,
    )


def assert_close(result, expected, atol=1e-4):
    for name, ours, theirs in zip(LogLikelihood._fields, result, expected):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=atol, err_msg=name)


def stream(log_weights, chunk_size):
    """`stream_draws` over given log-weights [K, B], and the chunks that it drew."""
    log_weights = tf.constant(log_weights, tf.float32)
    drawn = []

    # What is drawn beyond the end would be seen, if it counted.
    beyond = tf.fill([chunk_size, log_weights.shape[1]], 1e6)
    padded = tf.concat([log_weights, beyond], axis=0)

    def draw(first, count):
        drawn.append((int(first), int(count)))
        return padded[first : first + count]

    result = stream_draws(draw, log_weights.shape[1], len(log_weights), chunk_size)
    return LogLikelihood(*(part.numpy() for part in result)), drawn


def skewed(num_samples=37, rows=4, seed=0):
    generator = np.random.default_rng(seed)
    return generator.gumbel(-80.0, 4.0, [num_samples, rows]).astype(np.float32)


# Streaming -------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [1, 5, 36, 37, 1000])
def test_streamed_sums_equal_numpy_in_float64(chunk_size):
    log_weights = skewed()
    result, drawn = stream(log_weights, chunk_size)
    assert_close(result, reference(log_weights), atol=2e-5)
    (count,) = {count for _, count in drawn}
    assert count <= chunk_size and len(drawn) == -(-37 // chunk_size)
    assert [first for first, _ in drawn] == [i * count for i in range(len(drawn))]
    assert len(drawn) * count >= 37
    assert all(part.dtype == np.float32 for part in result)


def test_a_peak_in_any_chunk_is_found():
    for peak in range(6):
        log_weights = np.full([6, 1], -3.0)
        log_weights[peak] = 40.0
        result, _ = stream(log_weights, 2)
        np.testing.assert_allclose(result.estimate, 40 - np.log(6), rtol=1e-6)
        np.testing.assert_allclose(result.standard_error, 1.0, rtol=1e-6)
        np.testing.assert_allclose(result.effective_sample_size, 1.0, rtol=1e-6)


@pytest.mark.parametrize("offset", [-1e4, 1e4])
@pytest.mark.parametrize("chunk_size", [4, 100])
def test_huge_weights_shift_the_estimate_alone(offset, chunk_size):
    log_weights = np.round(skewed(), 1)
    plain, _ = stream(log_weights, chunk_size)
    shifted, _ = stream(log_weights + offset, chunk_size)
    np.testing.assert_allclose(shifted.estimate, plain.estimate + offset, atol=2e-3)
    # float32 holds a weight of 1e4 to 1e-3.
    np.testing.assert_allclose(
        shifted.standard_error, plain.standard_error, rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize("chunk_size", [1, 2, 6])
def test_draws_of_minus_infinity_count_as_zero(chunk_size):
    # The first chunks hold nothing else in the first row.
    log_weights = np.array([[-np.inf, -1.0], [-np.inf, -np.inf], [-np.inf, -2.0]] * 2)
    log_weights[5, 0] = -5.0
    result, _ = stream(log_weights, chunk_size)
    assert_close(result, reference(log_weights), atol=1e-5)
    assert result.effective_sample_size[0] == 1.0


def test_no_finite_draw_at_all_is_minus_infinity():
    result, _ = stream(np.full([5, 1], -np.inf), 2)
    assert result.estimate[0] == -np.inf


def test_equal_weights_have_no_error():
    result, _ = stream(np.full([50, 3], -86.25), 8)
    np.testing.assert_array_equal(result.estimate, np.float32(-86.25))
    np.testing.assert_allclose(result.standard_error, 0.0, atol=1e-6)
    np.testing.assert_allclose(result.effective_sample_size, 50.0, rtol=1e-6)


def test_one_draw_has_no_error_estimate():
    result, _ = stream([[-3.0, 4.0]], 10)
    np.testing.assert_array_equal(result.estimate, [-3.0, 4.0])
    assert np.all(np.isnan(result.standard_error))
    np.testing.assert_array_equal(result.effective_sample_size, 1.0)


# log_likelihood --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, num_samples, chunk_size",
    [
        ("one layer", 1, 1000),
        ("one layer", 23, 5),
        ("two layers", 20, 1000),
        ("labels", 20, 1000),
        ("labels, no prior", 1, 1000),
        ("labels, two layers", 23, 5),
    ],
)
def test_the_exact_posterior_gives_log_p_without_error(name, num_samples, chunk_size):
    problem = PROBLEMS[name]
    model, (x, labels) = exact_model(problem), data_of(problem, 6)
    result = log_likelihood(model, x, num_samples, labels=labels, chunk_size=chunk_size)
    tolerance = 5e-5 if labels is None else 2e-4
    exact = log_prob_of(problem, x, labels)
    np.testing.assert_allclose(result.estimate, exact, atol=tolerance)
    if num_samples > 1:
        np.testing.assert_allclose(result.standard_error, 0.0, atol=tolerance)
    np.testing.assert_allclose(result.effective_sample_size, num_samples, rtol=1e-5)


@functools.cache
def scored(has_labels=False):
    """A model with a poor proposal, images, labels, and their estimates at once."""
    if has_labels:
        model, x, labels = build("iwae", 2, labels=True), binary(7), classes(7)
    else:
        problem = PROBLEMS["one layer"]
        model, labels = exact_model(problem, shift=0.4, stretch=1.3), None
        x = problem.data(7)
    return model, x, labels, log_likelihood(model, x, 30, SEED, labels=labels)


@pytest.fixture
def shifted():
    """As `scored`, without labels."""
    model, x, _, whole = scored()
    return model, x, whole


@pytest.mark.xla
@pytest.mark.parametrize("has_labels, num_samples", [(False, 30), (True, 2)])
def test_a_poor_proposal_equals_numpy_on_the_models_log_weights(
    has_labels, num_samples
):
    model, x, labels, _ = scored(has_labels)
    result = log_likelihood(model, x, num_samples, SEED, labels=labels)
    log_weights = model.log_weights(x, 1, num_samples, SEED, labels=labels)
    assert_close(result, reference(log_weights[0]))
    assert np.all(result.standard_error > 0.01)


@pytest.mark.parametrize(
    "has_labels, settings",
    [
        (False, {"chunk_size": 1}),
        (False, {"chunk_size": 10, "batch_size": 3}),
        (False, {"chunk_size": 30}),
        (False, {"chunk_size": 31, "batch_size": 3}),
        (False, {"chunk_size": 65}),
        (False, {"chunk_size": np.int64(10_000), "batch_size": 3}),
        (False, {"chunk_size": 7}),
        pytest.param(True, {"chunk_size": 7}, marks=pytest.mark.xla),
        (True, {"chunk_size": 130, "batch_size": 2}),
        (True, {"jit_compile": False}),
    ],
)
def test_chunks_and_batches_do_not_change_the_estimate(has_labels, settings):
    model, x, labels, whole = scored(has_labels)
    result = log_likelihood(
        model, tf.constant(x), np.int64(30), SEED, labels=labels, **settings
    )
    assert_close(result, whole, atol=2e-5)


@pytest.mark.parametrize("has_labels", [False, True])
def test_first_row_places_a_part_in_its_data_set(has_labels):
    model, x, labels, whole = scored(has_labels)
    settings = {"labels": labels[4:] if has_labels else None}
    part = log_likelihood(model, x[4:], 30, SEED, first_row=np.int64(4), **settings)
    assert_close(part, [values[4:] for values in whole], atol=2e-5)
    elsewhere = log_likelihood(model, x[4:], 30, SEED, **settings)
    assert np.all(np.abs(elsewhere.estimate - whole.estimate[4:]) > 1e-4)


def test_rows_and_seeds_have_independent_noise(shifted):
    model, x, whole = shifted
    result = log_likelihood(model, np.repeat(x[:1], 5, axis=0), 30, SEED)
    assert len(np.unique(result.estimate)) == 5
    again = log_likelihood(model, x, 30, SEED)
    for ours, theirs in zip(again, whole):
        np.testing.assert_array_equal(ours, theirs)
    other = log_likelihood(model, x, 30, (7, 4))
    assert np.all(other.estimate != whole.estimate)
    # More records than an int32 can count keep their place.
    far = log_likelihood(model, x, 30, SEED, first_row=2**31)
    assert np.all(np.isfinite(far.estimate))
    assert np.all(far.estimate != whole.estimate)


def test_standard_error_is_the_spread_over_seeds():
    problem = PROBLEMS["one layer"]
    model, x = exact_model(problem, stretch=1.3), problem.data(1)
    rows = np.repeat(x, 2000, axis=0)
    result = log_likelihood(model, rows, 100, SEED)
    spread = result.estimate.std(ddof=1)
    # 2,000 repetitions know their own spread to 1 / sqrt(2 * 2000) = 1.6 %.
    assert np.sqrt(np.mean(result.standard_error**2)) == pytest.approx(spread, rel=0.08)
    bias = result.estimate.mean() - problem.log_prob(x)
    assert abs(bias + spread**2 / 2) < 4 * spread / np.sqrt(2000)


def test_every_finished_batch_is_reported(shifted):
    model, x, whole = shifted
    reports = []
    log_likelihood(model, x, 30, SEED, batch_size=3, on_batch=reports.append)
    assert [len(report.estimate) for report in reports] == [3, 3, 1]
    assert_close(evaluation.concatenate(reports), whole, atol=2e-5)


def test_what_is_left_is_not_scored_once_a_report_raises(shifted, monkeypatch):
    model, x, _ = shifted
    scored = []

    def estimator(*_, **__):
        def score(rows, *_):
            scored.append(len(rows))
            return [tf.zeros(len(rows))] * 3

        return score

    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(importance_sampling, "_compiled_estimator", estimator)
    many = np.repeat(x, 200, axis=0)
    with pytest.raises(KeyboardInterrupt):
        log_likelihood(model, many, 30, SEED, batch_size=1, on_batch=stop)
    assert len(scored) < len(many)


def test_what_was_traced_is_let_go(tmp_path):
    """TensorFlow's registry of custom gradients would hold each graph for good."""

    def graphs_after_a_model():
        model, x = build("iwae"), binary(6)
        model.compile("adam", jit_compile=False)
        model.fit(x, verbose=0)
        log_likelihood(model, x, 4)
        export_saved_model(model, tmp_path, num_samples=4, refined=False)
        del model
        gc.collect()
        return sum(isinstance(found, FuncGraph) for found in gc.get_objects())

    gc.freeze()  # what other tests have left is not counted
    first = graphs_after_a_model()
    assert graphs_after_a_model() <= first < 10


def test_many_models_that_are_traced_once_each_give_no_warning_of_retracing(caplog):
    def function(_, x):
        return x + 1

    def step(batch):
        return {"rows": batch.num_rows}

    kept = [build("iwae") for _ in range(6)]
    with caplog.at_level("WARNING", "tensorflow"):
        tf.get_logger().addHandler(caplog.handler)
        for model in kept:
            program = compiling.compiled(model, function, by_xla=False)
            assert program(tf.ones([])) == 2
            model.steps_in_pass, model.steps_done = 1, 0
            epoch = programs.make_function(model, step, lambda *_: None)
            batches = tf.data.Dataset.from_tensors(tf.ones([3, 4]))
            assert epoch(iter(batches))["rows"] == 3
        tf.get_logger().removeHandler(caplog.handler)
    assert not caplog.records


@pytest.mark.xla
def test_the_compiled_estimator_sees_new_weights_and_lets_the_model_go():
    problem = PROBLEMS["one layer"]
    gc.freeze()  # what other tests have left need not be looked through
    model, x = exact_model(problem, shift=0.4), problem.data(3)
    before = log_likelihood(model, x, 4)
    model.set_weights(exact_model(problem).get_weights())
    after = log_likelihood(model, x, 4)
    assert np.all(np.abs(after.estimate - before.estimate) > 1e-3)
    np.testing.assert_allclose(after.estimate, problem.log_prob(x), atol=5e-5)
    assert len(compiling._compiled[model]) == 1
    reference_to_model = weakref.ref(model)
    del model
    gc.collect()
    assert reference_to_model() is None


def test_a_large_chunk_holds_no_more_rows_than_there_are(shifted):
    """It was filled up with copies, to the end of the memory."""
    model, x, whole = shifted
    found = log_likelihood(model, x, 30, SEED, chunk_size=2**30, batch_size=2**30)
    assert_close(found, whole, atol=1e-5)


def units(count):
    return UnitMask(np.ones(count, bool), np.zeros(count))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"num_samples": 0}, "`num_samples` must be a positive integer"),
        ({"num_samples": 2.5}, "`num_samples` must be a positive integer"),
        ({"num_samples": 2**31}, f"`num_samples` must be at most {2**30}"),
        ({"chunk_size": 0}, "`chunk_size` must be a positive integer"),
        ({"chunk_size": 2**31}, f"`chunk_size` must be at most {2**30}"),
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
        ({"first_row": -1}, "`first_row` must be an integer >= 0"),
        ({"first_row": 1.5}, "`first_row` must be an integer >= 0"),
        ({"masks": []}, "`masks` must have .* 2 units. Received: a list"),
        ({"masks": [units(1)]}, r"2 units. Received: shapes \[\[\(1,\), \(1,\)\]\]"),
        ({"masks": [units(2), units(2)]}, "`masks` must have a UnitMask for each"),
        ({"masks": [UnitMask([1, 0], [0.0, 0.0])]}, "`active` of booleans"),
        ({"num_steps": 5}, "`num_steps` must be left out unless"),
        ({"seed": 5}, "`seed` must be a pair of integers"),
        ({"x": np.zeros([0, 5], "float32")}, "`x` must not be empty"),
        ({"x": np.zeros([2, 4], "float32")}, "`x` must have the shape"),
        ({"x": np.zeros([2, 5], "int32")}, "`x` must be float"),
        ({"x": np.full([2, 5], np.nan, "float32")}, "`x` must be finite"),
    ],
)
def test_bad_arguments_are_named(shifted, change, words):
    model, x, _ = shifted
    arguments = {"x": x, "num_samples": 3, "seed": SEED} | change
    with pytest.raises(InvalidInputError, match=words) as caught:
        log_likelihood(model, **arguments)
    assert "\n" not in str(caught.value)


# Summaries -------------------------------------------------------------------------


def test_summary_formulas():
    result = LogLikelihood(
        np.array([-80.0, -90.0, -100.0]),
        np.array([0.3, 0.4, 1.2]),
        np.array([10.0, 20.0, 60.0]),
        np.array([0.6, 0.8, 2.4]),
        pareto_k=np.array([0.2, 0.7, 0.9]),
        bias_allowance=np.array([0.3, 0.0, 1.5]),
    )
    low, high = result.interval(0.9)
    np.testing.assert_allclose(low, [-80.987, -91.316, -103.948], atol=1e-3)
    np.testing.assert_allclose(high, [-78.713, -88.684, -94.552], atol=1e-3)
    with pytest.raises(InvalidInputError, match="`level` must be .* level=95"):
        result.interval(95)
    summary = summarize(result)
    assert summary.effective_sample_size_quantiles == [10.0, 20.0, 60.0]
    assert summary.pareto_k_quantiles == [0.2, 0.7, 0.9]
    assert summary.unreliable == pytest.approx(1 / 3)
    assert summary.nll == 90.0
    assert summary.standard_error == pytest.approx(1.3 / 3)
    assert summary.jackknife_error == pytest.approx(2.6 / 3)
    reach = stats.norm.ppf(0.975) * 2.6 / 3
    assert summary.interval == pytest.approx([90 - 0.6 - reach, 90 + reach])
    assert summary.data_standard_error == pytest.approx(10 / np.sqrt(3))
    assert summary.effective_sample_size == pytest.approx(30.0)
    assert summary.num_examples == 3


def test_the_mean_of_many_images_is_exact():
    values = np.full(100_000, -86.123, np.float32)
    assert summarize(LogLikelihood(values, values * 0, values)).nll == pytest.approx(
        86.123, abs=1e-5
    )


def test_one_image_has_no_spread():
    summary = summarize(LogLikelihood(*np.ones([3, 1])))
    assert np.isnan(summary.data_standard_error)
    assert summary.nll == -1.0 and summary.standard_error == 1.0
    assert np.isnan(summary.jackknife_error)  # not known of the three


# Active units ----------------------------------------------------------------------

D = 8
ACTIVE = np.array([0, 3, 6])  # of the first layer


def unit_encoder(gains, scale):
    """Eight independent units of 8 inputs: loc = gain * input."""
    return affine_normal(np.diag(gains), np.zeros(D), np.full(D, scale))


def noise_layer_model(upper_gains, lower_scale):
    """Two layers of eight units; those of the first with a gain of one."""
    lower_gains = np.zeros(D)
    lower_gains[ACTIVE] = 1.0
    unit = affine_normal(np.eye(D), np.zeros(D), np.ones(D))
    return IWAE(
        [unit_encoder(lower_gains, lower_scale), unit_encoder(upper_gains, 0.5)],
        [dense(np.zeros([D, D]), np.zeros(D)), unit],
    )


def unit_data(count=400):
    return np.random.default_rng(0).uniform(size=[count, D]).astype("float32")


def test_exactly_three_of_eight_units_are_active():
    gains = np.full(D, 0.1)  # variance 0.01 * 1/12: below the threshold
    gains[ACTIVE] = [1.0, -0.5, 0.4]  # 1/12, 1/48, 0.16/12: above it
    model = IWAE(unit_encoder(gains, 0.7), dense(np.zeros([D, D]), np.zeros(D)))
    x = unit_data()
    with pytest.warns(UserWarning, match="between 0 and 1"):
        assert active_units(model, x) == [3]
    statistics = layer_statistics(model, x)
    assert list(np.flatnonzero(statistics[0].variances > 0.01)) == list(ACTIVE)
    np.testing.assert_allclose(statistics[0].means, gains * x, atol=1e-6)
    np.testing.assert_allclose(
        statistics[0].variances, (gains * x).var(axis=0), rtol=1e-4
    )
    assert active_units(model, x, threshold=1e-4) == [D]
    assert active_units(model, x, threshold=0.1) == [0]


@pytest.mark.filterwarnings("ignore:.x. has values between")
@pytest.mark.parametrize("num_draws", [2, 100])
def test_few_draws_do_not_inflate_an_upper_layer(num_draws):
    # q(z2|z1) copies z1, whose dead units are pure noise of variance 0.25.
    model, x = noise_layer_model(np.ones(D), 0.5), unit_data(2000)
    lower, upper = layer_statistics(model, x, num_draws=num_draws)
    active = np.isin(np.arange(D), ACTIVE)
    np.testing.assert_allclose(upper.variances[active], 1 / 12, atol=0.02)
    # The noise of the mean, 0.25 / draws, is subtracted to what is left by chance:
    # var(s^2) and var(mean) over 2,000 images.
    leftover = 4 * 0.25 / num_draws * np.sqrt(2 / 2000) * np.sqrt(2)
    assert np.all(upper.variances[~active] < leftover)
    raw = upper.means.var(axis=0)[~active]
    np.testing.assert_allclose(raw, 0.25 / num_draws, rtol=0.2)
    np.testing.assert_allclose(lower.variances[active], 1 / 12, atol=0.01)
    assert np.all(lower.variances[~active] < 1e-6)


@pytest.mark.filterwarnings("ignore:.x. has values between")
def test_active_units_of_two_layers():
    upper_gains = np.zeros(D)
    upper_gains[[0, 1, 3]] = 2.0  # unit 1 listens to a dead unit
    model = noise_layer_model(upper_gains, 0.3)
    assert active_units(model, unit_data(), (1, 2)) == [3, 2]
    with pytest.raises(InvalidInputError, match="`x` must have at least two examples"):
        active_units(model, unit_data(1))


@pytest.mark.filterwarnings("ignore:.x. has values between")
def test_statistics_do_not_depend_on_batches():
    model, x = noise_layer_model(np.ones(D), 0.5), unit_data(50)
    whole = layer_statistics(model, x, SEED, num_draws=5)
    parts = layer_statistics(model, x, SEED, num_draws=5, batch_size=7)
    for ours, theirs in zip(parts, whole):
        np.testing.assert_allclose(ours.means, theirs.means, atol=1e-5)
        np.testing.assert_allclose(ours.variances, theirs.variances, atol=1e-5)
    other = layer_statistics(model, x, (0, 1), num_draws=5)
    assert np.all(other[1].means != whole[1].means)


@pytest.mark.filterwarnings("ignore:.x. has values between")
@pytest.mark.parametrize(
    "change, words",
    [
        ({"num_draws": 1}, "`num_draws` must be"),
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"seed": "ab"}, "`seed` must be a pair"),
        ({"x": np.zeros([3, 5], "float32")}, "`x` must have the shape"),
    ],
)
def test_bad_arguments_of_the_statistics_are_named(change, words):
    model = noise_layer_model(np.ones(D), 0.5)
    model.build((None, D))
    with pytest.raises(InvalidInputError, match=words):
        layer_statistics(model, **({"x": unit_data(4)} | change))


def test_count_active_is_strict():
    statistics = [
        evaluation.LayerStatistics(None, np.array([0.0, 0.01, 0.0101])),
        evaluation.LayerStatistics(None, np.array([5.0, 0.02])),
    ]
    assert count_active(statistics) == [1, 2]
    assert count_active(statistics, threshold=1.0) == [0, 1]


def test_a_unit_is_active_in_units_of_its_prior():
    """Var over (x, y) of (E[z|x, y] - m_y) / t, from the exact posterior's formula."""
    problem = PROBLEMS["labels"]
    model, (x, y) = exact_model(problem), problem.data(200)
    gain = problem.loadings / problem.noise[0] ** 2
    precision = problem.spread**-2 + np.sum(problem.loadings * gain, axis=0)
    loc = (x - problem.offset[y]) @ gain + problem.means[y] / problem.spread**2
    variances = np.var((loc / precision - problem.means[y]) / problem.spread, axis=0)
    (found,) = layer_statistics(model, x, labels=y)
    np.testing.assert_allclose(found.variances, variances, rtol=1e-3)
    for threshold, count in [(0.9 * min(variances), 2), (np.mean(variances), 1)]:
        assert active_units(model, x, labels=y, threshold=threshold) == [count]


# Dead units out of p and q ---------------------------------------------------------


def masked_pair(layers):
    """A model with a dead last unit in each layer, and the same one without them."""
    rng = np.random.default_rng(4)
    x_dim, live, fill = 6, 2, 0.8

    def network(inputs, outputs):
        return 0.3 * rng.normal(size=[outputs, inputs]), 0.3 * rng.normal(size=outputs)

    def proposal(weights, offset, dead_input):
        """Adds a unit that ignores its input: loc 0.8."""
        inputs = weights.shape[1] + dead_input
        full = np.zeros([live + 1, inputs])
        full[:live, : weights.shape[1]] = weights
        if dead_input:  # the layer above listens to the dead unit
            full[:live, -1] = 0.5
        return affine_normal(full, np.append(offset, fill), np.full(live + 1, 0.9))

    lower, upper = network(x_dim, live), network(live, live)
    dead_weight = 2.0 * rng.normal(size=[x_dim, 1])  # the decoder listens to it as well
    bottom, top = network(live, x_dim), network(live, live)
    full_bottom = np.concatenate([bottom[0], dead_weight], axis=1)
    full_top = np.zeros([live + 1, live + 1])
    full_top[:live, :live] = top[0]
    full_top[:live, -1] = 0.3
    ones = np.ones(live)
    with_dead = (
        [proposal(*lower, 0), proposal(*upper, 1)],
        [
            dense(full_bottom.T, bottom[1]),
            affine_normal(full_top, np.append(top[1], 3.0), np.append(ones, 2.0)),
        ],
    )
    # The constant of the dead unit moves into the offsets of its listeners.
    without = (
        [
            affine_normal(lower[0], lower[1], np.full(live, 0.9)),
            affine_normal(upper[0], upper[1] + 0.5 * fill, np.full(live, 0.9)),
        ],
        [
            dense(bottom[0].T, bottom[1] + dead_weight[:, 0] * fill),
            affine_normal(top[0], top[1] + 0.3 * fill, ones),
        ],
    )
    return [IWAE(p[0][:layers], p[1][:layers]) for p in (with_dead, without)]


@pytest.mark.parametrize("layers", [1, 2])
def test_a_masked_unit_is_as_if_it_were_not_there(layers):
    full, small = masked_pair(layers)
    x = np.random.default_rng(1).integers(0, 2, [40, 6]).astype("float32")
    masks = active_masks(layer_statistics(full, x, num_draws=3))
    assert [list(mask.active.numpy()) for mask in masks] == [
        [True, True, False]
    ] * layers
    np.testing.assert_allclose(masks[0].fill[2], 0.8, rtol=1e-6)
    # Another number of latents means other noise: compare at many draws.
    masked = log_likelihood(full, x, 2000, masks=masks)
    expected = log_likelihood(small, x, 2000)
    error = np.hypot(masked.standard_error, expected.standard_error)
    assert np.median(error) < 0.2
    assert np.all(np.abs(masked.estimate - expected.estimate) < 6 * error + 1e-3)
    with_dead = log_likelihood(full, x, 2000)
    assert np.mean(np.abs(with_dead.estimate - expected.estimate)) > 0.2


def test_a_masked_unit_leaves_each_log_weight_of_its_draws():
    full, small = masked_pair(2)
    x = np.random.default_rng(1).integers(0, 2, [4, 6]).astype("float32")
    masks = active_masks(layer_statistics(full, x, num_draws=3))
    small.build(x.shape)
    draws = np.random.default_rng(2).normal(size=[1, 5, 4, 6]).astype("float32")
    live = draws[..., [0, 1, 3, 4]]
    ours, theirs = (
        model.latent.log_weights(tf.constant(x), noise, masks=mask).log_weights
        for model, noise, mask in ((full, draws, masks), (small, live, None))
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_dead_unit_is_taken_out_at_the_prior_of_its_class():
    """x says nothing of b in z = (a, b); without b the decoder finds E[b|y]."""
    problem = ConditionalLinearGaussian()
    problem.loadings[:, 1] = 0.0  # so that q(b|x, y) = p(b|y)
    model, (x, y) = exact_model(problem), problem.data(60)
    masks = active_masks(layer_statistics(model, x, labels=y))
    assert [mask.active.numpy().tolist() for mask in masks] == [[True, False]]
    found = log_likelihood(model, x, 10, labels=y, masks=masks)
    exact = log_likelihood(model, x, 10, labels=y)
    np.testing.assert_allclose(found.estimate, exact.estimate, atol=1e-3)
    draws = tf.zeros([1, 1, 60, 2])
    latents = model.latent.infer(x, draws, tf.constant(y), masks=masks).latents
    np.testing.assert_allclose(
        latents[0][0, 0, :, 1], problem.means[y][:, 1], atol=1e-3
    )


def test_all_units_active_changes_nothing(shifted):
    model, x, whole = shifted
    masks = active_masks(layer_statistics(model, x), threshold=-1.0)
    assert all(np.all(mask.active) for mask in masks)
    assert_close(log_likelihood(model, x, 30, SEED, masks=masks), whole, atol=1e-5)


def test_images_and_flat_vectors_score_alike():
    encoder, decoder = MLP([5], (4,), seed=1), MLP([5], (3, 2, 1), seed=2)
    model = IWAE(encoder, decoder)
    x = np.random.default_rng(0).integers(0, 2, [5, 3, 2, 1]).astype("float32")
    flat = IWAE(MLP([5], (4,), seed=1), MLP([5], (6,), seed=2))
    flat_result = log_likelihood(flat, x.reshape(5, 6), 9)
    assert_close(log_likelihood(model, x, 9), flat_result, atol=1e-5)
