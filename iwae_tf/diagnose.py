"""Diagnoses a model: its bounds, error bars, gradients, proposals and latents.

python -m iwae_tf.diagnose --workdir=runs/a
python -m iwae_tf.diagnose --saved_model=saved_models/mnist5k_iwae --output=runs/b
python -m iwae_tf.diagnose --parts=toy,known,theory --output=runs/known_answers

Writes a JSON file for each part, PNGs and report.html. Run it again with the
same flags to continue after the last finished part.
"""

import pathlib
import sys

from absl import flags

from iwae_tf import cli
from iwae_tf.checks import check_choice, check_count
from iwae_tf.errors import InvalidInputError, Stopped
from iwae_tf.io import terminal
from iwae_tf.io.files import check_place
from iwae_tf.versions import library_versions

_MODEL = cli.ModelFlags()
_OUTPUT = cli.path_flag("output", "Folder of the report; default: WORKDIR/diagnostics.")
NAMES = (  # of `diagnostics.parts`, which waits for TensorFlow
    *("proposal", "gaps", "sweep", "errors", "annealing", "gradients"),
    *("representation", "theory", "toy", "known"),
)
_PARTS = flags.DEFINE_list(
    "parts", None, f"Some of {', '.join(NAMES)}; default: all but the last two."
)
_SPLIT = flags.DEFINE_string("split", "test", "train, validation or test.")
_NUM_IMAGES = cli.count_flag("num_images", 100, "Images, from the start of the split.")
_NUM_SAMPLES = cli.count_flag(
    "num_samples", 5000, "Draws for each example, K, of the estimate to check."
)
_QUICK = flags.DEFINE_bool("quick", False, "A tenth of the work, for a first look.")
_DATA = cli.data_flags()
_MODEL.require(unless="parts")
cli.require("output", unless="workdir")


@flags.validator("parts")
def _check_parts(parts):
    for name in [""] if parts == [] else parts or ():
        check_choice(name, "--parts", NAMES)
    return True


@cli.script
def run() -> int:
    """Diagnoses the model of the flags and prints where the report is."""
    from iwae_tf.diagnostics.diagnosis import diagnose
    from iwae_tf.diagnostics.parts import DEFAULT_PARTS, PARTS
    from iwae_tf.diagnostics.parts.base import Subject
    from iwae_tf.evaluation.pareto import LEAST_DRAWS

    check_count(_NUM_SAMPLES.value, "--num_samples", LEAST_DRAWS)
    folder = pathlib.Path(_OUTPUT.value or f"{_MODEL.workdir.value}/diagnostics")
    check_place(folder, "--output")
    parts = list(dict.fromkeys(_PARTS.value or DEFAULT_PARTS))
    subject, facts = Subject(None, None, _NUM_SAMPLES.value, quick=_QUICK.value), []
    if any(PARTS[name].needs_model for name in parts):
        subject, facts = _subject()
    title = f"Diagnosis of {_MODEL.name}" if _MODEL.name else "Diagnosis"
    again = (
        f"the finished parts are in {folder}: run again with the same flags to continue"
    )
    cli.raise_at_sigterm()
    try:
        found = diagnose(subject, folder, parts=parts, title=title, facts=facts)
    except Stopped:
        print(f"stopped; {again}")
        return 0
    except KeyboardInterrupt:
        print(again, file=sys.stderr)
        raise
    sentences = [
        (name, sentence)
        for name, results in found.items()
        for _, sentence in PARTS[name].judge(results)
    ]
    terminal.print_fields([*sentences, ("report", folder / "report.html")])
    return 0


def _subject():
    """The model and images of the flags, and what the report says of them."""
    from iwae_tf.diagnostics.parts.base import Subject
    from iwae_tf.runs.splits import load_eval_split

    model, config = _MODEL.load(**cli.values_of(_DATA))
    if config.conditional:
        raise InvalidInputError(
            "the model must not be conditional: the diagnosis has no labels. "
            "Received: conditional=True"
        )
    images, _ = load_eval_split(config, _SPLIT.value, _NUM_IMAGES.value)
    subject = Subject(
        model, images, _NUM_SAMPLES.value, (config.eval_seed, 0), _QUICK.value
    )
    versions = ", ".join(f"{k} {v}" for k, v in library_versions().items())
    return subject, [
        ("model", _MODEL.name),
        *cli.model_facts(config, len(images), _SPLIT.value),
        ("draws an example", f"{_NUM_SAMPLES.value:,}"),
        ("made with", versions),
    ]


if __name__ == "__main__":
    run()
