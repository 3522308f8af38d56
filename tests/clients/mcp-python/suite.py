"""PyPI `mcp` as a host: what it can ask of `ingle mcp`, in each mode of negotiation.

The client itself checks every structured result against the tool's output schema, and every
message against the revision it negotiated.
"""

import asyncio
import json
import subprocess
import time

import anyio
from mcp import Client, MCPError, StdioServerParameters
from mcp_types import CallToolRequest, CallToolRequestParams, CallToolResult, TaskMetadata
from scenario import CONTEXT, equal, expect, raises, scenario_async

# Mode of the client, and the revision that it must come to.
MODES = {"auto": "2026-07-28", "legacy": "2025-11-25", "2026-07-28": "2026-07-28"}

# Seconds after which a state that has not come about is a failure.
STATE_LIMIT_S = 20

# Arguments with which each tool answers, and a member of its result; None where another scenario
# calls it.
TOOLS = {
    "chat": ({"prompt": "hello"}, "text"),
    "generate": ({"prompt": "hello", "max_tokens": 8}, "text"),
    "list_models": ({}, "models"),
    "count_tokens": ({"text": "hello"}, "tokens"),
    "load_model": ({"model": "sim"}, None),
    "unload_model": ({"model": "sim"}, None),
    "server_status": ({}, None),
    "complete_code": ({"prefix": "fn main() {", "suffix": "}", "max_tokens": 8}, "text"),
    "embed": ({"texts": ["the sea", "a ship"], "model": "embedder"}, "embeddings"),
    "job_get": None,
    "job_wait": None,
    "job_cancel": None,
    "job_list": ({}, "jobs"),
}


def host(mode, *arguments, **options):
    """A client whose server is the shim, started as a host would."""
    server = StdioServerParameters(command=CONTEXT["ingle"], args=["mcp", *arguments])
    return Client(server, mode=mode, read_timeout_seconds=20, **options)


async def active():
    """How many generations run, by the daemon's own word."""
    command = [CONTEXT["ingle"], "status", "--json"]
    done = await anyio.run_process(command, stderr=subprocess.STDOUT)
    return json.loads(done.stdout)["active"]


async def until_idle():
    """Asks until nothing runs. Each question is a round trip; no time is guessed."""
    give_up_at = time.monotonic() + STATE_LIMIT_S
    while await active() != 0:
        expect(time.monotonic() < give_up_at, "the generation still runs")


def text_of(result):
    """The text a model is shown."""
    return "".join(block.text for block in result.content if block.type == "text")


async def negotiates(mode):
    """The revision, and who the server says it is."""
    async with host(mode) as client:
        equal(client.protocol_version, MODES[mode], "revision")
        await client.list_tools()
        if mode != "2026-07-28":
            equal(client.server_info.name, "ingle", "server name")
            expect(client.instructions, "instructions for the model")


