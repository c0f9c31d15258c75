"""Bounds against brute-force sums, 50-digit arithmetic and a quadrature."""

import decimal
import functools
import math
import re

import builders
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import tensorflow as tf
from running import refusal

from iwae_tf import bounds
from iwae_tf.errors import InvalidInputError
from iwae_tf.models import gradients
from iwae_tf.probability.log_weights import standard_error

M, K, B = 2, 3, 5
EXAMPLES = np.random.default_rng(1).gumbel(-3.0, 2.0, [M, K, B])  # skewed
BOUNDS = {
    "elbo": bounds.elbo,
    "iwae": bounds.iwae,
    "miwae": bounds.miwae,
    "ciwae": lambda log_weights: bounds.ciwae(log_weights, 0.3),
    "renyi_half": lambda log_weights: bounds.renyi(log_weights, 0.5),
    "renyi_two": lambda log_weights: bounds.renyi(log_weights, 2),
    "renyi_negative": lambda log_weights: bounds.renyi(log_weights, -1.5),
    "renyi_near_one": lambda log_weights: bounds.renyi(log_weights, 1 + 1e-6),
}
# Weights that sum to one over all draws, and within each group.
POOLED = scipy.special.softmax(EXAMPLES, axis=(0, 1))
GROUPED = scipy.special.softmax(EXAMPLES, axis=1)
each_bound = pytest.mark.parametrize("name", BOUNDS)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def exact(name, log_weights):
    """A bound of one example [M, K], by loops in 50 digits: none overflows."""
    groups = [[decimal.Decimal(float(lw)) for lw in group] for group in log_weights]
    draws = sum(groups, [])
    alphas = {"half": 0.5, "two": 2, "negative": -1.5, "near_one": 1 + 1e-6}
    with decimal.localcontext(prec=50):
        if name.startswith("renyi"):
            value = exact_renyi(draws, alphas[name.removeprefix("renyi_")])
        else:
            elbo, iwae = sum(draws) / len(draws), exact_renyi(draws, 0)
            value = {
                "elbo": elbo,
                "iwae": iwae,
                "miwae": sum(exact_renyi(group, 0) for group in groups) / len(groups),
                "ciwae": (3 * elbo + 7 * iwae) / 10,
            }[name]
    return float(value)


def exact_renyi(draws, alpha):
    with decimal.localcontext(prec=50):
        power = 1 - decimal.Decimal(alpha)
        total = sum((power * decimal.Decimal(lw)).exp() for lw in draws)
        return (total / len(draws)).ln() / power


def gradient(function, log_weights):
    log_weights = tf.constant(log_weights)
    with tf.GradientTape() as tape:
        tape.watch(log_weights)
        value = function(log_weights)
    return value.numpy(), tape.gradient(value, log_weights).numpy()


# Values.


@each_bound
@each_dtype
def test_equals_loops_in_50_digits(name, dtype):
    log_weights = EXAMPLES.astype(dtype)
    value = BOUNDS[name](log_weights)
    expected = [exact(name, log_weights[..., b]) for b in range(B)]
    assert value.shape == (B,) and value.dtype == dtype
    tolerance = 8 * np.finfo(dtype).eps * np.abs(log_weights).max()
    np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance)


@each_bound
@pytest.mark.parametrize(
    "dtype, options",
    [
        ("float32", {}),
        ("float32", {"jit_compile": True}),
        ("float32", {"input_signature": [tf.TensorSpec([None] * 3)]}),
        ("float32", {"input_signature": [tf.TensorSpec(None)]}),
        ("float64", {}),
    ],
    ids=["graph", "xla", "unknown sizes", "unknown rank", "float64"],
)
def test_compiled_equals_eager(name, dtype, options):
    log_weights = tf.constant(EXAMPLES, dtype)
    compiled = tf.function(BOUNDS[name], **options)(log_weights)
    # A bound near zero is a difference of numbers as large as the log-weights.
    tolerance = {"float32": 2e-6, "float64": 1e-13}[dtype]
    np.testing.assert_allclose(
        compiled, BOUNDS[name](log_weights), rtol=tolerance, atol=tolerance
    )


