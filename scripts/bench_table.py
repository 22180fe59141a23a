#!/usr/bin/env python3
"""One Markdown table from what scripts/bench-serve measured: medians over the rounds, the servers side by side."""

import json
import os
import statistics
import sys
from pathlib import Path


def rows(folder, name, kind):
    """The JSON lines of one kind of run, of all rounds."""
    path = Path(folder, f"{name}.{kind}")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def median(folder, name, kind, *keys):
    """The median of a figure over the rounds; None where there is none."""
    values = []
    for row in rows(folder, name, kind):
        for key in keys:
            row = row[key] if row is not None else None
        if row is not None:
            values.append(row)
    return statistics.median(values) if values else None


def figures(folder, name):
    """Every row of the table for one server: label -> value."""

    def get(kind, *keys):
        return median(folder, name, kind, *keys)

    result = {}
    for tokens in (128, 512, 2048):
        result[f"prefill of {tokens} tokens, tok/s"] = get(f"prefill-{tokens}", "prefill_tok_s", "p50")
    result["decode alone, tok/s"] = get("clients-1", "decode_tok_s", "p50")
    clients = sorted(int(path.name.rsplit("-", 1)[1]) for path in Path(folder).glob(f"{name}.clients-*"))
    for count in clients:
        result[f"output of {count} clients together, tok/s"] = get(f"clients-{count}", "output_tok_s")
    for count in clients:
        result[f"TTFT of {count} clients, p50, ms"] = get(f"clients-{count}", "ttft_ms", "p50")
        result[f"TTFT of {count} clients, p99, ms"] = get(f"clients-{count}", "ttft_ms", "p99")
        result[f"ITL of {count} clients, p50, ms"] = get(f"clients-{count}", "itl_ms", "p50")
        result[f"ITL of {count} clients, p99, ms"] = get(f"clients-{count}", "itl_ms", "p99")
    result["shared prefix of 1,024 tokens: TTFT p50, ms"] = get("prefix", "ttft_ms", "p50")
    result["shared prefix: prompt tokens from the cache, mean"] = get("prefix", "cached_tokens_mean")
    result["a 2,048-token prompt arrives: worst gap of a stream, ms"] = get("stall", "stall", "worst_gap_ms")
    result["a 2,048-token prompt arrives: its TTFT, ms"] = get("stall", "stall", "long_prompt_ttft_ms")
    memory = [row["resident_mib"][1] for kind in clients for row in rows(folder, name, f"clients-{kind}")
              if row.get("resident_mib")]
    result["memory at its highest, MiB"] = max(memory, default=None)
    result["start to ready, s"] = get("ready", "ready_s")
    return result


def shown(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def main():
    folder, *names = sys.argv[1:]
    columns = [figures(folder, name) for name in names]
    print("| " + " | ".join(["", *names, *(["ratio"] if len(names) == 2 else [])]) + " |")
    print("|---" + "|---:" * (len(names) + (len(names) == 2)) + "|")
    for label in columns[0]:
        values = [column.get(label) for column in columns]
        cells = [shown(value) for value in values]
        if len(values) == 2:
            cells.append(f"{values[0] / values[1]:.2f}" if all(values) else "-")
        print("| " + " | ".join([label, *cells]) + " |")
    print(f"\nMachine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end.")


if __name__ == "__main__":
    main()
