#!/usr/bin/env python3
"""Uses Ingle through OpenAI's Python package, over TCP with the token.

Preparation: put `[http] listen = "127.0.0.1:11711"` into `~/.ingle/config.toml`, then

    ingle restart
    eval "$(ingle http --show-token)"       # sets OPENAI_BASE_URL and OPENAI_API_KEY
    pip install openai
    python3 openai_client.py [MODEL]
"""

import json
import sys

import openai


def main():
    # Base URL and key come from the environment. Ingle answers a chat within 1350 s, by default
    # (`ingle timeouts`). A client that waits a little longer gets its error, which says why.
    client = openai.OpenAI(timeout=1400, max_retries=0)

    # Ingle has a default model, but the package requires a name.
    model = sys.argv[1] if len(sys.argv) > 1 else "smollm2"

    print("models:", ", ".join(entry.id for entry in client.models.list()))

    # A conversation, token by token.
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "In one sentence: what is a campfire good for?"}],
        max_tokens=60,
        temperature=0,
        stream=True,
    )
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            print(chunk.choices[0].delta.content, end="", flush=True)
    print()

    # JSON that is valid under a schema. Bound strings and lists, so that the tokens suffice.
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 20},
            "country": {"type": "string", "maxLength": 20},
        },
        "required": ["city", "country"],
        "additionalProperties": False,
    }
    completion = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Name a large city and its country, as JSON."}],
        max_tokens=80,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "place", "schema": schema, "strict": True},
        },
    )
    print("place:", json.loads(completion.choices[0].message.content))

    # An error names the next step.
    try:
        client.chat.completions.create(model="absent", messages=[{"role": "user", "content": "?"}])
    except openai.APIStatusError as error:
        print(f"error {error.status_code}: {error.response.json()['remediation']}")


if __name__ == "__main__":
    main()