def test_order_of_the_bounds():
    log_weights = np.random.default_rng(2).normal(-90, 4, [M, K, 1000])
    elbo, iwae, miwae = (
        f(log_weights) for f in (bounds.elbo, bounds.iwae, bounds.miwae)
    )
    ciwae = bounds.ciwae(log_weights, 0.5)
    assert np.all(elbo < miwae) and np.all(miwae < iwae)
    assert np.all(elbo < ciwae) and np.all(ciwae < iwae)


def test_special_cases():
    close = np.testing.assert_allclose
    one_group, one_draw = EXAMPLES[:1], EXAMPLES[:, :1]
    close(bounds.miwae(one_group), bounds.iwae(one_group), rtol=1e-14)
    close(bounds.miwae(one_draw), bounds.elbo(one_draw), rtol=1e-14)
    close(bounds.ciwae(EXAMPLES, 0), bounds.iwae(EXAMPLES), rtol=0)
    close(bounds.ciwae(EXAMPLES, 1), bounds.elbo(EXAMPLES), rtol=0)
    close(bounds.renyi(EXAMPLES, 0), bounds.iwae(EXAMPLES), rtol=1e-14)
    close(bounds.renyi(EXAMPLES, 1), bounds.elbo(EXAMPLES), rtol=0)
    for bound in BOUNDS.values():
        close(bound(EXAMPLES[:1, :1]), EXAMPLES[0, 0], rtol=1e-14)


@each_bound
@pytest.mark.parametrize("shift", [-1234.5, 777.25])
def test_shift_moves_the_bound(name, shift):
    shifted = BOUNDS[name](EXAMPLES + shift)
    np.testing.assert_allclose(shifted, BOUNDS[name](EXAMPLES) + shift, rtol=1e-12)


@each_bound
def test_lists_are_taken(name):
    log_weights = EXAMPLES.astype(np.float32)
    value = BOUNDS[name](log_weights.tolist())
    np.testing.assert_array_equal(value, BOUNDS[name](log_weights))


def test_bernoulli_model_by_quadrature():
    """z ~ N(0, 1), four binary pixels, and a proposal that is off in both moments."""
    x, slope, offset = np.array([1, 0, 1, 1]), np.array([2, -1, 0.5, 1]), 0.3
    proposal = scipy.stats.norm(0.4, 0.9)

    def log_joint(z):
        logits = slope * np.asarray(z)[..., None] + offset
        log_p = scipy.special.log_expit(np.where(x == 1, logits, -logits)).sum(-1)
        return log_p + scipy.stats.norm.logpdf(z)

    def integral(integrand):
        return scipy.integrate.quad(integrand, -12, 12, epsabs=1e-12)[0]

    log_p = np.log(integral(lambda z: np.exp(log_joint(z))))
    elbo = integral(lambda z: proposal.pdf(z) * (log_joint(z) - proposal.logpdf(z)))
    draws = proposal.rvs([1, 2, 200_000], random_state=3)
    log_weights = log_joint(draws) - proposal.logpdf(draws)
    pairs = np.asarray(bounds.miwae(log_weights))  # K = 2
    assert elbo + 0.02 < log_p  # the premise: a gap that the draws can resolve

    flat = log_weights.reshape([1, -1, 1])
    error = flat.std() / np.sqrt(flat.size)
    assert abs(float(bounds.elbo(flat)[0]) - elbo) < 5 * error
    weights = scipy.special.softmax(flat)
    error = float(standard_error(tf.constant((weights**2).sum()), flat.size))
    assert abs(float(bounds.iwae(flat)[0]) - log_p) < 5 * error
    error = pairs.std() / np.sqrt(pairs.size)
    assert elbo + 5 * error < pairs.mean() < log_p - 5 * error


# Gradients.


@each_bound
def test_gradient_by_finite_differences(name):
    _, slopes = gradient(BOUNDS[name], EXAMPLES)
    step = 1e-5
    for m, k in np.ndindex(M, K):
        nudge = np.zeros([M, K, 1])
        nudge[m, k] = step
        rise = BOUNDS[name](EXAMPLES + nudge) - BOUNDS[name](EXAMPLES - nudge)
        np.testing.assert_allclose(slopes[m, k], rise / (2 * step), atol=1e-7)
    np.testing.assert_allclose(slopes.sum(axis=(0, 1)), 1.0, rtol=1e-12)


