"""The server under test: where it is, a client of the official SDK, plain HTTP, and its metrics."""

import json
import os
import re
import time
import urllib.error
import urllib.request

import openai

URL = os.environ["SERVER_URL"]

KEY = os.environ["OPENAI_API_KEY"]
INTERNAL = {"x-internal-auth": os.environ["INTERNAL_API_KEY"]}

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0, timeout=120)


def user(text):
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def http(path, body=None, headers=None):
    """Status, headers and JSON body of a plain request."""
    data = None if body is None else (body if isinstance(body, bytes) else json.dumps(body).encode())
    head = {"content-type": "application/json", "authorization": f"Bearer {KEY}", **(headers or {})}
    request = urllib.request.Request(URL + path, data=data, headers=head)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.headers, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.loads(error.read())


def metric(name):
    """The sum of a metric's samples."""
    with urllib.request.urlopen(urllib.request.Request(f"{URL}/metrics", headers=INTERNAL), timeout=30) as answer:
        text = answer.read().decode()
    samples = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    if not samples:
        raise KeyError(f"no metric {name}")
    return sum(map(float, samples))


def wait_until(condition, seconds=20.0):
    """Whether the condition becomes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()
