"""The part that looks for the true posterior: what the encoder loses."""

import functools

import numpy as np

from iwae_tf.diagnostics import figures, gaps
from iwae_tf.diagnostics.parts.base import (
    Part,
    Progress,
    Results,
    Sentences,
    Subject,
    floats,
    grade,
)
from iwae_tf.diagnostics.parts.remedies import verdict
from iwae_tf.evaluation.pareto import trusted_k

MOST_IMAGES = 50


class InferenceGaps(Part):
    """ELBOs of the encoder and of Gaussians fitted to each image, and log p(x)."""

    name = "gaps"
    title = "What does the encoder lose?"
    chart = staticmethod(figures.inference_gaps)
    caption = (
        "Means over {num_images} images, below log p(x) by proposals fitted to each "
        "image. The amortisation gap is what the best diagonal Gaussian of each image "
        "gains over q(z|x); the approximation gap is what a diagonal Gaussian cannot "
        "reach (Cremer et al. 2018)."
    )

    def measure(self, subject: Subject, on_progress: Progress) -> Results:
        images = subject.images[: subject.effort(MOST_IMAGES, 10)]
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
            f"With proposals fitted to each image {share:.0%} of them have a Pareto k "
            f"above {results['threshold']:.2f}, and the median effective sample size "
            f"is {np.median(results['effective_sample_size']):.0f} of "
            f"{results['num_samples']:,} draws.",
        )
