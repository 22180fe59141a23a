"""Errors as the SDK raises them, the envelope, headers, and requests that their client gives up."""

import threading
import unittest

import openai

from server import client, http, metric, user, wait_until

MODEL = "default"


def ask(text="Say yes.", **options):
    options = {"model": MODEL, "messages": user(text), "max_tokens": 8, **options}
    return client.chat.completions.create(**options)


class Errors(unittest.TestCase):
    def assert_bad(self, param, code="invalid_value", **options):
        with self.assertRaises(openai.BadRequestError) as raised:
            ask(**options)
        error = raised.exception
        self.assertEqual((error.param, error.code), (param, code), error.message)
        self.assertEqual(error.type, "invalid_request_error")
        return error

    def test_bad_values_name_their_field(self):
        self.assert_bad("temperature", temperature=-1)
        self.assert_bad("top_p", top_p=1.5)
        self.assert_bad("n", n=0)
        self.assert_bad("max_tokens", max_tokens=0)
        self.assert_bad("top_logprobs", top_logprobs=2)
        with self.assertRaises(openai.BadRequestError) as raised:
            ask(messages=[])
        self.assertEqual(raised.exception.param, "messages")

    def test_what_is_not_built_is_refused_by_name(self):
        self.assert_bad("tools", "unsupported_parameter", tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
        self.assert_bad("response_format", "unsupported_parameter", response_format={"type": "json_object"})
        self.assert_bad("guided_regex", "unsupported_parameter", extra_body={"guided_regex": "a+"})

    def test_unknown_and_newer_fields_are_taken(self):
        answer = ask(extra_body={"no_such_field": 1, "service_tier": "auto", "metadata": {"a": "b"}, "user": "anna"})
        self.assertTrue(answer.choices)

    def test_context_overflow_is_told_in_tokens(self):
        limit = 1 << 20
        error = self.assert_bad("messages", "context_length_exceeded", text="word " * 20000)
        self.assertRegex(error.message, r"\d{5}")
        with self.assertRaises(openai.BadRequestError) as raised:
            ask(max_tokens=limit)
        self.assertEqual(raised.exception.code, "context_length_exceeded")

    def test_unknown_model(self):
        with self.assertRaises(openai.NotFoundError) as raised:
            ask(model="no-such-model")
        self.assertEqual(raised.exception.code, "model_not_found")
        with self.assertRaises(openai.NotFoundError):
            client.models.retrieve("no-such-model")

    def test_the_envelope_has_all_keys(self):
        for status, path, body in [
            (404, "/v1/nothing", None),
            (405, "/v1/chat/completions", None),
            (400, "/v1/chat/completions", b"{"),
            (400, "/v1/chat/completions", {"messages": "text"}),
            (422, "/ask", {}),
        ]:
            got, headers, answer = http(path, body)
            self.assertEqual(got, status, answer)
            self.assertEqual(set(answer["error"]), {"message", "type", "param", "code"})
            self.assertTrue(headers["x-request-id"])

    def test_messages_follow_the_language_and_codes_do_not(self):
        body = {"model": "нет", "messages": user("Да")}
        english = http("/v1/chat/completions", body)[2]["error"]
        russian = http("/v1/chat/completions", body, {"accept-language": "ru"})[2]["error"]
        self.assertNotEqual(english["message"], russian["message"])
        self.assertEqual(english["code"], russian["code"])

    def test_headers(self):
        headers = http("/health", headers={"x-request-id": "my-own-id"})[1]
        self.assertEqual(headers["x-request-id"], "my-own-id")
        self.assertGreaterEqual(int(headers["openai-processing-ms"]), 0)
        self.assertEqual(headers["x-content-type-options"], "nosniff")


class Cancellation(unittest.TestCase):
    """A client that leaves gives its blocks back."""

    def assert_idle(self):
        self.assertTrue(wait_until(lambda: metric("vllm:num_requests_running") == 0), "a request still runs")
        self.assertTrue(wait_until(lambda: metric("vllm:num_requests_waiting") == 0), "a request still waits")

    def test_in_mid_stream(self):
        stream = ask("Tell me a very long story.", max_tokens=2000, stream=True, extra_body={"ignore_eos": True})
        for number, _ in enumerate(stream):
            if number == 3:
                self.assertGreaterEqual(metric("vllm:num_requests_running"), 1)
                break
        stream.close()
        self.assert_idle()

    def test_without_streaming(self):
        impatient = client.with_options(timeout=1.0)
        with self.assertRaises(openai.APITimeoutError):
            impatient.chat.completions.create(
                model=MODEL, messages=user("Tell me a very long story."), max_tokens=5000, extra_body={"ignore_eos": True}
            )
        self.assert_idle()

    def test_sixteen_at_once_with_some_leaving(self):
        """Whoever stays gets the answer that he gets alone."""
        prompts = [f"Write a sentence about the number {number}." for number in range(16)]
        options = {"temperature": 0, "max_tokens": 24}
        alone = [ask(prompt, **options).choices[0].message.content for prompt in prompts]
        together = [None] * len(prompts)

        def run(number):
            stream = ask(prompts[number], stream=True, **options)
            text = ""
            for place, chunk in enumerate(stream):
                text += chunk.choices[0].delta.content or ""
                if number % 4 == 3 and place == number // 4:
                    stream.close()
                    return
            together[number] = text

        threads = [threading.Thread(target=run, args=(number,)) for number in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        for number, text in enumerate(together):
            if number % 4 != 3:
                self.assertEqual(text, alone[number])
        self.assert_idle()


if __name__ == "__main__":
    unittest.main()
