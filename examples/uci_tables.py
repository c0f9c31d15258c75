"""Tables of scikit-learn: hidden entries filled in, densities and anomalies.

python -m examples.uci_tables --output=docs/tables/results.json

Needs scikit-learn. Nothing is tuned on what is reported: hyperparameters of all density
models are chosen on a fifth of the training rows, and those of imputation are fixed.
"""

import json
import pathlib
import warnings

import keras
import numpy as np
from absl import flags

import iwae_tf
from iwae_tf import cli
from iwae_tf.datasets import tables
from iwae_tf.networks import MLP

_OUTPUT = flags.DEFINE_string("output", "docs/tables/results.json", "JSON file.")
_SEEDS = flags.DEFINE_integer("seeds", 5, "Splits and masks.")
_STEPS = flags.DEFINE_integer("steps", 1500, "Training steps of a model.")
_DRAWS = flags.DEFINE_integer("draws", 1000, "Draws for each row.")
TABLES = ("breast_cancer", "wine", "diabetes", "digits")
INLIERS = {"breast_cancer": (1,), "wine": (0, 1)}  # classes; the others are anomalies
_TABLES = flags.DEFINE_list("tables", [*TABLES], "Which of the tables.")
HIDDEN = 0.5  # share of the entries
BATCH = 64


def load(name):
    """x [rows, columns] and classes, without columns of (almost) one value."""
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    most = [np.unique(column, return_counts=True)[1].max() for column in x.T]
    return x[:, np.array(most) < 0.98 * len(x)], y


