"""Measurements, side by side in one run: ``python -m benchmarks [NAME …]``.

Figures are medians with their quartiles, over rounds in which what is compared takes
turns; a ratio is one of the same round. ``python -m benchmarks.compare BASE [NAME …]``
sets the package of another commit against this tree's.
"""
