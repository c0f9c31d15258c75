"""The parts that ask whether q(z|x) and an estimate of log p(x) can be believed."""

import functools
import math
import pathlib

import numpy as np

from iwae_tf import bounds, evaluation, plots
from iwae_tf.diagnostics import annealing, bounds_by_k, coverage, figures, gaps
from iwae_tf.diagnostics.parts.base import (
    Figures,
    Part,
    Progress,
    Results,
    Sentences,
    Subject,
    floats,
    grade,
)
from iwae_tf.diagnostics.parts.remedies import verdict
from iwae_tf.evaluation.compiling import over_batches
from iwae_tf.evaluation.pareto import trusted_k
from iwae_tf.probability.distributions import log_density, split_loc_scale

NUM_SHOWN = 10  # images in a row of pictures
MOST_FITTED = 50  # images that Gaussians are fitted to


class Proposal(Part):
    """How good q(z|x) is for importance sampling."""

    name = "proposal"
    title = "Is q(z|x) a good proposal?"

    def measure(self, subject: Subject, on_progress: Progress) -> Results:
        images = subject.images
        found = evaluation.log_likelihood(
            subject.model,
            images,
            subject.num_samples,
            subject.seed,
            on_batch=lambda done: on_progress(len(images), len(done.estimate)),
        )
        reconstruction = _reconstruction_log_prob(subject.model, images)
        names = "estimate", "effective_sample_size", "pareto_k"
        return {
            **{name: getattr(found, name).tolist() for name in names},
            "num_samples": subject.num_samples,
            "threshold": trusted_k(subject.num_samples),
            "reconstruction": reconstruction.tolist(),
        }

    def draw(self, subject: Subject, results: Results, folder: pathlib.Path) -> Figures:
        yield (
            figures.proposal_quality(folder / "proposal.png", results),
            "Left: the shape k of the tail of each example's importance weights. Below "
            "the first line the estimate of log p(x) can be trusted. Above 1 the "
            "fitted tail has no mean, and more draws help only slowly. Right: the "
            "effective sample size, how many of the draws really count.",
        )
        if not plots.makes_images(subject.model):
            return
        for name, values, caption in (
            ("least_trusted", -floats(results["pareto_k"]), "largest Pareto k"),
            ("worst_reconstructed", results["reconstruction"], "smallest log p(x|z)"),
        ):
            order = np.argsort(values)[:NUM_SHOWN]
            shown = subject.images[order]
            means = subject.model(subject.model.check_x(shown)).numpy()
            path = folder / f"{name}.png"
            pairs = (plots.in_range(i, subject.images) for i in (shown, means))
            yield (
                plots.reconstructions(path, *pairs),
                f"{name.replace('_', ' ').capitalize()}: the images with the "
                f"{caption}, worst first, and the mean of p(x|z) at the mean of "
                f"q(z|x). Numbers in the split: {', '.join(map(str, order))}.",
            )

    def judge(self, results: Results) -> Sentences:
        shapes, threshold = floats(results["pareto_k"]), results["threshold"]
        yield verdict(
            "proposal",
            grade(np.mean(shapes > threshold), 0.05, 0.5),
            f"{np.sum(shapes > threshold)} of {len(shapes)} examples have a Pareto k "
            f"above {threshold:.2f}. The median effective sample size is "
            f"{np.median(results['effective_sample_size']):.0f} of "
            f"{results['num_samples']:,} draws.",
        )


def _reconstruction_log_prob(model, images):
    """log p(x|z1) at the mean of q(z1|x): [N]."""
    x = model.check_x(images)
    loc, _ = split_loc_scale(model.latent.encode(x))

    def log_prob(_, x, loc):
        return [log_density(model.decode(loc), x, model.latent.takes_missing)]

    return over_batches(log_prob, (x, loc), 100)[0]


class InferenceGaps(Part):
    """ELBOs of the encoder and of Gaussians fitted to each image, and log p(x)."""

    name = "gaps"
    title = "What does the encoder lose?"
    chart = staticmethod(figures.inference_gaps)
    caption = (
        "Means over {num_images} examples, below log p(x) by proposals fitted to each "
        "example. The amortisation gap is what the best diagonal Gaussian of each "
        "example gains over q(z|x); the approximation gap is what a diagonal Gaussian "
        "cannot reach (Cremer et al. 2018)."
    )

    def measure(self, subject: Subject, on_progress: Progress) -> Results:
        images = subject.images[: subject.effort(MOST_FITTED, 10)]
        found = gaps.inference_gaps(
            subject.model,
            images,
            subject.num_samples,
            subject.seed,
            on_progress=functools.partial(on_progress, len(images)),
        )
        refined = found.refined
        return {
            "num_images": len(images),
            "num_samples": subject.num_samples,
            "threshold": trusted_k(subject.num_samples),
            **{name: found._asdict()[name].tolist() for name in found._fields[:3]},
            "log_likelihood": refined.estimate.tolist(),
            "pareto_k": refined.pareto_k.tolist(),
            "effective_sample_size": refined.effective_sample_size.tolist(),
        }

    def judge(self, results: Results) -> Sentences:
        encoder, diagonal, full, log_p = (
            np.mean(floats(results[name]))
            for name in ("encoder", "diagonal", "full", "log_likelihood")
        )
        yield verdict(
            "amortisation gap",
            grade(diagonal - encoder, 1.0, 5.0),
            f"The amortisation gap is {diagonal - encoder:.2f} nats: as much could be "
            "gained by a better encoder.",
        )
        yield (
            "plain",
            f"The approximation gap is {log_p - diagonal:.2f} nats; a Gaussian of full "
            f"covariance would leave {log_p - full:.2f}.",
        )
        share = np.mean(floats(results["pareto_k"]) > results["threshold"])
        yield verdict(
            "refined proposal",
            grade(share, 0.05, 0.5),
            f"With proposals fitted to each example {share:.0%} of them have a Pareto "
            f"k above {results['threshold']:.2f}, and the median effective sample size "
            f"is {np.median(results['effective_sample_size']):.0f} of "
            f"{results['num_samples']:,} draws.",
        )


