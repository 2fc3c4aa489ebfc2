"""The proof script of ``benchmarks/gpu``: its sections through the double of CuPy, and what it says without a device.

Only a device can show the figures, PyTorch and JAX, and the questions about launches and graphs; their CUDA texts are
compiled here.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.cuda_on_cpu.nvrtc import compile_for, library
from tests.patience import patience, until

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu"
DOUBLE = ROOT / "tests" / "cuda_on_cpu" / "double"
compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


def command(*options: object, state: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(DOUBLE), "AEVB_DOUBLE": state}
    return subprocess.run(
        [sys.executable, str(SCRIPT / "run.py"), "--small", *map(str, options)],
        capture_output=True, text=True, env=environment, timeout=patience(),
    )  # fmt: skip


def part(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"aevb_gpu_{name}", SCRIPT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    known = set(sys.modules)
    sys.path.insert(0, str(SCRIPT))  # where its neighbours are
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT))
        for name in set(sys.modules) - known:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(SCRIPT)):
                del sys.modules[name]
    return module


@compiler
def test_every_section_through_the_double(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    sections = ["noise_bits", "kernels", "parity", "trainers", "quiet", "peers", "stages", "products", "questions"]
    sections += ["more_peers", "speed"]
    done = command("--output", output, "--sections", ",".join(sections), "--commit", "abc", "--seconds", patience())
    assert done.returncode == 0, done.stderr + done.stdout
    result = json.loads(output.read_text())
    assert (result["passed"], result["ended"], result["commit"]) == (True, True, "abc")
    found = result["sections"]
    assert {name: s["status"] for name, s in found.items()} == dict.fromkeys(["machine", *sections], "done")
    assert found["machine"]["findings"]["device"] == "shim"
    assert found["machine"]["findings"]["simulated"] is True
    for name, least in (("noise_bits", 3), ("kernels", 2), ("parity", 6), ("trainers", 20), ("quiet", 14)):
        assert len(found[name]["checks"]) >= least
    assert found["kernels"]["findings"]["texts"]["passed"] > 40
    for workload in found["speed"]["findings"]["workloads"].values():
        assert workload["gpu"]["wall_us"] > 0
        assert workload["launches"]["products"] >= 11
        assert all(k["floor_us"] >= 0 and (k["bytes"] or k["flop"]) for k in workload["kernels"])
    ways = found["trainers"]["findings"]
    for kinds in ways["workloads"].values():
        assert {kind: sorted(f)[0] for kind, f in kinds.items() if "error" in f} == {}
        assert len(kinds) in (3, 6)
    assert {f["path"] for f in ways["figures"]} == {"eager", "graph", "persistent"}
    assert {path: f["trainer"] for path, f in ways["paper"].items()} == {p: p for p in ways["paper"]}
    assert ways["replicas"]["2"]["wall_us"] > 0
    burda = ways["burda"]
    assert (burda["schedule_steps"], burda["passes"]) == (9_840_000, 3280)
    for path in ("eager", "graph", "persistent"):
        stretch = burda[path]
        assert stretch["trainer"] == path
        assert stretch["projected_seconds"] == pytest.approx(stretch["us_per_step"] * 9.84, rel=0.01)
    for section, workloads in (("peers", ["W1"]), ("more_peers", ["W5", "W3"])):
        peers = found[section]["findings"]
        for path in ("eager", "graph", "persistent"):
            figures = peers["figures"][f"this engine, {path}"]
            assert set(figures) == set(workloads), figures
            assert {f["trainer"] for f in figures.values()} == {path}
        for who, figures in peers["figures"].items():  # no peer runs on the double, and the file says so
            if "engine" not in who:
                assert set(figures) == {f"error {' '.join(workloads)}"}
                assert {f"{who}, {w}" for w in workloads} <= set(peers["left_out"])
    stages = found["stages"]["findings"]
    assert set(stages["workloads"]) == {"W3 tf32"}
    for workload in stages["workloads"].values():
        assert len(workload["stages"]) in (7, 8)
        for stage in workload["stages"]:
            assert min(stage[f"{what}_us"] for what in ("graph", "work", "barrier", "floor")) > 0, stage
        assert sum(s["flop"] > 0 for s in workload["stages"]) >= 6
        assert workload["work_us"] < workload["timed_step_us"]  # a block does not work longer than a step takes
    ways = stages["other_ways"]["W3"]
    assert set(ways) == {
        "as it is", "a copy of the rows before the first layer", "layers around z apart", "chosen",
        "layers around z backward by 8",
    }  # fmt: skip
    assert all("us" in ways[way] for way in ways if way != "chosen")
    products = found["products"]
    assert len(products["checks"]) == 2
    for product in products["findings"]["products"].values():
        assert len(product["tiles"]) in (4, 5)
        assert product["chosen_over_best"] >= 1
    barrier = found["questions"]["findings"]["grid_barrier"]
    assert len(barrier) == 4, barrier
    assert done.stdout.splitlines()[-1].startswith("passed; ")


def test_every_test_of_a_text_is_launched_or_left_out_for_a_reason() -> None:
    kernels = part("kernels")
    left = [name for names in kernels.LEFT_OUT.values() for name in names]
    everything = []
    for file, launched in kernels.LAUNCHED.items():
        text = (ROOT / f"tests/cuda_on_cpu/test_{file}.py").read_text(encoding="utf-8")
        found = re.findall(r"^def (test_\w+)", text, re.MULTILINE)
        assert set(launched) == set(found) - set(left), file
        everything += found
    assert sorted(left) == sorted(set(left) & set(everything))


def test_shards_are_one_result(tmp_path: Path) -> None:
    """Without a test none fails, a failure and an end by time are told, and nothing goes on behind it."""
    kernels = part("kernels")
    (tmp_path / "test_these.py").write_text(
        "import time\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "def test_endless():\n    while True: time.sleep(1)\n"
    )
    ini = tmp_path / "kernels.ini"
    ini.write_text(kernels.INI)
    for chosen, code, passed, failed in (
        ("good", 0, 1, 0),
        ("good or bad", 1, 1, 1),
        ("good or endless", "out of time", 1, 0),
        ("none", 5, 0, 0),
    ):
        shards = kernels.Shards(ini, ["-k", chosen, str(tmp_path / "test_these.py")], tmp_path / chosen, 2)
        seconds = patience()
        if "endless" in chosen:  # its time is over as soon as the other part has ended
            until(lambda shards=shards: any(p.poll() == 0 for p in shards.processes), "the end of the good one")
            seconds = 0
        found = shards.found(time.monotonic() + seconds)
        assert (found["exit"], found["passed"], found["failed"]) == (code, passed, failed), found
        assert len(found["not_passed"]) == failed
        assert bool(found["last_words"]) == (code in (1, 5))
        assert all(process.returncode is not None for process in shards.processes)


@pytest.mark.peers
@pytest.mark.parametrize("package", ["torch", "jax"])
def test_the_peers_compute_the_same_bounds_and_gradients(package: str) -> None:
    """Tiny models on the CPU, the engine's own noise: float32 rounding alone is left."""
    pytest.importorskip(package)
    done = subprocess.run(
        [sys.executable, str(SCRIPT / "peer_check.py"), package], capture_output=True, text=True, timeout=patience()
    )
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout.splitlines()[-1])
    assert set(errors) == {"W1", "W2", "W3", "W4", "W5"}
    for name, found in errors.items():
        assert found["bound"] < 1e-5, name
        assert found["gradient"] < 1e-5, name  # as promised of every path
        assert found["step"] < 1e-3, name  # Adam's first step is a sign: what is nearly zero may differ


