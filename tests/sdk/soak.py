"""Mixed requests for a long time. Fails if any fails, if memory grows, or if blocks do not come back."""

import argparse
import os
import random
import sys
import threading
import time

from server import client, metric, user, wait_until

MODEL = "default"
PID = int(os.environ["SERVER_PID"])
WORDS = "steppe river wind grass horse night star fire song road stone rain bread friend letter winter".split()


def resident_mib():
    with open(f"/proc/{PID}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS:"))


class Soak:
    def __init__(self, seconds):
        self.end = time.monotonic() + seconds
        self.done = 0
        self.failures = []
        self.lock = threading.Lock()

    def worker(self, seed):
        rng = random.Random(seed)
        while time.monotonic() < self.end and not self.failures:
            try:
                self.one(rng)
            except Exception as error:  # every failure is the finding
                self.failures.append(repr(error))
            with self.lock:
                self.done += 1

    def one(self, rng):
        text = " ".join(rng.choices(WORDS, k=rng.choice([5, 40, 200, 700])))
        options = {
            "model": MODEL,
            "messages": user(f"Write about: {text}"),
            "max_tokens": rng.choice([1, 16, 64]),
            "temperature": rng.choice([0, 0.7, 1.0]),
            "n": rng.choice([1, 1, 1, 3]),
        }
        if rng.random() < 0.3:
            client.chat.completions.create(**options)
            return
        leave_after = rng.choice([None, None, 0, 3])
        stream = client.chat.completions.create(stream=True, **options)
        for number, _ in enumerate(stream):
            if number == leave_after:
                stream.close()
                break


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=8)
    args = parser.parse_args()
    soak = Soak(args.seconds)
    threads = [threading.Thread(target=soak.worker, args=(seed,)) for seed in range(args.clients)]
    for thread in threads:
        thread.start()
    # The prefix cache and the allocator have filled up by then.
    time.sleep(args.seconds / 4)
    early = resident_mib()
    for thread in threads:
        thread.join()
    late = resident_mib()
    print(f"{soak.done} requests, resident {early:.0f} MiB after a quarter, {late:.0f} MiB at the end")
    if soak.failures:
        sys.exit(f"failed: {soak.failures[0]}")
    if late > early * 1.03 + 16:
        sys.exit("memory grew")
    if not wait_until(lambda: metric("vllm:num_requests_running") == 0 and metric("vllm:kv_cache_usage_perc") == 0):
        sys.exit("blocks did not come back")


if __name__ == "__main__":
    main()
