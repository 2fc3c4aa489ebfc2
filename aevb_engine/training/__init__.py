"""Minibatches, optimizers, the training step and the trainer."""
