"""The parts about learning: gradients, the latent code, and the theory behind."""

from typing import Any

import numpy as np

from iwae_tf import evaluation
from iwae_tf.diagnostics import (
    figures,
    gradient_noise,
    representation,
    theory,
    toy_problem,
)
from iwae_tf.diagnostics.parts.part import BAD, GOOD, PLAIN, WARNING, Part, sentence
from iwae_tf.errors import InvalidInputError

NUM_MAPS = 4  # images of the posterior maps
GRADIENT_COUNTS = (1, 4, 16, 64)


# Gradients -------------------------------------------------------------------------


def _measure_gradients(subject, on_progress):
    images, model = subject.images[: subject.effort(50, 10)], subject.model
    num_draws = subject.effort(400, 50)
    estimators = ["reparameterized"]
    try:
        model.objective.pathwise_weights(np.zeros([1, 2, 1], np.float32))
        estimators.append("dreg")
    except InvalidInputError:
        pass
    total = 2 * num_draws * len(estimators) * len(GRADIENT_COUNTS)
    lines = []
    for estimator in estimators:
        found = [
            gradient_noise.gradient_snr(
                model,
                images,
                num_draws=num_draws,
                seed=subject.seed,
                num_groups=1,
                num_samples=count,
                gradient_estimator=estimator,
                on_progress=lambda done: on_progress(done, total),
            )
            for count in GRADIENT_COUNTS
        ]
        lines += [_gradient_line(found, estimator, half) for half in figures.HALVES]
    return {"num_images": len(images), "num_draws": num_draws, "lines": lines}


def _gradient_line(found, estimator, half):
    halves = [getattr(each, half) for each in found]
    names = ("snr", "median", "rms", "dsnr", "floor")
    line = {"varied": "K", "estimator": estimator, "half": half}
    line["counts"] = list(GRADIENT_COUNTS)
    return line | {name: [getattr(h, name) for h in halves] for name in names}


def _draw_gradients(subject, results, folder):
    figures.gradient_noise(folder / "gradients.png", results["lines"])
    return [
        (
            "gradients.png",
            f"Signal-to-noise of the gradient of the bound with K draws, from "
            f"{results['num_draws']} gradients over the same {results['num_images']} "
            "images: |mean| / sd of each parameter's gradient, averaged. "
            "Theory (Rainforth et al. 2018): with more draws the encoder's falls as "
            "1/sqrt(K) for the reparameterized estimator, and grows with DReG; the "
            "decoder's, the same for both, grows as sqrt(K). A curve on the dotted "
            "line is noise alone.",
        )
    ]


def _judge_gradients(results):
    sentences = []
    for line in results["lines"]:
        if line["half"] != "encoder":
            continue
        first, last = line["snr"][0], line["snr"][-1]
        near_floor = last < 1.2 * line["floor"][-1]
        grade = WARNING if near_floor else PLAIN
        note = ", noise alone as far as this many gradients can tell" * near_floor
        sentences.append(
            (
                grade,
                f"Encoder, {line['estimator']}: SNR {first:.2f} at K = "
                f"{line['counts'][0]}, {last:.2f} at K = {line['counts'][-1]}{note}.",
            )
        )
    return sentences


GRADIENTS = Part(
    name="gradients",
    title="How noisy are the gradients?",
    measure=_measure_gradients,
    draw=_draw_gradients,
    judge=_judge_gradients,
)


# Representation --------------------------------------------------------------------


def _measure_representation(subject, on_progress):
    model, images, seed = subject.model, subject.images, subject.seed
    statistics = evaluation.layer_statistics(model, images, seed)
    on_progress(1, 3)
    kls = representation.kl_per_unit(model, images, seed)
    on_progress(1, 3)
    results: dict[str, Any] = {
        "num_images": len(images),
        "variances": [layer.variances.tolist() for layer in statistics],
        "kl": [kl.tolist() for kl in kls],
        "layers": representation.collapse(statistics, kls),
        "maps": [],
    }
    if len(kls) == 1 and len(kls[0]) >= 2:
        units = np.argsort(-kls[0])[:2] if len(kls[0]) > 2 else np.arange(2)
        results["units"] = units.tolist()
        for index in range(min(NUM_MAPS, len(images))):
            found = representation.posterior_map(
                model, images[index : index + 1], results["units"]
            )
            results["maps"].append(
                {
                    name: _significant(values, 4 if name == "posterior" else 7)
                    for name, values in found._asdict().items()
                }
            )
    on_progress(1, 3)
    return results


def _significant(values, digits):
    """`values`, an array or a number, as lists of so many significant digits."""
    shorten = np.vectorize(lambda value: float(f"{value:.{digits}g}"), otypes=[float])
    return shorten(values).tolist()


