"""The parts about learning: gradients, the latent code, and the theory behind."""

import contextlib
import functools
import pathlib

import numpy as np

from iwae_tf import evaluation
from iwae_tf.diagnostics import figures, representation, theory, toy_problem
from iwae_tf.diagnostics.gradient_noise import gradient_snr, over_counts
from iwae_tf.diagnostics.parts.base import (
    Figures,
    Part,
    Progress,
    Results,
    Sentences,
    Subject,
    capitalized,
)
from iwae_tf.diagnostics.parts.remedies import verdict
from iwae_tf.errors import InvalidInputError
from iwae_tf.models import kept_draws

NUM_MAPS = 4  # images of the posterior maps
GRADIENT_COUNTS = (1, 4, 16, 64)
KEPT_DRAWS = 8  # of the last of them, that go backward beside all of them


class Gradients(Part):
    """Signal and noise of the gradients, with more and more draws."""

    name = "gradients"
    version = 2
    title = "How noisy are the gradients?"
    chart = staticmethod(figures.gradient_noise)
    caption = (
        "Signal-to-noise of the gradient of the bound with K draws, from {num_draws} "
        "gradients over the same {num_images} examples: |mean| / sd of each "
        "parameter's gradient, averaged. Theory (Rainforth et al. 2018): with more "
        "draws the encoder's falls as 1/sqrt(K) for the reparameterized estimator, and "
        "grows with DReG; the decoder's, the same for both, grows as sqrt(K). A curve "
        "on the dotted line is noise alone."
    )

    def measure(self, subject: Subject, on_progress: Progress) -> Results:
        images, model = subject.images[: subject.effort(50, 10)], subject.model
        num_draws = subject.effort(400, 50)
        estimators = ["reparameterized"]
        with contextlib.suppress(InvalidInputError):
            model.objective.pathwise_weights(np.zeros([1, 2, 1], np.float32))
            estimators.append("dreg")
        most = GRADIENT_COUNTS[-1]
        possible = kept_draws.possible(KEPT_DRAWS, model.latent)
        keeps_few = most > KEPT_DRAWS and possible is not None
        total = len(estimators) * (len(GRADIENT_COUNTS) + keeps_few)

        def snr(estimator, count, kept):
            return gradient_snr(
                model,
                images,
                num_draws=num_draws,
                seed=subject.seed,
                num_groups=1,
                num_samples=count,
                gradient_estimator=estimator,
                backward_samples=kept,
                on_progress=functools.partial(on_progress, 2 * num_draws * total),
            )

        lines: list[Results] = []
        few: list[Results] = []
        for estimator in estimators:
            all_kept = [snr(estimator, count, count) for count in GRADIENT_COUNTS]
            for half in figures.HALVES:
                line = dict(varied="K", estimator=estimator, half=half)
                lines.append(line | over_counts(GRADIENT_COUNTS, all_kept, half))
            if keeps_few:
                beside = snr(estimator, most, KEPT_DRAWS), all_kept[-1]
                few += [
                    dict(estimator=estimator, half=half) | _compared(*beside, half)
                    for half in figures.HALVES
                ]
        return {
            "num_images": len(images),
            "num_draws": num_draws,
            "lines": lines,
            "few_go_backward": few,
        }

    def judge(self, results: Results) -> Sentences:
        for line in results["lines"]:
            if line["half"] != "encoder":
                continue
            counts, snr = line["counts"], line["snr"]
            near_floor = snr[-1] < 1.2 * line["floor"][-1]
            note = ", which cannot be told from noise with this many gradients"
            note *= near_floor
            yield verdict(
                "gradient",
                "warning" if near_floor else "plain",
                f"Encoder, {line['estimator']}: SNR {snr[0]:.2f} at K = {counts[0]}, "
                f"{snr[-1]:.2f} at K = {counts[-1]}{note}.",
            )
        for few in results["few_go_backward"]:
            snr, variance, time = few["snr"], few["variance"], few["time"]
            yield (
                "plain",
                f"{capitalized(few['half'])}, {few['estimator']}: with {KEPT_DRAWS} of "
                f"{GRADIENT_COUNTS[-1]} draws backward (backward_samples) the SNR is "
                f"{snr[0]:.2f} instead of {snr[1]:.2f}: {variance:.2f} times the "
                f"variance in {time:.2f} of the time, "
                f"{variance * time:.2f} at equal time.",
            )


def _compared(few, full, half):
    """Of few draws that go backward, and of all: SNR, and ratios of what they cost."""
    halves = [getattr(found, half) for found in (few, full)]
    return {
        "snr": [each.snr for each in halves],
        "variance": halves[0].variance / halves[1].variance,
        "time": few.seconds / full.seconds,
    }


