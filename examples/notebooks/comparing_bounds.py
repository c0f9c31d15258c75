# %% [markdown]
# # Comparing bounds
#
# Five bounds on log p(x), with the same networks, the same data and the same number of draws,
# eight for each image:
#
# | class | maximises |
# | --- | --- |
# | `VAE` | mean log w |
# | `IWAE` | log mean w |
# | `MIWAE` | mean over two groups of log mean w of four draws |
# | `CIWAE` | half the VAE's bound plus half the IWAE's bound |
# | `PIWAE` | decoder: the IWAE's bound; encoder: the MIWAE's bound |
#
# Different bounds cannot be compared with each other. We compare log p(x) of test images, with
# one estimator for all models.
#
# Import `iwae_tf` first: it hides TensorFlow's start-up messages.

# %%
import iwae_tf  # before TensorFlow: it silences the start-up report

# %% [markdown]
# The other libraries.

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np

from iwae_tf.networks import MLP

# %% [markdown]
# Change these numbers for a shorter or a longer run.

# %% tags=["parameters"]
EPOCHS = 30
NUM_SAMPLES = 1000  # draws for each image, to estimate log p(x)
NUM_TEST = 500  # test images
COUNTS = (1, 3, 10, 30, 100)  # draws inside the log, for the last figure

# %% [markdown]
# The data, and five models whose networks start from the same weights.

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
# All use the DReG gradient estimator (for the VAE it equals "sticking the landing"). With the
# plain estimator, the encoder's signal gets lost in noise when more draws are inside the log.
#
# In the figure, the VAE ends lowest, and the bounds with some weight outside the log (MIWAE,
# CIWAE, PIWAE) end highest.

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
# NLL is minus log p(x); lower is better. All models see the same test images, so their
# differences are known much better than the NLL itself. The column "worse than" has the
# differences and their standard errors. -KL is the gap between the bound of 8 draws and
# log p(x). Closer to zero means that q fits the posterior better.

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
# ## More draws inside the log
#
# The next figure shows the bound against the number of draws. The VAE was trained for one
# draw. The IWAE was trained with eight and gains more from additional draws.

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