def _draw_representation(subject, results, folder):
    figures.units(
        folder / "units.png",
        [np.asarray(v) for v in results["variances"]],
        [np.asarray(kl) for kl in results["kl"]],
        threshold=evaluation.ACTIVE_VARIANCE,
    )
    drawn = [
        (
            "units.png",
            "Left: how much the posterior mean of each latent unit varies over the "
            "images; a unit below the dashed line ignores x. Right: the information, "
            "KL(q||p), that each unit takes.",
        )
    ]
    if results["maps"]:
        names = [f"unit {unit + 1}" for unit in results["units"]]
        figures.posterior_maps(folder / "posterior.png", results["maps"], names)
        whole = len(results["kl"][0]) == 2
        drawn.append(
            (
                "posterior.png",
                "Blue: the true posterior p(z|x) of the first images"
                + (
                    ""
                    if whole
                    else ", cut along the two units of the largest KL, the "
                    "others at the mean of q"
                )
                + ". Orange: q(z|x) at one, two and three deviations. What is blue "
                "outside of the lines is missed by the draws of q.",
            )
        )
    return drawn


def _judge_representation(results):
    return [
        (BAD if layer["collapsed"] else PLAIN, sentence(layer["verdict"]))
        for layer in results["layers"]
    ]


REPRESENTATION = Part(
    name="representation",
    title="What do the latents hold?",
    measure=_measure_representation,
    draw=_draw_representation,
    judge=_judge_representation,
)


# Theory ----------------------------------------------------------------------------


def _measure_theory(subject, on_progress):
    del subject
    found = {
        "log_mean": theory.log_mean_bias(),
        "draws": theory.draw_contributions(),
    }
    on_progress(1, 1)
    return found


def _draw_theory(subject, results, folder):
    del subject
    figures.log_mean_bias(folder / "log_mean.png", results["log_mean"])
    figures.draw_contributions(folder / "draws.png", results["draws"])
    low, high = theory.TWO_POINTS
    return [
        (
            "log_mean.png",
            f"X is {high:g} with probability {theory.RARE:g} and {low:g} otherwise. "
            "The log of a mean of k draws is on average below log E X, and rises to "
            "it: that is why L_K grows with K, and why rare large weights make it "
            "slow.",
        ),
        (
            "draws.png",
            "A q beside the posterior, and 20 typical draws of it. The ELBO averages "
            "log w, so that a draw where the posterior is small costs many nats: a "
            "VAE makes q narrow to avoid it. The IWAE bound weighs draws by w: the "
            "outlying ones weigh nothing, and q may be wide.",
        ),
    ]


def _judge_theory(results):
    found = results["draws"]
    return [
        (
            PLAIN,
            f"From these 20 draws the ELBO is {found['elbo']:.2f} nats and the IWAE "
            f"bound {found['iwae']:.2f}, where log p(x) is 0.",
        )
    ]


THEORY = Part(
    name="theory",
    title="Why more draws help: two pictures",
    measure=_measure_theory,
    draw=_draw_theory,
    judge=_judge_theory,
    needs_model=False,
)


# The toy problem -------------------------------------------------------------------


def _measure_toy(subject, on_progress):
    points = subject.effort(toy_problem.NUM_POINTS)
    work = subject.effort(40_000)
    total = toy_problem.num_gradients(work=work)
    return toy_problem.toy_slopes(
        work=work,
        num_points=points,
        seed=abs(subject.seed[0]),
        on_progress=lambda done: on_progress(done, total),
    )


def _draw_toy(subject, results, folder):
    del subject
    figures.gradient_noise(folder / "toy.png", results["lines"])
    return [
        (
            "toy.png",
            f"The toy problem of Rainforth et al. 2018 ({results['latent_dim']} "
            f"dimensions, {results['num_points']} points), with slopes fitted well "
            "above the noise. Theory: +1/2 against M; against K, -1/2 for the encoder "
            "and +1/2 for the decoder (once K is large), and growth with DReG.",
        )
    ]


def _judge_toy(results):
    sentences = []
    for line in results["lines"]:
        name = f"{line['half']}, {line['estimator']}, against {line['varied']}"
        slope, theory_slope = line["slope"], line["theory"]
        if slope is None:
            sentences.append((WARNING, f"{sentence(name)[:-1]}: too near the noise."))
            continue
        expected = "growth" if theory_slope is None else f"{theory_slope:+.2f}"
        agrees = slope > 0 if theory_slope is None else abs(slope - theory_slope) <= 0.1
        sentences.append(
            (
                GOOD if agrees else BAD,
                f"{sentence(name)[:-1]}: slope {slope:+.3f} (theory: {expected}).",
            )
        )
    return sentences


TOY = Part(
    name="toy",
    title="Gradients where the answer is known",
    measure=_measure_toy,
    draw=_draw_toy,
    judge=_judge_toy,
    needs_model=False,
)
