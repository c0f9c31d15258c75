"""Convolutional networks: shapes, seeds, independence of rows, save and export."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from builders import reloaded

import iwae_tf
from iwae_tf.config import build_model, default_config, validate
from iwae_tf.config.networks import build_networks
from iwae_tf.errors import InvalidInputError
from iwae_tf.networks import MLP
from iwae_tf.networks.conv import ConvDecoder, ConvEncoder
from iwae_tf.runs.training import compiled_model

CHANNELS = (3, 5)


RNG = np.random.default_rng(0)
X = np.float32(RNG.integers(0, 256, [16, 8, 12, 1])) / np.float32(255)
Z = np.float32(RNG.normal(size=[6, 4]))


def pair(event=(8, 12, 1), seed=1, **kwargs):
    settings = {"channels": CHANNELS, "hidden_dims": (6,), **kwargs}
    output = (*event[:-1], 2 * event[-1])
    return (
        ConvEncoder(4, seed=seed, **settings),
        ConvDecoder(output, seed=seed + 50, **settings),
    )


@pytest.mark.parametrize("event", [(28, 28, 1), (32, 32, 3), (8, 12, 2)])
def test_shapes(event):
    encoder, decoder = pair(event)
    assert encoder(tf.zeros([3, *event])).shape == (3, 8)
    assert decoder(tf.zeros([3, 4])).shape == (3, *event[:-1], 2 * event[-1])
    assert encoder.compute_output_shape((None, *event)) == (None, 8)


def test_one_seed_is_one_network():
    (e1, d1), (e2, d2), (e3, d3) = pair(), pair(), pair(seed=2)
    np.testing.assert_array_equal(e1(X), e2(X))
    np.testing.assert_array_equal(d1(Z), d2(Z))
    assert not np.allclose(e1(X), e3(X)) and not np.allclose(d1(Z), d3(Z))
    kernels = [w.numpy() for w in (*e1.weights, *d1.weights) if "kernel" in w.path]
    for one, other in itertools.combinations(kernels, 2):
        assert not (one.shape == other.shape and np.array_equal(one, other))


def test_rows_are_independent():
    encoder, decoder = pair()
    for network, rows in ((encoder, X[:6]), (decoder, Z)):
        assert network.rows_are_independent
        alone = np.concatenate([network(row[None]) for row in rows])
        np.testing.assert_allclose(network(rows), alone, atol=1e-5)


def test_the_output_starts_at_its_bias():
    bias = np.random.default_rng(2).normal(size=[8, 12, 2])
    plain, biased = (
        ConvDecoder((8, 12, 2), CHANNELS, output_bias=value, seed=3)
        for value in (None, bias)
    )
    z = tf.ones([2, 4])
    np.testing.assert_allclose(biased(z) - plain(z), [bias, bias], atol=1e-5)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ConvDecoder((30, 28, 2)), "divisible by 4.*Received.*30"),
        (lambda: ConvEncoder(4).build((None, 784)), r"\[H, W, C\]"),
        (lambda: ConvEncoder(4, channels=()), "`channels` must be positive"),
        (lambda: ConvEncoder(4, (16.5,)), "`channels` must be a positive integer"),
        (lambda: ConvEncoder(4.5), "`latent_dim` must be a positive integer"),
        (lambda: ConvDecoder((8, 8, 1), (4,), [2.5]), "`hidden_dims` must be a pos"),
        (lambda: ConvDecoder((8, 8.5, 1)), "`output_shape` must be a positive"),
        (
            lambda: ConvDecoder((8, 8, 2), output_bias=np.zeros([8, 8, 1])),
            "`output_bias`",
        ),
        (
            lambda: build_networks(conv_config(), (7, 9, 2), None, None),
            "`network` must be mlp unless .* 4 divides.* Received: .* x of 7 x 9$",
        ),
        (
            lambda: build_networks(
                conv_config(dataset="images"), (7, 1, 2), None, None
            ),
            "--config.image_size=8,4 resizes them",
        ),
        (lambda: conv_config(network="resnet"), "`network` must be one of mlp, conv"),
        (
            lambda: conv_config(conv_channels=[0]),
            "`conv_channels` must be a list of positive",
        ),
        (
            lambda: conv_config(binarization="dynamic"),
            "`binarization` must be none for discretized",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(InvalidInputError, match=message):
        make()


def trained(model_class=iwae_tf.IWAE, num_layers=1, **kwargs):
    encoder, decoder = pair()
    if num_layers == 2:
        encoder = [encoder, MLP([5], (6,), seed=7)]
        decoder = [decoder, MLP([5], (8,), seed=8)]
    kwargs = {"likelihood": "discretized_logistic", "num_samples": 3, **kwargs}
    model = model_class(encoder, decoder, **kwargs)
    model.compile(keras.optimizers.SGD(1e-4), run_eagerly=True)
    model.fit(X, batch_size=8, shuffle=False, verbose=0)
    return model


def test_xla_and_graph_agree():
    encoder, decoder = pair()

    def gradients():
        with tf.GradientTape() as tape:
            outputs = decoder(encoder(X[:6])[:, :4])
            loss = tf.reduce_sum(outputs**2)
        variables = [v.value for v in (*encoder.weights, *decoder.weights)]
        return [outputs, *tape.gradient(loss, variables)]

    graph, compiled = (tf.function(gradients, jit_compile=j)() for j in (False, True))
    assert len(graph) == 1 + len(encoder.weights) + len(decoder.weights)
    for one, other in zip(graph, compiled):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("estimator", ["reparameterized", "dreg"])
def test_piwae(estimator):
    model = trained(iwae_tf.PIWAE, num_groups=2, gradient_estimator=estimator)
    assert np.all([np.all(np.isfinite(w)) for w in model.get_weights()])


def test_two_layers_are_saved_and_exported(tmp_path):
    model, x = trained(num_layers=2), X[:6]
    expected = model.log_weights(x, num_samples=4, seed=(1, 2))
    loaded = reloaded(model, tmp_path)
    np.testing.assert_array_equal(
        loaded.log_weights(x, num_samples=4, seed=(1, 2)), expected
    )
    path = iwae_tf.export_saved_model(
        model, tmp_path / "export", num_samples=5, refined=False
    )
    served = tf.saved_model.load(str(path)).signatures
    scored = served["serving_default"](x=tf.constant(x))["log_likelihood"]
    ours = iwae_tf.log_likelihood(model, x, num_samples=5, seed=(0, 0)).estimate
    np.testing.assert_allclose(scored, ours, rtol=1e-4)
    mean = served["reconstruct"](x=tf.constant(x), seed=tf.constant([1, 2]))["mean"]
    np.testing.assert_allclose(mean, model.reconstruct(x, (1, 2)), atol=1e-4)


def test_mixed_precision():
    encoder, decoder = pair(dtype="mixed_bfloat16")
    assert encoder(X).dtype == tf.bfloat16
    assert decoder(tf.zeros([2, 4])).dtype == tf.bfloat16
    assert all(w.dtype == "float32" for w in (*encoder.weights, *decoder.weights))


def conv_config(**values):
    config = default_config()
    config.update(
        {
            "network": "conv",
            "likelihood": "discretized_logistic",
            "binarization": "none",
            "conv_channels": [2, 3],
            **values,
        }
    )
    validate(config)
    return config


def test_config():
    mean = np.full([28, 28, 1], 0.25)
    model = build_model(conv_config(hidden_dims=[[7]]), mean_image=mean)
    assert isinstance(model.encoder[0], ConvEncoder)
    assert isinstance(model.decoder[0], ConvDecoder)
    assert model.decoder[0].channels == (2, 3)
    np.testing.assert_array_equal(model.decoder[0].bias[..., 0], mean[..., 0])
    two = build_model(conv_config(latent_dims=[6, 4], hidden_dims=[[7], [5]]))
    assert [type(part) for part in two.encoder] == [ConvEncoder, MLP]


@pytest.mark.xla
def test_runs_leave_xla_out_by_themselves():
    images = np.full([4, 28, 28, 1], np.float32(0.2))
    config = conv_config(hidden_dims=[[7]], epochs=1)
    assert config.jit_compile
    for network, expected in (("conv", False), ("mlp", True)):
        config.network = network
        model = compiled_model(config, images, 1)
        assert model.jit_compile is expected
        model.compile("sgd", jit_compile=True)
        assert model.jit_compile  # where it is asked for
