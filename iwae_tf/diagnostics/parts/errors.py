"""The parts that compare error bars with what happens between seeds."""

import math

from iwae_tf.diagnostics import coverage, figures
from iwae_tf.diagnostics.parts.part import BAD, GOOD, PLAIN, WARNING, Part

# On the model ----------------------------------------------------------------------


def _measure_errors(subject, on_progress):
    images = subject.images[: subject.effort(100, 10)]
    num_seeds = subject.effort(16, 4)
    return coverage.error_coverage(
        subject.model,
        images,
        num_samples=subject.num_samples,
        num_seeds=num_seeds,
        seed=subject.seed,
        on_progress=lambda done: on_progress(done, num_seeds * len(images)),
    )


def _draw_errors(subject, results, folder):
    figures.error_bars(folder / "errors.png", results)
    return [
        (
            "errors.png",
            f"The same {results['num_images']} images scored with "
            f"{results['num_seeds']} seeds, {results['num_samples']:,} draws each. "
            "Left: an honest error bar states what the seeds show. Right: the "
            "reference is the estimate from the draws of all seeds, itself too low. "
            "Error bars know of the spread and not of the bias: where the mean "
            "misses the reference but covers another seed's, the bias is the larger "
            "of the two.",
        )
    ]


def _judge_errors(results):
    delta, jackknife = (results["errors"][n] for n in ("delta method", "jackknife"))
    low, honest = (e["stated"] / max(e["spread"], 1e-12) for e in (delta, jackknife))
    # With S seeds the spread itself is known to about 1 / sqrt(2 S).
    slack = 2.0 / math.sqrt(2 * results["num_seeds"])
    grade = GOOD if honest > 1 - slack else WARNING
    sentences = [
        (
            grade,
            f"jackknife_error states {honest:.2f} of the spread of the mean between "
            f"seeds, standard_error (the delta method) {low:.2f} of it.",
        )
    ]
    bias = -delta["bias"]
    grade = GOOD if bias < delta["spread"] else WARNING if bias < 0.1 else BAD
    sentences.append(
        (
            grade,
            f"At {results['num_samples']:,} draws the mean log p(x) is too low by at "
            f"least {bias:.3f} nats (against {results['num_seeds']} times the draws).",
        )
    )
    return sentences


ERRORS = Part(
    name="errors",
    title="Do the error bars hold?",
    measure=_measure_errors,
    draw=_draw_errors,
    judge=_judge_errors,
)


# Where the answer is known ---------------------------------------------------------


def _measure_known(subject, on_progress):
    cases = []
    for spread in coverage.SPREADS:
        cases += coverage.known_cases(
            spreads=(spread,),
            num_samples=subject.num_samples,
            num_images=subject.effort(100, 20),
            num_seeds=subject.effort(40, 10),
            seed=abs(subject.seed[0]),
        )
        on_progress(1, len(coverage.SPREADS))
    return {"cases": cases}


def _draw_known(subject, results, folder):
    del subject
    drawn = []
    for case in results["cases"]:
        spread = case["spread_of_log_w"]
        name = f"known_{spread:g}.png"
        figures.error_bars(folder / name, case)
        drawn.append(
            (
                name,
                f"log w ~ N(-s^2/2, s^2) with s = {spread:g}, of which log E w = 0 is "
                f"the reference: {case['num_seeds']} seeds of {case['num_images']} "
                f"images, {case['num_samples']:,} draws each. The larger s, the "
                "heavier the tail of the weights.",
            )
        )
    return drawn


def _judge_known(results):
    sentences = []
    for case in results["cases"]:
        delta, jackknife = (case["errors"][n] for n in ("delta method", "jackknife"))
        low, honest = (e["stated"] / e["spread"] for e in (delta, jackknife))
        sentences.append(
            (
                PLAIN,
                f"s = {case['spread_of_log_w']:g}: jackknife_error states {honest:.2f} "
                f"of the spread of the mean between seeds, standard_error {low:.2f}; "
                f"the bias is {delta['bias']:+.4f} nats.",
            )
        )
    return sentences


KNOWN = Part(
    name="known",
    title="Error bars where the answer is known",
    measure=_measure_known,
    draw=_draw_known,
    judge=_judge_known,
    needs_model=False,
)
