"""Scripts in processes of their own that need not import TensorFlow first."""

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


def run(module, *flags):
    """Does what `python -m module flags` does, with this folder and environment.

    Returns:
      subprocess.CompletedProcess, its output as text.
    """
    flags = list(map(str, flags))
    with tempfile.TemporaryDirectory() as folder:
        outputs = [pathlib.Path(folder) / name for name in ("stdout", "stderr")]
        arguments = (module, flags, dict(os.environ), outputs)
        child = FORKSERVER.Process(target=_run_module, args=arguments)
        child.start()
        child.join()
        texts = [path.read_text() for path in outputs]
    command = [sys.executable, "-m", module, *flags]
    return subprocess.CompletedProcess(command, child.exitcode, *texts)


def _run_module(name, flags, environment, outputs):
    """What the child does; it has this process' working folder and import path."""
    for stream, path in enumerate(outputs, start=1):
        with open(path, "w") as file:
            os.dup2(file.fileno(), stream)
    os.environ.update(environment)
    sys.argv = [name, *flags]
    runpy.run_module(name, run_name="__main__", alter_sys=True)
