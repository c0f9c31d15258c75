r"""Reproduces a table or figure of the papers beside the published numbers.

  python -m iwae_tf.reproduce --study=burda_table1 --budget=short \
      --data_dir=DIR --workdir=results/burda_table1

Trains the cells of the study, scores them and writes a report. Run it again
with the same flags to finish what is left. `--cells` selects cells; `--reuse`
takes finished runs of the same config from another folder. `--report_only`
writes the report again from the results that are there; without `--study` it
does so for all studies below the workdir.
"""

import fnmatch
import pathlib

from absl import flags

from iwae_tf import cli
from iwae_tf.studies.cells import Protocol, cells_of, check_study

_STUDY = flags.DEFINE_string(
    "study",
    None,
    "headline, burda_table1, burda_swap, rainforth_table1, rainforth_grid, "
    "rainforth_snr, samples or estimators.",
)
_BUDGET = flags.DEFINE_string("budget", "short", "full, medium, short or smoke.")
_WORKDIR = cli.new_path_flag("workdir", "Folder of the study's runs.")
_DATASET = flags.DEFINE_string("dataset", "mnist", "mnist, mnist_fixed or omniglot.")
_DATA_DIR = cli.path_flag("data_dir", "Folder or file of the data set.")
_SEEDS = flags.DEFINE_multi_integer("seed", [0], "Seed of each cell; may be repeated.")
_CELLS = flags.DEFINE_string("cells", "*", "Pattern of cell names, such as iwae_*_1l.")
_ENGINE = cli.engine_flags()
_REUSE = cli.path_flag("reuse", "Folder to search for finished runs.", True)
_REPORT_ONLY = flags.DEFINE_bool("report_only", False, "Only write the report.")
cli.require("workdir")
cli.require("study", unless="report_only")


@flags.multi_flags_validator(["study", "budget", "dataset"])
def _check_study(values):
    if values["study"] is not None:
        protocol = Protocol(values["budget"], values["dataset"])
        check_study(values["study"], protocol)
    return True


@cli.script
def run() -> int:
    """Does the study of the flags and prints its table."""
    from iwae_tf.errors import InvalidInputError
    from iwae_tf.studies.report import REPORT, check, read_head

    folder = pathlib.Path(_WORKDIR.value)
    if _REPORT_ONLY.value and not folder.is_dir():
        raise InvalidInputError(
            f"`--workdir` must be the folder of a study. Received: --workdir={folder}"
        )
    name = _STUDY.value
    if name is None:
        for flag in (_BUDGET, _DATASET, _DATA_DIR, _SEEDS, _CELLS, _REUSE):
            if flag.present:
                raise InvalidInputError(
                    f"`--{flag.name}` must come with --study: without it the reports "
                    f"of all studies in --workdir are written as they were made. "
                    f"Received: --{flag.name}={flag.value}"
                )
        return _rebuild(folder)
    protocol = Protocol(_BUDGET.value, _DATASET.value, _DATA_DIR.value)
    head = read_head(folder / REPORT)
    before = head[2] if head and head[0] == name else []  # the report keeps its seeds
    cells = cells_of(name, protocol, [*before, *_SEEDS.value], folder)
    of_seeds = [cell for cell in cells if cell.config.seed in _SEEDS.value]
    chosen = [cell for cell in of_seeds if _is_chosen(cell.name)]
    for flag in (_CELLS, _REUSE, _SEEDS):
        if not cells and flag.value != flag.default:
            raise InvalidInputError(
                f"`--{flag.name}` must be left out for {name}, which has no cells. "
                f"Received: --{flag.name}={flag.value}"
            )
    if cells and not chosen:
        raise InvalidInputError(
            f"`--cells` must match some of {', '.join(c.name for c in of_seeds)}. "
            f"Received: --cells={_CELLS.value}"
        )
    check(name, protocol, cells, folder)
    failed = False
    if not _REPORT_ONLY.value:
        failed = _do_cells(name, protocol, cells, chosen, folder)
        _time_steps(name, cells, folder)
    _write_report(name, protocol, cells, folder)
    return cli.FAILED if failed else 0


def _is_chosen(name):
    """Whether `--cells` means a cell, with or without its seed."""
    patterns = (_CELLS.value, f"{_CELLS.value}_seed*")
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _do_cells(name, protocol, cells, chosen, folder):
    """Trains and scores cells; returns whether one failed."""
    from iwae_tf.studies import on_ray, runner
    from iwae_tf.studies.cells import in_turn
    from iwae_tf.studies.report import write

    def report(line):
        print(line, flush=True)
        write(name, protocol, cells, folder)

    outcomes = []
    where = on_ray.engine(**cli.values_of(_ENGINE))
    with where as engine, cli.stop_at_sigterm() as stop:
        for turn in in_turn(chosen):
            runs = [runner.Run(cell.name, cell.config) for cell in turn]
            if _REUSE.value is not None:
                runner.take_finished(runs, folder, _REUSE.value)
            if folder.is_dir():
                runner.take_finished(runs, folder, folder)
            outcomes += runner.run_all(runs, folder, stop=stop, report=report, **engine)
    if outcomes:
        print(runner.format_table(outcomes))
    return any(outcome.status == runner.FAILED for outcome in outcomes)


def _time_steps(name, cells, folder):
    """Times the steps of the first seed's cells in turn, once those are finished."""
    from iwae_tf.studies import times
    from iwae_tf.studies.cells import STUDIES

    cells = times.left_to_measure(cells, folder)
    if cells and STUDIES[name].timed:
        print("timing the steps of all cells in turn", flush=True)
        times.measure_cells(cells, folder)


def _write_report(name, protocol, cells, folder):
    """The report of one study, measured first where it has no cells."""
    from iwae_tf.studies import report
    from iwae_tf.studies.cells import STUDIES

    part = STUDIES[name].part
    if part:
        from iwae_tf.diagnostics.diagnosis import do_part
        from iwae_tf.diagnostics.parts import PARTS
        from iwae_tf.diagnostics.parts.base import Subject

        subject = Subject(None, None, quick=protocol.budget == "smoke")
        results, drawn = do_part(PARTS[part], subject, folder)
        sentences = [sentence for _, sentence in PARTS[part].judge(results)]
        figures = [(path.name, caption) for path, caption in drawn]
        report.write_part(name, protocol, folder, sentences, figures)
    else:
        report.write(name, protocol, cells, folder)
    print(f"report  {folder / 'report.md'}, {folder / 'report.html'}")


def _rebuild(folder):
    """The reports of all studies in a folder and below it, from their results."""
    from iwae_tf.errors import InvalidInputError
    from iwae_tf.studies.report import REPORT, read_head

    found = {path: read_head(path) for path in sorted(folder.rglob(REPORT))}
    if not any(found.values()):
        raise InvalidInputError(
            f"`--workdir` must hold the {REPORT} of a study, in it or below it. "
            f"Received: --workdir={folder}"
        )
    for path, head in found.items():
        if head is None:
            print(f"skipped {path}, which is not a report of a study")
            continue
        name, protocol, seeds = head
        cells = cells_of(name, protocol, seeds, path.parent)
        _write_report(name, protocol, cells, path.parent)
    return 0


if __name__ == "__main__":
    run()
