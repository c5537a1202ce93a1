"""Write the Markdown tables of a result, the contents of ``bench.json``."""

import math
from collections.abc import Iterable
from typing import Any

from experiments.bench.cases import CELLS, MEASURES
from experiments.bench.libraries import LIBRARIES, OURS, SHARDED
from experiments.bench.selection import PARTS

Row = dict[str, Any]
Result = dict[str, Any]
BUSY = 0.1  # with more of the cores used by others, times are not comparable


def page(result: Result) -> str:
    """Return the whole page, wins and losses alike."""
    parts = [heading(result), *comparison(result["table"])]
    parts += [ablation(result["ablation"]), long(result["long"])]
    parts += [populations(result.get("populations", [])), drawn(result.get("drawn", []))]
    parts += [failures(result)]
    return "\n\n".join(part for part in parts if part) + "\n"


def heading(result: Result) -> str:
    """Return the first part of the page: the machine, what the columns mean, and the summary."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines = [
        "# The comparison",
        "",
        f"`{result['command']}` on {place(machine)}, "
        f"{machine['system']}, Python {machine['python']}; {versions}.",
    ]
    if result["missing"]:
        why = [f"{title(name)} ({reason})" for name, reason in result["missing"].items()]
        lines += ["", f"Skipped: {', '.join(why)}."]
    lines += ["", *peak_rates(result["peak_gflops"]), "", EXPLANATION, ""]
    return "\n".join([*lines, *disturbed(result), *summary(result)])


def place(machine: dict[str, Any]) -> str:
    """Return where it was measured: the accelerator if there is one, and the processor."""
    processor = f"{machine['cores']} cores of {machine['processor']}"
    return f"{machine['device']} beside {processor}" if machine.get("device") else processor


EXPLANATION = """\
Times are medians in milliseconds, with the fastest of each row in bold. A ratio is our time divided
by theirs, with its 95 % interval: ours is faster if the interval lies below 1, slower if it lies
above 1, and level if it contains 1. "JAX" is the fastest other program on JAX. "Sharded" is our
program with one JAX device per core, which share the sequences of a batch; all other programs on
JAX have one device, whose products may use all cores. All programs on JAX use 512-bit vectors.
Shapes are T x B x I x H: steps, sequences in a batch, inputs, hidden units. The second table of
each kind has the share of peak FLOP/s, the seconds to compile, the memory in MiB as planned by XLA
(arguments, results and temporary buffers), and the growth of the resident set in one call (without
arguments). Haiku's GRU resets before the product, all others after it. Haiku has no Elman cell with
tanh, and Equinox has no Elman cell."""


def peak_rates(measured: list[dict[str, float]]) -> list[str]:
    """Return a line with the peak FLOP/s of each library, at the start and at the end."""
    if not measured:
        return []
    lines = []
    for library in ("jax", "torch"):
        rates = [
            max((rate for name, rate in each.items() if name.startswith(library)), default=None)
            for each in measured
        ]
        if None not in rates:
            lines.append(f"{library} {' and '.join(f'{rate:.0f}' for rate in rates)} GFLOP/s")
    when = "at the start and at the end" if len(measured) > 1 else "at the start"
    return [f"Peak of a matrix product {when}: {'; '.join(lines)}."]


def disturbed(result: Result) -> list[str]:
    """Return a warning that lists what was measured while other programs used the processor."""
    rows = [row for part in PARTS for row in result[part] if not quiet(row)]
    if not rows:
        return []
    names = dict.fromkeys(
        f"{CELLS[row['cell']]} {case_name(row)}" if "form" in row else f"T = {row['time']}"
        for row in rows
    )
    share = max(row["others"] for row in rows)
    return [
        f"**Other programs used up to {100 * share:.0f} % of the cores while these were measured, "
        f"so the summary leaves them out: {', '.join(names)}.**",
        "",
    ]


def quiet(row: Row) -> bool:
    """Return whether, as far as is known, no other program disturbed the measurement."""
    return (row.get("others") or 0) <= BUSY


def summary(result: Result) -> list[str]:
    """Return a line for each cell and measurement: how often ours is faster, slower and level."""
    lines = []
    for cell, measure, rows in kinds(list(filter(quiet, result["table"]))):
        cases = by_case(rows).values()
        for ours, name, ratios in (
            ("", "torch", [ratio(case, "torch") for case in cases]),
            (", sharded", "torch", [ratio(case, "torch", SHARDED) for case in cases]),
            ("", "the fastest other on JAX", [ratio(case, best_on_jax(case)) for case in cases]),
        ):
            verdicts = [verdict(each) for each in ratios if each]
            if verdicts:
                lines.append(
                    f"- {CELLS[cell]}, {MEASURES[measure]}{ours}, against {name}: "
                    + ", ".join(
                        f"{w} on {verdicts.count(w)}" for w in ("faster", "slower", "level")
                    )
                    + f" of {len(verdicts)}."
                )
    return lines


def comparison(rows: list[Row]) -> Iterable[str]:
    """Yield a heading and two tables for each cell and measurement."""
    for cell, measure, some in kinds(rows):
        yield f"## {CELLS[cell]}, {MEASURES[measure]}"
        yield times(some)
        yield costs(some)


def kinds(rows: list[Row]) -> Iterable[tuple[str, str, list[Row]]]:
    """Yield each cell and measurement that has rows, with its rows."""
    for cell in CELLS:
        for measure in MEASURES:
            some = [row for row in rows if (row["cell"], row["measure"]) == (cell, measure)]
            if some:
                yield cell, measure, some


def by_case(rows: list[Row]) -> dict[str, dict[str, Row]]:
    """Group rows by the name of their case, then by library."""
    cases: dict[str, dict[str, Row]] = {}
    for row in rows:
        cases.setdefault(case_name(row), {})[row["name"]] = row
    return cases


def case_name(row: Row) -> str:
    """Return a case's shape, followed by its form if that is not one layer."""
    shape = "x".join(str(row[axis]) for axis in ("time", "batch", "inputs", "hidden"))
    return shape if row["form"] == "one-layer" else f"{shape} {row['form']}"