async def lists_tools(mode):
    """Every tool with a title, annotations and both schemas."""
    async with host(mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    missing = TOOLS.keys() - tools.keys()
    expect(not missing, f"tools that are missing: {sorted(missing)}")
    for name, tool in tools.items():
        expect(name in TOOLS, f"`{name}` has no scenario here")
        expect(tool.title and tool.description, f"`{name}` has no title or description")
        expect(tool.annotations is not None, f"`{name}` has no annotations")
        expect(tool.input_schema.get("type") == "object", f"`{name}` takes no object")
        expect(tool.output_schema is not None, f"`{name}` has no output schema")


async def calls_tool(mode, name):
    """One tool's answer, as text and as structured content that fits its schema."""
    arguments, member = TOOLS[name]
    async with host(mode) as client:
        await client.list_tools()
        result = await client.call_tool(name, arguments)
    expect(not result.is_error, text_of(result))
    expect(result.structured_content is not None, "no structured content")
    expect(text_of(result), "no text")
    if name == "embed":
        # Vectors are for programs: a model is told of them only.
        expect("2 vectors of" in text_of(result), f"text: {text_of(result)[:200]}")
    if member:
        expect(member in result.structured_content, f"no `{member}`: {result.structured_content}")


async def ignores_a_task(mode):
    """A call that asks to become a task of MCP's is answered like any other."""
    async with host(mode) as client:
        task = TaskMetadata(ttl=1000)
        params = CallToolRequestParams(name="list_models", arguments={}, task=task)
        result = await client.session.send_request(CallToolRequest(params=params), CallToolResult)
        expect(not result.is_error, text_of(result))
        expect("models" in result.structured_content, f"no models: {result.structured_content}")


async def reports_progress(mode):
    """Progress grows while the call runs, and the result comes after it."""
    heard = []

    async def note(progress, total, message):
        heard.append((progress, total, message))

    async with host(mode) as client:
        result = await client.call_tool(
            "chat", {"model": "slow", "prompt": "progress", "max_tokens": 120},
            progress_callback=note)
    expect(not result.is_error, text_of(result))
    shares = [progress for progress, _, _ in heard]
    expect(len(shares) >= 2, f"progress was told {len(shares)} times")
    expect(shares == sorted(set(shares)), f"progress does not grow: {shares}")
    expect(all(share <= total for share, total, _ in heard), f"more than everything: {heard}")


async def cancels(mode):
    """A call that the host gives up ends its work, and the session goes on."""
    begun = asyncio.Event()

    async def note(*_):
        begun.set()

    async with host(mode) as client:
        async with anyio.create_task_group() as group:
            async def call():
                await client.call_tool("chat", {"model": "slow", "prompt": "cancel " + mode},
                                       progress_callback=note)

            group.start_soon(call)
            with anyio.fail_after(STATE_LIMIT_S):
                await begun.wait()
            expect(await active() == 1, "the call does not run")
            group.cancel_scope.cancel()
        await until_idle()
        result = await client.call_tool("list_models", {})
        expect(not result.is_error, text_of(result))


async def becomes_a_job(mode):
    """A call that outlasts the host's limit is answered with a job, which has the result."""
    async with host(mode, "--host-timeout", "1") as client:
        begun_at = time.monotonic()
        result = await client.call_tool("chat", {"model": "slow", "prompt": "job " + mode})
        took = time.monotonic() - begun_at
        # Long before the work is done; a busy machine is given time.
        expect(took < 5, f"answered after {took:.1f} s")
        expect(not result.is_error, text_of(result))
        equal(result.structured_content["status"], "running", "status")
        job = result.structured_content["job_id"]
        expect(job in text_of(result), "the text does not name the job")
        look = await client.call_tool("job_get", {"job_id": job})
        expect(not look.is_error, text_of(look))
        for _ in range(20):
            result = await client.call_tool("job_wait", {"job_id": job})
            expect(not result.is_error, text_of(result))
            if result.structured_content.get("text"):
                break
        expect(result.structured_content.get("text"), "the job has no result")


async def cancels_a_job(mode):
    """A job that is no longer wanted ends."""
    async with host(mode, "--host-timeout", "1") as client:
        result = await client.call_tool("chat", {"model": "slow", "prompt": "no job " + mode})
        job = result.structured_content["job_id"]
        ended = await client.call_tool("job_cancel", {"job_id": job})
        expect(not ended.is_error, text_of(ended))
        await until_idle()


async def explains_errors(mode):
    """A tool's error is a result that says what to do; an unknown tool is the host's fault."""
    async with host(mode) as client:
        result = await client.call_tool("chat", {"prompt": "hello", "model": "nobody"})
        expect(result.is_error, "an unknown model is no error")
        expect("nobody" in text_of(result), f"does not name the model: {text_of(result)}")
        result = await client.call_tool("chat", {"prompt": "hello", "max_tokens": "many"})
        expect(result.is_error, "a wrong argument is no error")
        expect("max_tokens" in text_of(result), f"does not name the field: {text_of(result)}")
        result = await client.call_tool("chat", {"prompt": "x" * 20_001})
        expect(result.is_error and "20000" in text_of(result).replace(",", ""),
               f"does not name the limit: {text_of(result)}")
        with raises(MCPError):
            await client.call_tool("no_such_tool", {})


async def says_that_a_text_was_cut(mode):
    """A text that ends at its limit says so in words: many hosts show a model nothing else."""
    async with host(mode) as client:
        result = await client.call_tool("generate", {"prompt": "hello", "max_tokens": 2})
    equal(result.structured_content["finish_reason"], "length", "finish reason")
    equal(result.content[0].text, result.structured_content["text"], "the text itself")
    expect("max_tokens" in result.content[1].text, f"content: {result.content}")


async def many_at_once(mode):
    """Calls in flight together get each its own answer."""
    async with host(mode) as client:
        answers = {}

        async def ask(number):
            result = await client.call_tool("chat", {"prompt": f"number {number}"})
            answers[number] = text_of(result)

        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(ask, number)
        again = await client.call_tool("chat", {"prompt": "number 3"})
    equal(len(set(answers.values())), 5, "different answers")
    equal(text_of(again), answers[3], "the same answer again")


async def reads_resources(mode):
    """Models and jobs are resources; each that is listed can be read."""
    async with host(mode) as client:
        resources = (await client.list_resources()).resources
        uris = [str(resource.uri) for resource in resources]
        expect("ingle://models" in uris and "ingle://jobs" in uris, f"listed: {uris}")
        expect("ingle://models/sim" in uris, f"no model is listed: {uris}")
        for uri in uris:
            contents = (await client.read_resource(uri)).contents
            expect(contents and contents[0].text, f"`{uri}` is empty")
        templates = (await client.list_resource_templates()).resource_templates
        expect(templates, "no resource templates")
        with raises(MCPError):
            await client.read_resource("ingle://models/nobody")


async def hears_of_changes(mode):
    """A model that is loaded changes the list of resources, and the host is told."""
    told = anyio.Event()

    async def handler(message):
        if type(message).__name__ == "ResourceListChangedNotification" or \
                getattr(message, "method", "") == "notifications/resources/list_changed":
            told.set()

    if MODES[mode] == "2026-07-28":
        async with host(mode) as client:
            async with client.listen(resources_list_changed=True) as subscription:
                await reload(client)
                with anyio.fail_after(STATE_LIMIT_S):
                    async for _ in subscription:
                        break
        return
    async with host(mode, message_handler=handler) as client:
        await reload(client)
        with anyio.fail_after(STATE_LIMIT_S):
            await told.wait()


async def reload(client):
    """Unloads and loads a model, so that something has changed whatever was before."""
    for tool in ("load_model", "unload_model", "load_model"):
        result = await client.call_tool(tool, {"model": "sim"})
        expect(not result.is_error, text_of(result))


async def gets_prompts(mode):
    """Each prompt can be had with its required arguments."""
    async with host(mode) as client:
        prompts = {prompt.name: prompt for prompt in (await client.list_prompts()).prompts}
        wanted = {"review", "explain", "commit_message"}
        expect(wanted <= prompts.keys(), f"prompts: {sorted(prompts)}")
        for name, prompt in prompts.items():
            required = [argument.name for argument in prompt.arguments or [] if argument.required]
            got = await client.get_prompt(name, {argument: "fn main() {}" for argument in required})
            expect(any("fn main() {}" in message.content.text for message in got.messages),
                   f"`{name}` leaves out its argument")
            with raises(MCPError):
                await client.get_prompt(name, {})


async def main():
    """Every scenario in every mode."""
    scenarios = [negotiates, lists_tools, reports_progress, cancels, becomes_a_job, cancels_a_job,
                 explains_errors, says_that_a_text_was_cut, ignores_a_task, many_at_once,
                 reads_resources, hears_of_changes, gets_prompts]
    for mode in MODES:
        for function in scenarios:
            await scenario_async(f"{mode}/{function.__name__}", function, mode)
        for tool, call in TOOLS.items():
            if call:
                await scenario_async(f"{mode}/calls {tool}", calls_tool, mode, tool)


asyncio.run(main())
