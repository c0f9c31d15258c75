"""Reproduces a table of the papers: trains its cells, scores them, writes a report.

  python -m iwae_tf.reproduce --study=burda_table1 --budget=short \
      --data_dir=DIR --workdir=results/burda_table1

Started again with the same flags it does what is left to do. `--report_only` makes the
report anew from the runs that are finished; `--cells` takes some of the cells.
"""

import fnmatch
import pathlib
import signal
import threading

from absl import flags

from iwae_tf import cli

_STUDY = flags.DEFINE_string(
    "study",
    None,
    "headline, burda_table1, burda_swap, rainforth_table1, rainforth_grid or "
    "estimators.",
)
_BUDGET = flags.DEFINE_string("budget", "short", "full, short or smoke.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the study's runs.")
_DATASET = flags.DEFINE_string("dataset", "mnist", "mnist, mnist_fixed or omniglot.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data set lies.")
_SEEDS = flags.DEFINE_multi_integer("seed", [0], "Of a run of each cell; repeatable.")
_CELLS = flags.DEFINE_string("cells", "*", "Pattern of cell names, such as iwae_*_1l.")
_PROCESSES = flags.DEFINE_integer("processes", 1, "Runs at a time.")
_REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Train nothing.")


def main(argv):
    """Does the study of the flags and prints its table."""
    del argv
    from iwae_tf import studies, study_report, sweeps
    from iwae_tf.errors import InvalidInputError

    name = cli.require("study", _STUDY.value)
    folder = pathlib.Path(cli.require("workdir", _WORKDIR.value))
    cli.check_positive("processes", _PROCESSES.value)
    protocol = studies.Protocol(_BUDGET.value, _DATASET.value, _DATA_DIR.value)
    cells = studies.cells(name, protocol, _SEEDS.value, folder)
    chosen = [cell for cell in cells if fnmatch.fnmatch(cell.name, _CELLS.value + "*")]
    if not chosen:
        raise InvalidInputError(
            f"`--cells` must match some of {', '.join(c.name for c in cells)}. "
            f"Received: --cells={_CELLS.value}"
        )
    if _REPORT_ONLY.value and not folder.is_dir():
        raise InvalidInputError(
            f"`--workdir` must be the folder of a study. Received: --workdir={folder}"
        )

    def report(line):
        print(line, flush=True)
        study_report.write(name, protocol, cells, folder)

    failed = False
    if not _REPORT_ONLY.value:
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        outcomes = []
        for starts_anew in (True, False):  # others start from the weights of those
            runs = [
                sweeps.Run(cell.name, cell.config)
                for cell in chosen
                if (not cell.after) == starts_anew
            ]
            outcomes += sweeps.run_all(
                runs,
                folder,
                num_processes=_PROCESSES.value,
                stop=stop,
                report=report,
            )
        print(sweeps.format_table(outcomes))
        failed = any(outcome.status == sweeps.FAILED for outcome in outcomes)
    study_report.write(name, protocol, cells, folder)
    print(f"report  {folder / 'report.md'}, {folder / 'report.html'}")
    return cli.FAILED if failed else 0


def run():
    """The console command."""
    cli.run(main)


if __name__ == "__main__":
    run()
