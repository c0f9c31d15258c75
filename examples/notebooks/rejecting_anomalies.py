# %% [markdown]
# # Rejecting anomalies
#
# Score images with a model that ships, reject those of low log p(x), and see where that
# works and where it does not. It needs a checkout of the repository, for `examples/auroc.py`.

# %%
import pathlib
import sys

import matplotlib.pyplot as plt
import numpy as np

import iwae_tf

# %%
here = pathlib.Path.cwd()
checkout = [f for f in (here, *here.parents) if (f / "examples/auroc.py").is_file()]
sys.path.insert(0, str(checkout[0]))
from examples.auroc import auroc

# %% tags=["parameters"]
MODEL = "mnist5k-iwae-k5"
NUM_IMAGES = 300  # of each kind
NUM_SAMPLES = 500  # draws an image

# %% [markdown]
# ## Images
#
# Digits that the model has not seen, and four kinds that are no digits: digits turned by a
# quarter, digits with half of their ink, noise of the same mean, and empty images. The made
# ones are of the validation split: no image is in two sets.

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
# `iwae_tf.serving.score` runs the SavedModel in this process; with `endpoint=` instead of
# `saved_model=` it asks TensorFlow Serving.

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
plt.xlabel("log p(x) (nats); what is lower is in the first bar")
plt.ylabel("images (log scale)")
plt.yscale("log")
plt.legend()
plt.show()

# %% [markdown]
# ## How many are caught?
#
# AUROC: the probability that a digit scores above an anomaly. "far from typical" scores by
# the distance from the median of the digits instead: it catches what is too likely as
# well. "ink" asks no model, but counts pixels.

# %%
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
    cells = [f"{each.value:.3f} +- {each.standard_error:.3f}" for each in judged]
    print(f"{name:>16} {' '.join(cell.rjust(16) for cell in cells)}")

# %% [markdown]
# Turned digits and noise are found. An empty image has a *higher* likelihood than any
# digit, so that "reject what is unlikely" keeps it; the distance from the typical value
# finds it. Digits with half of their ink are told better by counting pixels than by either
# score. `docs/anomaly_detection.md` has the same on larger sets, and a case where a model
# prefers another data set to its own.