@each_dtype
def test_gradient_is_the_grouped_softmax(dtype):
    log_weights = EXAMPLES.astype(dtype)
    expected = {
        "elbo": np.full([M, K, B], 1 / (M * K)),
        "iwae": POOLED,
        "miwae": GROUPED / M,
        "ciwae": 0.3 / (M * K) + 0.7 * POOLED,
        "renyi_half": scipy.special.softmax(0.5 * EXAMPLES, axis=(0, 1)),
        "renyi_two": scipy.special.softmax(-EXAMPLES, axis=(0, 1)),
    }
    for name, weights in expected.items():
        _, slopes = gradient(BOUNDS[name], log_weights)
        np.testing.assert_allclose(slopes, weights, rtol=200 * np.finfo(dtype).eps)


# Extremes.


def extremes(dtype):
    """Draws 1e4 up, 1e4 down, both in one example, and spread over 2e4."""
    log_weights = np.stack(
        [EXAMPLES[..., 0] + 1e4, EXAMPLES[..., 0] - 1e4, EXAMPLES[..., 0]], axis=-1
    )
    log_weights[0, 0, 2], log_weights[1, 1, 2] = 1e4, -1e4
    spread = np.linspace(-1e4, 1e4, M * K).reshape([M, K, 1])
    return np.concatenate([log_weights, spread], axis=-1).astype(dtype)


@each_bound
@each_dtype
def test_large_magnitudes(name, dtype):
    log_weights = extremes(dtype)
    value, slopes = gradient(BOUNDS[name], log_weights)
    for b in range(log_weights.shape[-1]):
        expected = exact(name, log_weights[..., b])
        assert abs(value[b] - expected) <= 4 * np.finfo(dtype).eps * 1e4
    assert np.all(np.isfinite(slopes)) and np.all(slopes >= 0)
    np.testing.assert_allclose(
        slopes.sum(axis=(0, 1)), 1, rtol=20 * np.finfo(dtype).eps
    )


@each_bound
@each_dtype
def test_one_zero_weight(name, dtype):
    log_weights = EXAMPLES.astype(dtype)
    log_weights[1, 2, 3] = -np.inf
    value, slopes = gradient(BOUNDS[name], log_weights)
    others = [0, 1, 2, 4]
    untouched = BOUNDS[name](EXAMPLES.astype(dtype))
    np.testing.assert_array_equal(value[others], np.asarray(untouched)[others])
    assert np.all(np.isfinite(slopes[..., others]))
    expected = exact(name, log_weights[..., 3])
    if name in ("elbo", "ciwae", "renyi_two", "renyi_near_one"):
        assert value[3] == expected == -np.inf
        return
    assert abs(value[3] - expected) < 100 * np.finfo(dtype).eps
    assert np.all(np.isfinite(slopes)) and slopes[1, 2, 3] == 0
    assert abs(slopes[..., 3].sum() - 1) < 20 * np.finfo(dtype).eps


@each_dtype
def test_zero_weight_at_the_ends_of_ciwae(dtype):
    log_weights = EXAMPLES.astype(dtype)
    log_weights[1, 2, 3] = -np.inf
    for beta in (0.0, 0.25, 1.0):
        bound = functools.partial(bounds.ciwae, beta=beta)
        value, slopes = gradient(bound, log_weights)
        assert np.isfinite(value[3]) if beta == 0 else value[3] == -np.inf
        assert np.all(np.isfinite(slopes))
        np.testing.assert_allclose(slopes.sum(axis=(0, 1)), 1, rtol=1e-6)


@each_bound
def test_all_weights_zero(name):
    assert np.all(BOUNDS[name](np.full([M, K, B], -np.inf)) == -np.inf)


# Renyi's bound.


ALPHAS = [-20, -1, 0.2, 0.9, 1.1, 2, 5.5, 40]
ALPHAS += [1 + distance for distance in (1e-3, 1e-6, 1e-9, -1e-3, -1e-6, -1e-9)]


@pytest.mark.parametrize("alpha", ALPHAS)
@each_dtype
def test_renyi_has_all_its_digits(alpha, dtype):
    log_weights = EXAMPLES.astype(dtype) - dtype(90)
    value = bounds.renyi(log_weights, alpha)
    draws = np.float64(log_weights).reshape([-1, B]).T
    expected = [float(exact_renyi(example, alpha)) for example in draws]
    np.testing.assert_allclose(value, expected, rtol=4 * np.finfo(dtype).eps)


