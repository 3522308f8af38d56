"""The MCP Inspector's command line as a host: each method's exit code, result and silence.

It starts a server for each call, so each also shows that a session comes and goes cleanly.
"""

import json
import os
import subprocess

from scenario import CONTEXT, equal, expect, scenario

INSPECTOR = os.path.join(CONTEXT["modules"], ".bin", "mcp-inspector")

# The handshake with `initialize`, and the stateless revision.
ERAS = ("legacy", "modern")

# Seconds one call may take; most of it is Node's start.
LIMIT_S = 60


def inspect(era, method, *options):
    """One call's result. A code other than 0 or a word on standard error is a failure."""
    command = [INSPECTOR, "--cli", CONTEXT["ingle"], "mcp", "--protocol-era", era,
               "--method", method, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False,
                          stdin=subprocess.DEVNULL)
    equal(done.returncode, 0, f"exit code (standard error: {done.stderr.strip()})")
    equal(done.stderr.strip(), "", "standard error")
    return json.loads(done.stdout)


def call(era, name, **arguments):
    """One tool's structured content."""
    options = ["--tool-args-json", json.dumps(arguments)]
    result = inspect(era, "tools/call", "--tool-name", name, *options)
    expect(not result.get("isError"), f"an error: {result}")
    return result["structuredContent"]


def lists_tools(era):
    """Every tool, and nothing that a model provider may stumble over."""
    tools = {tool["name"] for tool in inspect(era, "tools/list", "--strict")["tools"]}
    expect({"chat", "generate", "list_models", "job_wait"} <= tools, f"tools: {sorted(tools)}")


def calls_chat(era):
    """A text with its usage."""
    content = call(era, "chat", prompt="hello", max_tokens=5)
    expect(content["text"] and content["usage"], f"content: {content}")


def calls_list_models(era):
    """A tool without arguments."""
    expect(call(era, "list_models")["models"], "no models")


def calls_server_status(era):
    """Another."""
    expect(call(era, "server_status"), "no status")


def reports_tool_error(era):
    """A tool's error is a result, and the Inspector exits with the code it has for that."""
    command = [INSPECTOR, "--cli", CONTEXT["ingle"], "mcp", "--protocol-era", era, "--method",
               "tools/call", "--tool-name", "chat", "--tool-args-json",
               json.dumps({"prompt": "hello", "model": "nobody"})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False,
                          stdin=subprocess.DEVNULL)
    expect("nobody" in done.stdout, f"does not name the model: {done.stdout} {done.stderr}")
    equal(json.loads(done.stdout)["isError"], True, "isError")


def lists_resources(era):
    """Every resource and the templates."""
    uris = {resource["uri"] for resource in inspect(era, "resources/list")["resources"]}
    expect("ingle://models" in uris, f"resources: {sorted(uris)}")
    expect(inspect(era, "resources/templates/list")["resourceTemplates"], "no templates")


def reads_resource(era):
    """One of them."""
    contents = inspect(era, "resources/read", "--uri", "ingle://models")["contents"]
    expect("sim" in contents[0]["text"], f"contents: {contents}")


def lists_prompts(era):
    """Every prompt."""
    prompts = {prompt["name"] for prompt in inspect(era, "prompts/list")["prompts"]}
    expect({"review", "explain", "commit_message"} <= prompts, f"prompts: {sorted(prompts)}")


def gets_prompt(era):
    """One of them with its argument."""
    result = inspect(era, "prompts/get", "--prompt-name", "explain", "--prompt-args", "code=main()")
    expect("main()" in json.dumps(result["messages"]), f"messages: {result}")


for ERA in ERAS:
    for function in (lists_tools, calls_chat, calls_list_models, calls_server_status,
                     reports_tool_error, lists_resources, reads_resource, lists_prompts,
                     gets_prompt):
        scenario(f"{ERA}/{function.__name__}", function, ERA)