def train(x, schema, seed, validation=None, missing="marginalize_with_mask"):
    """An IWAE of normal columns; with validation rows, as it was best on them."""
    latent_dim = min(10, x.shape[1] // 2)
    model = iwae_tf.IWAE(
        MLP([128, 128], (2 * latent_dim,), seed=seed),
        MLP([128, 128], (schema.num_parameters,), seed=seed + 1),
        likelihood="mixed",
        schema=schema,
        missing=missing,
        num_samples=20,
        gradient_estimator="dreg",
        seed=(seed, 0),
    )
    rate = keras.optimizers.schedules.CosineDecay(2e-3, _STEPS.value, alpha=0.02)
    model.compile(keras.optimizers.Adam(rate), jit_compile=False)
    stop = keras.callbacks.EarlyStopping(
        "val_bound", mode="max", patience=10**6, restore_best_weights=True
    )
    model.fit(
        x.astype("float32"),
        batch_size=BATCH,
        epochs=_STEPS.value // -(-len(x) // BATCH),
        verbose=0,
        validation_data=None if validation is None else validation.astype("float32"),
        callbacks=[] if validation is None else [stop],
    )
    return model


def schema_of(x, kind="normal"):
    return tables.infer_schema(x, dict.fromkeys(tables.as_table(x).column_names, kind))


def with_holes(x, seed):
    """x with half of its entries missing, and which ones."""
    is_hidden = np.random.default_rng(seed).uniform(size=x.shape) < HIDDEN
    return np.where(is_hidden, np.nan, x), is_hidden


def proposals(name, seed):
    """What `impute` finds with the encoder's draws, and with refined ones, by columns.

    The digits' columns are counts, so their model is trained with such columns too.
    """
    x, _ = load(name)
    scale, found = x.std(axis=0), {}
    for kind in ("normal", "negative_binomial") if name == "digits" else ("normal",):
        holed, is_hidden = with_holes(x, seed)
        model = train(holed, schema_of(holed, kind), seed)
        for proposal in ("encoder", "refined"):
            filled = iwae_tf.impute(
                model,
                holed.astype("float32"),
                _DRAWS.value,
                (seed, 1),
                proposal=proposal,
            )
            found[f"{kind}, {proposal}"] = {
                "error": float(np.mean(((filled.x - x) / scale)[is_hidden] ** 2)),
                "effective_sample_size": float(np.median(filled.effective_sample_size)),
                "share_of_k_above_0.7": float(np.mean(filled.pareto_k > 0.7)),
            }
    return found


def impute(name, seed):
    """Mean squared error on the hidden entries of the whole table, by method."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

    x, _ = load(name)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    holed, is_hidden = with_holes(x, seed)
    model = train(holed, schema_of(holed), seed)
    found = iwae_tf.impute(model, holed.astype("float32"), _DRAWS.value, (seed, 1))
    few = {"random_state": seed, "max_iter": 20}
    forest = RandomForestRegressor(10, min_samples_leaf=3, random_state=seed)
    trees = {**few, "max_iter": 2, "n_nearest_features": min(8, x.shape[1])}
    methods = {
        "mean": SimpleImputer(),
        "knn": KNNImputer(n_neighbors=10),
        "iterative": IterativeImputer(**few),
        "forest": IterativeImputer(forest, **trees),
    }
    filled = {method: m.fit_transform(holed) for method, m in methods.items()}
    return {
        **{
            method: float(np.mean((values - x)[is_hidden] ** 2))
            for method, values in ({"iwae": found.x} | filled).items()
        },
        "effective_sample_size": float(np.median(found.effective_sample_size)),
        "share_of_k_above_0.7": float(np.mean(found.pareto_k > 0.7)),
    }


def densities(name, seed):
    """log p of the test rows in raw units, and AUROC of the anomalies, by model."""
    from sklearn.decomposition import PCA
    from sklearn.metrics import roc_auc_score
    from sklearn.mixture import GaussianMixture
    from sklearn.neighbors import KernelDensity

    x, y = load(name)
    rng = np.random.default_rng(seed)
    inside = rng.permutation(x[np.isin(y, INLIERS[name])])
    training, test = np.split(inside, [int(0.8 * len(inside))])
    fitted, held_out = np.split(training, [int(0.8 * len(training))])
    outside = x[~np.isin(y, INLIERS[name])]
    model = train(fitted, schema_of(fitted), seed, held_out, missing="refuse")
    loc, scale = training.mean(axis=0), training.std(axis=0)

    def best(makers):
        """Of some models the best on the held-out rows, fitted to all; in raw units."""
        a, b, c = ((rows - loc) / scale for rows in (fitted, held_out, training))
        maker = max(makers, key=lambda make: make().fit(a).score(b))
        chosen = maker().fit(c)
        jacobian = np.log(scale).sum()
        return lambda rows: chosen.score_samples((rows - loc) / scale) - jacobian

    def mixture(count, kind):
        return GaussianMixture(
            count, covariance_type=kind, reg_covar=1e-3, random_state=seed
        )

    sizes = [k for k in (1, 2, 3, 5, 8, 12, 20) if k < x.shape[1]]
    scorers = {
        "iwae": lambda rows: (
            iwae_tf.log_likelihood(model, rows.astype("float32"), _DRAWS.value).estimate
        ),
        "gaussian_mixture": best(
            [
                lambda k=k, c=c: mixture(k, c)
                for k in (1, 2, 3, 5, 8)
                for c in ("full", "diag")
            ]
        ),
        "kernel_density": best(
            [
                lambda h=h: KernelDensity(bandwidth=h)
                for h in (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
            ]
        ),
        "ppca": best([lambda k=k: PCA(k) for k in sizes]),
    }
    labels = np.r_[np.zeros(len(test)), np.ones(len(outside))]
    found = {}
    for method, score in scorers.items():
        scores = score(np.r_[test, outside])
        found[method] = {
            "log_likelihood": float(np.mean(scores[: len(test)])),
            "auroc": float(roc_auc_score(labels, -scores)),
        }
    return found


def report(results):
    """Lines of Markdown tables: means over the seeds, and their standard errors."""

    def cell(values, form):
        if len(values) == 1:
            return f"{values[0]:{form}}"
        error = np.std(values, ddof=1) / np.sqrt(len(values))
        return f"{np.mean(values):{form}} +- {error:{form}}"

    def of(kind, name):
        return [r for key, r in results.items() if key.startswith(f"{kind}/{name}/")]

    methods = ("iwae", "mean", "knn", "iterative", "forest")
    for name in TABLES:
        found = of("impute", name)
        cells = [cell([run[method] for run in found], ".3f") for method in methods]
        share = np.mean([run["share_of_k_above_0.7"] for run in found])
        yield f"| {name} | {len(found)} | {' | '.join(cells)} | {share:.0%} |"
    for name in TABLES:
        runs = of("proposals", name)
        for way in runs[0]:
            error, size, share = zip(*(run[way].values() for run in runs))
            yield (
                f"| {name} | {len(runs)} | {way} | {cell(error, '.3f')} | "
                f"{np.mean(size):.0f} | {np.mean(share):.1%} |"
            )
    for name in INLIERS:
        for method in ("iwae", "gaussian_mixture", "kernel_density", "ppca"):
            runs = [run[method] for run in of("densities", name)]
            cells = [
                cell([run[key] for run in runs], form)
                for key, form in (("log_likelihood", ".1f"), ("auroc", ".3f"))
            ]
            yield f"| {name} | {len(runs)} | {method} | {' | '.join(cells)} |"


def main():
    """Measures what is not in the file yet, and prints the tables of the page."""
    warnings.simplefilter("ignore")  # of IterativeImputer that has not converged
    path = pathlib.Path(_OUTPUT.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    for measure in (impute, densities, proposals):
        for seed in range(_SEEDS.value):
            for name in _TABLES.value:
                key = f"{measure.__name__}/{name}/{seed}"
                if key in results or (measure is densities and name not in INLIERS):
                    continue
                results[key] = measure(name, seed)
                path.write_text(json.dumps(results, indent=2) + "\n")
                print(key, flush=True)
    if {f"proposals/{name}/0" for name in TABLES} <= {*results}:
        print(*report(results), sep="\n")


def run():
    """The example."""
    cli.run(main)


if __name__ == "__main__":
    run()
