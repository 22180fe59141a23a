#!/usr/bin/env python3
"""One Markdown table from what scripts/bench-serve measured: medians over the rounds, the servers side by side."""

import json
import os
import re
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
            row = row.get(key) if row is not None else None
        if row is not None:
            values.append(row)
    return statistics.median(values) if values else None


def figures(folder, name):
    """Every row of the table for one server: label -> value."""

    def get(kind, *keys):
        return median(folder, name, kind, *keys)

    result = {}
    for tokens in sorted(int(path.name.rsplit("-", 1)[1]) for path in Path(folder).glob("steppe.prefill-*")):
        result[f"prefill of {tokens} tokens, tok/s"] = get(f"prefill-{tokens}", "prefill_tok_s", "p50")
    result["decode alone, tok/s"] = get("clients-1", "decode_tok_s", "p50")
    clients = sorted(int(path.name.rsplit("-", 1)[1]) for path in Path(folder).glob("steppe.clients-*"))
    for count in clients:
        result[f"output of {count} clients together, tok/s"] = get(f"clients-{count}", "output_tok_s")
    for count in clients:
        result[f"TTFT of {count} clients, p50, ms"] = get(f"clients-{count}", "ttft_ms", "p50")
        result[f"TTFT of {count} clients, p99, ms"] = get(f"clients-{count}", "ttft_ms", "p99")
        result[f"ITL of {count} clients, p50, ms"] = get(f"clients-{count}", "itl_ms", "p50")
        result[f"ITL of {count} clients, p99, ms"] = get(f"clients-{count}", "itl_ms", "p99")
    result["16 requests share a prefix: TTFT p50, ms"] = get("prefix", "ttft_ms", "p50")
    result["16 requests share a prefix: TTFT p95, ms"] = get("prefix", "ttft_ms", "p95")
    result["shared prefix: prompt tokens from the cache, mean"] = get("prefix", "cached_tokens_mean")
    result["a long prompt arrives: worst gap of a stream, ms"] = get("stall", "stall", "worst_gap_ms")
    result["a long prompt arrives: its TTFT, ms"] = get("stall", "stall", "long_prompt_ttft_ms")
    memory = [row["resident_mib"][1] for kind in clients for row in rows(folder, name, f"clients-{kind}")
              if row.get("resident_mib")]
    result["memory at its highest, MiB"] = max(memory, default=None)
    result["start to ready, s"] = get("ready", "ready_s")
    result["start to ready again, s"] = get("ready-again", "ready_s")
    return result


def shown(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def stock_candle(prefix):
    """Takes the table of the bench stock_candle on standard input apart."""
    for line in sys.stdin:
        found = re.match(r"(prefill|decode at) (\d+) +([\d.]+) ", line)
        if found:
            step, tokens, rate = found.groups()
            kind, key = (f"prefill-{tokens}", "prefill_tok_s") if step == "prefill" else ("clients-1", "decode_tok_s")
            with open(f"{prefix}.{kind}", "a", encoding="utf-8") as file:
                file.write(json.dumps({key: {"p50": float(rate)}}) + "\n")


def cpu():
    """The processor's name."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return found.group(1) if found else "processor"


def main():
    folder, *names = sys.argv[1:]
    if folder == "--stock-candle":
        stock_candle(names[0])
        return
    ours, *peers = [figures(folder, name) for name in names]
    heads = [name.replace("_C", " C") for name in names]
    # The peer that is a server comes first: the ratio is to it.
    print("| " + " | ".join(["", *heads[:2], *(["ratio"] if peers else []), *heads[2:]]) + " |")
    print("|---" + "|---:" * (len(names) + bool(peers)) + "|")
    for label, value in ours.items():
        values = [peer.get(label) for peer in peers]
        cells = [shown(value) for value in [value, *values]]
        if peers:
            cells.insert(2, f"{value / values[0]:.2f}" if value and values[0] else "-")
        print("| " + " | ".join([label, *cells]) + " |")
    print(f"\nMachine: {cpu()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end.")


if __name__ == "__main__":
    main()
