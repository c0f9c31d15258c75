"""Models whose log p(x) and posterior are known, built from plain Dense layers.

Where a model is given labels, each mean and offset has a row a class.
"""

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
    """Dense layer for loc = weights @ input + offset and a constant scale [D].

    Where `offset` is [classes, D], one-hot labels follow the input.
    """
    if np.ndim(offset) == 2:
        weights, offset = np.concatenate([weights, offset.T], axis=1), 0 * scale
    kernel = np.concatenate([weights.T, np.zeros_like(weights.T)], axis=1)
    return dense(kernel, np.concatenate([offset, np.log(scale)]), **kwargs)


def rotation(rng, size):
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


class LinearGaussian:
    """z ~ N(m, t^2), x | z ~ N(W z + b, s^2 I) with orthogonal columns of W.

    W^T W is diagonal, so the posterior has independent elements. Here m = 0, t = 1.
    """

    num_layers = 1

    def __init__(self, x_dim=5, latent_dim=2, noise=0.7, seed=0):
        rng = np.random.default_rng(seed)
        columns, _ = np.linalg.qr(rng.normal(size=(x_dim, latent_dim)))
        self.loadings = columns * np.linspace(0.8, 1.9, latent_dim)
        self.offset = rng.normal(size=x_dim)
        self.noise = np.full(x_dim, noise)
        self.means, self.spread = np.zeros(latent_dim), np.ones(latent_dim)

    @property
    def posterior_scale(self):
        squares = np.sum(self.loadings**2, axis=0)
        return (self.spread**-2 + squares / self.noise[0] ** 2) ** -0.5

    @property
    def posterior_map(self):
        return (self.loadings * (self.posterior_scale / self.noise[0]) ** 2).T

    @property
    def posterior_offset(self):
        pull = self.means * (self.posterior_scale / self.spread) ** 2
        return pull - self.offset @ self.posterior_map.T

    @property
    def mean(self):
        """E[x], or E[x|y] of each class."""
        return self.means @ self.loadings.T + self.offset

    @property
    def cov(self):
        return self.loadings * self.spread**2 @ self.loadings.T + np.diag(self.noise**2)

    def encoder(self, shift=0.0, stretch=1.0, **kwargs):
        """The exact posterior, or moved by `shift` and widened by `stretch`."""
        offset, scale = self.posterior_offset + shift, stretch * self.posterior_scale
        return affine_normal(self.posterior_map, offset, scale, **kwargs)

    def decoder(self, **kwargs):
        return affine_normal(self.loadings, self.offset, self.noise, **kwargs)

    def data(self, count, seed=1):
        rng = np.random.default_rng(seed)
        return rng.multivariate_normal(self.mean, self.cov, count).astype("float32")

    def log_prob(self, x):
        return stats.multivariate_normal(self.mean, self.cov).logpdf(x)


class ConditionalLinearGaussian(LinearGaussian):
    """z | y ~ N(m_y, t^2), x | z, y ~ N(W z + b_y, s^2 I), t a vector.

    The posterior's loc is affine in (x, one-hot y), so one Dense layer is exact.
    """

    def __init__(self, x_dim=5, latent_dim=2, num_classes=3, seed=0, has_prior=True):
        super().__init__(x_dim, latent_dim, seed=seed)
        rng = np.random.default_rng(seed)
        self.num_classes, self.has_prior = num_classes, has_prior
        self.offset = 0.8 * rng.normal(size=(num_classes, x_dim))
        self.means = 1.5 * rng.normal(size=(num_classes, latent_dim))
        self.spread = np.linspace(0.5, 1.4, latent_dim)
        if not has_prior:
            self.means, self.spread = 0 * self.means, np.ones(latent_dim)

    def prior(self):
        """The layer from one-hot labels to the top latents, if it is not N(0, I)."""
        if not self.has_prior:
            return None
        return affine_normal(self.means.T, 0 * self.spread, self.spread)

    def data(self, count, seed=1):
        """x float32 [count, X] and labels [count]."""
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, self.num_classes, count)
        x = rng.multivariate_normal(np.zeros(len(self.noise)), self.cov, count)
        return (x + self.mean[labels]).astype("float32"), labels

    def log_prob(self, x, labels):
        """log p(x|y) of each row, [N]."""
        return stats.multivariate_normal(cov=self.cov).logpdf(x - self.mean[labels])


class TwoLayers:
    """z2 ~ N(m, I), z1 | z2 ~ N(A z2 + c, t^2 I), and x | z1 of the class it is beside.

    A = a Q with an orthogonal Q, so p(z1) has independent elements of variance
    a^2 + t^2, and both q(z1|x) and q(z2|z1) can be exact.
    """

    num_layers = 2

    def add_layer(self, top_mean, seed):
        rng = np.random.default_rng(seed)
        self.top_mean, self.top_scale = top_mean, np.ones(top_mean.shape[-1])
        gain, self.scale_1 = 1.3, 0.6
        self.map_1 = gain * rotation(rng, len(self.top_scale))
        self.offset_1 = rng.normal(size=top_mean.shape)
        self.var_1 = gain**2 + self.scale_1**2
        self.means = top_mean @ self.map_1.T + self.offset_1  # of z1
        self.spread = self.top_scale * self.var_1**0.5

    def encoder(self):
        back = self.map_1.T / self.var_1
        offset = self.top_mean - self.means @ back.T
        return [
            super().encoder(),
            affine_normal(back, offset, self.top_scale * self.scale_1 / self.spread),
        ]

    def decoder(self):
        scale = self.top_scale * self.scale_1
        return [super().decoder(), affine_normal(self.map_1, self.offset_1, scale)]


class TwoLayerLinearGaussian(TwoLayers, LinearGaussian):
    def __init__(self, x_dim=5, latent_dim=2, seed=0):
        super().__init__(x_dim, latent_dim, seed=seed)
        self.add_layer(np.zeros(latent_dim), seed)


class TwoLayerConditionalLinearGaussian(TwoLayers, ConditionalLinearGaussian):
    def __init__(self, x_dim=5, latent_dim=2, num_classes=3, seed=0):
        super().__init__(x_dim, latent_dim, num_classes, seed)
        self.add_layer(self.means, seed + 1)

    def prior(self):
        return affine_normal(self.top_mean.T, 0 * self.top_scale, self.top_scale)