class Representation(Part):
    """Latent units: used, unused, collapsed; posteriors beside proposals."""

    name = "representation"
    version = 2
    title = "What do the latents hold?"

    def measure(self, subject: Subject, on_progress: Progress) -> Results:
        model, images, seed = subject.model, subject.images, subject.seed
        statistics = evaluation.layer_statistics(model, images, seed)
        kls = representation.kl_per_unit(model, images, seed)
        on_progress(3, 2)
        results: Results = {
            "num_images": len(images),
            "variances": [layer.variances.tolist() for layer in statistics],
            "kl": [kl.tolist() for kl in kls],
            "layers": representation.collapse(statistics, kls),
            "maps": [],
        }
        if len(kls) == 1 and len(kls[0]) >= 2:
            units = np.argsort(-kls[0])[:2] if len(kls[0]) > 2 else np.arange(2)
            results["units"] = units.tolist()
            for image in images[:NUM_MAPS, np.newaxis]:
                found = representation.posterior_map(model, image, results["units"])
                kept = {
                    name: _significant(values, 4 if name == "posterior" else 7)
                    for name, values in found._asdict().items()
                }
                results["maps"].append(kept)
        on_progress(3, 1)
        return results

    def draw(self, subject: Subject, results: Results, folder: pathlib.Path) -> Figures:
        yield (
            figures.units(
                folder / "units.png", results, threshold=evaluation.ACTIVE_VARIANCE
            ),
            "Left: how much the posterior mean of each latent unit varies over the "
            "examples; a unit below the dashed line ignores x. Right: the information "
            "in each unit, KL(q||p).",
        )
        if results["maps"]:
            cut = ", cut along the two units of the largest KL, the others at the mean"
            cut = f"{cut} of q" * (len(results["kl"][0]) > 2)
            yield (
                figures.posterior_maps(folder / "posterior.png", results),
                f"Blue: the true posterior p(z|x) of the first examples{cut}. Orange: "
                "q(z|x) at one, two and three deviations. The draws of q miss the blue "
                "outside the lines. Green: the Gaussian that is fitted to an example "
                "for refined proposals.",
            )

    def judge(self, results: Results) -> Sentences:
        for layer in results["layers"]:
            found = f"{capitalized(layer['verdict'])}."
            yield verdict("collapse", "bad" if layer["collapsed"] else "plain", found)


def _significant(values, digits):
    """`values`, an array or a number, as lists of so many significant digits."""
    shorten = np.vectorize(lambda value: float(f"{value:.{digits}g}"), otypes=[float])
    return shorten(values).tolist()


class Theory(Part):
    """Two pictures of why more draws help."""

    name = "theory"
    title = "Why more draws help: two pictures"
    needs_model = False

    def measure(self, subject: Subject, on_progress: Progress) -> Results:
        on_progress(1, 1)
        return {
            "log_mean": theory.log_mean_bias(),
            "draws": theory.draw_contributions(),
        }

    def draw(self, subject: Subject, results: Results, folder: pathlib.Path) -> Figures:
        low, high = theory.TWO_POINTS
        yield (
            figures.log_mean_bias(folder / "log_mean.png", results["log_mean"]),
            f"X is {high:g} with probability {theory.RARE:g} and {low:g} otherwise. "
            "On average the log of a mean of k draws is below log E X, and it rises "
            "with k. This is why L_K grows with K, and why it grows slowly if large "
            "weights are rare.",
        )
        yield (
            figures.draw_contributions(folder / "draws.png", results["draws"]),
            "A q beside the posterior, and 20 typical draws of q. The ELBO averages "
            "log w, so a draw where the posterior is small costs many nats; a VAE "
            "makes q narrow to avoid this. The IWAE bound weights draws by w: outlying "
            "draws have no weight, and q may be wide.",
        )

    def judge(self, results: Results) -> Sentences:
        found = results["draws"]
        yield (
            "plain",
            f"From these 20 draws the ELBO is {found['elbo']:.2f} nats and the IWAE "
            f"bound {found['iwae']:.2f}, where log p(x) is 0.",
        )


class Toy(Part):
    """Signal and noise of gradients where theory knows their slopes."""

    name = "toy"
    title = "Gradients where the answer is known"
    needs_model = False
    chart = staticmethod(figures.gradient_noise)
    caption = (
        "The toy problem of Rainforth et al. 2018 ({latent_dim} dimensions, "
        "{num_points} points), with slopes fitted well above the noise. Theory: +1/2 "
        "against M; against K, -1/2 for the encoder and +1/2 for the decoder (once K "
        "is large), and growth with DReG."
    )

    def measure(self, subject: Subject, on_progress: Progress) -> Results:
        work = subject.effort(toy_problem.WORK)
        total = toy_problem.num_gradients(work)
        return toy_problem.toy_slopes(
            work=work,
            num_points=subject.effort(toy_problem.NUM_POINTS),
            seed=abs(subject.seed[0]),
            on_progress=functools.partial(on_progress, total),
        )

    def judge(self, results: Results) -> Sentences:
        for line in results["lines"]:
            name = f"{line['half']}, {line['estimator']}, against {line['varied']}"
            name, slope, expected = capitalized(name), line["slope"], line["theory"]
            if slope is None:
                found = f"{name}: too near the noise."
                yield verdict("slope near noise", "warning", found)
                continue
            known, agrees = "growth", slope > 0
            if expected is not None:
                known, agrees = f"{expected:+.2f}", abs(slope - expected) <= 0.1
            text = f"{name}: slope {slope:+.3f} (theory: {known})."
            yield verdict("slope", "good" if agrees else "bad", text)
