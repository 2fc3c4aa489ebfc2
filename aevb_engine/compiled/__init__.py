"""Loops compiled by numba where it is installed: what NumPy does in many passes, done in one."""
