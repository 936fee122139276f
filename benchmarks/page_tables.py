"""What each benchmark's JSON says, as tables in Markdown; rows and contenders that are new there are shown too."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Report: TypeAlias = Mapping[str, Any]
"""A benchmark's JSON."""

OURS = "m3connect"


def encode(report: Report) -> list[str]:
    """Times of every contender over each precision of ours, workload by workload; memory where it was measured."""
    lines = [line for workload in report["workloads"] for line in _workload(workload)]
    if memory := report.get("memory"):
        lines += ["Peak memory less that after the imports:", "", *records(memory), ""]
    return lines


def _workload(workload: Report) -> list[str]:
    times = {name: statistics.median(values) for name, values in workload["seconds"].items() if values}
    ours = [name for name in times if name.startswith(OURS)]
    rows = []
    for name, seconds in times.items():
        spread = f"{number(1000 * min(workload['seconds'][name]))} .. {number(1000 * max(workload['seconds'][name]))}"
        cells = [number(workload["tokens"] / seconds), number(1000 * seconds), spread]
        rows.append([name, *cells, *(number(seconds / times[one]) for one in ours)])
    columns = ["", "tokens/s", "ms", "min .. max", *(f"x {one.removeprefix(f'{OURS}, ')}" for one in ours)]
    texts = "1 text" if workload["texts"] == 1 else f"{workload['texts']:,} texts"
    lines = [f"**{workload['name']}** ({texts}, {workload['tokens']:,} tokens)", ""]
    lines += [*table(columns, rows), ""]
    if shares := workload.get("fraction_of_gemm"):
        said = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
        lines += [f"Share of the machine's own matrix product, measured in the same rounds: {said}.", ""]
    if cosines := workload.get("cosines"):
        said = ", ".join(f"{name} {cosine:.5f}" for name, cosine in cosines.items())
        lines += [f"Lowest cosine of a dense vector to float32's: {said}.", ""]
    return [*lines, *_left_out(workload)]


def _left_out(report: Report) -> list[str]:
    said = "; ".join(f"{name} ({why})" for name, why in report.get("left_out", {}).items())
    return [f"Left out: {said}.", ""] if said else []


def gpu(report: Report) -> list[str]:
    """Times of every contender over ours, workload by workload, with shares of the GPU's speed and its memory."""
    lines = []
    for workload in report["workloads"]:
        shares = [f"{name} {100 * share:.0f} %" for name, share in workload["fraction_of_matmul"].items()]
        memory = [f"{name} {number(used / 1e6)} MB" for name, used in workload["bytes_beside_weights"].items()]
        lines += [
            *_workload(workload),
            f"Share of the GPU's own matrix product, measured in the same rounds: {'; '.join(shares)}.",
            "",
            f"Most memory taken on the GPU, weights not counted: {'; '.join(memory)}.",
            "",
        ]
    said = (
        f"Weights of all together: {number(report['bytes_of_all_weights'] / 1e9)} GB. Lowest cosine of a dense vector "
    )
    said += f"to that of float32 on the processor: {report['lowest_cosine_to_float32']:.5f}."
    return [*lines, said, "", *_left_out(report)]


def search(report: Report) -> list[str]:
    """Ratios, then the milliseconds of every stage."""
    lines = []
    if ratios := report["ratios"]:
        names = list(dict.fromkeys(line["contender"] for line in ratios))
        found: dict[tuple[Any, ...], dict[str, float]] = {}
        for line in ratios:
            key = (f"{line['documents']:,}", line["depth"], line["backend"], line["peer"])
            found.setdefault(key, {})[line["contender"]] = line["times"]
        rows = [[*map(str, key), *(number(values.get(name)) for name in names)] for key, values in found.items()]
        lines += [*table(["documents", "candidates", "store", "peer", *(f"x {name}" for name in names)], rows), ""]
    stages = [stage for stage in report["results"][0]["median_seconds"] if stage != "total"]
    rows = []
    for one in sorted(report["results"], key=lambda one: (one["documents"], one["depth"])):
        totals = [1000 * seconds["total"] for seconds in one["seconds"]]
        cells = [number(1000 * one["median_seconds"][stage] or None) for stage in stages]
        spread = f"{number(statistics.median(totals))} ({number(min(totals))} .. {number(max(totals))})"
        where = [f"{one['documents']:,}", str(one["depth"]), one["backend"], one["contender"]]
        rows.append([*where, *cells, spread, f"{statistics.mean(one['shared']):.0%}"])
    columns = ["documents", "candidates", "store", "ms a question", *stages, "total (min .. max)", "same 10"]
    return [*lines, *table(columns, rows), ""]


def rerank(report: Report) -> list[str]:
    """Times of the peers over each of ours, then what encodings of token vectors keep."""
    lines = []
    for part in report["times"]:
        peers = [name for name in part["median"] if not name.startswith("ours")]
        rows = []
        for name, seconds in part["median"].items():
            ratios = [number(part["median"][peer] / seconds) for peer in peers]
            rows.append([name, number(1000 * seconds), *ratios, "yes" if part["same_best"][name] else "no"])
        columns = [f"{part['documents']:,} documents", "ms", *(f"x {peer}" for peer in peers), "same ten best"]
        lines += [*table(columns, rows), ""]
    kept = report["encodings"]
    rows = [
        [row["encoding"], str(row["pooling"]), f"{row['bytes_at_1024']:,.0f}", f"{row['best_ten']:.1%}"]
        for row in kept["rows"]
    ]
    columns = [
        f"{kept['model']}, {kept['dataset']}",
        "pooling",
        "bytes a document at 1,024 dimensions",
        "best ten kept",
    ]
    return [*lines, *table(columns, rows), ""]


