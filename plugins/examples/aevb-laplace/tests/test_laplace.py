"""The engine's own checks: shapes, row independence, gradients, mean, samples, total probability."""

from aevb_laplace import Laplace

from aevb_engine.testing import check_likelihood


def test_laplace() -> None:
    check_likelihood(Laplace())
