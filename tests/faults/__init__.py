"""Faults that a run must survive: real ones, in real processes."""
