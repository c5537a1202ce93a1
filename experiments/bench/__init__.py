"""Compare the speed of our cells with other libraries, side by side in one process."""
