"""What every run passes through: flags, loop, checkpoints, run directories, processes."""
