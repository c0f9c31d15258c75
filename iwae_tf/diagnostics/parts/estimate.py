"""The parts that ask whether an estimate of log p(x) can be believed."""

import math

import numpy as np

from iwae_tf import bounds, evaluation, plots
from iwae_tf.diagnostics import annealing, figures, proposals
from iwae_tf.diagnostics import bounds_by_k as sweeps
from iwae_tf.diagnostics.parts.part import BAD, GOOD, PLAIN, WARNING, Part, floats
from iwae_tf.probability.distributions import split_loc_scale

NUM_SHOWN = 10  # images in a row of pictures


# Proposals -------------------------------------------------------------------------


def _measure_proposal(subject, on_progress):
    images, total = subject.images, len(subject.images)
    found = proposals.proposal_quality(
        subject.model,
        images,
        subject.num_samples,
        subject.seed,
        on_progress=lambda done: on_progress(done, total),
    )
    parameters = subject.model.proposal_parameters(subject.model.check_x(images))
    reconstruction = _reconstruction_log_prob(subject.model, images, parameters)
    return {name: values.tolist() for name, values in found._asdict().items()} | {
        "num_samples": subject.num_samples,
        "threshold": proposals.trusted_k(subject.num_samples),
        "reconstruction": reconstruction.tolist(),
    }


def _reconstruction_log_prob(model, images, parameters):
    """log p(x|z1) at the mean of q(z1|x): [N]."""
    loc, _ = split_loc_scale(parameters)
    rows = [
        model.decode(loc[i : i + 100]).log_prob(images[i : i + 100]).numpy()
        for i in range(0, len(images), 100)
    ]
    return np.concatenate(rows)


def _draw_proposal(subject, results, folder):
    drawn = [
        (
            "proposal.png",
            "Left: the shape k of the tail of each image's importance weights. Below "
            "the first line the estimate of log p(x) can be trusted; above 1 the "
            "fitted tail has no mean at all and more draws help slowly. Right: how "
            "many independent draws of the true posterior the weighted draws are "
            "worth.",
        )
    ]
    figures.proposal_quality(
        folder / "proposal.png",
        results["pareto_k"],
        results["effective_sample_size"],
        num_samples=results["num_samples"],
        threshold=results["threshold"],
    )
    if not plots.is_image(subject.images.shape[1:]):
        return drawn
    for name, values, caption in (
        ("least_trusted", -floats(results["pareto_k"]), "largest Pareto k"),
        ("worst_reconstructed", results["reconstruction"], "smallest log p(x|z)"),
    ):
        order = np.argsort(values)[:NUM_SHOWN]
        shown = subject.images[order]
        means = np.clip(subject.model(subject.model.check_x(shown)).numpy(), 0.0, 1.0)
        plots.reconstructions(folder / f"{name}.png", shown, means)
        numbers = ", ".join(map(str, order))
        drawn.append(
            (
                f"{name}.png",
                f"{name.replace('_', ' ').capitalize()}: the images with the "
                f"{caption}, worst first, and the mean of p(x|z) at the mean of "
                f"q(z|x). Numbers in the split: {numbers}.",
            )
        )
    return drawn


def _judge_proposal(results):
    shapes, threshold = floats(results["pareto_k"]), results["threshold"]
    bad, share = np.sum(shapes > threshold), np.mean(shapes > threshold)
    size = np.median(results["effective_sample_size"])
    grade = GOOD if share <= 0.05 else WARNING if share <= 0.5 else BAD
    meaning = ""
    if bad:
        meaning = ": their log p(x) is too low, and not known to the stated error"
    return [
        (
            grade,
            f"{bad} of {len(shapes)} images have a Pareto k above {threshold:.2f}"
            f"{meaning}. The median effective sample size is {size:.0f} of "
            f"{results['num_samples']:,} draws.",
        )
    ]


PROPOSAL = Part(
    name="proposal",
    title="Is q(z|x) a good proposal?",
    measure=_measure_proposal,
    draw=_draw_proposal,
    judge=_judge_proposal,
)


# Bounds ----------------------------------------------------------------------------


def _measure_sweep(subject, on_progress):
    most = 20 * subject.num_samples
    counts = [count for count in sweeps.COUNTS if count < most] + [most]
    functions = {"iwae": bounds.iwae}
    objective = getattr(subject.model, "objective", None)
    if isinstance(objective, bounds.CombinationImportanceWeighted):
        functions[f"ciwae, beta {objective.beta:g}"] = objective.bound
    images = subject.images[: subject.effort(100, 10)]
    return sweeps.bound_sweep(
        subject.model,
        images,
        counts=counts,
        functions=functions,
        seed=subject.seed,
        on_progress=lambda done: on_progress(done, len(images)),
    )


