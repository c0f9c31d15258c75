# %% [markdown]
# # Comparing bounds
#
# Five bounds on log p(x), the same networks, the same data and the same eight draws an
# image:
#
# | class | maximises |
# | --- | --- |
# | `VAE` | mean log w |
# | `IWAE` | log mean w |
# | `MIWAE` | mean over two groups of log mean over four of w |
# | `CIWAE` | half of the VAE's bound, half of the IWAE's |
# | `PIWAE` | decoder: that of IWAE; encoder: that of MIWAE |
#
# A bound is not comparable with another one: the judge is log p(x) of test images, which
# the same estimator gives for all of them.

# %%
import iwae_tf  # before TensorFlow: it silences the start-up report

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np

from iwae_tf.networks import MLP

# %% tags=["parameters"]
EPOCHS = 30
NUM_SAMPLES = 1000  # draws an image of the estimate of log p(x)
NUM_TEST = 500  # test images
COUNTS = (1, 3, 10, 30, 100)  # draws inside of the log, for the last figure

# %%
train = iwae_tf.load_dataset("mnist5k", split="train", batch_size=50, shuffle=True)
validation = iwae_tf.load_dataset("mnist5k", split="validation", batch_size=100)
test = iwae_tf.load_dataset("mnist5k", split="test", binarization="fixed")
images = np.stack([x for x, _ in test.take(NUM_TEST).as_numpy_iterator()])


def make_models():
    """The five models, each with networks that start from the same weights."""

    def networks():
        return MLP([200, 200], (2 * 20,), seed=1), MLP([200, 200], (28, 28, 1), seed=2)

    options = {"binarization": "dynamic", "gradient_estimator": "dreg"}
    return {
        "VAE": iwae_tf.VAE(*networks(), num_samples=8, **options),
        "IWAE": iwae_tf.IWAE(*networks(), num_samples=8, **options),
        "MIWAE": iwae_tf.MIWAE(*networks(), num_groups=2, num_samples=4, **options),
        "CIWAE": iwae_tf.CIWAE(*networks(), num_samples=8, beta=0.5, **options),
        "PIWAE": iwae_tf.PIWAE(*networks(), num_groups=2, num_samples=4, **options),
    }


# %% [markdown]
# The gradient estimator is DReG for all of them (for the VAE that is "sticking the
# landing"): the plain estimator's signal for the encoder drowns in noise as more draws go
# inside the log.

# %%
models, curves = make_models(), {}
for name, model in models.items():
    keras.utils.set_random_seed(0)
    model.compile(optimizer=keras.optimizers.Adam(2e-3))
    fitted = model.fit(
        train, epochs=EPOCHS, validation_data=validation, shuffle=False, verbose=0
    )  # the data set shuffles itself
    curves[name] = fitted.history["val_iwae"]

plt.figure(figsize=(7, 4))
for name, curve in curves.items():
    plt.plot(range(1, EPOCHS + 1), curve, label=name)
plt.xlabel("epoch")
plt.ylabel("IWAE bound of 8 draws,\nvalidation (nats)")
plt.ylim(min(curve[len(curve) // 4] for curve in curves.values()), None)
plt.legend()
plt.show()

# %% [markdown]
# ## The table
#
# NLL is minus log p(x), lower is better. All models see the same test images, so that their
# differences are known much better than the NLL itself: "worse than the best by" has the
# standard error of the paired differences. -KL(Q||P) is the gap between the bound of 8 draws
# and log p(x): how well q fits the posterior.

# %%
found = {
    name: iwae_tf.log_likelihood(model, images, num_samples=NUM_SAMPLES)
    for name, model in models.items()
}
bounds = {
    name: np.mean(
        iwae_tf.log_likelihood(model, images, num_samples=8, seed=(1, 1)).estimate
    )
    for name, model in models.items()
}
best = max(found, key=lambda name: found[name].estimate.mean())
print(f"{'':>6} {'NLL':>7} {'worse than ' + best + ' by':>22} {'-KL':>6} {'active':>7}")
for name, result in found.items():
    difference = found[best].estimate - result.estimate
    error = difference.std() / len(images) ** 0.5
    units = iwae_tf.active_units(models[name], images)[0]
    gap = bounds[name] - result.estimate.mean()
    print(
        f"{name:>6} {-result.estimate.mean():7.2f} {difference.mean():14.2f} +- {error:.2f}"
        f"  {gap:6.2f} {units:7d}"
    )

# %% [markdown]
# One seed and 4,000 training images show how to compare, not which bound is best. The
# studies of `iwae_tf.reproduce` do this with the papers' networks on all of MNIST.
#
# ## More draws inside of the log
#
# The bound against the number of draws: one draw is what the VAE was trained for. The IWAE,
# which was trained with eight, gains more from further ones.

# %%
plt.figure(figsize=(7, 3.5))
for name in ("VAE", "IWAE"):
    values = [
        np.mean(iwae_tf.log_likelihood(models[name], images, k, (2, k)).estimate)
        for k in COUNTS
    ]
    plt.plot(COUNTS, values, "o-", label=name)
plt.xscale("log")
plt.xlabel("K, draws inside of the log")
plt.ylabel("bound (nats)")
plt.legend()
plt.show()
