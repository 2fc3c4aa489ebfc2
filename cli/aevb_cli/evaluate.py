"""``aevb-engine evaluate``: how good a trained model is, with errors and with what the numbers compare to."""

from __future__ import annotations

from typing import Any

import click

from aevb_cli import complete, progress
from aevb_cli.boundary import one_line, warn
from aevb_cli.options import CONTEXT, Command, Section, debug_option
from aevb_cli.text import duration, echo_json, grid, number, pairs, prose, say, table
from aevb_engine.errors import UsageError

UNITS = 12  # latent dimensions that are listed; -v lists all


@click.command(
    cls=Command,
    context_settings=CONTEXT,
    short_help="Bound, log-likelihood, latent dimensions and baselines of a run.",
    epilog="\b\nExamples:\n  aevb-engine evaluate latest\n"
    "  aevb-engine evaluate runs/my-run --samples 500 --rows 200\n"
    "  aevb-engine evaluate latest --method is,ais --rows 100 --bracket --json\n\n"
    "Defaults are in brackets. Nothing in the run's folder is changed.",
)
@click.argument("name", metavar="RUN", shell_complete=complete.runs)
@click.option("--method", "methods", multiple=True, metavar="NAME,...", cls=Section, section="Log-likelihood",
              help="is (importance sampling), ais (annealed importance sampling), hmc (KW appendix D) or none; repeat "
              "or separate by commas. [is; ais for a model without encoder]")  # fmt: skip
@click.option("--samples", metavar="K", cls=Section, section="Log-likelihood",
              help="is: samples from q a data point; ais: chains; hmc: draws a chain. Of several methods "
              "is=5000,ais=32. [is 5000, ais 16, hmc 500]")  # fmt: skip
@click.option("--temperatures", type=int, metavar="T", cls=Section, section="Log-likelihood",
              help="ais and --bracket: steps from prior to posterior; more are tighter and slower. [100]")  # fmt: skip
@click.option("--rows", type=int, metavar="N", cls=Section, section="Log-likelihood",
              help="The first N rows of the split for the log-likelihood. [is: all; ais, hmc: 100]")  # fmt: skip
@click.option("--bracket", is_flag=True, cls=Section, section="Log-likelihood",
              help="Forward and reverse annealing on data drawn from the model: below and above.")  # fmt: skip
@click.option("--split", type=click.Choice(["test", "validation", "train"]), default="test", cls=Section,
              section="What", help="Rows to evaluate on. [test]")  # fmt: skip
@click.option("--checkpoint", "which", type=click.Choice(["best", "last"]), cls=Section, section="What",
              help="[best where --validation chose one, else last]")  # fmt: skip
@click.option("--no-baselines", is_flag=True, cls=Section, section="What", help="Fit no baselines.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), metavar="N", cls=Section, section="Machine",
              help="Seed of the evaluation's noise. [the run's]")  # fmt: skip
@click.option("--threads", type=click.IntRange(1, 4096), metavar="N", cls=Section, section="Machine",
              help="[one for each physical core]")  # fmt: skip
@click.option("--backend", type=click.Choice(["auto", "cpu", "gpu"]), cls=Section, section="Machine",
              help="Where to compute. [the run's]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, cls=Section, section="Output",
              help="Print the report as one JSON object on stdout.")  # fmt: skip
@click.option("--quiet", is_flag=True, cls=Section, section="Output",
              help="Print nothing but errors (and the object of --json).")  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, cls=Section, section="Output",
              help="List every latent dimension and the assumptions.")  # fmt: skip
@debug_option
def evaluate(name: str, methods: tuple[str, ...], as_json: bool, quiet: bool, verbose: bool, **options: Any) -> None:
    """Evaluate RUN (a folder, a name below runs/, or latest): held-out bound, log-likelihood, latent dimensions."""
    from aevb_engine.experiment.evaluate import evaluate_run

    with progress.choose(quiet=quiet) as stages:
        record = evaluate_run(
            name,
            methods=split_names(methods),
            samples=parse_samples(options.pop("samples")),
            with_baselines=not options.pop("no_baselines"),
            progress=stages,
            **options,
        )
    if as_json:
        echo_json(record)
    elif not quiet:
        say(report(record, verbose=verbose))
        for line in record["warnings"]:
            warn(line)


