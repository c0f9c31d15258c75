"""p(x|z) of mixed columns against SciPy, in raw units, and models that have it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from builders import build, reloaded
from running import refusal
from scipy import special, stats

import iwae_tf
from iwae_tf.errors import InvalidInputError
from iwae_tf.networks import MLP
from iwae_tf.probability.distributions import poisson_likelihood
from iwae_tf.probability.mixed import SCALE_FLOOR, MixedLikelihood, mixture_mean
from iwae_tf.schema import KINDS, Column, Schema

SCHEMA = Schema(
    (
        Column("a", "normal", 3.0, 2.0),
        Column("b", "normal", -300.0, 0.2),
        Column("c", "student", 10.0, 20.0),
        Column("d", "lognormal", 1.0, 0.5),
        Column("e", "categorical", categories=("x", "y", "z")),
        Column("f", "categorical", categories=("x", "y")),
        Column("g", "bernoulli", 0.2, 0.4),
        Column("h", "poisson", 4.0, 2.0),
        Column("i", "negative_binomial", 9.0, 6.0),
        Column("j", "normal", 0.0, 1.0),
    )
)
ROWS = 7


def rows(count=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    columns = (
        rng.normal(3, 2, count), rng.normal(-300, 0.2, count),
        10 + 20 * rng.standard_t(4, count), np.exp(rng.normal(1, 0.5, count)),
        rng.integers(0, 3, count), rng.integers(0, 2, count),
        rng.integers(0, 2, count), rng.poisson(4, count),
        rng.negative_binomial(3, 0.25, count), rng.normal(size=count),
    )  # fmt: skip
    return np.stack(columns, axis=1).astype("float32")


def outputs(count=ROWS):
    rng = np.random.default_rng(1)
    return 0.4 * rng.normal(size=(count, SCHEMA.num_parameters)).astype("float32")


def scaled(column, loc, log_scale):
    loc = column.loc + column.scale * loc
    return loc, column.scale * (np.exp(log_scale) + SCALE_FLOOR)


def densities(x, u):
    """log p of each element, [rows, columns], by SciPy."""
    x, u = x.T.astype(float), u.T.astype(float)
    a, b, c, d, *_, j = SCHEMA.columns
    log_of_d = scaled(d, u[7], u[8])
    mean, count = 9.0 * np.exp(u[16]), np.exp(-u[17])
    return np.stack(
        [
            stats.norm(*scaled(a, u[0], u[2])).logpdf(x[0]),
            stats.norm(*scaled(b, u[1], u[3])).logpdf(x[1]),
            stats.t(2 + np.log1p(np.exp(u[6] + 2)), *scaled(c, u[4], u[5])).logpdf(
                x[2]
            ),
            stats.lognorm(log_of_d[1], scale=np.exp(log_of_d[0])).logpdf(x[3]),
            special.log_softmax(u[9:12], axis=0)[x[4].astype(int), np.arange(ROWS)],
            special.log_softmax(u[12:14], axis=0)[x[5].astype(int), np.arange(ROWS)],
            stats.bernoulli(1 / (1 + 4 * np.exp(-u[14]))).logpmf(x[6]),
            stats.poisson(4 * np.exp(u[15])).logpmf(x[7]),
            stats.nbinom(count, count / (count + mean)).logpmf(x[8]),
            stats.norm(*scaled(j, u[18], u[19])).logpdf(x[9]),
        ],
        axis=1,
    )


def test_each_column_has_the_density_of_its_family_in_raw_units():
    x, u = rows(), outputs()
    expected = densities(x, u)
    distribution = MixedLikelihood(SCHEMA)(tf.constant(u))
    found = distribution.distribution.log_prob(x)
    np.testing.assert_allclose(found, expected, rtol=3e-4, atol=3e-4)
    total = distribution.log_prob(x)
    np.testing.assert_allclose(total, expected.sum(axis=1), rtol=3e-4)
    assert {column.kind for column in SCHEMA.columns} == {*KINDS}


def test_an_infinite_mean_of_no_weight_leaves_the_others_as_they_are():
    schema = Schema((Column("a", "lognormal", 1.0, 0.5), Column("b", "poisson", 4.0)))
    u = np.float32([[0.1, 0.2, 0.0], [0.4, 0.1, 1.0], [0.0, 5.0, 100.0]])
    distribution = MixedLikelihood(schema)(tf.constant(u))
    assert np.isinf(distribution.mean()[2, 0])  # the premise
    scale = 0.5 * (np.exp(u[:2, 1]) + SCALE_FLOOR)
    means = np.exp(1 + 0.5 * u[:2, 0] + scale**2 / 2), 4 * np.exp(u[:2, 2])
    expected = [0.25 * first + 0.75 * second for first, second in means]
    weights = tf.constant([0.25, 0.75, 0.0])
    found = mixture_mean(distribution, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    counts = poisson_likelihood(tf.constant([[0.0], [1.0], [100.0]]))
    found = mixture_mean(counts, weights)
    np.testing.assert_allclose(found, [0.25 + 0.75 * np.e], rtol=1e-5)


def test_means_and_draws_are_those_of_the_columns():
    u = tf.constant(np.repeat(outputs(1), 4000, axis=0))
    distribution = MixedLikelihood(SCHEMA)(u)
    drawn = distribution.sample(seed=(1, 2)).numpy()
    assert bool(tf.reduce_all(MixedLikelihood(SCHEMA).supports(drawn)))
    mean, error = drawn.mean(axis=0), drawn.std(axis=0) / np.sqrt(len(drawn))
    means = distribution.mean().numpy()[0]
    is_code = np.array([column.kind == "categorical" for column in SCHEMA.columns])
    assert (np.abs(mean - means) < 4 * error)[~is_code].all()
    modes = [np.bincount(codes.astype(int)).argmax() for codes in drawn[:, is_code].T]
    np.testing.assert_array_equal(means[is_code], modes)
    for seed in (None, 3):  # as of any TFP distribution
        assert distribution.sample(seed=seed).shape == drawn.shape


def test_the_encoder_is_given_standardised_numbers_and_one_hot_codes():
    x = rows()
    x[0] = np.nan
    features = MixedLikelihood(SCHEMA).features(tf.constant(x)).numpy()
    assert features.shape == (ROWS, 8 + 3 + 2)
    np.testing.assert_array_equal(features[0], 0)
    rest, found = x[1:], features[1:]
    np.testing.assert_allclose(found[:, 0], (rest[:, 0] - 3) / 2, rtol=1e-5)
    np.testing.assert_allclose(found[:, 3], (np.log(rest[:, 3]) - 1) / 0.5, rtol=1e-4)
    np.testing.assert_array_equal(found[:, 4:7], np.eye(3)[rest[:, 4].astype(int)])
    np.testing.assert_allclose(found[:, 11], (rest[:, 8] - 9) / 6, rtol=1e-5)


def mixed(name="iwae", **settings):
    nets = MLP([5], (4,)), MLP([5], (SCHEMA.num_parameters,))
    settings = {"likelihood": "mixed", "schema": SCHEMA, "nets": nets, **settings}
    return build(name, event=(len(SCHEMA.columns),), **settings)


def test_units_shift_the_log_likelihood_by_the_jacobian():
    """Column a in other units: log p is that of before, minus log of the factor."""
    model, x, factor = mixed(), rows(), 1000.0
    changed = Column("a", "normal", factor * 3.0, factor * 2.0)
    schema = Schema((changed, *SCHEMA.columns[1:]))
    other = mixed(schema=schema)
    other.set_weights(model.get_weights())
    ours = iwae_tf.log_likelihood(model, x, 50).estimate
    theirs = iwae_tf.log_likelihood(other, x * np.r_[factor, np.ones(9)], 50).estimate
    np.testing.assert_allclose(theirs, ours - np.log(factor), atol=2e-4)


def test_a_model_trains_saves_loads_and_exports(tmp_path):
    model, x = mixed(), rows(40)
    model.compile(keras.optimizers.Adam(1e-2), jit_compile=False)
    bounds = model.fit(x, epochs=8, verbose=0).history["bound"]
    assert np.isfinite(bounds).all() and bounds[-1] > bounds[0]
    loaded = reloaded(model, tmp_path)
    assert loaded.schema == SCHEMA
    scores = iwae_tf.log_likelihood(model, x, 20).estimate
    again = iwae_tf.log_likelihood(loaded, x, 20).estimate
    np.testing.assert_array_equal(again, scores)
    np.testing.assert_allclose(
        iwae_tf.log_likelihood(model, x[:1], 20).estimate, scores[:1], rtol=1e-5
    )
    path = iwae_tf.export_saved_model(model, tmp_path / "saved", 20, refined=False)
    signatures = tf.saved_model.load(str(path)).signatures
    served = signatures["serving_default"](x=tf.constant(x))["log_likelihood"]
    np.testing.assert_allclose(served, scores, rtol=1e-4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="its columns allow"):
        signatures["serving_default"](x=tf.constant(-x))


@pytest.fixture(scope="module")
def compiled():
    """A model that refuses what it is given: it stays as it is."""
    model = mixed()
    model.compile(jit_compile=False)
    return model


@pytest.mark.parametrize(
    "place, value, words",
    [
        (3, 0.0, "0 in column d, lognormal"),
        (4, 3.0, "3 in column e, categorical"),
        (5, 0.5, "0.5 in column f, categorical"),
        (6, 2.0, "2 in column g, bernoulli"),
        (7, -1.0, "-1 in column h, poisson"),
        (8, 0.5, "0.5 in column i, negative_binomial"),
        (9, np.nan, "must be finite"),
    ],
)
def test_values_that_a_column_cannot_have(compiled, place, value, words):
    x = rows()
    x[2, place] = value
    for data in (x, tf.data.Dataset.from_tensors(x)):
        with pytest.raises(InvalidInputError, match="`x` must"):
            compiled.fit(data, verbose=0)
    assert words in refusal(compiled.log_weights, x)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"schema": None}, "`schema` must be given for likelihood='mixed'"),
        ({"likelihood": "normal"}, "`schema` must be given for likelihood='mixed'"),
        ({"schema": Schema(SCHEMA.columns[:9])}, "must have the 9 columns of the"),
        ({"nets": (MLP([], (4,)), MLP([], (19,)))}, "schema.num_parameters = 20"),
    ],
)
def test_a_schema_that_does_not_fit(settings, words):
    assert words in refusal(mixed, **settings)


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "gamma"},
        {"kind": "normal", "scale": 0.0},
        {"kind": "normal", "categories": ("a", "b")},
        {"kind": "categorical", "categories": ("a",)},
        {"kind": "categorical", "categories": ("a", "a")},
        {"kind": "categorical", "categories": (0, 1)},
        {"kind": "normal", "loc": float("nan")},
        {"kind": "normal", "scale": float("inf")},
    ],
)
def test_a_column_that_is_none(values):
    with pytest.raises(InvalidInputError):
        Column("a", **values)
    with pytest.raises(InvalidInputError):
        Schema.from_json({"columns": [{"name": "a", **values}]})
    with pytest.raises(InvalidInputError, match="`schema` must be"):
        Schema.from_json({"columns": [{"names": "a"}]})


def test_a_schema_that_is_none():
    a = Column("a", "normal")
    for columns in [(), (a, a), (a,)]:
        with pytest.raises(InvalidInputError, match="`schema` must have a column"):
            Schema(columns, a if len(columns) == 1 else None)
    with pytest.raises(InvalidInputError, match="a label that is categorical"):
        Schema((a,), Column("b", "normal"))
