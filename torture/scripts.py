"""Runs scripts in this process, and makes the small files that they need."""

import importlib
import os
import signal
import sys
import tempfile

import numpy as np
from absl import flags

TINY = """
from iwae_tf.config import default_config


def get_config():
    config = default_config()
    config.dataset = "npz"
    config.binarization = "none"
    config.latent_dims = [2]
    config.hidden_dims = [[8]]
    config.num_samples = 3
    config.batch_size = 20
    config.epochs = 2
    config.lr_schedule = "cosine"
    config.learning_rate = 1e-2
    config.jit_compile = False
    config.eval_split = "test"
    config.eval_num_samples = 40
    return config
"""


def images(count, seed):
    """Binary 8x8 images with structure: a bar at one of eight places, and noise."""
    rng = np.random.default_rng(seed)
    grey = np.full([count, 8, 8], 0.1)
    grey[np.arange(count), :, rng.integers(0, 8, count)] = 0.9
    return (rng.uniform(size=grey.shape) < grey).astype("float32")


def write_tiny(folder):
    """The flags of a small run, once its files are in the folder."""
    (folder / "tiny.py").write_text(TINY)
    np.savez(folder / "data.npz", x_train=images(60, 0), x_test=images(20, 1))
    data = f"--config.data_dir={folder / 'data.npz'}"
    return f"--config={folder / 'tiny.py'}", data


def import_script(name, package="iwae_tf"):
    """The module of a script, imported anew: its flags have no value yet."""
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        for flag in (
            list(defined) if module.startswith(("iwae_tf.", "examples.")) else ()
        ):
            delattr(flags.FLAGS, flag.name)
    for flag in [flag for flag in flags.FLAGS if flag.startswith("config")]:
        delattr(flags.FLAGS, flag)
    for module in (f"{package}.{name}", "config_config"):  # that of the last config
        sys.modules.pop(module, None)
    return importlib.import_module(f"{package}.{name}")


def run_script(name, *arguments, package="iwae_tf"):
    """Runs a script in this process, with fresh flags; its exit code."""
    script = import_script(name, package)
    argv, handler = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = [f"iwae-{name}", *map(str, arguments)]
    try:
        script.run()
    except SystemExit as stop:
        return stop.code or 0
    finally:
        sys.argv = argv
        signal.signal(signal.SIGTERM, handler)
    raise AssertionError("the script did not exit")


def run_captured(limit, name, *arguments):
    """Runs a script in this process, what it writes held back.

    Args:
      limit: seconds, after which it is interrupted.
      name: of the script.
      *arguments: its flags.

    Returns:
      (exit code, or what it raised in words; what it and its libraries wrote).
    """

    def stop(*_):
        raise KeyboardInterrupt

    handler, kept = signal.signal(signal.SIGALRM, stop), (os.dup(1), os.dup(2))
    with tempfile.TemporaryFile() as file:
        sys.stdout.flush(), sys.stderr.flush()
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        signal.alarm(round(limit))
        try:
            code = run_script(name, *arguments)
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, handler)
            sys.stdout.flush(), sys.stderr.flush()
            for number, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)
        file.seek(0)
        return code, file.read().decode(errors="replace")


def is_one_line(output):
    """Whether a script has written what is wrong, in one line, and nothing else."""
    lines = [line for line in output.splitlines() if line.strip()]
    return len(lines) == 1 and lines[0].startswith("error: ") and len(lines[0]) < 2000
