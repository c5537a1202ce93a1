"""How a sweep chooses what to train next."""
