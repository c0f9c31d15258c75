"""Scripts in processes of their own that need not import TensorFlow first."""

import concurrent.futures
import functools
import importlib
import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile

# Children start from a process that has imported TensorFlow and not used it.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    ["iwae_tf", "iwae_tf.diagnostics", "iwae_tf.training", "quick_graphs"]
)


def run(module, *flags, start="forkserver"):
    """Does what `python -m module flags` does, with this folder and environment.

    Args:
      module: its name, or the path of a script.
      *flags: what follows it on the command line.
      start: how the process starts, see multiprocessing.

    Returns:
      subprocess.CompletedProcess, its output as text, and as `modules` the names of
      all that was imported, a line each.
    """
    flags, kinds = list(map(str, flags)), ("stdout", "stderr", "modules")
    with tempfile.TemporaryDirectory() as folder:
        outputs = [pathlib.Path(folder) / kind for kind in kinds]
        arguments = (module, flags, dict(os.environ), outputs)
        context = multiprocessing.get_context(start)
        child = context.Process(target=_run_module, args=arguments)
        child.start()
        child.join()
        *texts, modules = (path.read_text() for path in outputs)
    command = [sys.executable, "-m", module, *flags]
    done = subprocess.CompletedProcess(command, child.exitcode, *texts)
    done.modules = modules
    return done


def run_without_tensorflow(module, *flags):
    """As `run`, at the top of the repository and with no more imported than flags."""
    return _without_tensorflow().submit(run, module, *flags, start="fork").result()


@functools.cache
def _without_tensorflow():
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(1, context, _import_flags)


def _import_flags():
    os.chdir(pathlib.Path(__file__).parents[1])
    sys.argv = ["-m"]  # what Python says while it looks for a module to run
    importlib.import_module("iwae_tf.cli")


def _run_module(name, flags, environment, outputs):
    """What the child does; it has this process' working folder and import path."""
    for stream, path in enumerate(outputs[:2], start=1):
        with open(path, "w") as file:
            os.dup2(file.fileno(), stream)
    os.environ.update(environment)
    sys.argv = ["-m", *flags]
    try:
        if name.endswith(".py"):
            runpy.run_path(name, run_name="__main__")
        else:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
    finally:
        outputs[2].write_text("\n".join(sys.modules))
