"""Worked examples; they need a checkout, not only the installed package."""
