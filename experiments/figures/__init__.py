"""Figures: arrays in, a `matplotlib.figure.Figure` out.

Import its modules lazily, inside functions: they bring matplotlib.
"""
