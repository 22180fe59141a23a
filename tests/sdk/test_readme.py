"""The examples of README.md and README.ru.md do what they say against the running server."""

import re
import subprocess
import sys
import unittest
from pathlib import Path

from server import URL

ROOT = Path(__file__).resolve().parents[2]


def examples(readme, language, beginning):
    """Fenced blocks of a language that begin with a text, pointed at the server under test."""
    text = (ROOT / readme).read_text()
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block.replace("http://127.0.0.1:8000", URL) for block in blocks if block.startswith(beginning)]


class Readme(unittest.TestCase):
    def run_example(self, arguments, example):
        done = subprocess.run([*arguments, example], capture_output=True, text=True, timeout=180, check=False)
        self.assertEqual(done.returncode, 0, f"{example}\n{done.stdout}{done.stderr}")
        self.assertTrue(done.stdout.strip(), example)
        self.assertNotIn('"error"', done.stdout)
        return done.stdout

    def test_curl(self):
        for readme in ("README.md", "README.ru.md"):
            found = examples(readme, "sh", "curl")
            self.assertGreaterEqual(len(found), 4, readme)
            for example in found:
                with self.subTest(readme=readme, example=example):
                    output = self.run_example(["bash", "-ec"], example)
                    if '"stream": true' in example:
                        self.assertTrue(output.rstrip().endswith("data: [DONE]"), output)

    def test_python(self):
        for readme in ("README.md", "README.ru.md"):
            found = examples(readme, "python", "from openai")
            self.assertEqual(len(found), 1, readme)
            self.run_example([sys.executable, "-c"], found[0])

    def test_both_say_the_same(self):
        shape = lambda readme: re.findall(r"^(#+|```\w*|\|)", (ROOT / readme).read_text(), re.MULTILINE)
        self.assertEqual(shape("README.md"), shape("README.ru.md"))


if __name__ == "__main__":
    unittest.main()
