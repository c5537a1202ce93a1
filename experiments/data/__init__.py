"""Loaders of the data sets and their downloads."""
