"""Load without mercy for the kill loop: four clients that stream until the server is gone. Standard library only."""

import json
import os
import sys
import threading
import urllib.request

URL = sys.argv[1]
HEADERS = {"content-type": "application/json", "authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}


def press(number):
    while True:
        body = {
            "messages": [{"role": "user", "content": f"Tell story number {number}."}],
            "max_tokens": 200,
            "stream": True,
            "ignore_eos": True,
        }
        request = urllib.request.Request(
            f"{URL}/v1/chat/completions", data=json.dumps(body).encode(), headers=HEADERS
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            for _ in answer:
                pass


threads = [threading.Thread(target=press, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