@pytest.mark.parametrize("state", ["no device", "no driver", "no library"])
def test_without_a_device_one_line_and_no_file(state: str, tmp_path: Path) -> None:
    output = tmp_path / "folder" / "result.json"
    done = command("--output", output, state=state)
    assert done.returncode == 5, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "backend gpu: " in done.stderr
    assert done.stdout == ""
    assert not output.parent.exists()


def test_the_double_is_never_a_result_by_default() -> None:
    before = sorted((ROOT / "benchmarks" / "results").glob("*"))
    assert command().returncode == 5
    assert sorted((ROOT / "benchmarks" / "results").glob("*")) == before


def test_a_promise_that_was_not_looked_at_fails(tmp_path: Path) -> None:
    """No time left for a section: exit code 1, and the file says so."""
    output = tmp_path / "result.json"
    done = command("--output", output, "--sections", "noise_bits", "--seconds", "9")
    assert done.returncode == 1, done.stderr
    result = json.loads(output.read_text())
    assert (result["passed"], result["ended"]) == (False, True)
    assert result["sections"]["noise_bits"]["status"] == "no time left"
    assert "FAILED noise_bits: no time left" in done.stdout


def test_a_record_is_whole_after_every_entry(tmp_path: Path) -> None:
    result = part("result")
    record = result.Record(tmp_path / "r.json")
    record.check("held", True, np.float64(1.5), 2)
    record.check("broken", float("nan") < 1, float("nan"), 1)
    record.attempt("question", lambda: 1 / 0)
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["checks"]["held"] == {"passed": True, "value": 1.5, "limit": 2}
    assert found["checks"]["broken"] == {"passed": False, "value": "nan", "limit": 1}
    assert "ZeroDivisionError" in found["findings"]["question"]["error"]
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_entry_points_without_an_installation(tmp_path: Path) -> None:
    setting = part("setting")
    setting._entry_points(tmp_path)
    (distribution,) = importlib.metadata.distributions(path=[str(tmp_path)])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (distribution.name, distribution.version) == (project["name"], project["version"])
    found: dict[str, dict[str, str]] = {}
    for point in distribution.entry_points:
        found.setdefault(point.group, {})[point.name] = point.value
    assert found == project["entry-points"]


