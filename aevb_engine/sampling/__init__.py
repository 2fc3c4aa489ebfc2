"""Markov chains on z at fixed parameters."""
