"""PyPI `openai` against the HTTP edge: what the SDK can ask, and what it makes of the errors.

The same scenarios run over TCP with the token and over the Unix socket; then the asynchronous
client, and what only TCP has.
"""

import asyncio
import json
import subprocess
import time

import httpx2
import openai
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient, OpenAI
from pydantic import BaseModel
from scenario import CONTEXT, equal, expect, raises, scenario, scenario_async

HTTP = CONTEXT["http"]

# Seconds after which a state that has not come about is a failure.
STATE_LIMIT_S = 20

HELLO = [{"role": "user", "content": "hello"}]

# A model for each way of writing a tool's call.
CALLERS = ("caller", "llama_caller", "mistral_caller")

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class City(BaseModel):
    """What a model must answer in one scenario."""

    name: str
    large: bool


def over_tcp(**options):
    """A client with the token, as a user would make one."""
    return OpenAI(**{"base_url": HTTP["url"], "api_key": HTTP["token"], "max_retries": 0,
                     "timeout": 20, **options})


def over_socket():
    """A client on the Unix socket, which needs no token."""
    transport = httpx2.HTTPTransport(uds=HTTP["socket"])
    return OpenAI(base_url="http://localhost/v1", api_key="none", max_retries=0, timeout=20,
                  http_client=DefaultHttpxClient(transport=transport))


def asynchronous(way):
    """The asynchronous client over either."""
    if way == "tcp":
        return AsyncOpenAI(base_url=HTTP["url"], api_key=HTTP["token"], max_retries=0, timeout=20)
    transport = httpx2.AsyncHTTPTransport(uds=HTTP["socket"])
    return AsyncOpenAI(base_url="http://localhost/v1", api_key="none", max_retries=0, timeout=20,
                       http_client=DefaultAsyncHttpxClient(transport=transport))


def until_idle():
    """Asks until no generation runs. Each question is a round trip; no time is guessed."""
    give_up_at = time.monotonic() + STATE_LIMIT_S
    while True:
        command = [CONTEXT["ingle"], "status", "--json"]
        done = subprocess.run(command, capture_output=True, check=True)
        if json.loads(done.stdout)["active"] == 0:
            return
        expect(time.monotonic() < give_up_at, "a generation still runs")


def models(client):
    """The list, and one of them."""
    listed = {model.id for model in client.models.list()}
    expect({"sim", "slow"} <= listed, f"models: {listed}")
    model = client.models.retrieve("sim")
    equal((model.id, model.object), ("sim", "model"), "model")


def chat(client):
    """One answer with its usage."""
    got = client.chat.completions.create(model="sim", messages=HELLO, user="somebody")
    choice = got.choices[0]
    equal((got.object, got.model, choice.index), ("chat.completion", "sim", 0), "answer")
    equal((choice.message.role, choice.finish_reason), ("assistant", "stop"), "choice")
    expect(choice.message.content, "no content")
    equal(got.usage.total_tokens, got.usage.prompt_tokens + got.usage.completion_tokens, "usage")
    expect(got.id and got.created and got._request_id, "id, time of creation and request id")


