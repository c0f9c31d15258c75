"""Runs graphs as they were traced: imported by whatever tests many small ones once.

To rewrite a graph takes longer than to run it a few times, and so does LLVM's work on
a program of XLA.
"""

import os

import tensorflow as tf

QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
# Read when XLA compiles its first program.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()
