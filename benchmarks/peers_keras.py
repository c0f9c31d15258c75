"""An IWAE as one writes it with Keras and TensorFlow Probability, without this package.

Nothing is tuned: distributions of TFP, a GradientTape in `train_step`, `compile` with
an optimiser and no more.
"""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfd = tfp.distributions


class PlainIWAE(keras.Model):
    """IWAE with one stochastic layer and a Bernoulli likelihood; a VAE with one draw.

    Args:
      event_shape: tuple, the shape of x.
      hidden_dims: units of the encoder's hidden layers, mirrored in the decoder.
      latent_dim: size of z.
      num_samples: K, draws in training.
    """

    def __init__(self, event_shape, hidden_dims, latent_dim, num_samples):
        super().__init__()
        dense = keras.layers.Dense
        self.size = int(np.prod(event_shape))
        self.latent_dim = latent_dim
        self.num_samples = num_samples
        self.encoder = keras.Sequential(
            [
                *(dense(units, activation="tanh") for units in hidden_dims),
                dense(2 * latent_dim),
            ]
        )
        self.decoder = keras.Sequential(
            [
                *(dense(units, activation="tanh") for units in hidden_dims[::-1]),
                dense(self.size),
            ]
        )
        self.encoder.build((None, self.size))
        self.decoder.build((None, latent_dim))
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.built = True

    def log_weights(self, x, num_samples):
        """log p(x, z) - log q(z|x) of new draws: float32 [K, B]."""
        x = tf.reshape(x, [-1, self.size])
        loc, log_scale = tf.split(self.encoder(x), 2, axis=-1)
        proposal = tfd.Independent(tfd.Normal(loc, tf.exp(log_scale)), 1)
        prior = tfd.Independent(tfd.Normal(tf.zeros(self.latent_dim), 1.0), 1)
        z = proposal.sample(num_samples)
        logits = self.decoder(tf.reshape(z, [-1, self.latent_dim]))
        logits = tf.reshape(logits, [num_samples, -1, self.size])
        likelihood = tfd.Independent(tfd.Bernoulli(logits=logits), 1)
        return likelihood.log_prob(x) + prior.log_prob(z) - proposal.log_prob(z)

    def train_step(self, data):
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            log_weights = self.log_weights(x, self.num_samples)
            bound = tfp.math.reduce_logmeanexp(log_weights, axis=0)
            loss = -tf.reduce_mean(bound)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}


def make_log_likelihood(model, num_samples, chunk_size):
    """A compiled function of x [B, *event] to estimates of log p(x), [B].

    Args:
      model: PlainIWAE.
      num_samples: K, a multiple of `chunk_size`.
      chunk_size: draws of each image at once.
    """

    @tf.function
    def log_likelihood(x):
        total = tf.fill([tf.shape(x)[0]], -np.inf)
        for _ in tf.range(num_samples // chunk_size):
            chunk = tf.reduce_logsumexp(model.log_weights(x, chunk_size), axis=0)
            total = tfp.math.log_add_exp(total, chunk)
        return total - np.log(num_samples).astype(np.float32)

    return log_likelihood