def chat_streamed(client):
    """The same text in pieces, the role first, the usage last."""
    whole = client.chat.completions.create(model="sim", messages=HELLO, seed=1, temperature=0)
    stream = client.chat.completions.create(model="sim", messages=HELLO, seed=1, temperature=0,
                                            stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    equal({chunk.object for chunk in chunks}, {"chat.completion.chunk"}, "object")
    equal(len({chunk.id for chunk in chunks}), 1, "different ids")
    equal(chunks[0].choices[0].delta.role, "assistant", "role of the first chunk")
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    equal(text, whole.choices[0].message.content, "text")
    ends = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    equal([end for end in ends if end], ["stop"], "finish reasons")
    equal(chunks[-1].choices, [], "choices beside the usage")
    equal(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens, "usage")


def chat_in_parts(client):
    """A message's text may come as a list of parts."""
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    got = client.chat.completions.create(model="sim", messages=[{"role": "user", "content": parts}])
    expect(got.choices[0].message.content, "no content")


def several_choices(client):
    """Several texts, each with its index, streamed and not."""
    got = client.chat.completions.create(model="dice", messages=HELLO, n=3, max_tokens=12, seed=7)
    equal([choice.index for choice in got.choices], [0, 1, 2], "indices")
    equal({choice.finish_reason for choice in got.choices}, {"length"}, "finish reasons")
    texts = [choice.message.content for choice in got.choices]
    expect(len(set(texts)) > 1, f"all the same: {texts}")
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(model="dice", messages=HELLO, n=3, max_tokens=12,
                                                seed=7, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    equal(streamed, texts, "streamed texts")


def sampling(client):
    """A seed gives the same text again; a bias decides what is drawn; penalties are taken."""
    def ask(**options):
        got = client.chat.completions.create(model="dice", messages=HELLO, **{
            "max_completion_tokens": 24, **options})
        return got.choices[0].message.content

    equal(ask(seed=3), ask(seed=3), "the same seed")
    expect(len({ask(seed=seed) for seed in range(4)}) > 1, "every seed draws the same")
    equal(ask(logit_bias={str(ord("c")): 100}), "c" * 24, "text under a bias")
    equal(ask(temperature=0), "a" * 24, "the likeliest text")
    expect(ask(frequency_penalty=1.5, presence_penalty=0.5, top_p=0.9), "no text")


def stop_strings(client):
    """The text ends before a stop string, given alone or in a list."""
    whole = client.chat.completions.create(model="sim", messages=HELLO, temperature=0)
    text = whole.choices[0].message.content
    word = text.split()[2]
    for stop in (word, [word, "never"]):
        got = client.chat.completions.create(model="sim", messages=HELLO, temperature=0, stop=stop)
        equal(got.choices[0].message.content, text[:text.index(word)], "text")
        equal(got.choices[0].finish_reason, "stop", "finish reason")


def logprobs(client):
    """Each token's log-probability and its rivals, streamed and not."""
    options = {"model": "dice", "messages": HELLO, "max_tokens": 4, "logprobs": True,
               "top_logprobs": 2, "temperature": 0}
    got = client.chat.completions.create(**options)
    content = got.choices[0].logprobs.content
    equal([token.token for token in content], ["a"] * 4, "tokens")
    expect(all(token.logprob < 0 and len(token.top_logprobs) == 2 for token in content),
           f"log-probabilities: {content}")
    equal(content[0].bytes, [ord("a")], "bytes")
    count = sum(len(chunk.choices[0].logprobs.content)
                for chunk in client.chat.completions.create(**options, stream=True)
                if chunk.choices and chunk.choices[0].logprobs)
    equal(count, 4, "streamed log-probabilities")


def json_object(client):
    """Some JSON object."""
    got = client.chat.completions.create(model="sim", messages=HELLO, max_tokens=400,
                                         response_format={"type": "json_object"})
    text = got.choices[0].message.content
    expect(isinstance(json.loads(text), dict), f"no object: {text}")


def json_schema(client):
    """The SDK's own parsing of an answer that must fit a model."""
    got = client.chat.completions.parse(model="sim", messages=HELLO, response_format=City,
                                        max_tokens=400)
    city = got.choices[0].message.parsed
    expect(isinstance(city, City), f"not parsed: {got.choices[0]}")


def tool_call(client):
    """A tool's call, parsed, and a conversation that goes on with its answer."""
    for model in CALLERS:
        got = client.chat.completions.create(model=model, messages=HELLO, tools=[WEATHER])
        choice = got.choices[0]
        equal(choice.finish_reason, "tool_calls", f"finish reason of `{model}`")
        call = choice.message.tool_calls[0]
        equal((call.type, call.function.name), ("function", "get_weather"), f"call of `{model}`")
        equal(json.loads(call.function.arguments), {"city": "Paris"}, "arguments")
        messages = [*HELLO, choice.message,
                    {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
        got = client.chat.completions.create(model="sim", messages=messages, tools=[WEATHER])
        expect(got.choices[0].message.content, "no answer after the tool's")


def tool_call_streamed(client):
    """The same in pieces, as the SDK puts them together."""
    for model in CALLERS:
        with client.chat.completions.stream(model=model, messages=HELLO,
                                            tools=[WEATHER]) as stream:
            kinds = {event.type for event in stream}
            final = stream.get_final_completion()
        expect("tool_calls.function.arguments.done" in kinds, f"`{model}`: {sorted(kinds)}")
        call = final.choices[0].message.tool_calls[0]
        equal(json.loads(call.function.arguments), {"city": "Paris"}, f"arguments of `{model}`")
        equal(final.choices[0].finish_reason, "tool_calls", f"finish reason of `{model}`")


def tool_choice(client):
    """A call that is required is made, with arguments that fit; none is made where none may be."""
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        got = client.chat.completions.create(model="sim", messages=HELLO, tools=[WEATHER],
                                             tool_choice=choice, max_tokens=400)
        calls = got.choices[0].message.tool_calls
        expect(calls, f"no call with {choice}")
        expect("city" in json.loads(calls[0].function.arguments), f"arguments: {calls}")
    got = client.chat.completions.create(model="sim", messages=HELLO, tools=[WEATHER],
                                         tool_choice="none")
    expect(not got.choices[0].message.tool_calls, "a call although there may be none")


def reasoning(client):
    """What a model thinks is apart from what it answers."""
    got = client.chat.completions.create(model="thinker", messages=HELLO)
    message = got.choices[0].message
    equal((message.reasoning_content, message.content), ("Two and two.", "Four."), "message")
    thought, said = "", ""
    for chunk in client.chat.completions.create(model="thinker", messages=HELLO, stream=True):
        for choice in chunk.choices:
            thought += getattr(choice.delta, "reasoning_content", None) or ""
            said += choice.delta.content or ""
    equal((thought, said), ("Two and two.", "Four."), "streamed")


def completions(client):
    """A raw prompt goes on, streamed and not."""
    options = {"model": "sim", "prompt": "once upon", "max_tokens": 20, "temperature": 0}
    got = client.completions.create(**options)
    equal((got.object, got.choices[0].finish_reason), ("text_completion", "length"), "answer")
    equal(got.usage.completion_tokens, 20, "tokens")
    chunks = list(client.completions.create(**options, stream=True,
                                            stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
    equal(text, got.choices[0].text, "streamed text")
    equal(chunks[-1].usage.completion_tokens, 20, "usage")


def completions_with_suffix(client):
    """What is between a prompt and a suffix."""
    got = client.completions.create(model="sim", prompt="fn main() {", suffix="}", max_tokens=8)
    expect(got.choices[0].text, "no text")


def completions_of_a_batch(client):
    """Several prompts in one request, with indices in their order."""
    got = client.completions.create(model="sim", prompt=["one", "two"], max_tokens=5)
    equal([choice.index for choice in got.choices], [0, 1], "indices")


def completions_with_logprobs(client):
    """The older form of log-probabilities."""
    got = client.completions.create(model="dice", prompt="x", max_tokens=3, logprobs=2,
                                    temperature=0)
    found = got.choices[0].logprobs
    equal(found.tokens, ["a"] * 3, "tokens")
    expect(len(found.token_logprobs) == 3 and len(found.top_logprobs[0]) == 2, f"{found}")


def embeddings(client):
    """Vectors as numbers and as base64, which the SDK asks for by itself; one and many alike."""
    texts = ["the sea", "a ship", "the sea"]
    got = client.embeddings.create(model="embedder", input=texts)
    equal([item.index for item in got.data], [0, 1, 2], "indices")
    expect(got.usage.prompt_tokens > 0, "no usage")
    plain = client.embeddings.create(model="embedder", input=texts, encoding_format="float")
    for coded, item in zip(got.data, plain.data, strict=True):
        expect(all(abs(one - other) < 1e-6 for one, other
                   in zip(coded.embedding, item.embedding, strict=True)), "not the same vector")
    alone = client.embeddings.create(model="embedder", input="the sea")
    equal(alone.data[0].embedding, got.data[0].embedding, "the vector of one text alone")


def unknown_model(client):
    """404, with words that name the model."""
    with raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody", messages=HELLO)
    expect("nobody" in caught.error.message and caught.error.body["code"], f"{caught.error.body}")
    with raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def bad_values(client):
    """422, naming the field; 400 for what is no JSON."""
    for field, value in (("temperature", -1), ("n", 0), ("top_logprobs", 50),
                         ("max_tokens", -1), ("messages", "hello")):
        with raises(openai.UnprocessableEntityError) as caught:
            client.chat.completions.create(**{"model": "sim", "messages": HELLO, field: value})
        expect(field in caught.error.message, f"does not name `{field}`: {caught.error.message}")
    with raises(openai.UnprocessableEntityError):
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
        client.chat.completions.create(model="sim", messages=[{"role": "user", "content": [image]}])
    with raises(openai.BadRequestError):
        client.post("/chat/completions", cast_to=object, content=b"{",
                    options={"headers": {"content-type": "application/json"}})


def out_of_time(client):
    """408 as problem details; a stream ends with the error event."""
    with raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="slow", messages=HELLO)
    response = caught.error.response
    equal(response.status_code, 408, "status")
    equal(response.headers["content-type"], "application/problem+json", "content type")
    problem = response.json()
    for member in ("type", "title", "status", "detail", "instance", "timeout_seconds", "layer",
                   "remediation"):
        expect(member in problem, f"no `{member}`: {problem}")
    text = ""
    with raises(openai.APIError) as caught:
        for chunk in client.chat.completions.create(model="slow", messages=HELLO, stream=True):
            text += chunk.choices[0].delta.content or ""
    expect(text, "no text before the error")
    equal(caught.error.body["type"], "timeout", "type of the error event")


def left_stream(client):
    """A stream that the caller leaves ends its work."""
    stream = client.chat.completions.create(model="slow", messages=HELLO, stream=True)
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            break
    stream.close()
    until_idle()


def impatient(client):
    """A caller that gives up ends its work, too."""
    with raises(openai.APITimeoutError):
        client.with_options(timeout=0.5).chat.completions.create(model="slow", messages=HELLO)
    until_idle()


def other_endpoints(client):
    """Health, metrics and the description of it all."""
    base = str(client.base_url).removesuffix("/v1/")
    headers = {"authorization": f"Bearer {client.api_key}"}
    for path, kind in (("/health", "application/json"), ("/metrics", "text/plain"),
                       ("/openapi.json", "application/json")):
        got = client._client.get(base + path, headers=headers)
        equal(got.status_code, 200, path)
        expect(got.headers["content-type"].startswith(kind), f"{path}: {got.headers}")


async def asynchronous_client(way):
    """Chat, a stream and embeddings at once."""
    async with asynchronous(way) as client:
        async def streamed():
            text = ""
            async for chunk in await client.chat.completions.create(
                    model="sim", messages=HELLO, temperature=0, stream=True):
                text += chunk.choices[0].delta.content or ""
            return text

        whole, text, vectors = await asyncio.gather(
            client.chat.completions.create(model="sim", messages=HELLO, temperature=0),
            streamed(),
            client.embeddings.create(model="embedder", input=["a", "b"]),
        )
    equal(text, whole.choices[0].message.content, "streamed text")
    equal(len(vectors.data), 2, "vectors")


async def overload(way):
    """More than fits the queue is refused with 429 and when to come again; the rest goes on."""
    async with asynchronous(way) as client:
        async def ask():
            # Each counts for as many generations as it wants texts.
            return await client.chat.completions.create(model="slow", messages=HELLO, n=8)

        tasks = [asyncio.create_task(ask()) for _ in range(40)]
        refused = None
        try:
            for task in asyncio.as_completed(tasks):
                try:
                    await task
                except openai.RateLimitError as error:
                    refused = error
                    break
                except openai.APIStatusError:
                    pass
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    expect(refused is not None, "nothing was refused")
    expect(int(refused.response.headers["retry-after"]) >= 1, f"{refused.response.headers}")
    await asyncio.to_thread(until_idle)


def wrong_token():
    """401, and nothing is told."""
    with raises(openai.AuthenticationError) as caught:
        over_tcp(api_key="wrong").models.list()
    expect(caught.error.response.headers["www-authenticate"].startswith("Bearer"),
           f"{caught.error.response.headers}")


def foreign_host():
    """A page of another site that names this address is refused."""
    got = httpx2.get(f"{HTTP['url']}/models", headers={
        "host": "evil.example.com", "authorization": f"Bearer {HTTP['token']}"})
    expect(got.status_code in (403, 421), f"status {got.status_code}")


def main():
    """Every scenario on each way, then what only one has."""
    synchronous = [models, chat, chat_streamed, chat_in_parts, several_choices, sampling,
                   stop_strings, logprobs, json_object, json_schema, tool_call,
                   tool_call_streamed, tool_choice, reasoning, completions,
                   completions_with_suffix, completions_of_a_batch, completions_with_logprobs,
                   embeddings, unknown_model, bad_values, out_of_time, left_stream, impatient, other_endpoints]
    for way, connect in (("tcp", over_tcp), ("socket", over_socket)):
        with connect() as client:
            for function in synchronous:
                scenario(f"{way}/{function.__name__}", function, client)
        for function in (asynchronous_client, overload):
            asyncio.run(scenario_async(f"{way}/{function.__name__}", function, way))
    scenario("tcp/wrong_token", wrong_token)
    scenario("tcp/foreign_host", foreign_host)


main()