def times(rows: list[Row]) -> str:
    """Return the table of milliseconds by shape and library, with our ratios."""
    names = libraries_in(rows)
    ratios = ["ours / torch", "sharded / torch", "ours / JAX"]
    lines = [[*map(title, names), *ratios, "ours, µs a step"]]
    for case in by_case(rows).values():
        fastest = min((row["seconds"][0] for row in case.values() if "seconds" in row), default=0)
        cells = [milliseconds(case.get(name), fastest) for name in names]
        ratios = (
            ratio(case, "torch"),
            ratio(case, "torch", SHARDED),
            ratio(case, best_on_jax(case)),
        )
        lines.append([*cells, *map(format_ratio, ratios), step_time(case.get(OURS))])
    return table("T x B x I x H", list(by_case(rows)), lines)


def step_time(row: Row | None) -> str:
    """Format the microseconds that one step of the sequence takes."""
    return digits(1e6 * row["seconds"][0] / row["time"]) if row and "seconds" in row else "-"


def costs(rows: list[Row]) -> str:
    """Return the table of the share of peak FLOP/s, the seconds to compile, and memory."""
    names = libraries_in(rows)
    lines = [list(map(title, names))]
    lines += [[cost(case.get(name)) for name in names] for case in by_case(rows).values()]
    return table("share of peak; compile; MiB planned / grown", list(by_case(rows)), lines)


def libraries_in(rows: list[Row]) -> list[str]:
    """Return the libraries that have a row, in the order of `LIBRARIES`."""
    return [name for name in LIBRARIES if any(row["name"] == name for row in rows)]


def title(name: str) -> str:
    """Return the title of a library; any other name is its own title."""
    return LIBRARIES[name].title if name in LIBRARIES else name