def split_names(given: tuple[str, ...]) -> tuple[str, ...] | None:
    """Names from repeated and comma-separated values, each once; None where nothing was given, () for ``none``."""
    names = dict.fromkeys(part.strip() for value in given for part in value.split(","))
    if not given:
        return None
    return () if list(names) == ["none"] else tuple(names)


def parse_samples(text: str | None) -> dict[str, int] | int | None:
    """``5000``, or ``is=5000,ais=32``; UsageError otherwise."""
    if text is None:
        return None
    found: dict[str, int] = {}
    for part in text.split(","):
        name, equals, count = part.rpartition("=")
        try:
            found[name.strip()] = int(count)
        except ValueError:
            raise UsageError(f"--samples {text}: write a number, or is=5000,ais=32") from None
        if bool(equals) != bool(name.strip()):
            raise UsageError(f"--samples {text}: write a number, or is=5000,ais=32")
    if "" in found:
        if len(found) > 1:
            raise UsageError(f"--samples {text}: write a number, or is=5000,ais=32")
        return found[""]
    return found


def report(record: dict[str, Any], *, verbose: bool) -> str:
    """The record as people read it."""
    sections = [pairs(_head(record)), _figures(record), _diagnostics(record, verbose=verbose)]
    sections += [_bracket(record), _latent(record, verbose=verbose), _notes(record)]
    return "\n\n".join(s for s in sections if s)


def _head(record: dict[str, Any]) -> list[tuple[str, str]]:
    checkpoint = record["checkpoint"]
    grey = f", binarization {record['binarize']}" if record["binarize"] not in (None, "none") else ""
    return [
        ("run", one_line(record["run"])),
        ("checkpoint", f"step {number(checkpoint['step'])} ({checkpoint['which']}), objective {record['objective']}"),
        (
            "data",
            f"{record['dataset']}, {record['split']}, {number(record['rows_in_split'])} rows of "
            f"{number(record['dimensions'])}{grey}; {record['decoder']} decoder",
        ),
        ("unit", f"{record['unit']} ({'log of a probability' if record['measure'] == 'mass' else 'log of a density'})"),
    ]


def _figures(record: dict[str, Any]) -> str:
    """Bound, estimates and baselines in one table; what is of other rows stands apart, beside the bound of those."""
    count = record["rows_in_split"]
    lines = []
    bound = record["bound"]
    if bound:
        lines.append(["  bound L^B", *_cells(bound), "lower"])
        for title, key in (("reconstruction", "reconstruction"), ("- KL", "kl")):
            lines.append([f"    {title}", number(bound[key]), _error(bound[f"{key}_se"]), "", ""])
    lines += [_estimate(e) for e in record["estimates"] if e["rows"] == count]
    lines += [[f"  {b['name']}", *_cells(b), "baseline"] for b in record["baselines"]]
    if record["truth"]:
        lines.append(["  log p_true(x)", *_cells(record["truth"]), "exact"])
    if lines:
        lines.insert(0, [f"all {number(count)} rows", "", "", "", ""])
    title = ""
    for each in sorted((e for e in record["estimates"] if e["rows"] != count), key=_rows):
        if title != _rows(each):
            title = _rows(each)
            lines.append([title, "", "", "", ""])
            if each.get("bound_of_rows") is not None:
                same = {"value": each["bound_of_rows"], "se": each["bound_of_rows_se"]}
                lines.append(["  bound L^B", *_cells(same | {"bits_per_dim": each["bound_of_rows_bits"]}), "lower"])
        lines.append(_estimate(each))
    if not lines:
        return ""
    return table(["", "nats", "+- SE", "bits/dim", "kind"], lines, right=(1, 2, 3))


