#!/usr/bin/env python3
"""A table of what each kernel takes on a card, from what `nvcc -Xptxas -v` printed.

    python3 registers.py [--allow FILE] REPORT...

Fails when a kernel keeps more values in memory for want of registers (spills) than FILE allows it: lines of card,
kernel and bytes.
"""

import argparse
import re
import sys

KERNEL = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
PROPERTIES = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def kernels(text):
    """Rows (name, card, registers, spilled bytes, bytes of stack, bytes of shared memory), as they come."""
    rows = []
    for part in re.split(r"(?=Compiling entry function)", text):
        kernel, used = KERNEL.search(part), USED.search(part)
        if not kernel or not used:
            continue
        # A function that was not inlined has properties of its own behind the kernel's.
        properties = [tuple(map(int, found)) for found in PROPERTIES.findall(part)]
        stack = sum(frame for frame, _, _ in properties)
        spills = sum(stores + loads for _, stores, loads in properties)
        shared = SHARED.search(part)
        rows.append((*kernel.groups(), int(used[1]), spills, stack, int(shared[1]) if shared else 0))
    return rows


def allowed_spills(path):
    """Bytes by (card, kernel)."""
    with open(path) as file:
        lines = [line.split() for line in file if line.strip() and not line.startswith("#")]
    return {(card, name): int(number) for card, name, number in lines}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--allow", metavar="FILE")
    parser.add_argument("reports", metavar="REPORT", nargs="+")
    arguments = parser.parse_args()
    rows = []
    for path in arguments.reports:
        with open(path) as file:
            rows += kernels(file.read())
    if not rows:
        sys.exit("error: no kernel in " + " ".join(arguments.reports))
    print(f"{'kernel':<32} {'card':<6} {'registers':>9} {'spills, B':>9} {'stack, B':>9} {'shared, B':>9}")
    for name, card, *numbers in sorted(rows):
        print(f"{name:<32} {card:<6} " + " ".join(f"{number:>9}" for number in numbers))

    spills = {(card, name): number for name, card, _, number, _, _ in rows}
    allowed = allowed_spills(arguments.allow) if arguments.allow else {}
    errors = [
        f"{name} spills {number} bytes on {card}, {allowed.get((card, name), 0)} are allowed"
        for (card, name), number in sorted(spills.items())
        if number > allowed.get((card, name), 0)
    ]
    cards = {card for card, _ in spills}
    errors += [
        f"{arguments.allow} allows {name} on {card} what it does not need"
        for card, name in sorted(allowed)
        if card in cards and not spills.get((card, name))
    ]
    if errors:
        sys.exit("\n".join("error: " + error for error in errors))


if __name__ == "__main__":
    main()
