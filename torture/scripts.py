"""Runs scripts in this process, and makes the small files that they need."""

import importlib
import signal
import sys

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