class BoundSweep(Part):
    """Bounds against the number of draws."""

    name = "sweep"
    version = 2
    title = "How far is the bound from log p(x)?"
    chart = staticmethod(figures.bound_sweep)
    caption = (
        "The mean bound over {num_images} examples from K draws. K = 1 is the ELBO. "
        "The jackknife removes the part of the bias that falls like 1/K. log p(x) "
        "comes from proposals fitted to each example. The flatter the lines on the "
        "right, the heavier the tail of the weights."
    )

    def measure(self, subject: Subject, on_progress: Progress) -> Results:
        most = subject.num_samples
        functions = {"iwae": bounds.iwae}
        objective = getattr(subject.model, "objective", None)
        if isinstance(objective, bounds.CombinationImportanceWeighted):
            functions[f"ciwae, beta {objective.beta:g}"] = objective.bound
        images = subject.images[: subject.effort(100, 10)]
        return bounds_by_k.bound_sweep(
            subject.model,
            images,
            counts=[*(k for k in bounds_by_k.COUNTS if k < most), most],
            functions=functions,
            seed=subject.seed,
            on_progress=functools.partial(on_progress, len(images)),
        )

    def judge(self, results: Results) -> Sentences:
        bound, (low, high) = results["bounds"]["iwae"], results["interval"]
        gap = results["log_likelihood"] - bound["value"][-1]
        yield verdict(
            "bound",
            grade(gap, 0.05, 0.5),
            f"L_K at K = {results['counts'][-1]:,} is {bound['value'][-1]:.2f} "
            f"(+- {bound['standard_error'][-1]:.2f}), {abs(gap):.2f} nats "
            f"{'below' if gap > 0 else 'above'} log p(x) by refined proposals, "
            f"{results['log_likelihood']:.2f} (95 % interval "
            f"{low:.2f} to {high:.2f}).",
        )
        if results["negative_kl"] is not None:
            yield (
                "plain",
                "-KL(Q||P), the IWAE-64 bound minus log p(x), is "
                f"{results['negative_kl']:.2f} nats.",
            )


class ErrorBars(Part):
    """Error bars of the model's log p(x)."""

    name = "errors"
    version = 2
    title = "Are the error bars right?"
    chart = staticmethod(figures.error_bars)
    caption = (
        "The same {num_images} examples scored with {num_seeds} seeds, {num_samples:,} "
        "draws each. Left: a correct error bar is as long as the spread between seeds. "
        "Right: the reference is the estimate by proposals fitted to each example. "
        "Only the interval includes the bias. If the others cover other seeds but miss "
        "the reference, the bias is larger than the spread."
    )

    def measure(self, subject: Subject, on_progress: Progress) -> Results:
        images = subject.images[: subject.effort(100, 10)]
        num_seeds = subject.effort(16, 4)
        return coverage.error_coverage(
            subject.model,
            images,
            num_samples=subject.num_samples,
            num_seeds=num_seeds,
            seed=subject.seed,
            on_progress=functools.partial(on_progress, num_seeds * len(images)),
        )

    def judge(self, results: Results) -> Sentences:
        delta, low, honest = _shares_stated(results)
        # With S seeds the spread itself is known to about 1 / sqrt(2 S).
        slack = 2.0 / math.sqrt(2 * results["num_seeds"])
        yield verdict(
            "error bar",
            "good" if honest > 1 - slack else "warning",
            f"jackknife_error is {honest:.2f} times the spread of the mean between "
            f"seeds; standard_error (the delta method) is {low:.2f} times it.",
        )
        bias = -delta["bias"]
        yield verdict(
            "bias",
            "good" if bias < delta["spread"] else "warning" if bias < 0.1 else "bad",
            f"With {results['num_samples']:,} draws the mean log p(x) is "
            f"{abs(bias):.3f} nats too {'low' if bias > 0 else 'high'}, compared with "
            "proposals fitted to each example. The interval has that value for "
            f"{results['errors']['interval']['image_coverage']:.0%} of the examples.",
        )