def _estimate(of: dict[str, Any]) -> list[str]:
    return [f"  log p(x), {of['title']}, K = {number(of['samples'])}", *_cells(of), of["side"]]


def _rows(of: dict[str, Any]) -> str:
    """Which rows an estimate is of, where not all; those that one method refused are its own matter."""
    first = f"the first {number(of['rows'] + of['refused'])} rows"
    return f"{first} but {number(of['refused'])} that {of['method']} refused" if of["refused"] else first


def _cells(of: dict[str, Any]) -> list[str]:
    bits = of.get("bits_per_dim")
    return [number(of["value"]), _error(of["se"]), "-" if bits is None else f"{bits:.4f}"]


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _diagnostics(record: dict[str, Any], *, verbose: bool) -> str:
    rows = []
    for each in record["estimates"]:
        facts = [f"K = {number(each['samples'])} {each['samples_are']}"] if verbose else []
        if each["temperatures"] is not None:
            facts.append(f"{number(each['temperatures'])} temperatures")
        if each["mc_se"] is not None:
            facts.append(f"Monte Carlo error of the mean {each['mc_se']:.3f}")
        if each["effective_samples_median"] is not None:
            facts.append(
                f"effective samples {each['effective_samples_median']:,.1f} median, "
                f"{each['effective_samples_min']:,.1f} least"
            )
        if each["pareto_k_bad_share"] is not None:
            facts.append(f"k-hat above 0.7 in {each['pareto_k_bad_share']:.1%} of the rows")
        if each["acceptance"] is not None:
            facts.append(f"acceptance {each['acceptance']:.2f}")
        if each["r_hat_max"] is not None:
            facts.append(f"R-hat at most {each['r_hat_max']:.3f}")
        facts.append(duration(each["seconds"]))
        rows.append((each["method"], ", ".join(facts)))
        if each["above_bound"] is not None:
            rows.append(("", f"{each['above_bound']:+.2f} +- {_error(each['above_bound_se'])} above L^B on these rows"))
        if verbose or each["side"] == "upper":
            rows.append(("", each["statement"]))
    for pair in record["pairs"]:
        first, second = pair["methods"]
        rows.append(
            (f"{first} - {second}",
             f"{_signed(pair['difference'])} +- {_error(pair['se'])} on {number(pair['rows'])} common rows")
        )  # fmt: skip
    return pairs(rows)


def _bracket(record: dict[str, Any]) -> str:
    found = record["bracket"]
    if found is None:
        return ""
    both = (found["acceptance_forward"], found["acceptance_reverse"])
    accepted = "; acceptance {:.2f} and {:.2f}".format(*both) if None not in both else ""  # one step moves nothing
    return prose(
        f"data drawn from the model ({number(found['rows'])} rows, {found['samples']} chains, "
        f"{number(found['temperatures'])} temperatures): log p(x) between "
        f"{number(found['forward'])} (forward) and {number(found['reverse'])} (reverse annealing),\n"
        f"a gap of {number(found['gap'])} +- {_error(found['gap_se'])}{accepted}"
    )


def _latent(record: dict[str, Any], *, verbose: bool) -> str:
    latent = record["latent"]
    if latent is None:
        return ""
    order = sorted(range(len(latent["kl"])), key=lambda j: -latent["kl"][j])
    shown = order if verbose else order[:UNITS]
    title = (
        f"active units {latent['active']} of {len(order)} (variance of the mean above {latent['threshold']}); "
        "KL by dimension, largest first"
    )
    cells = [f"z{j + 1} {latent['kl'][j]:.2f}" for j in shown]
    lines = grid([f"{c:<11}" for c in cells])
    if len(shown) < len(order):
        lines.append(f"  and {len(order) - len(shown)} more (-v)")
    return "\n".join([title, *lines])


def _notes(record: dict[str, Any]) -> str:
    return "\n".join(f"note: {one_line(n)}" for n in record["notes"])
