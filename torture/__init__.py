"""What a training run survives, tried on real processes: `python -m torture`."""
