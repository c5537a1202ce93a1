"""The Markdown tables of a result, ``bench.json``."""

from collections.abc import Iterable
from typing import Any

from experiments.bench.cases import CELLS, MEASURES
from experiments.bench.peers import OURS, PEERS, SHARDED
from experiments.bench.selection import PARTS

Row = dict[str, Any]
Result = dict[str, Any]
BUSY = 0.1  # of the cores, taken by others: what was measured then is no comparison


def page(result: Result) -> str:
    """Everything, wins and losses alike."""
    parts = [heading(result), *comparison(result["table"])]
    parts += [ablation(result["ablation"]), long(result["long"]), failures(result)]
    return "\n\n".join(part for part in parts if part) + "\n"


def heading(result: Result) -> str:
    """What was measured where, and what the columns mean."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines = [
        "# The comparison",
        "",
        f"`{result['command']}` on {machine['cores']} cores of {machine['processor']}, "
        f"{machine['system']}, Python {machine['python']}; {versions}.",
    ]
    if result["missing"]:
        why = [f"{title(name)}, since {reason}" for name, reason in result["missing"].items()]
        lines += ["", f"Left out: {'; '.join(why)}."]
    return "\n".join(
        [
            *[*lines, "", *ceiling(result["ceiling"]), "", EXPLANATION, ""],
            *[*disturbed(result), *summary(result)],
        ]
    )


EXPLANATION = """\
Times are medians in milliseconds, the fastest of a row in bold. A ratio is our time divided by
theirs, with its 95 % interval: below 1 we are faster, above 1 slower; where the interval holds 1,
level. "JAX" is the fastest of the other programs on JAX. "Sharded" is our program on a device of
JAX for each core, which share the sequences of a batch; all others on JAX have one device, whose
products may use all cores, and all have XLA's vectors of 512 bits. Shapes are T x B x I x H: steps,
sequences in a batch, inputs, hidden units. In the second table of each kind: share of the ceiling,
seconds to compile, memory in MiB as XLA plans it (arguments, results and work), and by how much the
resident set grew in one call (without arguments). Haiku's GRU resets before the product, all
others after it; Haiku has no Elman cell with tanh, Equinox has none."""


def ceiling(measured: list[dict[str, float]]) -> list[str]:
    """The best matrix product, at the start and at the end."""
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
    return [f"The best float32 matrix product {when}: {'; '.join(lines)}."]


def disturbed(result: Result) -> list[str]:
    """What was measured while others used the processor."""
    rows = [row for part in PARTS for row in result[part] if not quiet(row)]
    if not rows:
        return []
    names = dict.fromkeys(
        f"{CELLS[row['cell']]} {case_name(row)}" if "form" in row else f"T = {row['time']}"
        for row in rows
    )
    share = max(row["others"] for row in rows)
    return [
        f"**Other programs took up to {100 * share:.0f} % of the cores while these were measured; "
        f"they are not counted below, and no verdict: {', '.join(names)}.**",
        "",
    ]


def quiet(row: Row) -> bool:
    """Whether we had the processor to ourselves, as far as is known."""
    return (row.get("others") or 0) <= BUSY


def summary(result: Result) -> list[str]:
    """A line for each cell and measurement: how often we win, lose and are level."""
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
    """Two tables for each cell and measurement."""
    for cell, measure, some in kinds(rows):
        yield f"## {CELLS[cell]}, {MEASURES[measure]}"
        yield times(some)
        yield costs(some)


def kinds(rows: list[Row]) -> Iterable[tuple[str, str, list[Row]]]:
    """The rows of each cell and measurement that there are."""
    for cell in CELLS:
        for measure in MEASURES:
            some = [row for row in rows if (row["cell"], row["measure"]) == (cell, measure)]
            if some:
                yield cell, measure, some


def by_case(rows: list[Row]) -> dict[str, dict[str, Row]]:
    """The case's name to its rows by library."""
    cases: dict[str, dict[str, Row]] = {}
    for row in rows:
        cases.setdefault(case_name(row), {})[row["name"]] = row
    return cases


def case_name(row: Row) -> str:
    """Its shape, and its form where that is not one layer."""
    shape = "x".join(str(row[axis]) for axis in ("time", "batch", "inputs", "hidden"))
    return shape if row["form"] == "one-layer" else f"{shape} {row['form']}"


def times(rows: list[Row]) -> str:
    """Milliseconds by shape and library, and our ratios."""
    names = libraries(rows)
    lines = [[*map(title, names), "ours / torch", "sharded / torch", "ours / JAX"]]
    for case in by_case(rows).values():
        fastest = min((row["seconds"][0] for row in case.values() if "seconds" in row), default=0)
        cells = [milliseconds(case.get(name), fastest) for name in names]
        ratios = (
            ratio(case, "torch"),
            ratio(case, "torch", SHARDED),
            ratio(case, best_on_jax(case)),
        )
        lines.append([*cells, *map(told, ratios)])
    return table("T x B x I x H", list(by_case(rows)), lines)


