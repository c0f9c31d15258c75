"""Models whose log p(x) and posterior are known, built from plain Dense layers."""

import keras
import numpy as np
from scipy import stats


def dense(kernel, bias, **kwargs):
    """A Dense layer with these weights."""
    kernel, bias = np.asarray(kernel, "float32"), np.asarray(bias, "float32")
    layer = keras.layers.Dense(bias.size, **kwargs)
    layer.build((None, kernel.shape[0]))
    layer.set_weights([kernel, bias])
    return layer


def affine_normal(weights, offset, scale, **kwargs):
    """Dense layer for loc = weights @ input + offset and a constant scale [D]."""
    kernel = np.concatenate([weights.T, np.zeros_like(weights.T)], axis=1)
    return dense(kernel, np.concatenate([offset, np.log(scale)]), **kwargs)


class LinearGaussian:
    """z ~ N(0, I), x | z ~ N(W z + b, s^2 I) with orthogonal columns of W.

    W^T W is diagonal, so the posterior has independent elements.
    """

    def __init__(self, x_dim=5, latent_dim=2, noise=0.7, seed=0):
        rng = np.random.default_rng(seed)
        columns, _ = np.linalg.qr(rng.normal(size=(x_dim, latent_dim)))
        self.loadings = columns * np.linspace(0.8, 1.9, latent_dim)
        self.mean = self.offset = rng.normal(size=x_dim)
        self.noise = np.full(x_dim, noise)
        precision = 1 + np.sum(self.loadings**2, axis=0) / noise**2
        self.posterior_scale = precision**-0.5
        self.posterior_map = self.loadings.T / (noise**2 * precision[:, None])
        self.cov = self.loadings @ self.loadings.T + noise**2 * np.eye(x_dim)

    def encoder(self, shift=0.0, stretch=1.0, **kwargs):
        """The exact posterior, or moved by `shift` and widened by `stretch`."""
        offset = shift - self.posterior_map @ self.offset
        scale = stretch * self.posterior_scale
        return affine_normal(self.posterior_map, offset, scale, **kwargs)

    def decoder(self, **kwargs):
        return affine_normal(self.loadings, self.offset, self.noise, **kwargs)

    def data(self, count, seed=1):
        rng = np.random.default_rng(seed)
        return rng.multivariate_normal(self.offset, self.cov, count).astype("float32")

    def log_prob(self, x):
        return stats.multivariate_normal(self.offset, self.cov).logpdf(x)


class TwoLayerLinearGaussian:
    """z2 ~ N(0, I), z1 | z2 ~ N(a Q z2 + c, t^2 I), x | z1 linear-Gaussian.

    Q is orthogonal, so p(z1) has independent elements of variance a^2 + t^2 and
    both q(z1|x) and q(z2|z1) can be exact.
    """

    def __init__(self, x_dim=5, latent_dim=2, seed=0):
        rng = np.random.default_rng(seed)
        self.lower = LinearGaussian(x_dim, latent_dim, seed=seed)
        rotation, _ = np.linalg.qr(rng.normal(size=(latent_dim, latent_dim)))
        gain, self.scale_1 = 1.3, 0.6
        self.map_1, self.offset_1 = gain * rotation, rng.normal(size=latent_dim)
        self.var_1 = gain**2 + self.scale_1**2
        noise = self.lower.noise[0]
        loadings = self.lower.loadings
        precision = 1 / self.var_1 + np.sum(loadings**2, axis=0) / noise**2
        self.posterior_scale = precision**-0.5
        self.posterior_map = loadings.T / (noise**2 * precision[:, None])
        self.posterior_offset = (
            self.offset_1 / (self.var_1 * precision)
            - self.posterior_map @ self.lower.offset
        )
        self.mean = loadings @ self.offset_1 + self.lower.offset
        self.cov = self.var_1 * loadings @ loadings.T + noise**2 * np.eye(x_dim)

    def encoder(self):
        back = self.map_1.T / self.var_1
        ones = np.ones(len(self.offset_1))
        return [
            affine_normal(
                self.posterior_map, self.posterior_offset, self.posterior_scale
            ),
            affine_normal(
                back, -back @ self.offset_1, ones * self.scale_1 / self.var_1**0.5
            ),
        ]

    def decoder(self):
        scale = np.full(len(self.offset_1), self.scale_1)
        return [
            self.lower.decoder(),
            affine_normal(self.map_1, self.offset_1, scale),
        ]

    def data(self, count, seed=1):
        rng = np.random.default_rng(seed)
        return rng.multivariate_normal(self.mean, self.cov, count).astype("float32")

    def log_prob(self, x):
        return stats.multivariate_normal(self.mean, self.cov).logpdf(x)
