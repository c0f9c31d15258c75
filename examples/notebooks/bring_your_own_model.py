# %% [markdown]
# # Bring your own model
#
# Any Keras layers or models can be an encoder and a decoder. This notebook trains small
# convolutional networks on Fashion-MNIST. TensorFlow Datasets downloads it on first use. Without
# internet access, set `DATASET = "mnist5k"`.
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
from keras import layers

# %% [markdown]
# Change these for other data, or for a shorter or a longer run.

# %% tags=["parameters"]
DATASET = "fashion_mnist"
NUM_TRAIN = 6000  # images of the training split
EPOCHS = 8
NUM_SAMPLES = 200  # draws for each image, to estimate log p(x)
NUM_TEST = 200  # test images

# %% [markdown]
# The images as arrays.


# %%
def arrays(split, count, binarization="none"):
    """The first images and labels of a split."""
    data = iwae_tf.load_dataset(DATASET, split=split, binarization=binarization)
    rows = data.take(count).as_numpy_iterator()
    return [np.stack(each) for each in zip(*rows, strict=True)]


x_train, _ = arrays("train", NUM_TRAIN)
x_test, y_test = arrays("test", NUM_TEST, binarization="fixed")

# %% [markdown]
# ## Networks
#
# The encoder maps x to loc and log_scale of q(z|x), concatenated. The decoder maps z to the
# logits of p(x|z), in the shape of x. Nothing else is required.

# %%
LATENT_DIM = 16

keras.utils.set_random_seed(0)
encoder = keras.Sequential(
    [
        layers.Input((28, 28, 1)),
        layers.Conv2D(16, 3, strides=2, padding="same", activation="gelu"),
        layers.Conv2D(32, 3, strides=2, padding="same", activation="gelu"),
        layers.Flatten(),
        layers.Dense(2 * LATENT_DIM),
    ]
)
decoder = keras.Sequential(
    [
        layers.Input((LATENT_DIM,)),
        layers.Dense(7 * 7 * 32, activation="gelu"),
        layers.Reshape((7, 7, 32)),
        layers.Conv2DTranspose(16, 3, strides=2, padding="same", activation="gelu"),
        layers.Conv2DTranspose(1, 3, strides=2, padding="same"),
    ]
)
model = iwae_tf.IWAE(encoder, decoder, num_samples=4, binarization="dynamic")

# %% [markdown]
# It is a Keras model, with the callbacks, optimisers and learning-rate schedules of Keras.
# Batch normalisation works, but it mixes the examples of a batch; group and layer
# normalisation do not. XLA, the default, is slow for convolutions on a CPU, so
# `jit_compile=False` runs the same steps as a TensorFlow graph.
#
# In the figure, the validation curve follows the training curve closely: the model does not
# overfit yet.

# %%
model.compile(keras.optimizers.Adam(2e-3), jit_compile=False)
history = model.fit(
    x_train,
    batch_size=100,
    epochs=EPOCHS,
    validation_split=0.1,
    callbacks=[keras.callbacks.ReduceLROnPlateau("val_loss", patience=2)],
    verbose=0,
).history
plt.figure(figsize=(7, 3))
plt.plot(range(1, EPOCHS + 1), history["bound"], label="training")
plt.plot(range(1, EPOCHS + 1), history["val_bound"], "--", label="validation")
plt.xlabel("epoch")
plt.ylabel("IWAE bound (nats)")
plt.legend()
plt.show()

# %% [markdown]
# ## What has it learned?
#
# The reconstructions keep the shape of the clothes and lose their texture. The last row is drawn
# from the prior.

# %%
result = iwae_tf.log_likelihood(model, x_test, num_samples=NUM_SAMPLES)
print(
    f"test NLL {-result.estimate.mean():.1f} nats on {len(x_test)} images of {DATASET}"
)


def show(rows, titles):
    """Rows of images, one above the other."""
    figure, axes = plt.subplots(len(rows), len(rows[0]), figsize=(10, len(rows) + 0.3))
    for row, title, axes_of_row in zip(rows, titles, axes, strict=True):
        for image, ax in zip(row, axes_of_row, strict=True):
            ax.imshow(np.squeeze(image), cmap="gray_r", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
        axes_of_row[0].set_ylabel(title, rotation=0, ha="right", va="center")
    plt.show()


show(
    [
        x_test[:10],
        model.reconstruct(x_test[:10], (0, 1)),
        model.sample(10, (0, 2), mean=True),
    ],
    ["test images", "reconstructions", "from the prior"],
)

# %% [markdown]
# `encode` and `decode` return TensorFlow Probability distributions. The figure shows the
# posterior means of the test images on their first two principal components. Shoes, shirts and
# trousers separate, although the model has never seen a label.

# %%
means = np.asarray(model.encode(x_test).mean())
centred = means - means.mean(axis=0)
_, _, directions = np.linalg.svd(centred, full_matrices=False)
points = centred @ directions[:2].T
plt.figure(figsize=(5, 4.2))
plt.scatter(*points.T, c=y_test, cmap="tab10", s=14)
plt.colorbar(label="label")
plt.xlabel("component 1")
plt.ylabel("component 2")
plt.show()
