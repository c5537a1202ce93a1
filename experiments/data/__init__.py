"""Download and load the data sets."""