def test_the_engine_runs_with_the_stand_in_for_threadpoolctl(tmp_path: Path) -> None:
    (tmp_path / "threadpoolctl.py").write_text(part("setting").THREADPOOLCTL)
    code = (
        "import threadpoolctl; assert 'stand-in' in threadpoolctl.__doc__\n"
        "from aevb_engine.experiment.environment import environment; environment()\n"
        "from aevb_engine.backend.numpy import NumpyBackend\n"
        "NumpyBackend(1).run([[[lambda: print('ran')]]], 1)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=patience()
    )
    assert done.stdout == "ran\n", done.stderr


def test_the_best_peer_is_the_fastest_one() -> None:
    peers = part("peers")
    figures = {
        "this engine, eager": {"W1": {"us_per_step": 300.0}},
        "this engine, persistent": {"W1": {"us_per_step": 10.0}, "error W2": "no time left"},
        "JAX scan": {"W1": {"us_per_step": 90.0}, "W2": {"us_per_step": 50.0}},
        "PyTorch eager": {"W1": {"us_per_step": 900.0}},
        "JAX scan, default precision": {"W1": {"us_per_step": 50.0}},  # another precision
        "PyTorch compiled": {"error W1 W2": "torch is not installed"},
    }
    found = peers.times_the_best_peer(figures)
    assert found == {"W1": {"best_peer": "JAX scan", "eager": 0.3, "persistent": 9.0}, "W2": {"best_peer": "JAX scan"}}


def test_a_second_result_of_a_day_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = part("run")
    monkeypatch.setattr(run, "ROOT", tmp_path)
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    names = []
    for _ in range(3):
        path = run._default_output({"device": "NVIDIA H100 80GB HBM3"})
        path.write_text("{}")
        names.append(re.sub(r"\d{4}-\d\d-\d\d", "DAY", path.name))
    assert names == [f"gpu-DAY-nvidia-h100-80gb-hbm3{i}.json" for i in ("", "-2", "-3")]


def test_the_clock_goes_around_every_barrier() -> None:
    """And a text of another form is refused, rather than timed in part."""
    stages = part("stages")
    text = f"f({stages.HEAD}{{\n{stages.LOOP}\n" + 3 * stages.MEET + f"}}\n{stages.END}}}\n"
    timed = stages.traced(text, 3)
    assert [timed.count(f"spent[2 * {n}]") for n in range(4)] == [1, 1, 1, 0]
    assert timed.count("meet(") == 3
    assert "long long* trace)" in timed
    for broken in (text.replace(stages.MEET, "", 1), text + stages.LOOP, text.replace(stages.END, "")):
        with pytest.raises(ValueError, match="the text has"):
            stages.traced(broken, 3)


TEXTS = {name: part("questions").barrier_text(changes) for name, changes in part("questions").WAITS.items()}
TEXTS["device.cu"] = (SCRIPT / "device.cu").read_text()


@pytest.mark.skipif(library() is None, reason="needs `pip install nvidia-cuda-nvrtc`")
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_the_texts_compile(text: str, arch: str) -> None:
    used = compile_for(arch, text)
    assert set(used) == set(re.findall(r"__global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(", text))
    assert all(u.spills == 0 for u in used.values())
