"""Experiments on recurrent networks: the impure edge with flags, files and pictures."""
