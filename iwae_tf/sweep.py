r"""Trains every combination of the given config values, several runs at a time.

  python -m iwae_tf.sweep --config=mnist5k_iwae --folder=runs/sweep \
      --grid=num_samples=1,5,50 --grid=seed=0,1,2 --processes=2

Run it again with the same flags to finish what is left. `--task=I` trains
only run number I, for the array jobs of a cluster; `--list` prints the numbers.

  python -m iwae_tf.sweep --config=mnist5k_iwae --folder=runs/search \
      --engine=optuna --trials=30 --range=learning_rate=1e-4,1e-2,log

lets Optuna choose among the values of `--grid` and `--range`, for the best
validation bound, and stops runs that fall behind.

`--engine=ray --address=HOST:PORT` trains on a cluster of Ray.
"""

import pathlib

from absl import flags

from iwae_tf import cli
from iwae_tf.checks import check_choice
from iwae_tf.config import check_key
from iwae_tf.errors import InvalidInputError

_CONFIG = cli.config_flag()
_FOLDER = cli.new_path_flag("folder", "Folder of the runs' workdirs.")
_GRID = flags.DEFINE_multi_string("grid", [], "KEY=VALUE,VALUE,...; may be repeated.")
_ENGINE = cli.engine_flags(optuna="trials that Optuna chooses")
_TRIALS = cli.count_flag("trials", None, "Number of runs, for Optuna.")
_RANGE = flags.DEFINE_multi_string(
    "range", [], "KEY=LOW,HIGH[,log] for Optuna to choose from; may be repeated."
)
_TASK = flags.DEFINE_integer("task", None, "Train only this run, counted from 0.")
_LIST = flags.DEFINE_bool("list", False, "Only print the runs.")
cli.require("folder", unless="list")


@flags.validator("grid")
@flags.validator("range")
def _check_keys(axes):
    for values in axes:
        check_key(values.partition("=")[0])
    return True


@cli.script
def run() -> int:
    """Does the runs of the flags and prints a table."""
    is_search = _is_search()
    from iwae_tf.studies import on_ray, runner, tuning

    if is_search:
        axes = tuning.parse_axes(_CONFIG.value, _GRID.value, _RANGE.value)
        lines = list(map(str, axes))
    else:
        runs = runner.expand_grid(_CONFIG.value, _GRID.value)
        lines = [f"{index} {run.name}" for index, run in enumerate(runs)]
    if _LIST.value:
        print("\n".join(lines))
        return 0
    folder = pathlib.Path(_FOLDER.value)
    table: pathlib.Path | None = folder / "sweep.json"
    if _TASK.value is not None:
        check_choice(_TASK.value, "task", range(len(runs)))
        runs, table = [runs[_TASK.value]], None
    where = on_ray.engine(**cli.values_of(_ENGINE))
    with where as engine, cli.stop_at_sigterm() as stop:
        how = {"stop": stop, **engine}
        if is_search:
            trials = _TRIALS.value
            outcomes = tuning.search(
                _CONFIG.value, axes, folder, num_trials=trials, **how
            )
        else:
            outcomes = runner.run_all(runs, folder, **how)
    print(runner.format_table(outcomes))
    if table is not None:
        runner.write_table(table, outcomes)
        print(f"table  {table}")
    return cli.FAILED if any(o.status == runner.FAILED for o in outcomes) else 0


def _is_search():
    """Whether Optuna chooses the runs; refuses flags that are not for that."""
    is_search = cli.values_of(_ENGINE)["engine"] == "optuna"
    for flag in [_TASK] if is_search else [_TRIALS, _RANGE]:
        if flag.value not in (None, []):
            raise InvalidInputError(
                f"`--{flag.name}` must be left out {'with' if is_search else 'without'}"
                f" --engine=optuna. Received: --{flag.name}={flag.value}"
            )
    if is_search and _TRIALS.value is None and not _LIST.value:
        raise InvalidInputError(
            "`--trials` must be a number of runs for --engine=optuna. Received: none"
        )
    return is_search


if __name__ == "__main__":
    run()
