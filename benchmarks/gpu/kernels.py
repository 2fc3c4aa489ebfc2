"""Every kernel text on the device, and the whole GPU suite: the project's tests, in child processes side by side.

``texts``: the tests that compare each text with its array code, which CI runs through a C++ compiler, with the
launches sent to the device instead (``on_device.py``); guard bands travel along. ``suite``: ``pytest -m gpu``, where a
skip counts as a failure.

Nothing of test_stages.py and test_persistent.py is launched: stages are compared there with launches of other texts, in
which a compiler may contract a * b + c elsewhere, and persistent kernels take a table of the host's addresses. The
suite runs both kinds, against the CPU and with the same bits from both.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from result import Record
from section import Options
from setting import HERE, ROOT

from aevb_engine.backend.cores import physical_cores

# tests/cuda_on_cpu/test_<file>.py and what of it a device may run, by name, so that no new planted fault gets there
# unseen. They compare to rounding; to the bit noise and gathers, whose operations are rounded once each on either side,
# and repeated launches with one another.
LAUNCHED = {
    "declared": (
        "test_text_agrees_with_array_code",
        "test_rows_may_be_apart",
        "test_every_sum_is_the_same_in_every_schedule",
    ),
    "handwritten": (
        "test_latent_stage",
        "test_kl_near_the_prior",
        "test_gather",
        "test_gather_bernoulli_draws_the_same_bits",
        "test_log_mean_exp",
        "test_bounds",
        "test_advance_and_record",
        "test_a_step_beyond_the_block_is_not_recorded",
    ),
    "noise": (
        "test_a_million_numbers_are_equal_to_the_bit",
        "test_any_width_any_schedule_any_rows",
        "test_double_is_the_cast",
        "test_extreme_words",
    ),
    "plugins": (
        "test_likelihood",
        "test_likelihood_behind_a_product",
        "test_bernoulli_at_large_logits",
        "test_gradient_below_the_floor",
        "test_optimizer",
    ),
    "product": (
        "test_product",
        "test_product_by_tensor_cores",
        "test_rows_straight_from_the_data",
        "test_a_write_beyond_the_edge_is_seen",  # into the band of its own array: the bands see writes of a device
        "test_every_elementwise_kernel_may_follow",
        "test_a_chain_of_kernels_follows",
    ),
    "own": (
        "test_step",
        "test_every_likelihood_behind_its_heads",
        "test_narrow_products_are_cut_along_k",
        "test_step_by_tensor_cores",
        "test_the_next_rows_are_fetched_whole_before_they_are_read",
    ),
    "rows": (
        "test_rows",
        "test_the_noise_is_that_of_the_launch_alone",
    ),
}
LEFT_OUT = {
    "a planted fault, seen by the shim's schedules or its deadlock; a device may hang, or read outside": (
        "test_a_removed_barrier_changes_the_result",
        "test_an_off_by_one_is_seen",
        "test_a_removed_barrier_of_the_row_sums_changes_log_p",
        "test_a_planted_error_is_caught",
        "test_an_off_by_one_and_a_lone_barrier_are_caught",
    ),
    "about what a C++ compiler or NVRTC says": (
        "test_no_undefined_behaviour",
        "test_no_spills",
    ),
    "launches nothing": (
        "test_a_plugin_without_text_is_refused",
        "test_tiles_follow_the_shape",
        "test_what_other_elements_need_is_not_fused",
        "test_double_has_no_tensor_cores",
        "test_what_a_step_becomes",
        "test_the_first_layer_reads_the_data_where_the_rows_are_copies",
        "test_updates_come_after_every_read",
        "test_a_step_has_both",
        "test_what_does_not_match_stays",
        "test_wide_layers_stay_apart",
        "test_when_joining_is_expected_to_be_faster",
    ),
}
FEW = "softplus or 32x16-weight-float32 or edge or elbo-double or backward-elbo-float64"
MARKERS = ("slow", "gpu", "peers", "data", "timeout(n)")
INI = "\n".join(["[pytest]", "markers =", *(f"    {m}: as in pyproject.toml" for m in MARKERS), ""])
MOST = 8  # processes of a part: each has some 500 MB of the device's memory
NO_TESTS = 5  # pytest's exit code


def run(record: Record, options: Options) -> None:
    ini = options.work / "kernels.ini"
    ini.write_text(INI, encoding="utf-8")
    texts = [f"tests/cuda_on_cpu/test_{file}.py::{name}" for file, names in LAUNCHED.items() for name in names]
    parts = {"texts": ["-p", "on_device", *texts], "suite": ["-m", "gpu", "tests/gpu"]}
    if options.small:
        parts["texts"] += ["-k", FEW]
        parts["suite"] += ["-k", "bit_identical and elbo"]
    end = time.monotonic() + 0.95 * options.left()
    number = max(2, min(MOST, physical_cores()))
    begun = {name: Shards(ini, arguments, options.work / name, number) for name, arguments in parts.items()}
    try:
        for name, shards in begun.items():
            found = shards.found(end)
            record.note(**{name: found})
            good = found["exit"] == 0 and found["passed"] > 0 and not found["failed"] and not found["skipped"]
            value = {k: found[k] for k in ("passed", "failed", "skipped", "exit")}
            record.check(f"{name}: all tests pass, none is skipped", good, value)
    finally:
        for shards in begun.values():
            shards.kill()


class Shards:
    """pytest in several processes, each with a part of the tests; what they find is one result."""

    def __init__(self, ini: Path, arguments: Sequence[str], folder: Path, number: int) -> None:
        folder.mkdir()
        self.folder = folder
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        environment["PYTHONPATH"] = os.pathsep.join([environment.get("PYTHONPATH", ""), str(HERE)])
        environment |= {"AEVB_REQUIRE_GPU": "1", "OPENBLAS_NUM_THREADS": "1"}  # the processes share the cores
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-c", str(ini)]
        command += ["--rootdir", str(ROOT), "--import-mode=importlib", "-p", "no:cacheprovider", "-p", "outcomes"]
        self.processes = []
        for i in range(number):
            own = {"AEVB_SHARD": f"{i}/{number}", "AEVB_OUTCOMES": str(folder / f"{i}.jsonl")}
            with (folder / f"{i}.txt").open("w") as words:
                self.processes.append(
                    subprocess.Popen(
                        [*command, *arguments], cwd=ROOT, env=environment | own, stdout=words, stderr=subprocess.STDOUT
                    )
                )

    def found(self, end: float) -> dict[str, Any]:
        """The number of each outcome and the names of what did not pass, also of shards that ran out of time.

        ``exit``: 0 if every shard gave 0 or had no test, and one had some; else what the first of the others gave.
        """
        codes: list[int | str] = []
        for process in self.processes:
            try:
                codes.append(process.wait(max(0.1, end - time.monotonic())))
            except subprocess.TimeoutExpired:
                codes.append("out of time")
        self.kill()
        bad = [i for i, code in enumerate(codes) if code not in (0, NO_TESTS)]
        code = codes[bad[0]] if bad else 0 if 0 in codes else NO_TESTS
        words = (self.folder / f"{bad[0] if bad else 0}.txt").read_text(errors="replace")
        outcomes = [self.folder / f"{i}.jsonl" for i in range(len(codes))]
        return {"exit": code, **count(outcomes), "last_words": words.splitlines()[-12:] if code != 0 else []}

    def kill(self) -> None:
        """End what still runs; what the driver holds is not waited for."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)


def count(files: Iterable[Path]) -> dict[str, Any]:
    """From the lines that ``outcomes.py`` wrote."""
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    found = [json.loads(line) for line in lines]
    number = Counter(f["outcome"] for f in found)
    bad = {f["test"]: f["why"] for f in found if f["outcome"] != "passed"}
    return {
        "passed": number["passed"],
        "failed": number["failed"],
        "skipped": number["skipped"],
        "not_passed": dict(list(bad.items())[:100]),
        "seconds": round(sum(f["seconds"] for f in found), 1),
    }
