"""Hold environments as pure functions, which compile into the training that acts in them."""
