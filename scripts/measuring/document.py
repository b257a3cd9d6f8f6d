"""Results as sections of docs/performance.md, between two marks that this replaces."""

from .parts import BATCH, cheapest
from .plot import panels

BEGIN, END = "<!-- measured: written by scripts/measure -->", "<!-- measured: end -->"
PLOT = "performance-growth.svg"


def table(headings, rows):
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows]) + "\n"


def ratio(a, b):
    return f"{a / b:.2f}" if a and b else "–"


def machine(results):
    m = results["machine"]
    return (
        f"## Beside the bare library\n\nMachine: {m['processor']}, {m['cores']} cores, {m['memory_gib']} GiB of memory, "
        f"Linux {m['kernel']}; {m['rustc']}; Omma {m['omma']} at {m['commit']}, usearch {m['usearch']}. The load "
        "generator, the servers and the library share these cores. *Bare* is the graph library alone, in one process, on the same "
        "vectors, with the same M and efConstruction, in f16: its quickest precision that reaches these recalls by itself. "
        "Omma's graphs are in i8, and what they find is ranked by the exact embeddings. All CPU times are of all server "
        "processes together, in milliseconds for each query.\n\n"
        "To repeat: `scripts/measure`, or parts of it with `--only`; the numbers are in `target/measure/results.json`.\n"
    )


def search_section(name, found):
    bare = found["bare"]["searches"]
    rows = []
    for row in found["omma"]:
        same = cheapest(bare, row["recall"] - 0.0005)
        rows.append([
            str(row["ef"]), f"{row['recall']:.4f}", f"{row['cpu_ms']:.3f}", f"{row['alone_p50_ms']:.2f} ms",
            f"{row['p99_ms']:.2f} ms", f"{row['per_second']:.0f}",
            f"{same['cpu_ms']:.3f}" if same else "–", f"{same['per_second']:.0f}" if same else "–",
            ratio(row["cpu_ms"], same and same["cpu_ms"]), ratio(row["per_second"], same and same["per_second"]),
            f"{row['batch_cpu_ms']:.3f}", ratio(row["batch_cpu_ms"], same and same["cpu_ms"]),
            ratio(row["batch_per_second"], same and same["per_second"]),
        ])
    out = [f"### Search, one node: {name}\n"]
    out.append(
        "*Bare* is at the least ef that reaches the same recall. Latency: p50 of one client alone, p99 with four. "
        f"*×{BATCH}*: {BATCH} queries in each request.\n"
    )
    headings = ["candidates", "recall@10", "CPU ms", "p50", "p99", "queries/s, 4 clients"]
    headings += ["bare CPU ms", "bare queries/s, 4 threads", "CPU ratio", "rate ratio"]
    out.append(table([*headings, f"×{BATCH}: CPU ms", "CPU ratio", "rate ratio"], rows))
    goals = []
    for goal in (0.95, 0.99):
        ours, theirs = cheapest(found["omma"], goal), cheapest(bare, goal)
        if ours and theirs:
            cpu, rate = ratio(ours["cpu_ms"], theirs["cpu_ms"]), ratio(ours["per_second"], theirs["per_second"])
            goals.append(f"recall ≥ {goal}: {cpu} × the library's CPU time, {rate} × its rate")
            cpu = ratio(ours["batch_cpu_ms"], theirs["cpu_ms"])
            rate = ratio(ours["batch_per_second"], theirs["per_second"])
            goals.append(f"with {BATCH} queries in each request {cpu} × and {rate} ×")
        else:
            goals.append(f"recall ≥ {goal} was not reached by {'Omma' if not ours else 'the library'}")
    out.append(f"At the cheapest setting that reaches it: {'; '.join(goals)}.\n")
    return "\n".join(out)