def test_renyi_expands_around_one():
    """d bound / d alpha at 1 is minus half the variance of the log-weights."""
    step = 1e-3
    above, below = bounds.renyi(EXAMPLES, 1 + step), bounds.renyi(EXAMPLES, 1 - step)
    slope = (above - below).numpy() / (2 * step)
    np.testing.assert_allclose(slope, -EXAMPLES.var(axis=(0, 1)) / 2, rtol=1e-4)


def test_renyi_falls_with_alpha():
    alphas = [-20, -1, 0, 0.3, 1 - 1e-3, 1 - 1e-6, 1, 1 + 1e-6, 1 + 1e-3, 1.5, 2, 30]
    values = np.stack([bounds.renyi(EXAMPLES, alpha) for alpha in alphas])
    assert np.all(np.diff(values, axis=0) < 0)
    assert np.all(values < EXAMPLES.max(axis=(0, 1)))
    assert np.all(values > EXAMPLES.min(axis=(0, 1)))


@pytest.mark.parametrize("alpha", [0.999, 1 - 1e-9, 0, -3, 1, 1 + 1e-9, 1.001, 2, 50])
def test_renyi_forgives_a_zero_weight_below_one_alone(alpha):
    log_weights = np.array([[[0.5], [-np.inf]]])
    value, slopes = gradient(lambda lw: bounds.renyi(lw, alpha), log_weights)
    if alpha >= 1:
        assert value == -np.inf
        return
    np.testing.assert_allclose(value, 0.5 - math.log(2) / (1 - alpha), rtol=1e-12)
    np.testing.assert_allclose(slopes, [[[1], [0]]])


# Objectives.

OBJECTIVES = {
    name: {"beta": 0.3} if name == "ciwae" else {} for name in bounds.OBJECTIVES
}
each_objective = pytest.mark.parametrize("name", OBJECTIVES)


def make_objective(name):
    return bounds.OBJECTIVES[name](**OBJECTIVES[name])


def test_objectives_are_the_five_models():
    assert list(bounds.OBJECTIVES) == ["vae", "iwae", "miwae", "ciwae", "piwae"]


@each_objective
def test_objective_maximises(name):
    bound = make_objective(name)(tf.constant(EXAMPLES))
    generative = {"vae": "elbo", "piwae": "iwae"}.get(name, name)
    inference = {"vae": "elbo", "piwae": "miwae"}.get(name, name)
    for value, expected in zip(bound, (generative, inference)):
        expected = [exact(expected, EXAMPLES[..., b]) for b in range(B)]
        np.testing.assert_allclose(value, expected, rtol=1e-12)
    assert (bound.generative is bound.inference) == (name != "piwae")
    np.testing.assert_array_equal(
        make_objective(name).bound(EXAMPLES), bound.generative
    )


@each_objective
@each_dtype
def test_pathwise_weights(name, dtype):
    expected = {
        "vae": np.full([M, K, B], 1 / (M * K)),
        "iwae": POOLED**2,
        "miwae": GROUPED**2 / M,
        "ciwae": 0.3 / (M * K) + 0.7 * POOLED**2,
        "piwae": GROUPED**2 / M,
    }[name]
    weights = make_objective(name).pathwise_weights(tf.constant(EXAMPLES, dtype))
    assert weights.dtype == dtype
    np.testing.assert_allclose(weights, expected, rtol=100 * np.finfo(dtype).eps)


@each_objective
@each_dtype
def test_pathwise_weights_at_extremes(name, dtype):
    log_weights = extremes(dtype)
    log_weights[1, 2, 3] = -np.inf
    weights = make_objective(name).pathwise_weights(tf.constant(log_weights)).numpy()
    assert np.all(np.isfinite(weights)) and np.all(weights >= 0)
    if name in ("iwae", "miwae", "piwae"):
        assert weights[1, 2, 3] == 0


# Mistakes.

BAD_BETAS = [1.5, -0.1, float("nan"), "0.5", None, True]


@pytest.mark.parametrize("beta", BAD_BETAS)
def test_bad_beta_is_refused(beta):
    for function in (
        lambda: bounds.ciwae(EXAMPLES, beta),
        lambda: bounds.CombinationImportanceWeighted(beta),
        lambda: bounds.check_beta(beta),
    ):
        rule = f"`beta` must be in [0, 1]. Received: beta={beta!r}"
        assert refusal(function) == rule


