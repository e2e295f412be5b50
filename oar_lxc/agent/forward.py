"""The program that forwards TCP ports of a node to containers.

It is called as ``oar_lxc.agent.forward FORWARD …``, runs as the job's user inside the job, and
ends with the job.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from dataclasses import dataclass

from oar_lxc.errors import OarLxcError, UsageError
from oar_lxc.linux.error_exit import exit_on_error

CHUNK = 65536


@dataclass(frozen=True)
class Forward:
    """One port of the node that is forwarded to a container.

    Attributes:
        listen: the node's port.
        address: the container's address.
        port: the container's port.
    """

    listen: int
    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.listen}:{self.address}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Forward:
        """Parse what :meth:`__str__` wrote.

        Raises:
            UsageError: the text is something else.
        """
        try:
            listen, address, port = text.split(":")
            return cls(int(listen), address, int(port))
        except ValueError:
            raise UsageError(f"{text!r} is not LISTEN:ADDRESS:PORT") from None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def _serve(forward: Forward) -> asyncio.Server:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            inner_reader, inner_writer = await asyncio.open_connection(
                forward.address, forward.port
            )
            try:
                await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))
            finally:
                inner_writer.close()
        writer.close()

    try:
        return await asyncio.start_server(accept, "0.0.0.0", forward.listen)  # noqa: S104  # asked for
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise OarLxcError(f"port {forward.listen} of this node: {why}") from error


async def _run(forwards: list[Forward]) -> None:
    servers = [await _serve(forward) for forward in forwards]
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    await asyncio.gather(*(server.serve_forever() for server in servers))


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main() -> None:
    """Forward until killed; write ``listening`` when all ports are open."""
    with exit_on_error(_tell):
        asyncio.run(_run([Forward.parse(text) for text in sys.argv[1:]]))


if __name__ == "__main__":
    main()
