"""Configs that ship with the package: `--config=mnist_iwae` names one of these."""