@pytest.mark.parametrize("beta", [np.float32(0.25), np.int64(0)])
def test_beta_may_be_a_numpy_number(beta):
    log_weights = EXAMPLES.astype(np.float32)
    expected = bounds.ciwae(log_weights, float(beta))
    np.testing.assert_allclose(bounds.ciwae(log_weights, beta), expected, rtol=1e-6)


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), "two", None])
def test_bad_alpha_is_refused(alpha):
    with pytest.raises(InvalidInputError, match="`alpha` must be"):
        bounds.renyi(EXAMPLES, alpha)


@pytest.mark.parametrize("axes, shape", [(None, "()"), (1, "(2, 5)")])
def test_a_bound_of_ones_own_is_one_value_for_each_example(axes, shape):
    class Wrong(bounds.Objective):
        def bound(self, log_weights):
            return tf.reduce_mean(log_weights, axes)

    text = refusal(gradients.bound_of, Wrong(), tf.zeros([2, 3, 5]))
    assert text.startswith("`bound` of Wrong must return one value for each example")
    assert text.endswith(f"Received: shape={shape}")


def test_a_bound_of_ones_own_that_returns_nothing_is_told():
    class Wrong(bounds.Objective):
        def bound(self, log_weights):
            pass

    text = refusal(gradients.bound_of, Wrong(), tf.zeros([2, 3, 5]))
    assert text.startswith("`bound` of Wrong must return one value for each example")
    assert text.endswith("Received: None")


class Own(bounds.Objective):
    def bound(self, log_weights):
        return bounds.iwae(log_weights)


class WithInit(Own):
    """Its power would be lost in a file."""

    def __init__(self, power):
        object.__setattr__(self, "power", power)


OWN = {
    "nothing": (bounds.Objective(), "a method bound.*objective=Objective$"),
    "an __init__": (WithInit(2.0), "a dataclass whose fields .*objective=WithInit$"),
    "a class": (bounds.ELBO, "bounds.ELBO\\(\\).*objective=ELBO$"),
    "a name": ("iwae", "objective=str$"),
}


@pytest.mark.parametrize("case", OWN)
def test_what_is_no_objective_is_refused_by_its_name(case):
    objective, rule = OWN[case]
    message = refusal(builders.build, objective=objective)
    assert re.search(f"`objective` must be .*{rule}|must have {rule}", message), message


@pytest.mark.parametrize(
    "call, rule",
    [
        (
            lambda self, w: bounds.iwae(w),
            "`__call__` of Calls must return a bounds.Bound",
        ),
        (
            lambda self, w: bounds.Bound(*[tf.zeros([5])] * 2),
            "`bound` of Calls must be a",
        ),
    ],
)
def test_a_call_of_ones_own_is_a_bound_with_a_gradient(call, rule):
    calls = type("Calls", (bounds.Objective,), {"__call__": call})()
    gradients.check_objective(calls)
    given = calls, "stl", tf.zeros([2, 3, 5]), tf.ones([5])
    assert refusal(gradients.draw_weights, *given).startswith(rule)


def test_a_bound_of_ones_own_may_be_in_float64():
    class Double(Own):
        def bound(self, log_weights):
            return super().bound(tf.cast(log_weights, tf.float64))

    given = "stl", tf.constant(EXAMPLES, tf.float32), tf.ones([B])
    found, expected = (gradients.draw_weights(o, *given) for o in (Double(), Own()))
    assert found.bound.inference is found.bound.generative
    np.testing.assert_allclose(found.inference, expected.inference, rtol=1e-5)
    assert found.bound.generative.dtype == tf.float32


@each_bound
@pytest.mark.parametrize(
    "log_weights, shown",
    [
        (np.zeros([3, 5]), "shape=(3, 5), dtype=float64"),
        (np.zeros([2, 3, 5, 7], np.float32), "shape=(2, 3, 5, 7), dtype=float32"),
        (np.zeros([2, 3, 5], np.int32), "shape=(2, 3, 5), dtype=int32"),
        (1.0, "shape=(), dtype=float32"),
    ],
)
def test_bad_log_weights_are_refused(name, log_weights, shown):
    assert refusal(BOUNDS[name], log_weights) == (
        "`log_weights` must be a float tensor [num_groups, num_samples, batch]. "
        f"Received: {shown}"
    )
