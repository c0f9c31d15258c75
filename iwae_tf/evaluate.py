"""Estimates the NLL of a split, from a workdir or from a SavedModel.

python -m iwae_tf.evaluate --workdir=runs/a --split=test --num_samples=5000
python -m iwae_tf.evaluate --saved_model=saved_models/mnist5k_iwae --limit=100
"""

from absl import flags

from iwae_tf import cli
from iwae_tf.errors import InvalidInputError
from iwae_tf.io import terminal
from iwae_tf.io.files import write_json

_MODEL = cli.ModelFlags()
_SPLIT = flags.DEFINE_string("split", "test", "train, validation or test.")
_NUM_SAMPLES = cli.count_flag("num_samples", None, "Draws for each image, K.")
_PROPOSAL = cli.proposal_flag(or_both=True)
_LIMIT = cli.count_flag("limit", None, "Score only the first images.")
_OUTPUT = cli.new_path_flag("output", "JSON file for the results.", is_file=True)
_DATA = cli.data_flags()
_DISTRIBUTE, _NUM_DEVICES = cli.device_flags()
_MODEL.require()


@cli.script
def run() -> int:
    """Scores the split that the flags name and prints a table."""
    from iwae_tf.runs import results
    from iwae_tf.runs.devices import make_distribution

    distribution = make_distribution(_DISTRIBUTE.value, _NUM_DEVICES.value)
    if _MODEL.workdir.value is None and distribution.num_replicas > 1:
        raise InvalidInputError(
            "`--distribute` must be none for a SavedModel, which runs on one device. "
            f"Received: --saved_model={_MODEL.saved_model.value}"
        )
    found, is_complete = _score(distribution)
    if found is not None and distribution.is_chief:
        fields = results.summary_fields(found)
        if _OUTPUT.value:
            write_json(_OUTPUT.value, found | {"complete": is_complete})
            fields["results"] = _OUTPUT.value
        terminal.print_fields(fields.items())
    if not is_complete:
        raise KeyboardInterrupt
    return 0


def _score(distribution):
    """(results, whether every image was scored) of the model of the flags."""
    from iwae_tf.runs import results

    if _MODEL.workdir.value is not None:
        model, config = _MODEL.load(**cli.values_of(_DATA))
        scorer = distribution.scorer(model)
    else:
        config = _MODEL.config(**cli.values_of(_DATA))
        model, scorer = None, _export_scorer(config.dataset)
    return results.evaluate(
        config,
        scorer,
        split=_SPLIT.value,
        num_samples=_NUM_SAMPLES.value or config.eval_num_samples,
        limit=_LIMIT.value,
        proposal=_PROPOSAL.value,
        model=model,
    )


def _export_scorer(dataset):
    """A `scorer` of `results.evaluate` by the SavedModel of the flags.

    Each call has a seed of its own, so that all images have independent noise.
    """
    from iwae_tf.evaluation import SCORES_PER_CALL
    from iwae_tf.runs import results
    from iwae_tf.serving.endpoints import open_scorer

    scorers = {
        name: open_scorer(saved_model=_MODEL.saved_model.value, proposal=name)
        for name in results.each_of(_PROPOSAL.value)
    }

    def score(x, num_samples, seed, *, labels, on_batch, proposal):
        scorer = scorers[proposal]
        results.check_shape(x, scorer.event_shape, dataset)
        batch_size = max(1, SCORES_PER_CALL // num_samples)
        for first in range(0, len(x), batch_size):
            rows = slice(first, first + batch_size)
            y = None if labels is None else labels[rows]
            try:
                on_batch(scorer(x[rows], num_samples, (seed[0], first), y))
            except InvalidInputError as error:
                raise InvalidInputError(
                    "`dataset` must be one that the model takes. Received: "
                    f"dataset={dataset}, {error}"
                ) from error

    return score


if __name__ == "__main__":
    run()
