"""The official Python client and server of the Model Context Protocol against HEPH's.

    context_protocol.py HEPH

Asks `heph mcp` over standard input and `heph serve` at /mcp, and lets `heph serve` ask a server made with the official package.
"""

import asyncio
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

SERVER = """
from mcp.server.mcpserver import MCPServer

app = MCPServer("numbers")


@app.tool()
def double(n: int) -> int:
    \"\"\"Twice the number.\"\"\"
    return 2 * n


app.run()
"""

passed = failed = 0


def claim(what, holds, told=""):
    global passed, failed
    passed, failed = passed + bool(holds), failed + (not holds)
    if not holds:
        print(f"FAIL {what}: {told}")


async def use(session, way):
    welcome = await session.initialize()
    claim(f"{way}: who it is", welcome.server_info.name == "heph", welcome)
    tools = {tool.name for tool in (await session.list_tools()).tools}
    claim(f"{way}: the tools", {"ask", "plan", "list_models", "embed", "tokenize", "search_documents"} <= tools, tools)
    asked = await session.call_tool("ask", {"question": "Tell me a story about a fox.", "max_tokens": 12, "seed": 1})
    claim(f"{way}: an answer", not asked.is_error and asked.content[0].text.strip(), asked)
    tokens = await session.call_tool("tokenize", {"text": "Hello there"})
    claim(f"{way}: tokens", len(json.loads(tokens.content[0].text)["tokens"]) > 0, tokens)
    refused = await session.call_tool("ask", {"question": "Hello", "model": "no-such"})
    claim(f"{way}: a refusal is a result", refused.is_error, refused)
    try:
        await session.call_tool("rm", {})
        claim(f"{way}: no such tool", False)
    except Exception as error:
        claim(f"{way}: no such tool", "no tool" in str(error), error)
    await session.send_ping()


async def over_stdio(heph, home):
    server = StdioServerParameters(command=heph, args=["mcp"], env=os.environ | {"HEPH_HOME": home})
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await use(session, "stdio")


async def over_http(address):
    async with streamable_http_client(f"{address}/mcp") as (read, write), ClientSession(read, write) as session:
        await use(session, "HTTP")


def ask(address, body):
    asked = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=120) as answer:
        return json.load(answer)


def serving(heph, home):
    process = subprocess.Popen(
        [heph, "serve", "--no-auth", "--listen", "127.0.0.1:0"], env=os.environ | {"HEPH_HOME": home}, stdout=subprocess.PIPE, text=True
    )
    first = process.stdout.readline()
    return process, first.split(" answers at ")[1].strip().removesuffix("/v1")


def main():
    heph = sys.argv[1]
    with tempfile.TemporaryDirectory() as home:
        script = pathlib.Path(home) / "server.py"
        script.write_text(SERVER)
        config = {"mcpServers": {"numbers": {"command": sys.executable, "args": [str(script)], "others": "allow", "deadline_s": 120}}}
        listed = pathlib.Path(home) / "mcp.json"
        listed.write_text(json.dumps(config))
        listed.chmod(0o600)
        asyncio.run(over_stdio(heph, home))
        door, address = serving(heph, home)
        try:
            asyncio.run(over_http(address))
            said = ask(address, {
                "messages": [{"role": "user", "content": "Double it."}], "max_tokens": 40, "tool_choice": "required", "seed": 1,
                "heph": {"mcp": ["numbers"]},
            })
            made = said["heph"]["tools"]["made"]
            claim("the official server is asked", made and made[0]["tool"] == "double" and made[0]["state"] == "done", said)
        finally:
            door.terminate()
            door.wait()
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0 or passed == 0)


if __name__ == "__main__":
    main()
