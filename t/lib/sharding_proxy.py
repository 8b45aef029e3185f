#!/usr/bin/env python3
"""A proxy that shards by key over several Redis servers, as twemproxy, Envoy and Redis Enterprise do it.

    sharding_proxy.py --port PORT --to PATH,...
                        listens on 127.0.0.1:PORT; the sockets of the servers, each of which
                        has a part of the slots; prints 'ready' once it listens

A command goes to the server that has the slot of its first key.  A script whose keys are in
several slots is refused with CROSSSLOT, and a command without a key with an error, except
PING, which the proxy replies to itself.  The replies of a client come in the order of its
commands.
"""

import asyncio
import binascii

from serving import port_argument, serve_until_stopped

SLOTS = 16384


def slot_of(key):
    start = key.find(b'{')
    end = key.find(b'}', start + 1)
    if start >= 0 and end > start + 1:
        key = key[start + 1:end]
    return binascii.crc_hqx(key, 0) % SLOTS


async def read_command(reader):
    """The words of a command, or None at the end of the connection."""
    line = await reader.readline()
    if not line:
        return None
    words = []
    for _ in range(int(line[1:])):
        size = int((await reader.readline())[1:])
        words.append((await reader.readexactly(size + 2))[:-2])
    return words


async def read_reply(reader):
    """The bytes of a reply."""
    line = await reader.readline()
    if not line.endswith(b'\r\n'):
        raise ConnectionError('the server has closed the connection')
    kind, number = line[:1], line[1:-2]
    if kind == b'$' and int(number) >= 0:
        return line + await reader.readexactly(int(number) + 2)
    if kind == b'*':
        return line + b''.join([await read_reply(reader) for _ in range(int(number))])
    return line


def keys_of(words):
    if words[0].upper() in (b'EVAL', b'EVALSHA'):
        return words[3:3 + int(words[2])]
    return words[1:2]


class Client:
    def __init__(self, paths):
        self.paths = paths
        self.servers = {}

    async def server_of(self, slot):
        path = self.paths[slot * len(self.paths) // SLOTS]
        if path not in self.servers:
            self.servers[path] = await asyncio.open_unix_connection(path)
        return self.servers[path]

    async def reply_to(self, words):
        if words[0].upper() == b'PING':
            return b'+PONG\r\n'

        slots = {slot_of(key) for key in keys_of(words)}
        if not slots:
            return b'-ERR unsupported command\r\n'
        if len(slots) > 1:
            return b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"

        reader, writer = await self.server_of(slots.pop())
        writer.write(b'*%d\r\n' % len(words) + b''.join(b'$%d\r\n%s\r\n' % (len(word), word) for word in words))
        await writer.drain()
        return await read_reply(reader)

    async def serve(self, reader, writer):
        try:
            while (words := await read_command(reader)) is not None:
                writer.write(await self.reply_to(words))
                await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()
            for _, server in self.servers.values():
                server.close()


async def main():
    arguments = port_argument()
    arguments.add_argument('--to', required=True)
    options = arguments.parse_args()
    paths = options.to.split(',')

    await asyncio.start_server(lambda *ends: Client(paths).serve(*ends), '127.0.0.1', options.port, backlog=512)
    await serve_until_stopped()


if __name__ == '__main__':
    asyncio.run(main())
