"""Talks to Ingle with OpenAI's Python package, over the Unix socket.

    pip install openai
    python3 examples/openai_client.py "Why is the sky blue?"

The socket needs no token and no configuration. `ingle http` shows its path; INGLE_HOME names
another Ingle folder. Start the daemon first, for example with `ingle load`.
"""

import os
import pathlib
import sys

import httpx
import openai


def main():
    """Streams one answer, then asks for JSON that fits a schema."""
    home = pathlib.Path(os.environ.get("INGLE_HOME", pathlib.Path.home() / ".ingle"))
    transport = httpx.HTTPTransport(uds=str(home / "run" / "http.sock"))
    with httpx.Client(transport=transport) as http_client:
        client = openai.OpenAI(
            base_url="http://localhost/v1", api_key="unused", http_client=http_client
        )
        question = " ".join(sys.argv[1:]) or "Why is the sky blue?"
        stream_answer(client, question)
        print(ask_for_colour(client))


def stream_answer(client, question):
    """Prints the answer as it comes."""
    chunks = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": question}],
        max_tokens=80,
        stream=True,
    )
    for chunk in chunks:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


def ask_for_colour(client):
    """Gives the JSON text of a colour. The schema is enforced token by token."""
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["red", "green", "blue"]}},
        "required": ["name"],
        "additionalProperties": False,
    }
    completion = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "Name a colour."}],
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "colour", "schema": schema, "strict": True},
        },
        max_tokens=40,
    )
    return completion.choices[0].message.content


if __name__ == "__main__":
    main()
