"""What to do about each check that can end in a yellow or red line."""

from iwae_tf.diagnostics.parts.base import Grade

REMEDIES = {
    "proposal": (
        "The log p(x) of these examples is too low, by more than the error bar says: "
        'use proposal="refined", or many more draws.'
    ),
    "amortisation gap": (
        "Train for longer, use a larger encoder, or score with "
        'proposal="refined", which does not need a good encoder.'
    ),
    "refined proposal": "Use more draws, and see whether another seed agrees.",
    "bound": 'Use more draws, or take log p(x) from proposal="refined".',
    "error bar": (
        'Report the 95 % interval instead of an error bar, or use proposal="refined".'
    ),
    "bias": (
        'Use proposal="refined" or more draws, or report the 95 % interval, which '
        "includes the bias."
    ),
    "annealing": (
        "Importance sampling misses some of p(z|x): use more draws of refined "
        "proposals until both agree, and until then report the higher value."
    ),
    "annealing bounds": (
        "Anneal for longer: diagnostics.annealed_log_likelihood takes num_steps."
    ),
    "gradient": (
        'Use gradient_estimator="dreg", a smaller K, or MIWAE or PIWAE, whose encoder '
        "has K draws in each of M groups; --quick measures fewer gradients."
    ),
    "collapse": (
        "Use kl_warmup_epochs, a bound of more draws (IWAE), or a smaller decoder."
    ),
    "slope": (
        "Run it again without --quick. If it stays, please report it: gradients "
        "are wrong on this machine."
    ),
    "slope near noise": "Run it again without --quick.",
}


def verdict(check: str, grade: Grade, text: str) -> tuple[Grade, str]:
    """A sentence with its grade, and where it is yellow or red what to do.

    Args:
      check: one of `REMEDIES`.
      grade: of what was found.
      text: what was found, one or more sentences.
    """
    is_fine = grade in ("good", "plain")
    return grade, text if is_fine else f"{text} {REMEDIES[check]}"