def _draw_sweep(subject, results, folder):
    figures.bound_sweep(folder / "sweep.png", results)
    return [
        (
            "sweep.png",
            f"The mean bound over {results['num_images']} images from K draws. K = 1 "
            "is the ELBO. The jackknife takes out the part of the bias that falls as "
            "1/K. The extrapolation fits log p(x) - c K^-g to the largest K. A "
            "straight line on the right is such a power law: the flatter, the "
            "heavier the tail of the weights.",
        )
    ]


def _judge_sweep(results):
    found, sentences = results["log_likelihood"], []
    gap = found["jackknife"] - found["bound"]
    limit = found["power_law"]
    text = (
        f"L_K at K = {found['num_samples']:,} is {found['bound']:.2f} "
        f"(+- {found['standard_error']:.2f}); the jackknife moves it by {gap:+.2f} nats"
    )
    if limit is not None:
        text += (
            f", and the power law ends {limit - found['bound']:+.2f} nats above it "
            f"(exponent {found['exponent']:.2f}; 1 for well-behaved weights)"
        )
    distance = max(gap, 0.0 if limit is None else limit - found["bound"])
    grade = GOOD if distance < 0.05 else WARNING if distance < 0.5 else BAD
    sentences.append((grade, text + "."))
    if results["negative_kl"]:
        kl = results["negative_kl"]
        sentences.append(
            (
                PLAIN,
                f"-KL(Q||P), the IWAE-64 bound minus log p(x) from 5,000 draws, is "
                f"{kl['value']:.2f} nats "
                f"(+- {kl['data_standard_error'] or math.nan:.2f} over images).",
            )
        )
    return sentences


SWEEP = Part(
    name="sweep",
    title="How far is the bound from log p(x)?",
    measure=_measure_sweep,
    draw=_draw_sweep,
    judge=_judge_sweep,
)


# Annealing -------------------------------------------------------------------------


def _measure_annealing(subject, on_progress):
    model, count = subject.model, min(subject.effort(10, 4), len(subject.images))
    options = {
        "num_steps": subject.effort(500, 50),
        "seed": subject.seed,
        "on_progress": lambda done: on_progress(done, 3 * count),
    }
    simulated = model.sample(count, subject.seed).numpy()
    latents = model.sample_latents(count, subject.seed)
    results = {"num_steps": options["num_steps"], "num_samples": subject.num_samples}
    for name, x in (("data", subject.images[:count]), ("simulated", simulated)):
        scored = evaluation.log_likelihood(model, x, subject.num_samples, subject.seed)
        lower = annealing.annealed_log_likelihood(model, x, **options)
        results[name] = {
            "estimate": [scored.estimate.tolist(), scored.jackknife_error.tolist()],
            "lower": [lower.estimate.tolist(), lower.standard_error.tolist()],
            "acceptance": float(lower.acceptance.mean()),
        }
    upper = annealing.annealed_log_likelihood(
        model, simulated, latents=latents, **options
    )
    results["simulated"]["upper"] = [
        upper.estimate.tolist(),
        upper.standard_error.tolist(),
    ]
    return results


def _draw_annealing(subject, results, folder):
    samples = results["num_samples"]
    for name, title in (
        ("data", "images of the split"),
        ("simulated", "images that the model made itself"),
    ):
        found = {k: v for k, v in results[name].items() if k != "acceptance"}
        figures.sandwich(folder / f"annealing_{name}.png", title=title, **found)
    return [
        (
            "annealing_data.png",
            f"log p(x) by annealed importance sampling ({results['num_steps']} "
            f"temperatures, HMC) and by importance sampling with {samples:,} draws, "
            "bars of two errors. Both are low in expectation: the higher one is nearer "
            "to log p(x).",
        ),
        (
            "annealing_simulated.png",
            "The same for images drawn from the model, whose z is known. Annealing "
            "backwards from that z gives an upper bound: log p(x) is between the "
            "triangles, and importance sampling should be as well.",
        ),
    ]


def _judge_annealing(results):
    data, made = results["data"], results["simulated"]
    lift = np.mean(floats(data["lower"][0]) - floats(data["estimate"][0]))
    width = np.mean(floats(made["upper"][0]) - floats(made["lower"][0]))
    short = np.mean(floats(made["upper"][0]) - floats(made["estimate"][0]))
    count = len(data["lower"][0])
    grade = GOOD if lift < 0.1 else WARNING if lift < 0.5 else BAD
    return [
        (
            grade,
            f"On {count} images annealing finds {lift:+.2f} nats against "
            f"{results['num_samples']:,} draws of importance sampling, on average.",
        ),
        (
            GOOD if width < 0.5 else WARNING,
            f"On simulated images log p(x) is enclosed to {width:.2f} nats on average; "
            f"importance sampling ends {short:.2f} nats below the upper end.",
        ),
    ]


ANNEALING = Part(
    name="annealing",
    title="A second opinion on log p(x)",
    measure=_measure_annealing,
    draw=_draw_annealing,
    judge=_judge_annealing,
)
