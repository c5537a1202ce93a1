"""The comparison: our cells and other libraries', side by side in one process."""
