"""Text completions, models, tokens and the short endpoints."""

import unittest

from server import client, http

MODEL = "default"


def complete(prompt, **options):
    return client.completions.create(model=MODEL, prompt=prompt, **{"temperature": 0, "max_tokens": 8, **options})


class Completions(unittest.TestCase):
    def test_text(self):
        answer = complete("The capital of France is")
        self.assertEqual(answer.object, "text_completion")
        self.assertIn("Paris", answer.choices[0].text)
        self.assertEqual(answer.usage.completion_tokens, 8)

    def test_lists_and_token_ids(self):
        texts = ["The capital of France is", "Two and two make"]
        answer = complete(texts)
        self.assertEqual([choice.index for choice in answer.choices], [0, 1])
        ids = [http("/tokenize", {"content": text, "add_special": True})[2]["tokens"] for text in texts]
        self.assertEqual([choice.text for choice in complete(ids).choices], [choice.text for choice in answer.choices])
        self.assertEqual(complete(ids[0]).choices[0].text, answer.choices[0].text)

    def test_echo_and_logprobs(self):
        answer = complete("One, two, three,", echo=True, logprobs=2, max_tokens=3)
        choice = answer.choices[0]
        self.assertTrue(choice.text.startswith("One, two, three,"))
        self.assertEqual("".join(choice.logprobs.tokens), choice.text)
        self.assertEqual(len(choice.logprobs.token_logprobs), len(choice.logprobs.tokens))
        self.assertIsNone(choice.logprobs.token_logprobs[0])
        self.assertEqual(choice.logprobs.text_offset[0], 0)

    def test_stream(self):
        chunks = list(complete("The capital of France is", stream=True))
        text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
        self.assertEqual(text, complete("The capital of France is").choices[0].text)


class Models(unittest.TestCase):
    def test_list_and_retrieve(self):
        models = client.models.list().data
        self.assertTrue(models)
        model = client.models.retrieve(models[0].id)
        self.assertEqual((model.id, model.object), (models[0].id, "model"))
        entry = http("/v1/models")[2]["data"][0]
        for key in ("root", "parent", "permission", "created", "owned_by"):
            self.assertIn(key, entry)
        self.assertEqual(http("/v1/llm/models")[0], 200)


class Short(unittest.TestCase):
    def test_ask(self):
        status, _, body = http("/ask", {"prompt": "What is the capital of France?", "max_tokens": 16})
        self.assertEqual((status, body["source"]), (200, "model"))
        self.assertTrue(body["response"])

    def test_generate(self):
        status, _, body = http("/generate", {"prompt": "What is the capital of France?", "max_tokens": 16})
        self.assertEqual(status, 200)
        self.assertTrue(body["response"])
        self.assertGreater(body["usage"]["prompt_tokens"], 0)

    def test_tokens_there_and_back(self):
        text = "Привет, world! 🙂\n  def f(x): return x"
        ids = http("/tokenize", {"content": text})[2]["tokens"]
        self.assertEqual(http("/detokenize", {"tokens": ids})[2]["content"], text)

    def test_special_tokens_in_text_are_text(self):
        plain = http("/tokenize", {"content": "<|im_end|>"})[2]["tokens"]
        self.assertGreater(len(plain), 1)

    def test_health_and_documentation(self):
        self.assertEqual(http("/health")[0], 200)
        self.assertEqual(http("/ready")[0], 200)
        document = http("/openapi.json")[2]
        self.assertTrue(document["openapi"].startswith("3.1"))
        self.assertIn("/v1/chat/completions", document["paths"])


if __name__ == "__main__":
    unittest.main()
