"""`python -m bench.tunnel PORT [CA.pem]`: connections in plain text go on to PORT of this host, over TLS with a CA.

The generator in C has no TLS. It connects here, and what the daemon does is measured at the daemon, whose processor
time does not depend on what this costs. Prints the port that it listens on. Ends with its standard input.
"""

import asyncio
import contextlib
import ssl
import sys

CHUNK_BYTES = 1 << 16


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


async def main(port: int, ca: str | None) -> None:
    context = ssl.create_default_context(cafile=ca) if ca is not None else None

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        await asyncio.gather(_pump(reader, back), _pump(there, writer))

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))
