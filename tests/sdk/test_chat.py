"""Chat completions through the official `openai` package."""

import unittest

from server import client, user

MODEL = "default"


def ask(text, **options):
    options = {"temperature": 0, "max_tokens": 24, **options}
    return client.chat.completions.create(model=MODEL, messages=user(text), **options)


class Chat(unittest.TestCase):
    def test_answers(self):
        answer = ask("Repeat after me: the steppe is wide.")
        choice = answer.choices[0]
        self.assertEqual(answer.object, "chat.completion")
        self.assertEqual(choice.message.role, "assistant")
        self.assertIn("steppe", choice.message.content)
        self.assertIn(choice.finish_reason, ("stop", "length"))
        self.assertTrue(answer.system_fingerprint)
        usage = answer.usage
        self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
        self.assertGreater(usage.prompt_tokens, 5)
        self.assertLessEqual(usage.completion_tokens, 24)
        self.assertIsNotNone(usage.prompt_tokens_details.cached_tokens)

    def test_length_is_a_finish_reason(self):
        answer = ask("Tell me a long story.", max_completion_tokens=5, max_tokens=None)
        self.assertEqual(answer.choices[0].finish_reason, "length")
        self.assertEqual(answer.usage.completion_tokens, 5)

    def test_messages_of_every_role_and_of_parts(self):
        answer = client.chat.completions.create(
            model=MODEL,
            temperature=0,
            max_tokens=12,
            messages=[
                {"role": "system", "content": "You are brief."},
                {"role": "user", "content": [{"type": "text", "text": "My name is "}, {"type": "text", "text": "Anna."}]},
                {"role": "assistant", "content": "Hello, Anna."},
                {"role": "user", "content": "What is my name?"},
            ],
        )
        self.assertIn("Anna", answer.choices[0].message.content)

    def test_russian_text_is_whole(self):
        answer = ask("Ответь по-русски: как называется столица России? Назови её 🙂", max_tokens=64)
        text = answer.choices[0].message.content
        self.assertTrue(text)
        self.assertNotIn("\ufffd", text)

    def test_several_choices_share_the_prompt(self):
        answer = ask("Name a colour.", n=3, temperature=1.0, seed=7)
        self.assertEqual([choice.index for choice in answer.choices], [0, 1, 2])
        self.assertEqual(len({choice.message.content for choice in answer.choices}), 3)
        self.assertLessEqual(answer.usage.completion_tokens, 3 * 24)

    def test_a_seed_decides_the_answer(self):
        options = {"temperature": 1.0, "top_p": 0.95, "max_tokens": 32}
        first = ask("Invent a name for a ship.", seed=11, **options)
        again = ask("Invent a name for a ship.", seed=11, **options)
        other = ask("Invent a name for a ship.", seed=12, **options)
        self.assertEqual(first.choices[0].message.content, again.choices[0].message.content)
        self.assertNotEqual(first.choices[0].message.content, other.choices[0].message.content)

    def test_stop_strings_end_the_answer_and_do_not_show(self):
        full = ask("Count from one to ten in digits.", max_tokens=48).choices[0].message.content
        stop = full[len(full) // 2 : len(full) // 2 + 3]
        answer = ask("Count from one to ten in digits.", max_tokens=48, stop=[stop, "never said"])
        self.assertEqual(answer.choices[0].message.content, full[: full.index(stop)])
        self.assertEqual(answer.choices[0].finish_reason, "stop")

    def test_logprobs(self):
        answer = ask("Say yes.", logprobs=True, top_logprobs=3, max_tokens=4)
        tokens = answer.choices[0].logprobs.content
        self.assertEqual("".join(token.token for token in tokens), answer.choices[0].message.content)
        for token in tokens:
            self.assertLessEqual(token.logprob, 0)
            self.assertEqual(len(token.top_logprobs), 3)
            best = token.top_logprobs[0]
            self.assertEqual((best.token, best.logprob), (token.token, token.logprob), "greedy takes the likeliest")
            self.assertEqual(bytes(token.bytes).decode(errors="replace"), token.token)

    def test_logit_bias_can_forbid_and_force(self):
        token = ask("Say yes.", logprobs=True, top_logprobs=2, max_tokens=1).choices[0].message.content
        ids = client.post("/../tokenize", body={"content": token}, cast_to=dict)["tokens"]
        forced = ask("Say yes.", logit_bias={str(ids[0]): 100}, max_tokens=3).choices[0].message.content
        self.assertEqual(forced, token * 3)
        forbidden = ask("Say yes.", logit_bias={str(ids[0]): -100}, max_tokens=3).choices[0].message.content
        self.assertFalse(forbidden.startswith(token))

    def test_ignore_eos_and_min_tokens_fix_the_length(self):
        answer = ask("Say yes.", max_tokens=40, extra_body={"ignore_eos": True, "min_tokens": 40, "top_k": 1})
        self.assertEqual(answer.usage.completion_tokens, 40)
        self.assertEqual(answer.choices[0].finish_reason, "length")

    def test_a_repeated_prompt_comes_from_the_prefix_cache(self):
        text = "Summarise this: " + " ".join(f"item {number}" for number in range(80))
        first, second = ask(text, max_tokens=4), ask(text, max_tokens=4)
        self.assertGreater(second.usage.prompt_tokens_details.cached_tokens, 64)
        self.assertEqual(first.choices[0].message.content, second.choices[0].message.content)


class Stream(unittest.TestCase):
    def test_chunks_make_the_answer(self):
        whole = ask("What is the capital of France?")
        stream = ask("What is the capital of France?", stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(len({chunk.id for chunk in chunks}), 1)
        ends = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
        self.assertEqual(ends, [whole.choices[0].finish_reason])
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)
        self.assertTrue(all(chunk.usage is None for chunk in chunks[:-1]))

    def test_no_usage_unless_asked_for(self):
        for chunk in ask("Say yes.", stream=True):
            self.assertTrue(chunk.choices)
            self.assertIsNone(chunk.usage)

    def test_choices_are_told_apart(self):
        texts = ["", ""]
        for chunk in ask("Name a colour.", n=2, temperature=1.0, seed=5, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        whole = ask("Name a colour.", n=2, temperature=1.0, seed=5)
        self.assertEqual(texts, [choice.message.content for choice in whole.choices])

    def test_stop_strings_never_leak(self):
        full = ask("Count from one to ten in digits.", max_tokens=48).choices[0].message.content
        stop = full[-6:-1]
        stream = ask("Count from one to ten in digits.", max_tokens=48, stop=stop, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        self.assertEqual(text, full[: full.index(stop)])


if __name__ == "__main__":
    unittest.main()
