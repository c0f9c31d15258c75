"""What the package costs: one script a table, and `python -m benchmarks` for all."""
