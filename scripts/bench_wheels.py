#!/usr/bin/env python3
"""Prefill and decode of peers that come as Python wheels and run in this process; JSON lines as `steppe bench` writes.

    bench_wheels.py {ik_llama.cpp|mistral.rs} MODEL THREADS PREFIX SEED PROMPT_TOKENS... -- OUTPUT_TOKENS

Appends to PREFIX.prefill-N and PREFIX.clients-1. Three runs of each length after a warm-up, fewer where they take long; the
median counts.
"""

import json
import os
import random
import statistics
import sys
import time

RUNS = 3
# Seconds after which no further run begins.
ENOUGH = 30


class Ik:
    """ik_llama.cpp through the package ik-llama-cpp-python."""

    def __init__(self, model, threads):
        from ik_llama_cpp.llama import IkLlama

        self.llm = IkLlama(model, n_ctx=2304, n_threads=threads, verbose=False)

    def run(self, text, prompt_tokens, output_tokens):
        """Seconds of the prompt; seconds and number of the tokens after it, without the package's sampler in Python."""
        tokens = self.llm.tokenize(text)[:prompt_tokens]
        assert len(tokens) == prompt_tokens
        begin = time.monotonic()
        self.llm.generate(tokens, max_tokens=0)
        prompt = time.monotonic() - begin
        generated = len(self.llm.generate(tokens, max_tokens=output_tokens)) if output_tokens > 1 else 0
        timings = self.llm._context.perf()
        return prompt, timings["t_eval_ms"] / 1e3, min(generated, timings["n_eval"])


class MistralRs:
    """mistral.rs through the package mistralrs."""

    def __init__(self, model, _threads):
        import mistralrs

        self.api = mistralrs
        which = mistralrs.Which.GGUF(os.path.dirname(os.path.abspath(model)), os.path.basename(model))
        self.runner = mistralrs.Runner(which=which, prefix_cache_n=0)

    def run(self, text, prompt_tokens, output_tokens):
        # A word of the text is a little more than a token; what it came to is in the answer's usage.
        prompt = " ".join(text.split()[: int(prompt_tokens * 0.95)])
        request = self.api.CompletionRequest(
            prompt=prompt, model="default", max_tokens=max(output_tokens, 2), temperature=0.0, ignore_eos=True)
        usage = self.runner.send_completion_request(request).usage
        prompt_s = usage.total_prompt_time_sec * prompt_tokens / usage.prompt_tokens
        return prompt_s, usage.total_completion_time_sec, usage.completion_tokens - 1


def text(seed):
    """Words that no run before has had."""
    words = "the river wide steppe wind grass horse road fire night song stone sky field market letter winter".split()
    source = random.Random(seed)
    return " ".join(source.choice(words) for _ in range(3000))


def repeated(run):
    """What a few runs come to."""
    begin, results = time.monotonic(), []
    while len(results) < RUNS and time.monotonic() - begin < ENOUGH:
        results.append(run())
    return results


def append(prefix, kind, row):
    with open(f"{prefix}.{kind}", "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def peak_mib():
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def main():
    name, model, threads, prefix, seed, *rest = sys.argv[1:]
    split = rest.index("--")
    prompts, output = [int(n) for n in rest[:split]], int(rest[split + 1])
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    peer = {"ik_llama.cpp": Ik, "mistral.rs": MistralRs}[name](model, int(threads))
    number = iter(range(int(seed) * 1000, int(seed) * 1000 + 999))
    peer.run(text(next(number)), 16, 2)
    for length in prompts:
        rates = repeated(lambda length=length: length / peer.run(text(next(number)), length, 1)[0])
        append(prefix, f"prefill-{length}", {"prefill_tok_s": {"p50": statistics.median(rates)}})
    runs = repeated(lambda: peer.run(text(next(number)), 100, output))
    decode = statistics.median(count / seconds for _, seconds, count in runs if count)
    whole = statistics.median(count / (prompt + seconds) for prompt, seconds, count in runs)
    append(prefix, "clients-1", {
        "decode_tok_s": {"p50": decode},
        "output_tok_s": whole,
        "resident_mib": [peak_mib(), peak_mib()],
    })


if __name__ == "__main__":
    main()