def three_section(name, found):
    one, three = found["one"], found["three"]
    graphs = found["three_graphs_ratio"]
    rows = []
    for label, side in (("1 node, replication 1", one), ("3 nodes, replication 3", three)):
        i, s = side["ingest"], side["search"]
        rows.append([
            label, f"{i['seconds']:.1f} s", f"{i['settled_seconds']:.1f} s", f"{i['cpu_seconds']:.1f} s",
            f"{s['recall']:.4f}", f"{s['cpu_ms']:.3f}", f"{s['per_second']:.0f}",
        ])
    headings = ["cluster", "acknowledged and findable", "in all graphs", "CPU of the ingest", "recall@10", "CPU ms"]
    bare = found["bare_insert_cpu_seconds"]
    share = f" (three graphs of a third each, in the bare library: {graphs:.2f})" if graphs else ""
    return (
        f"### Three nodes and the cost of writing: {name}\n\n" + table([*headings, "queries/s"], rows)
        + f"\nA query costs {ratio(three['search']['cpu_ms'], one['search']['cpu_ms'])} × one node's{share}. The library "
        f"alone inserts the same vectors in {bare:.1f} s of CPU time: the ingest with replication 3 costs "
        f"{ratio(three['ingest']['cpu_seconds'], 3 * bare)} × three such insertions, with replication 1 "
        f"{ratio(one['ingest']['cpu_seconds'], bare)} × one.\n"
    )


def proposals_section(found):
    limit = found["fsync_ms"] + found["round_trip_ms"]
    return (
        f"### Single writes, three nodes\n\n{found['writers']} writers of one image at a time: {found['per_second']:.0f} "
        f"images/s, p50 {found['p50_ms']:.1f} ms, {found['per_fsync']:.1f} proposals for each fsync. A lone writer: p50 "
        f"{found['lone_p50_ms']:.2f} ms; an append of 2,500 bytes with fdatasync takes {found['fsync_ms']:.2f} ms here and "
        f"a round trip over loopback {found['round_trip_ms']:.3f} ms: {found['lone_p50_ms'] / limit:.2f} × their sum.\n"
    )


def kept_rows(rows, first, of):
    def row(r):
        i, s = r["ingest"], r["search"]
        return [
            of(r), f"{r['index_bytes_each']:.0f}", f"{r['resident_bytes_each']:.0f}", f"{i['images'] / i['settled_seconds']:.0f}",
            f"{s['recall']:.4f}", f"{s['cpu_ms']:.3f}", f"{r['restart']['first_answer_seconds']:.2f} s",
        ]

    headings = [first, "index bytes/image", "resident bytes/image", "into the graph, images/s", "recall@10", "CPU ms"]
    return table([*headings, "first answer after kill -9"], [row(r) for r in rows])


def precisions_section(name, rows):
    note = (
        "One node. *Index bytes* are those of the graph, its numbers and links; *resident* is all that the processes grew by, "
        "the store's cache among it. Hits are ranked by the stored f32 embeddings.\n"
    )
    return f"### Precision of the graph: {name}\n\n" + kept_rows(rows, "precision", lambda r: r["storage"]) + f"\n{note}"


def growth_section(rows):
    parts = "; ".join(rows[-1]["restart"]["parts"])
    return (
        f"### How cost grows ({rows[0]['dimension']} dimensions, {rows[0]['storage']}, one node)\n\n"
        + kept_rows(rows, "images", lambda r: f"{r['count']:,}")
        + f"\n![growth]({PLOT})\n\nThe restart of the largest, in its parts: {parts}.\n"
    )


def growth_plot(rows):
    each = lambda title, of: (title, [(r["count"], of(r)) for r in rows])
    return panels([
        each("into the graph, images/s", lambda r: r["ingest"]["images"] / r["ingest"]["settled_seconds"]),
        each("CPU ms for each query", lambda r: r["search"]["cpu_ms"]),
        each("resident bytes for each image", lambda r: r["resident_bytes_each"]),
        each("seconds to the first answer", lambda r: r["restart"]["first_answer_seconds"]),
    ])


def write(results, path):
    """Replaces what stands between the marks, or appends it."""
    sections = [machine(results)]
    sections += [search_section(name, found) for name, found in results.get("search", {}).items()]
    sections += [three_section(name, found) for name, found in results.get("three", {}).items()]
    if "proposals" in results:
        sections.append(proposals_section(results["proposals"]))
    sections += [precisions_section(name, rows) for name, rows in results.get("precision", {}).items()]
    if results.get("growth"):
        sections.append(growth_section(results["growth"]))
        if len(results["growth"]) > 1:
            (path.parent / PLOT).write_text(growth_plot(results["growth"]))
    text = path.read_text() if path.exists() else "# Performance\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    body = "\n".join(sections)
    path.write_text(f"{before.rstrip()}\n\n{BEGIN}\n\n{body}\n{END}\n{after.lstrip()}")
