"""The simulated sets: moments, independence of the parts, exact densities."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aevb_engine.data.dataset import DataRequest
from aevb_engine.errors import DataError, UsageError
from aevb_plugins.datasets.simulated import SimulatedBinary, SimulatedNormal


def test_binary() -> None:
    data = SimulatedBinary().load(DataRequest(seed=1, binary_support=True))
    assert data.train.shape == data.test.shape == (1000, 50)
    assert data.train.dtype == np.uint8
    assert set(np.unique(data.train)) == {0, 1}
    for part in (data.train, data.test):
        assert abs(part.mean() - 0.5) < 5 * 0.5 / math.sqrt(part.size)
        between = np.corrcoef(part.T.astype(float))[np.triu_indices(50, 1)]
        assert np.abs(between).max() < 5 / math.sqrt(1000)
    assert data.true_log_prob is not None
    assert np.allclose(data.true_log_prob(data.test), -34.657359)


def test_normal() -> None:
    data = SimulatedNormal().load(DataRequest(seed=1))
    assert data.train.shape == data.test.shape == (1000, 50)
    assert data.train.dtype == np.float32
    for part in (data.train, data.test):
        n = part.size
        assert abs(part.mean()) < 5 / math.sqrt(n)
        assert abs((part**2).mean() - 1) < 5 * math.sqrt(2 / n)
        assert abs((part.astype(float) ** 4).mean() - 3) < 5 * math.sqrt(96 / n)
        between = np.corrcoef(part.T)[np.triu_indices(50, 1)]
        assert np.abs(between).max() < 5 / math.sqrt(1000)
    assert data.true_log_prob is not None
    expected = np.sum(-0.5 * np.log(2 * np.pi) - data.test[:7].astype(float) ** 2 / 2, axis=1)
    assert np.allclose(data.true_log_prob(data.test[:7]), expected)
    everything = data.true_log_prob(data.test)
    assert abs(everything.mean() + 25 * math.log(2 * math.pi * math.e)) < 5 * math.sqrt(25 / 1000)


@pytest.mark.parametrize("plugin", [SimulatedBinary, SimulatedNormal])
def test_parts_seeds_and_sizes(plugin: type[SimulatedBinary | SimulatedNormal]) -> None:
    one = plugin(train=20, test=10, dim=7).load(DataRequest(seed=1))
    assert one.train.shape == (20, 7)
    assert one.test.shape == (10, 7)
    assert not np.array_equal(one.train[:10], one.test)
    assert np.array_equal(one.train, plugin(train=20, test=10, dim=7).load(DataRequest(seed=1)).train)
    assert not np.array_equal(one.train, plugin(train=20, test=10, dim=7).load(DataRequest(seed=2)).train)
    more = plugin(train=40, test=10, dim=7).load(DataRequest(seed=1))
    assert np.array_equal(more.train[:20], one.train)


@pytest.mark.parametrize("plugin", [SimulatedBinary, SimulatedNormal])
@pytest.mark.parametrize("option", ["train", "test", "dim"])
@pytest.mark.parametrize("value", [0, -1, 10**9])
def test_sizes_are_checked(plugin: type[SimulatedBinary], option: str, value: int) -> None:
    with pytest.raises(UsageError, match=rf"dataset\.{option}={value}: simulated-.* whole number from 1"):
        plugin(**{option: value})


def test_refused() -> None:
    with pytest.raises(UsageError, match="--binarize static: simulated-binary is already binary"):
        SimulatedBinary().load(DataRequest(binarize="static"))
    with pytest.raises(UsageError, match="--scale raw: simulated-normal is real-valued"):
        SimulatedNormal().load(DataRequest(scale="raw"))
    with pytest.raises(DataError, match=r"simulated-normal is real-valued.*--decoder gaussian"):
        SimulatedNormal().load(DataRequest(binary_support=True))
