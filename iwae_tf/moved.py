"""Modules that were documented under another name, still imported under it."""

import importlib
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType

MOVED = {
    "iwae_tf.autoencoder": "iwae_tf.models.autoencoder",
    "iwae_tf.beam": "iwae_tf.serving.pipelines",
    "iwae_tf.classes": "iwae_tf.evaluation.classes",
    "iwae_tf.conv_networks": "iwae_tf.networks.conv",
    "iwae_tf.distribution": "iwae_tf.runs.devices",
    "iwae_tf.distributions": "iwae_tf.probability.distributions",
    "iwae_tf.gradients": "iwae_tf.models.gradients",
    "iwae_tf.log_weights": "iwae_tf.probability.log_weights",
    "iwae_tf.noise": "iwae_tf.probability.noise",
    "iwae_tf.optimizers": "iwae_tf.config.optimizers",
    "iwae_tf.results": "iwae_tf.runs.results",
    "iwae_tf.step_times": "iwae_tf.studies.times",
    "iwae_tf.sweeps": "iwae_tf.studies.runner",
    "iwae_tf.tensorboard": "iwae_tf.runs.tensorboard",
    "iwae_tf.training": "iwae_tf.runs.training",
    "iwae_tf.workdir": "iwae_tf.runs.workdir",
}


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers an old name with the module of the new one, loaded once."""

    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name in MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        self._spec = importlib.import_module(MOVED[spec.name]).__spec__
        return sys.modules[MOVED[spec.name]]

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has put the old name there