def sparse(report: Report) -> list[str]:
    """Times of the loop over ours."""
    lines = []
    for name, seconds in report["seconds"].items():
        first = next(iter(seconds.values()))
        rows = [[contender, number(1000 * one), number(first / one)] for contender, one in seconds.items()]
        lines += [*table([name, "ms", "x"], rows), ""]
    return lines


def concurrency(report: Report) -> list[str]:
    """Queries a second, over those of the first contender; in brackets the 99th percentile of a client's wait."""
    clients = report["clients"]
    names = list(next(iter(clients.values())))
    rows = []
    for name in names:
        cells = [name]
        for found in clients.values():
            rate = found[name]["queries_per_second"]
            ratio = number(rate / found[names[0]]["queries_per_second"])
            cells.append(f"{number(rate)}, x {ratio} ({number(found[name]['p99_ms'])} ms)")
        rows.append(cells)
    columns = ["queries a second, times the first's (p99)", *(f"clients: {count}" for count in clients)]
    beside = {name: number(value) for name, value in report["beside_a_long_text"].items()}
    said = (
        f"One client while texts of 8,192 tokens are encoded, {beside['long_text_ms']} ms each: "
        f"{beside['beside_p50_ms']} ms a query (p99 {beside['beside_p99_ms']} ms), alone {beside['alone_p50_ms']} ms."
    )
    return [*table(columns, rows), "", said, ""]


def stores(report: Report) -> list[str]:
    """m3connect's times over the others'; then the indexes' recall."""
    kinds = ["ingest", "hybrid", "dense", "sparse", "filtered"]
    lines = table(
        ["documents", "store", "m3connect's time over", *kinds],
        [[f"{one['size']:,}", one["backend"], one["against"], *_times(one, kinds)] for one in report["ratios"]],
    )
    lines += [""]
    if local := report["edge_against_local"]:
        rows = [[f"{one['size']:,}", *_times(one, kinds)] for one in local]
        lines += ["Qdrant's local mode over Edge, both through m3connect:", "", *table(["documents", *kinds], rows), ""]
    if recall := report["recall"]:
        lines += ["Recall of indexes against the exact store:", "", *records(recall), ""]
    return lines


def _times(line: Report, kinds: Sequence[str]) -> list[str]:
    """Ratios, and in brackets the milliseconds more where they are known, of ingest by batch of 256."""
    cells = []
    for kind in kinds:
        more = line.get(f"{kind}_ms_more", line.get(f"{kind}_ms_more_a_batch"))
        cells.append(number(line.get(kind)) + (f" ({more:+.1f} ms)" if more is not None else ""))
    return cells


def frameworks(report: Report) -> list[str]:
    """Times of the frameworks' own stores over m3connect's."""
    rows = []
    for one in report["contenders"]:
        workload = one["workload"]
        cells = [f"{workload['name']}, rounds: {workload['rounds']}", one["group"], one["contender"]]
        for phase in ("add", "ask"):
            found = one.get(phase)
            cells += [number(found["times_ours"]), number(found["passes_per_text"])] if found else ["-", "-"]
        rows.append(cells)
    return [*table(["model", "framework, database", "", "adding, x", "passes", "asking, x", "passes"], rows), ""]


def training_memory(report: Report) -> list[str]:
    """Megabytes of a step, and FlagEmbedding's over ours."""
    lines = []
    for part in report["tables"]:
        sides = list(next(iter(part["megabytes"].values())))
        rows = [[name, *(number(found[side]) for side in sides)] for name, found in part["megabytes"].items()]
        lines += [f"{part['title']}:", "", *table([part["column"], *(f"{side}, MB" for side in sides)], rows), ""]
    return lines


def mcls(report: Report) -> list[str]:
    """nDCG@10 each way, and whether the difference is one."""
    rows = []
    for name, ways in report["sets"].items():
        for way, found in ways.items():
            test = found.get("against")
            compared = [f"{test['p_value']:.2f}", f"{test['better']} / {test['worse']}"] if test else ["", ""]
            rows.append([name, way, f"{100 * found['means']['nDCG@10']:.1f}", *compared])
    return [*table([f"{report['model']}, dense", "", "nDCG@10, %", "p", "queries better / worse"], rows), ""]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table's lines."""
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]


def records(rows: Sequence[Report]) -> list[str]:
    """Return a table of rows that have names for their cells; a cell that a row lacks is empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[cell(row.get(name, "")) for name in columns] for row in rows]
    return table([name.replace("_", " ") for name in columns], cells)


def cell(value: object) -> str:
    """Write a value of any kind."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return number(value) if isinstance(value, float) else str(value)


def number(value: float | None) -> str:
    """Write a number with about three digits; None is a dash."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
