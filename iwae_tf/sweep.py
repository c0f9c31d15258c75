r"""Trains every combination of the given config values, several runs at a time.

  python -m iwae_tf.sweep --config=mnist5k_iwae --folder=runs/sweep \
      --grid=num_samples=1,5,50 --grid=seed=0,1,2 --processes=2

Run it again with the same flags to finish what is left. `--task=I` does only
run I, for the array jobs of a cluster; `--list` prints the runs in that order.
"""

import pathlib

from absl import flags

from iwae_tf import cli
from iwae_tf.config import check_key

_CONFIG = cli.config_flag()
_FOLDER = cli.new_path_flag("folder", "Folder of the runs' workdirs.")
_GRID = flags.DEFINE_multi_string("grid", [], "KEY=VALUE,VALUE,...; may be repeated.")
_PROCESSES = cli.count_flag("processes", 1, "Runs at a time.")
_TASK = flags.DEFINE_integer("task", None, "Do only run I, counted from 0.")
_LIST = flags.DEFINE_bool("list", False, "Only print the runs.")
cli.require("folder", unless="list")


@flags.validator("grid")
def _check_keys(grid):
    for values in grid:
        check_key(values.partition("=")[0])
    return True


@cli.script
def run() -> int:
    """Does the runs of the flags and prints a table."""
    from iwae_tf.checks import check_choice
    from iwae_tf.studies import runner

    runs = runner.expand_grid(_CONFIG.value, _GRID.value)
    if _LIST.value:
        for index, run in enumerate(runs):
            print(index, run.name)
        return 0
    folder = pathlib.Path(_FOLDER.value)
    table: pathlib.Path | None = folder / "sweep.json"
    if _TASK.value is not None:
        check_choice(_TASK.value, "task", range(len(runs)))
        runs, table = [runs[_TASK.value]], None
    with cli.stop_at_sigterm() as stop:
        outcomes = runner.run_all(
            runs, folder, num_processes=_PROCESSES.value, stop=stop
        )
    print(runner.format_table(outcomes))
    if table is not None:
        runner.write_table(table, outcomes)
        print(f"table  {table}")
    return cli.FAILED if any(o.status == runner.FAILED for o in outcomes) else 0


if __name__ == "__main__":
    run()
