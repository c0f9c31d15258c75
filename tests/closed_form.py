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


class ConditionalLinearGaussian:
    """z | y ~ N(m_y, t^2), x | z, y ~ N(W z + b_y, s^2 I), t a vector.

    The posterior's loc is affine in (x, one-hot y), so one Dense layer is exact.
    """

    num_layers = 1

    def __init__(self, x_dim=5, latent_dim=2, num_classes=3, seed=0, has_prior=True):
        rng = np.random.default_rng(seed)
        base = LinearGaussian(x_dim, latent_dim, seed=seed)
        self.loadings, self.noise = base.loadings, base.noise
        self.num_classes = num_classes
        self.offsets = 0.8 * rng.normal(size=(num_classes, x_dim))
        self.means = 1.5 * rng.normal(size=(num_classes, latent_dim))
        self.spread = np.linspace(0.5, 1.4, latent_dim)
        if not has_prior:
            self.means, self.spread = 0 * self.means, np.ones(latent_dim)
        self.has_prior = has_prior
        self.cov = self.loadings * self.spread**2 @ self.loadings.T
        self.cov += np.diag(self.noise**2)

    def encoder(self):
        gain = self.loadings / self.noise[0] ** 2
        precision = self.spread**-2 + np.sum(self.loadings * gain, axis=0)
        from_x = gain.T / precision[:, None]
        from_y = self.means / (self.spread**2 * precision) - self.offsets @ from_x.T
        weights = np.concatenate([from_x, from_y.T], axis=1)
        return affine_normal(weights, np.zeros(len(precision)), precision**-0.5)

    def decoder(self):
        weights = np.concatenate([self.loadings, self.offsets.T], axis=1)
        return affine_normal(weights, np.zeros(len(self.noise)), self.noise)

    def prior(self):
        if not self.has_prior:
            return None
        return affine_normal(self.means.T, np.zeros(len(self.spread)), self.spread)

    def data(self, count, seed=1):
        """x float32 [count, X] and labels [count]."""
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, self.num_classes, count)
        x = rng.multivariate_normal(np.zeros(len(self.noise)), self.cov, count)
        return (x + self.x_means[labels]).astype("float32"), labels

    @property
    def x_means(self):
        """E[x|y], [num_classes, X]."""
        return self.means @ self.loadings.T + self.offsets

    def log_prob(self, x, labels):
        """log p(x|y) of each row, [N]."""
        centred = x - self.x_means[labels]
        return stats.multivariate_normal(cov=self.cov).logpdf(centred)


class TwoLayerConditionalLinearGaussian(ConditionalLinearGaussian):
    """z2 | y ~ N(m_y, I), z1 | z2, y ~ N(A z2 + c_y, t^2 I), x | z1, y as above.

    A = a Q with an orthogonal Q, so that both posteriors have independent elements.
    """

    num_layers = 2

    def __init__(self, x_dim=5, latent_dim=2, num_classes=3, seed=0):
        super().__init__(x_dim, latent_dim, num_classes, seed)
        rng = np.random.default_rng(seed + 1)
        rotation, _ = np.linalg.qr(rng.normal(size=(latent_dim, latent_dim)))
        gain, self.scale_1 = 1.3, 0.6
        self.map_1 = gain * rotation
        self.offsets_1 = rng.normal(size=(num_classes, latent_dim))
        self.top_means, self.top_scale = self.means, np.ones(latent_dim)
        # Of z1 given y, from which the parts that are inherited follow.
        self.means = self.top_means @ self.map_1.T + self.offsets_1
        self.spread = np.full(latent_dim, np.sqrt(gain**2 + self.scale_1**2))
        self.cov = self.loadings * self.spread**2 @ self.loadings.T
        self.cov += np.diag(self.noise**2)

    def encoder(self):
        back = self.map_1.T / self.spread[0] ** 2
        from_y = self.top_means - self.means @ back.T
        weights = np.concatenate([back, from_y.T], axis=1)
        scale = self.top_scale * self.scale_1 / self.spread[0]
        upper = affine_normal(weights, np.zeros(len(scale)), scale)
        return [super().encoder(), upper]

    def decoder(self):
        weights = np.concatenate([self.map_1, self.offsets_1.T], axis=1)
        scale = np.full(len(self.map_1), self.scale_1)
        return [super().decoder(), affine_normal(weights, 0 * scale, scale)]

    def prior(self):
        return affine_normal(self.top_means.T, 0 * self.top_scale, self.top_scale)
