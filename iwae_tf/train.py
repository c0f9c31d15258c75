"""Trains a model from a config, evaluates it, draws it and exports it.

  python -m iwae_tf.train --config=mnist5k_iwae --workdir=runs/a [--config.KEY=VALUE]

Run it again with the same flags to continue a run that was stopped: it ends
with the same weights as a run that was never stopped. A finished run continues
with more epochs, if its learning rates do not depend on their number.
"""

import signal
import sys
import threading

from iwae_tf import cli
from iwae_tf.config import validate
from iwae_tf.errors import Stopped
from iwae_tf.io import terminal
from iwae_tf.io.files import write_json

_CONFIG = cli.config_flag()
_WORKDIR = cli.new_path_flag("workdir", "Folder of the run.")
_DISTRIBUTE, _NUM_DEVICES = cli.device_flags()
cli.require("workdir")


@cli.script
def run() -> int:
    """Runs the config of the flags in the workdir of the flags."""
    from iwae_tf.runs.devices import make_distribution
    from iwae_tf.runs.splits import decide_epochs
    from iwae_tf.runs.workdir import Workdir

    config, workdir = _CONFIG.value, Workdir(_WORKDIR.value)
    validate(config)
    config = decide_epochs(config)
    distribution = make_distribution(_DISTRIBUTE.value, _NUM_DEVICES.value)
    if distribution.is_chief:
        workdir.check(config)
    is_finished = distribution.is_chief and workdir.is_finished(config)
    if distribution.agree([is_finished])[0]:
        terminal.tell(f"{workdir.path} is finished: see {workdir.results}")
        return 0
    return _run(config, workdir, distribution)


def _run(config, workdir, distribution):
    """Trains, then evaluates, draws and exports; returns the exit code."""
    from iwae_tf.runs.checkpoints import CheckpointStore
    from iwae_tf.runs.training import train

    stop_request = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop_request.set())
    again = "run again with the same flags to continue"

    try:
        trained = train(
            config,
            workdir,
            stop_request=stop_request,
            distribution=distribution,
            report=terminal.tell,
        )
        stop_now = cli.raise_at_sigterm()  # nothing is half-written now
        if stop_request.is_set():  # after the last step, or of a run that had ended
            stop_now()
        _finish(config, workdir, trained, distribution)
    except Stopped:
        terminal.tell(f"stopped; the run so far is in {workdir.path}: {again}")
        return 0
    except KeyboardInterrupt:
        newest = CheckpointStore(workdir.checkpoints).newest
        line = "there is no checkpoint yet: the next run starts from the beginning"
        if newest is not None:
            line = f"the last checkpoint is {newest}: {again}"
        print(line, file=sys.stderr)
        raise
    finally:
        workdir.release()
    return 0


def _finish(config, workdir, trained, distribution):
    """Evaluates, draws and exports; `results.json` comes last and ends the run."""
    from iwae_tf.runs import results
    from iwae_tf.runs.devices import product_gflops
    from iwae_tf.runs.figures import draw_figures
    from iwae_tf.runs.tensorboard import write_hyperparameters
    from iwae_tf.runs.workdir import check_data

    model = trained.model
    check_data(workdir.path, config)
    found, is_complete = results.evaluate(
        config,
        distribution.scorer(model),
        split=config.eval_split,
        num_samples=config.eval_num_samples,
        proposal=config.eval_proposal,
        model=model,
    )
    if found is None or not is_complete:
        raise KeyboardInterrupt
    if not distribution.is_chief:
        return
    try:
        draw_figures(model, config, trained.history, workdir.figures)
    except Exception as error:  # which is no reason to lose what was trained
        terminal.tell(f"some figures could not be drawn: {error}")
    found["epochs"] = len(trained.history)  # fewer where it has stopped early
    found["training_seconds"] = trained.seconds
    found["seconds"] = trained.seconds + found["evaluation_seconds"]
    found["product_gflops"] = product_gflops()
    saved = workdir.export(model, config, found)  # from here on fast, see `export`
    write_hyperparameters(workdir.tensorboard, workdir.path, found["config"], found)
    write_json(workdir.results, found)
    fields = results.summary_fields(found) | {
        "results": workdir.results,
        "model": workdir.model,
        "SavedModel": saved,
        "figures": workdir.figures,
        "metrics": f"{workdir.metrics}, {workdir.tensorboard}",
    }
    terminal.print_fields(fields.items())


if __name__ == "__main__":
    run()