def costs(rows: list[Row]) -> str:
    """Share of the ceiling, seconds to compile, and memory."""
    names = libraries(rows)
    lines = [list(map(title, names))]
    lines += [[cost(case.get(name)) for name in names] for case in by_case(rows).values()]
    return table("share; compile; plan / grown", list(by_case(rows)), lines)


def libraries(rows: list[Row]) -> list[str]:
    """Those with a row, in the order of `PEERS`."""
    return [name for name in PEERS if any(row["name"] == name for row in rows)]


def title(name: str) -> str:
    """How a library is called in a table."""
    return PEERS[name].title if name in PEERS else name


def milliseconds(row: Row | None, fastest: float) -> str:
    """The median, bold where it is the fastest."""
    if row is None:
        return "-"
    if "seconds" not in row:
        return "failed"
    text = digits(1e3 * row["seconds"][0])
    return f"**{text}**" if row["seconds"][0] == fastest else text


def digits(value: float) -> str:
    """Three of them."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def cost(row: Row | None) -> str:
    """The parts that there are."""
    if row is None or "seconds" not in row:
        return "-"
    planned, grown = (mebibytes(row[key]) for key in ("planned_bytes", "grown_bytes"))
    parts = [f"{100 * row['share']:.0f} %" if "share" in row else "-"]
    parts += [f"{row['compile_seconds']:.1f} s"] if row["compile_seconds"] is not None else []
    return "; ".join([*parts, f"{planned} / {grown}"])


def mebibytes(size: float | None) -> str:
    """Three digits of them."""
    return "-" if size is None else digits(size / 2**20)


def ratio(case: dict[str, Row], name: str | None, of: str = OURS) -> list[float] | None:
    """Ours to theirs with its interval, where both were measured."""
    return case.get(name, {}).get("ratios", {}).get(of) if name else None


def best_on_jax(case: dict[str, Row]) -> str | None:
    """The fastest program on JAX that is not ours."""
    others = {
        name: row["seconds"][0]
        for name, row in case.items()
        if name not in (OURS, SHARDED) and PEERS[name].on_jax and "seconds" in row
    }
    return min(others, key=others.__getitem__) if others else None


def verdict(ratio: list[float]) -> str:
    """Faster, slower or level, by the interval."""
    _, low, high = ratio
    return "faster" if high < 1 else "slower" if low > 1 else "level"


def told(ratio: list[float] | None) -> str:
    """A ratio and its interval."""
    if ratio is None:
        return "-"
    value, low, high = ratio
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def ablation(rows: list[Row]) -> str:
    """One column a shape: milliseconds, and the share of the plain scan's time."""
    if not rows:
        return ""
    cases = by_case(rows)
    names = list(dict.fromkeys(row["name"] for row in rows))
    lines = [list(cases)] + [
        [f"{milliseconds(case.get(name), 0)}, {gain(case.get(name))}" for case in cases.values()]
        for name in names
    ]
    return (
        "## What makes the LSTM fast\n\nForward + backward in milliseconds, and how many times as "
        "fast as the plain scan, with its interval. Each row does what the one before does, and "
        "what it says.\n\n" + table("LSTM", names, lines)
    )


def gain(row: Row | None) -> str:
    """How many times as fast as the first."""
    return told(next(iter(row["ratios"].values()), None)) if row and "ratios" in row else "-"


def long(rows: list[Row]) -> str:
    """One column a length: milliseconds, and memory as planned and as grown."""
    if not rows:
        return ""
    steps = sorted({row["time"] for row in rows})
    names = list(dict.fromkeys(row["name"] for row in rows))
    found = {(row["name"], row["time"]): row for row in rows}
    lines = [[f"T = {time:,}" for time in steps]]
    lines += [[length(found.get((name, time))) for time in steps] for name in names]
    return (
        "## Long sequences\n\nForward + backward of one sequence of 16 inputs through 16 units: "
        "milliseconds; MiB as planned / as grown.\n\n" + table("method", names, lines)
    )


def length(row: Row | None) -> str:
    """One method at one length."""
    if row is None or "seconds" not in row:
        return "-" if row is None else "failed"
    memory = f"{mebibytes(row['planned_bytes'])} / {mebibytes(row['grown_bytes'])}"
    return f"{milliseconds(row, 0)}; {memory}"


def failures(result: Result) -> str:
    """What was not timed, and why."""
    rows = [row for part in PARTS for row in result[part]]
    lines = [
        f"- {title(row['name'])}, {row.get('cell', '')} "
        f"{case_name(row) if 'form' in row else row['time']} {row.get('measure', '')}: "
        f"{row['failed']}"
        for row in rows
        if "failed" in row
    ]
    return "\n".join(["## Not timed, since it failed", "", *lines]) if lines else ""


def table(corner: str, names: list[str], lines: list[list[str]]) -> str:
    """Markdown; ``lines`` begin with the heads of the columns."""
    head, *body = lines
    rows = [[corner, *head], ["---", *["---:"] * len(head)]]
    rows += [[name, *line] for name, line in zip(names, body, strict=True)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
