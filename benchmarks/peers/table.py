"""A result as tables in Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

TITLES = {
    "ours": "ours", "jit": "ours, jit", "torch": "PyTorch eager", "compile": "torch.compile", "jax": "JAX scan",
}  # fmt: skip
OWN = ("ours", "jit")
TOLERANCE = (0.02, 2.0)  # relative, nats: bounds that differ by less than either are the same
BEGIN, END = "<!-- newest result -->", "<!-- end of the newest result -->"
Run = dict[str, Any]


def markdown(result: Run) -> str:
    """Speed by cores; evaluation and a busy machine; memory and start."""
    runs = result["runs"]
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items() if v != "not installed")
    parts = [
        f"{result['date'][:10]}, {result['processor']}, {result['logical_cores']} logical cores, {blas(runs)}, commit "
        f"{result['commit']}, load average {result['load_before'][0]:.1f} before and {result['load_after'][0]:.1f} "
        f"after; {versions}. {result['rounds']} rounds; a ratio is the median over rounds."
    ]
    for cores in sorted({r["cores"] for r in runs}):
        title = f"{cores} core{'s' if cores > 1 else ''}, microseconds a step"
        parts += [f"### {title}", times([r for r in runs if r["cores"] == cores], "seconds")]
        parts += [ratios([r for r in runs if r["cores"] == cores], "seconds", floor=cores == 1)]
    evaluated = [r for r in runs if any("evaluation_seconds" in f for f in r["engines"].values())]
    if evaluated:
        parts += ["### Log-likelihood with 5,000 importance samples (784-500-20, 40 rows)", evaluation(evaluated)]
    for r in runs:
        if any("busy_seconds" in f for f in r["engines"].values()):
            parts += [f"### {r['workload']} on {r['cores']} cores while another process keeps each busy", grown(r)]
    return "\n\n".join([*parts, "### Memory and start", costs(result)]) + "\n"


def put(page: Path, text: str) -> None:
    """Replace what stands between the two marks of a page."""
    old = page.read_text(encoding="utf-8")
    if old.count(BEGIN) != 1 or old.count(END) != 1:
        raise SystemExit(f"{page}: one {BEGIN} and one {END} are needed")
    before, rest = old.split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def blas(runs: list[Run]) -> str:
    """The library and core type behind our products."""
    found = {line for r in runs for line in r["engines"].get("ours", {}).get("blas", [])}
    return "; ".join(sorted({" ".join(line.split()[:3]) for line in found})) or "BLAS unknown"


def present(runs: list[Run], key: str = "seconds") -> list[str]:
    return [e for e in TITLES if any(key in r["engines"].get(e, {}) for r in runs)]


def times(runs: list[Run], key: str) -> str:
    """Microseconds a step of each engine and of the products, and whether all reached the same bound."""
    engines = present(runs)
    rows = []
    for r in runs:
        found = r["engines"]
        row = [r["workload"], *(micro(found[e][key]) for e in engines)]
        rows.append([*row, micro(r["floor"]) if "floor" in r else "", same([found[e]["bound"] for e in engines]),
                     f"{found[engines[0]]['trained_steps']}"])  # fmt: skip
    return lines(["", *(TITLES[e] for e in engines), "products", "mean bounds, in this order", "after steps"], rows)


def ratios(runs: list[Run], key: str, floor: bool) -> str:
    """Their time over ours, and ours over the products (at one thread)."""
    engines = present(runs)
    pairs = [(peer, own) for own in OWN for peer in engines if own in engines and peer not in OWN]
    over = [own for own in OWN if floor and own in engines]
    head = ["times as fast as", *(f"{TITLES[own]} / {TITLES[peer]}" for peer, own in pairs)]
    rows = []
    for r in runs:
        found = r["engines"]
        row = [ratio(found[peer][key], found[own][key]) for peer, own in pairs]
        rows.append(
            [r["workload"], *row, *(ratio(found[own][key], r["floor"]) if "floor" in r else "" for own in over)]
        )
    return lines([*head, *(f"{TITLES[own]}: time over products" for own in over)], rows)


def evaluation(runs: list[Run]) -> str:
    rows = []
    for r in runs:
        for e in present([r], "evaluation_seconds"):
            f, ours = r["engines"][e], r["engines"].get("ours", r["engines"][e])
            rows.append([
                str(r["cores"]), TITLES[e], f"{np.median(f['evaluation_seconds']):.2f} s",
                ratio(f["evaluation_seconds"], ours["evaluation_seconds"]), f"{f['log_likelihood']:.1f}",
                f"{f['evaluation_peak_bytes'] / 1e6:.0f} MB",
            ])  # fmt: skip
    return lines(["cores", "", "time", "time over ours", "mean log-likelihood", "peak memory"], rows)


def grown(run: Run) -> str:
    rows = []
    for e in present([run], "busy_seconds"):
        f = run["engines"][e]
        growth = np.median(f["busy_seconds"]) / np.median(f["seconds"])
        rows.append([TITLES[e], micro(f["seconds"]), micro(f["busy_seconds"]), f"{growth:.2f}"])
    return lines(["", "us a step alone", "busy", "growth"], rows)


def costs(result: Run) -> str:
    """Time to start, installed size and peak memory; medians over processes."""
    runs = result["runs"]
    names = list(dict.fromkeys(r["workload"] for r in runs))
    rows = []
    for e in present(runs):
        found = {n: [r["engines"][e] for r in runs if r["workload"] == n and e in r["engines"]] for n in names}
        every = [f for some in found.values() for f in some]
        first = [f["first_step_s"] * 1e3 for f in every]
        size = result["installed_bytes"].get("torch" if e == "compile" else e)
        rows.append([
            TITLES[e], f"{np.median([f['import_s'] for f in every]):.2f} s",
            f"{np.median(first):.0f} ms ({min(first):.0f} to {max(first):.0f})", f"{size / 1e6:.0f} MB" if size else "",
            *(f"{max(f['peak_bytes'] for f in some) / 1e6:.0f} MB" if some else "" for some in found.values()),
        ])  # fmt: skip
    head = ["", "import", "first step after it", "installed", *(f"peak memory {n}" for n in names)]
    return lines(head, rows)


def same(bounds: list[float]) -> str:
    """The bounds, and a word where they differ."""
    differ = max(bounds) - min(bounds) > max(TOLERANCE[0] * abs(float(np.mean(bounds))), TOLERANCE[1])
    return " ".join(f"{v:.1f}" for v in bounds) + (" DIFFERENT" if differ else "")


def micro(seconds: list[float]) -> str:
    return f"{np.median(seconds) * 1e6:.0f}"


def ratio(a: list[float], b: list[float]) -> str:
    return f"{np.median(np.array(a) / np.array(b)):.2f}"


def lines(head: list[str], rows: list[list[str]]) -> str:
    table = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in table)
