"""The parts that compare error bars with what happens between seeds."""

import functools
import math
import pathlib

from iwae_tf.diagnostics import coverage, figures
from iwae_tf.diagnostics.parts.base import (
    BAD,
    GOOD,
    PLAIN,
    WARNING,
    Figures,
    Part,
    Progress,
    Results,
    Sentences,
    Subject,
)


class ErrorBars(Part):
    """Error bars of the model's log p(x)."""

    name = "errors"
    title = "Do the error bars hold?"

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

    def draw(self, subject: Subject, results: Results, folder: pathlib.Path) -> Figures:
        yield (
            figures.error_bars(folder / "errors.png", results),
            f"The same {results['num_images']} images scored with "
            f"{results['num_seeds']} seeds, {results['num_samples']:,} draws each. "
            "Left: an honest error bar states what the seeds show. Right: the "
            "reference is the estimate from the draws of all seeds, itself too low. "
            "Error bars know of the spread and not of the bias: where the mean "
            "misses the reference but covers another seed's, the bias is the larger "
            "of the two.",
        )

    def judge(self, results: Results) -> Sentences:
        delta, low, honest = _shares_stated(results)
        # With S seeds the spread itself is known to about 1 / sqrt(2 S).
        slack = 2.0 / math.sqrt(2 * results["num_seeds"])
        yield (
            GOOD if honest > 1 - slack else WARNING,
            f"jackknife_error states {honest:.2f} of the spread of the mean between "
            f"seeds, standard_error (the delta method) {low:.2f} of it.",
        )
        bias = -delta["bias"]
        yield (
            GOOD if bias < delta["spread"] else WARNING if bias < 0.1 else BAD,
            f"At {results['num_samples']:,} draws the mean log p(x) is too low by at "
            f"least {bias:.3f} nats (against {results['num_seeds']} times the draws).",
        )


class KnownErrorBars(Part):
    """Error bars where the answer is known."""

    name = "known"
    title = "Error bars where the answer is known"
    needs_model = False

    def measure(self, subject: Subject, on_progress: Progress) -> Results:
        cases = []
        for spread in coverage.SPREADS:
            cases += coverage.known_cases(
                spreads=(spread,),
                num_samples=subject.num_samples,
                num_images=subject.effort(100, 20),
                num_seeds=subject.effort(40, 10),
                seed=abs(subject.seed[0]),
            )
            on_progress(len(coverage.SPREADS), 1)
        return {"cases": cases}

    def draw(self, subject: Subject, results: Results, folder: pathlib.Path) -> Figures:
        for case in results["cases"]:
            spread = case["spread_of_log_w"]
            yield (
                figures.error_bars(folder / f"known_{spread:g}.png", case),
                f"log w ~ N(-s^2/2, s^2) with s = {spread:g}, of which log E w = 0 is "
                f"the reference: {case['num_seeds']} seeds of {case['num_images']} "
                f"images, {case['num_samples']:,} draws each. The larger s, the "
                "heavier the tail of the weights.",
            )

    def judge(self, results: Results) -> Sentences:
        for case in results["cases"]:
            delta, low, honest = _shares_stated(case)
            yield (
                PLAIN,
                f"s = {case['spread_of_log_w']:g}: jackknife_error states {honest:.2f} "
                f"of the spread of the mean between seeds, standard_error {low:.2f}; "
                f"the bias is {delta['bias']:+.4f} nats.",
            )


def _shares_stated(found):
    """Results of the delta method, and the shares of the spread that it and the
    jackknife state."""
    delta, jackknife = (found["errors"][n] for n in ("delta method", "jackknife"))
    low, honest = (e["stated"] / max(e["spread"], 1e-12) for e in (delta, jackknife))
    return delta, low, honest
