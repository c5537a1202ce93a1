"""Sweeps: many settings of one experiment trained together, ranked and drawn."""
