# %% [markdown]
# # Rejecting anomalies
#
# Score images with a trained model of the package, reject images with a low log p(x), and see
# where this works and where it fails.

# %%
import matplotlib.pyplot as plt
import numpy as np

import iwae_tf

# %% [markdown]
# Change these numbers for a shorter or a longer run.

# %% tags=["parameters"]
MODEL = "mnist5k-iwae-k5"
NUM_IMAGES = 300  # of each kind
NUM_SAMPLES = 500  # draws for each image

# %% [markdown]
# ## Images
#
# Digits that the model has not seen, and four kinds of anomalies: digits turned by 90 degrees,
# digits with half of their ink, noise with the same mean, and empty images. The anomalies are
# made from the validation split, so no image is in two sets.

# %%
rng = np.random.default_rng(0)


def grey(split):
    """Grey images of a split."""
    rows = iwae_tf.load_dataset("mnist5k", split=split).take(NUM_IMAGES)
    return np.stack([x for x, _ in rows.as_numpy_iterator()])


def draw(probabilities):
    """Binary pixels."""
    return (rng.random(probabilities.shape) < probabilities).astype(np.float32)


others = grey("validation")
sets = {
    "digits": draw(grey("test")),
    "turned": draw(np.rot90(others, axes=(1, 2))),
    "half of the ink": draw(0.5 * others),
    "noise": draw(np.full_like(others, others.mean())),
    "empty": np.zeros_like(others),
}
figure, axes = plt.subplots(len(sets), 8, figsize=(7, len(sets)))
for (name, images), row in zip(sets.items(), axes, strict=True):
    for image, ax in zip(images, row, strict=False):
        ax.imshow(np.squeeze(image), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
plt.show()

# %% [markdown]
# ## Scores
#
# `iwae_tf.serving.score` runs the SavedModel in this process. With `endpoint=` instead of
# `saved_model=` it asks TensorFlow Serving. In the figure, look at the empty images: they have
# a higher likelihood than any digit.

# %%
exported = iwae_tf.pretrained_models()[MODEL].path
scores = {
    name: iwae_tf.serving.score(
        images, saved_model=exported, num_samples=NUM_SAMPLES
    ).estimate
    for name, images in sets.items()
}
plt.figure(figsize=(8, 3.5))
low = scores["digits"].min() - np.ptp(scores["digits"])
bins = np.linspace(low, max(values.max() for values in scores.values()) + 1, 60)
for name, values in scores.items():
    plt.hist(np.maximum(values, low), bins, alpha=0.5, label=name)
plt.xlabel("log p(x) (nats); the first bar includes everything below it")
plt.ylabel("images (log scale)")
plt.yscale("log")
plt.legend(loc="upper left", bbox_to_anchor=(0.1, 1))
plt.show()

# %% [markdown]
# ## How many are caught?
#
# AUROC is the probability that a digit scores above an anomaly: 1 is perfect, 0.5 is a coin.
# "far from typical" scores by the distance from the median of the digits, so it also catches
# images that are too likely. "ink" uses no model and only counts pixels. The errors are those
# of DeLong et al. (1988).


# %%
def auroc(normal, anomalies):
    """The share of pairs in which the normal image scores higher, and its error."""
    pairs = normal[:, None]
    wins = (pairs > anomalies) + 0.5 * (pairs == anomalies)
    variances = [wins.mean(axis).var(ddof=1) / wins.shape[1 - axis] for axis in (0, 1)]
    return wins.mean(), np.sqrt(sum(variances))


centre = np.median(scores["digits"][::2])  # half of the digits, left out below
digits, ink_of_digits = scores["digits"][1::2], sets["digits"][1::2].sum((1, 2, 3))
print(f"{'':>16} {'log p(x)':>16} {'far from typical':>16} {'ink':>16}")
for name in list(sets)[1:]:
    values, ink = scores[name], sets[name].sum((1, 2, 3))
    judged = [
        auroc(digits, values),
        auroc(-np.abs(digits - centre), -np.abs(values - centre)),
        auroc(ink_of_digits, ink),
    ]
    cells = [f"{value:.3f} +- {error:.3f}" for value, error in judged]
    print(f"{name:>16} {' '.join(cell.rjust(16) for cell in cells)}")

# %% [markdown]
# Turned digits and noise are found. An empty image has a *higher* likelihood than any digit, so
# a low log p(x) does not reject it; the distance from the typical value does. For digits with
# half of their ink, counting pixels works better than either score.
# `docs/anomaly_detection.md` has the same for larger sets, and a case where a model gives
# higher scores to another data set than to its own.
