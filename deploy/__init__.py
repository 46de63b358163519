"""The same model and the same two APIs on more than one machine."""
