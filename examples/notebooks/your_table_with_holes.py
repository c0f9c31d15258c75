# %% [markdown]
# # Your table with holes
#
# From a CSV file with missing values to a filled-in CSV file, and to a score for each row.
# The table here is scikit-learn's wines, with a fifth of the entries hidden, so that we can
# check what the model fills in.

# %%
import iwae_tf  # before TensorFlow: it silences the start-up report

# isort: split

import logging
import pathlib
import tempfile

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_wine

from iwae_tf.datasets import tables
from iwae_tf.networks import MLP

logging.getLogger("tensorflow").setLevel("ERROR")

# %% [markdown]
# Change these numbers for a shorter or a longer run.

# %% tags=["parameters"]
EPOCHS = 200
NUM_SAMPLES = 500  # draws for each row

# %% [markdown]
# ## A table with holes
#
# 178 wines: 13 measurements, and the cultivar as text.

# %%
wine = load_wine(as_frame=True)
full = wine.data.assign(cultivar=wine.target.map(dict(enumerate("ABC"))))
rng = np.random.default_rng(0)
is_hidden = rng.uniform(size=full.shape) < 0.2
folder = pathlib.Path(tempfile.mkdtemp())
full.mask(is_hidden).to_csv(folder / "wine.csv", index=False)
print(pd.read_csv(folder / "wine.csv").iloc[:5, [0, 1, 2, 12, 13]])

# %% [markdown]
# ## What the columns are
#
# Numbers are normal and text is categorical, unless you say otherwise. Loc and scale come from
# the observed entries. `x` keeps raw units, and NaN is a missing value.

# %%
schema = tables.infer_schema(folder / "wine.csv", {"proline": "lognormal"})
x = tables.encode(folder / "wine.csv", schema)
for column in schema.columns[-3:]:
    print(column)

# %% [markdown]
# ## A model of it
#
# `missing="marginalize_with_mask"` trains on a bound on the log-density of the observed
# entries. The encoder also receives a mask that says which ones are observed. Every fifth row is kept for validation.

# %%
keras.utils.set_random_seed(0)
is_validation = np.arange(len(x)) % 5 == 0
model = iwae_tf.IWAE(
    MLP([64, 64], (2 * 5,)),
    MLP([64, 64], (schema.num_parameters,)),
    likelihood="mixed",
    schema=schema,
    missing="marginalize_with_mask",
    num_samples=20,
    gradient_estimator="dreg",
)
model.compile(keras.optimizers.Adam(1e-3))
history = model.fit(
    x[~is_validation],
    validation_data=x[is_validation],
    batch_size=32,
    epochs=EPOCHS,
    verbose=0,
    callbacks=[
        keras.callbacks.EarlyStopping(
            "val_bound", mode="max", patience=EPOCHS, restore_best_weights=True
        )
    ],
).history
plt.figure(figsize=(5, 3))
plt.plot(history["bound"], label="training rows")
plt.plot(history["val_bound"], label="validation rows")
plt.xlabel("epoch")
plt.ylabel("bound on log p(x_observed), nats")
plt.ylim(min(history["val_bound"][min(20, EPOCHS - 1)], -30), None)
plt.legend()
plt.show()

# %% [markdown]
# ## The holes filled in
#
# `impute` gives the mean of the missing entries, given the observed ones, and draws of them.
# The new file has the columns and the categories of the first one.

# %%
filled = iwae_tf.impute(model, x, NUM_SAMPLES, num_imputations=20)
table = tables.decode(filled.x, schema).to_pandas()
table.to_csv(folder / "filled.csv", index=False)
truth = tables.encode(full, schema)
scale = np.array([column.scale for column in schema.columns])
numeric = [c for c, column in enumerate(schema.columns) if column.kind == "normal"]
hidden = is_hidden[:, numeric]
observed_mean = np.nanmean(x, axis=0)
errors = {
    "this model": filled.x - truth,
    "mean of the column": np.where(is_hidden, observed_mean, x) - truth,
}
for name, error in errors.items():
    error = (error / scale)[:, numeric][hidden]
    print(
        f"{name:>18}: root of the mean squared error {np.sqrt(np.mean(error**2)):.2f}"
    )
right = table.cultivar == full.cultivar
print(f"{right[is_hidden[:, -1]].mean():.0%} of the hidden cultivars are right")

# %% [markdown]
# The draws say how certain the model is: their spread is the width of the bars.

# %%
spread = filled.draws.std(axis=0)
place = schema.names.index("flavanoids")
rows = is_hidden[:, place]
plt.figure(figsize=(4, 4))
plt.errorbar(
    truth[rows, place],
    filled.x[rows, place],
    yerr=spread[rows, place],
    fmt=".",
    elinewidth=0.5,
)
ends = [truth[:, place].min(), truth[:, place].max()]
plt.plot(ends, ends, color="grey", linewidth=0.5)
plt.xlabel("hidden value of flavanoids")
plt.ylabel("filled in")
plt.show()

# %% [markdown]
# ## Scores, as a server gives them
#
# The SavedModel takes raw rows, also those with missing values. If TensorFlow Serving serves
# it, use `endpoint=` instead of `saved_model=`. We compare wines with rows whose columns are
# shuffled: each column alone looks right, but together they do not.

# %%
exported = iwae_tf.export_saved_model(model, folder / "model", NUM_SAMPLES)
shuffled = rng.permuted(x, axis=0)
scores = {
    name: iwae_tf.serving.score(
        values, saved_model=exported, num_samples=NUM_SAMPLES
    ).estimate
    for name, values in {"wines": x[is_validation], "shuffled": shuffled}.items()
}
plt.figure(figsize=(5, 3))
for name, values in scores.items():
    plt.hist(values, bins=20, alpha=0.6, density=True, label=name)
plt.xlabel("log p(x_observed), nats")
plt.legend()
plt.show()
above = np.mean(scores["wines"][:, np.newaxis] > scores["shuffled"])
print(f"a wine scores above a shuffled row in {above:.0%} of the pairs")