class KnownErrorBars(Part):
    """Error bars where the answer is known."""

    name = "known"
    version = 2
    title = "Error bars where the answer is known"
    needs_model = False
    caption = (
        "log w ~ N(-s^2/2, s^2) with s = {spread_of_log_w:g}, of which log E w = 0 is "
        "the reference: {num_seeds} seeds of {num_images} examples, {num_samples:,} "
        "draws each. The larger s, the heavier the tail of the weights."
    )

    def measure(self, subject: Subject, on_progress: Progress) -> Results:
        cases = coverage.known_cases(
            num_samples=subject.num_samples,
            num_images=subject.effort(100, 20),
            num_seeds=subject.effort(40, 10),
            seed=abs(subject.seed[0]),
            on_progress=functools.partial(on_progress, len(coverage.SPREADS)),
        )
        return {"cases": cases}

    def draw(self, subject: Subject, results: Results, folder: pathlib.Path) -> Figures:
        for case in results["cases"]:
            path = folder / f"known_{case['spread_of_log_w']:g}.png"
            yield figures.error_bars(path, case), self.caption.format(**case)

    def judge(self, results: Results) -> Sentences:
        for case in results["cases"]:
            delta, low, honest = _shares_stated(case)
            yield (
                "plain",
                f"s = {case['spread_of_log_w']:g}: jackknife_error is {honest:.2f} "
                f"times the spread of the mean between seeds, standard_error {low:.2f} "
                f"times; the bias is {delta['bias']:+.4f} nats.",
            )


def _shares_stated(found):
    """Results of the delta method, and the shares of the spread that it and the
    jackknife state."""
    delta, jackknife = (found["errors"][n] for n in ("delta method", "jackknife"))
    low, honest = (e["stated"] / max(e["spread"], 1e-12) for e in (delta, jackknife))
    return delta, low, honest


class Annealing(Part):
    """log p(x) by annealed importance sampling."""

    name = "annealing"
    version = 2
    title = "A second opinion on log p(x)"
    charts = {
        "data": (
            "examples of the split",
            "log p(x) by annealed importance sampling ({num_steps} temperatures, HMC) "
            "and by importance sampling with {num_samples:,} draws of proposals fitted "
            "to each example, bars of two errors. Both are too low on average: the "
            "higher is nearer to log p(x).",
        ),
        "simulated": (
            "examples drawn from the model",
            "The same for examples drawn from the model, where z is known. Annealing "
            "backwards from this z gives an upper bound. log p(x) is between the "
            "triangles, and importance sampling should be there too.",
        ),
    }

    def measure(self, subject: Subject, on_progress: Progress) -> Results:
        model, count = subject.model, min(subject.effort(10, 4), len(subject.images))
        num_steps = subject.effort(500, 50)
        simulated = model.sample(count, subject.seed).numpy()
        latents = model.sample_latents(count, subject.seed)

        def anneal(x, latents=None):
            found = annealing.annealed_log_likelihood(
                model,
                x,
                latents=latents,
                num_steps=num_steps,
                seed=subject.seed,
                on_progress=functools.partial(on_progress, 3 * count),
            )
            return found, [found.estimate.tolist(), found.standard_error.tolist()]

        results: Results = {"num_steps": num_steps, "num_samples": subject.num_samples}
        for name, x in (("data", subject.images[:count]), ("simulated", simulated)):
            scored = evaluation.log_likelihood(
                model, x, subject.num_samples, subject.seed, proposal="refined"
            )
            found, lower = anneal(x)
            results[name] = {
                "estimate": [scored.estimate.tolist(), scored.jackknife_error.tolist()],
                "lower": lower,
                "acceptance": float(found.acceptance.mean()),
            }
        results["simulated"]["upper"] = anneal(simulated, latents)[1]
        return results

    def draw(self, subject: Subject, results: Results, folder: pathlib.Path) -> Figures:
        for name, (title, caption) in self.charts.items():
            path = folder / f"annealing_{name}.png"
            yield (
                figures.sandwich(path, results[name], title=title),
                caption.format(**results),
            )

    def judge(self, results: Results) -> Sentences:
        def distance(images, above, below):
            found = results[images]
            return np.mean(floats(found[above][0]) - floats(found[below][0]))

        lift = distance("data", "lower", "estimate")
        yield verdict(
            "annealing",
            grade(lift, 0.1, 0.5),
            f"On {len(results['data']['lower'][0])} examples annealing finds "
            f"{lift:+.2f} nats on average, compared with {results['num_samples']:,} "
            "draws of proposals fitted to each example.",
        )
        width = distance("simulated", "upper", "lower")
        short = distance("simulated", "upper", "estimate")
        yield verdict(
            "annealing bounds",
            "good" if width < 0.5 else "warning",
            f"On simulated examples the upper and lower bound differ by {width:.2f} "
            f"nats on average; importance sampling is {abs(short):.2f} nats "
            f"{'below' if short > 0 else 'above'} the upper one.",
        )
