"""``bench``, and the workloads behind it."""

import functools
import itertools
import json
import math

import numpy as np
import pytest

from aevb_engine import bench


@pytest.fixture
def quick(monkeypatch):
    """One round of a moment."""
    monkeypatch.setattr(bench, "measure", functools.partial(bench.measure, rounds=1, seconds=0.005))


@pytest.mark.usefixtures("quick")
def test_bench_as_json(call):
    result = call("bench", "--workloads", "W3", "--threads", "2", "--json")
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["threads"] == 2
    (found,) = record["timings"]
    assert found["workload"] == "W3"
    assert math.isclose(found["steps_per_second"], 1e6 / found["us_per_step"])
    assert math.isclose(found["ratio_to_products"], found["us_per_step"] / found["products_us"])


@pytest.mark.usefixtures("quick")
def test_bench_as_text(call, monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    result = call("bench", "--workloads", "W3", "--threads", "1")
    assert result.exit_code == 0, result.stderr
    head, columns, row = result.stdout.splitlines()
    assert head.startswith("1 thread,")
    assert columns.split()[-2:] == ["products", "ratio"]
    assert row.startswith("W3 560-200-5 ")
    assert float(row.split()[-1]) > 0
    assert "warning: OPENBLAS_CORETYPE=Haswell is set" in result.stderr


def test_bench_of_an_unknown_workload(one_error):
    assert "unknown workload 'W9'" in one_error(2, "bench", "--workloads", "W1,W9")
    one_error(2, "bench", "--threads", "0")
    assert "at most" in one_error(2, "bench", "--threads", "100000")


def test_bench_help(call):
    result = call("bench", "--help")
    assert "aevb-engine bench" in result.stdout.split("Example")[1]


@pytest.mark.parametrize("name", ["W2", "W3"])
def test_data_are_those_of_the_seed(name):
    workload = bench.Workload(**{**vars(bench.WORKLOADS[name]), "rows": 200})
    data = bench.draw(workload)
    assert data.shape == (200, workload.dim)
    assert data.dtype == (np.uint8 if workload.decoder == "bernoulli" else np.float32)
    assert np.array_equal(data, bench.draw(workload))
    assert not np.array_equal(data, bench.draw(workload, seed=1))
    assert 0 <= data.min() < data.max() == 1
    if workload.decoder == "bernoulli":
        assert not data.reshape(-1, 28, 28)[:, [0, -1]].any()
        assert 0.1 < data.mean() < 0.2


@pytest.mark.parametrize("name", list(bench.WORKLOADS))
def test_products_are_three_a_weight_but_two_for_the_first(name, monkeypatch):
    workload = bench.WORKLOADS[name]
    rows = max(workload.batch, 100)
    made = bench.trainer(workload, np.zeros((rows, workload.dim), np.uint8), 1)
    operations = []
    monkeypatch.setattr(np, "matmul", lambda a, b, out: operations.append(a.shape[0] * a.shape[1] * b.shape[1]))
    bench.products(made)()
    few, many = workload.batch, workload.batch * workload.samples
    widths = (workload.dim, *workload.hidden)
    inner = sum(a * b for a, b in itertools.pairwise(widths[1:]))
    heads = 2 if workload.decoder == "gaussian" else 1
    encoder = 2 * widths[0] * widths[1] + 3 * (inner + widths[-1] * 2 * workload.latent)
    decoder = 3 * (workload.latent * widths[-1] + inner + heads * widths[1] * widths[0])
    assert sum(operations) == few * encoder + many * decoder
