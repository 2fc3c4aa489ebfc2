"""What a newcomer sees first: no default collapses, and what has collapsed is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import aevb_engine as aevb
from aevb_engine.errors import ResultWarning
from aevb_engine.evaluation.baselines import bernoulli, gaussian, ppca


@pytest.mark.parametrize("name", ["laplace", "gaussian sigmoid affine -7"])
def test_faces_use_both_units(name: str, make_likelihood: Any) -> None:
    """Median of three seeds: far above independent columns and PCA, both units in use."""
    data = aevb.dataset("faces", train=400, test=100)
    assert data.test is not None
    x = data.test.astype(np.float64)
    simple = max(fit.score(x).mean() for fit in (gaussian(data.train), ppca(data.train, 2)))
    gained, active = [], []
    for seed in range(3):
        model = aevb.VAE(decoder=make_likelihood(name), hidden=50, seed=seed, backend="cpu", threads=1)
        model.fit(data, steps=300)
        gained.append(model.bound(data.test) - simple)
        active.append(int((model.encode(data.test)[0].var(axis=0) > 0.01).sum()))
    assert np.median(gained) > 150
    assert np.median(active) == 2


def test_a_collapsed_fit_is_said(make_likelihood: Any) -> None:
    """The start of the paper, on the same data: one point, and a warning with the mend, in Python's words."""
    data = aevb.dataset("faces", train=400, test=100)
    model = aevb.VAE(
        decoder=make_likelihood("laplace"), hidden=50, backend="cpu", threads=1, initial="normal", lr=0.001
    )
    with pytest.warns(ResultWarning, match='none of the 2 latent units is active.*initial="glorot"'):
        model.fit(data, steps=300)
    assert model.remarks


def test_few_rows_are_learned(make_likelihood: Any) -> None:
    """200 images: a fit that is told nothing has steps enough to beat each pixel's own mean by far."""
    data = aevb.dataset("glyphs", train=200, test=200)
    model = aevb.VAE(hidden=50, seed=1, backend="cpu", threads=1).fit(data)
    assert model.history[-1]["step"] == 2000
    assert model.bound(data.train) > bernoulli(data.train).score(data.train.astype(float)).mean() + 50