def milliseconds(row: Row | None, fastest: float) -> str:
    """Format the median in milliseconds, in bold if it is the fastest."""
    if row is None:
        return "-"
    if "seconds" not in row:
        return "failed"
    text = digits(1e3 * row["seconds"][0])
    return f"**{text}**" if row["seconds"][0] == fastest else text


def digits(value: float) -> str:
    """Format a number with three significant digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def cost(row: Row | None) -> str:
    """Format the share of peak FLOP/s, the seconds to compile and the memory, where known."""
    if row is None or "seconds" not in row:
        return "-"
    planned, grown = (mebibytes(row[key]) for key in ("planned_bytes", "grown_bytes"))
    parts = [f"{100 * row['share']:.0f} %" if "share" in row else "-"]
    parts += [f"{row['compile_seconds']:.1f} s"] if row["compile_seconds"] is not None else []
    return "; ".join([*parts, f"{planned} / {grown}"])


def mebibytes(size: float | None) -> str:
    """Format a size in MiB with three significant digits."""
    return "-" if size is None else digits(size / 2**20)


def ratio(case: dict[str, Row], name: str | None, of: str = OURS) -> list[float] | None:
    """Return the ratio of our time to theirs with its interval; None unless both were measured.

    Args:
      case: the rows of a case by library.
      name: their library.
      of: which of our programs, `OURS` or `SHARDED`.
    """
    return case.get(name, {}).get("ratios", {}).get(of) if name else None


def best_on_jax(case: dict[str, Row]) -> str | None:
    """Return the fastest program on JAX that is not ours, or None if there is none."""
    others = {
        name: row["seconds"][0]
        for name, row in case.items()
        if name not in (OURS, SHARDED) and LIBRARIES[name].on_jax and "seconds" in row
    }
    return min(others, key=others.__getitem__) if others else None


def verdict(ratio: list[float]) -> str:
    """Return faster, slower or level, as the interval of the ratio decides."""
    _, low, high = ratio
    return "faster" if high < 1 else "slower" if low > 1 else "level"


def format_ratio(ratio: list[float] | None) -> str:
    """Format a ratio with its interval."""
    if ratio is None:
        return "-"
    value, low, high = ratio
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def ablation(rows: list[Row]) -> str:
    """Return the section of the ablation.

    Its table has one column per shape, with the milliseconds and how many times as fast as the
    plain scan each variant is.
    """
    if not rows:
        return ""
    cases = by_case(rows)
    names = list(dict.fromkeys(row["name"] for row in rows))
    lines = [list(cases)] + [
        [f"{milliseconds(case.get(name), 0)}, {gain(case.get(name))}" for case in cases.values()]
        for name in names
    ]
    return (
        "## What makes the LSTM fast\n\nForward + backward in milliseconds, and the speedup over "
        "the plain scan with its interval. Each row adds the named change to the row before "
        "it.\n\n" + table("LSTM", names, lines)
    )


def gain(row: Row | None) -> str:
    """Format the speedup over the plain scan."""
    return (
        format_ratio(next(iter(row["ratios"].values()), None)) if row and "ratios" in row else "-"
    )


def long(rows: list[Row]) -> str:
    """Return the section of long sequences.

    Its table has one column per length, with the milliseconds and the memory as planned and as
    grown.
    """
    if not rows:
        return ""
    steps = sorted({row["time"] for row in rows})
    names = list(dict.fromkeys(row["name"] for row in rows))
    found = {(row["name"], row["time"]): row for row in rows}
    lines = [[f"T = {time:,}" for time in steps]]
    lines += [[length(found.get((name, time))) for time in steps] for name in names]
    return (
        "## Long sequences\n\nForward + backward of one sequence with 16 inputs and 16 hidden "
        "units: milliseconds; MiB planned / grown.\n\n" + table("method", names, lines)
    )


def length(row: Row | None) -> str:
    """Format the time and memory of one method at one length."""
    if row is None or "seconds" not in row:
        return "-" if row is None else "failed"
    memory = f"{mebibytes(row['planned_bytes'])} / {mebibytes(row['grown_bytes'])}"
    return f"{milliseconds(row, 0)}; {memory}"


def populations(rows: list[Row]) -> str:
    """Return the section of populations.

    Its table has one column per number of members, with the milliseconds a member and its ratio to
    PyTorch, or to ours one by one where that was not measured.
    """
    if not rows:
        return ""
    counts = sorted({row["members"] for row in rows})
    names = list(dict.fromkeys((case_name(row), row["name"]) for row in rows))
    found = {(case_name(row), row["name"], row["members"]): row for row in rows}
    lines = [[f"{members} members" for members in counts]]
    lines += [[a_member(found.get((*name, members))) for members in counts] for name in names]
    return (
        "## Populations\n\nForward + backward of many LSTMs, each on its own batch: milliseconds a "
        "member, and the time divided by that of PyTorch's networks one by one.\n\n"
        + table("T x B x I x H", [f"{shape}, {name}" for shape, name in names], lines)
    )


def a_member(row: Row | None) -> str:
    """Format the time of one member, and the ratio to that of the networks one by one."""
    if row is None or "seconds" not in row:
        return "-" if row is None else "failed"
    each = digits(1e3 * row["seconds"][0] / row["members"])
    ratio = row["ratios"].get("torch, one by one")
    # The ratios of a row divide the others' time by its own.
    return each if ratio is None else f"{each}, {1 / ratio[0]:.2f}"


def drawn(rows: list[Row]) -> str:
    """Return the section of drawn shapes: by how much our choices miss the fastest ways."""
    if not rows:
        return ""
    lines, names = [["shapes", "geometric mean", "worst", "its shape", "chosen", "best"]], []
    for cell, measure, some in kinds(rows):
        found = [each for each in map(regret, by_case(some).values()) if each]
        if not found:  # all failed, which another section says
            continue
        worst = max(found)
        mean = math.exp(sum(math.log(each[0]) for each in found) / len(found))
        names.append(f"{CELLS[cell]}, {MEASURES[measure]}")
        lines.append([str(len(found)), f"{mean:.3f}", f"{worst[0]:.2f}", *worst[1:]])
    return (
        "## Shapes drawn at random\n\nOur time, by the way that the library chooses, over that of "
        "the fastest of all ways.\n\n" + table("regret", names, lines)
    )


def regret(case: dict[str, Row]) -> tuple[float, str, str, str] | None:
    """Return a case's regret, its shape, what was chosen, and what was best; None if it failed."""
    seconds = {name: row["seconds"][0] for name, row in case.items() if "seconds" in row}
    row = next(iter(case.values()))
    if row["chosen"] not in seconds:
        return None
    best = min(seconds, key=seconds.__getitem__)
    return seconds[row["chosen"]] / seconds[best], case_name(row), row["chosen"], best


def failures(result: Result) -> str:
    """Return the section of programs that were not timed, with the reasons."""
    rows = [row for part in PARTS for row in result[part]]
    lines = [
        f"- {title(row['name'])}, {row.get('cell', '')} "
        f"{case_name(row) if 'form' in row else row['time']} {row.get('measure', '')}: "
        f"{row['failed']}"
        for row in rows
        if "failed" in row
    ]
    return "\n".join(["## Not timed because of a failure", "", *lines]) if lines else ""


def table(corner: str, names: list[str], lines: list[list[str]]) -> str:
    """Format a Markdown table.

    Args:
      corner: the heading of the first column.
      names: the first column.
      lines: the headings of the other columns, then their cells line by line.
    """
    head, *body = lines
    rows = [[corner, *head], ["---", *["---:"] * len(head)]]
    rows += [[name, *line] for name, line in zip(names, body, strict=True)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
