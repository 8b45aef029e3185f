#!/usr/bin/env python3
"""A relay in front of Redis that simulates faults of networks and servers on command.

    relay.py --port PORT --to PATH|HOST:PORT --control PATH
                        listens on 127.0.0.1:PORT, forwards to the socket of a Redis,
                        takes commands on the unix socket `control`; prints 'ready' once it listens

A command is a line, its reply is a line. "The next reply" is that to a script or a GET: a PING or an INFO of a worker takes
nothing away from the request that a fault is meant for.

    pass                forward all bytes, first those that were held
    hold                forward nothing, in both directions
    mute                forward no replies
    cut COUNT           forward so many bytes of the next reply, then mute
    cut-behind HEX      forward the replies up to these bytes and with them, then mute
    stop-behind HEX     the same, but mute that connection alone
    sever COUNT         forward so many bytes of the next reply, then close its connection
    insert HEX          forward these bytes ahead of the next reply
    replace HEX         forward these bytes in place of the next reply
    forget              forward nothing over the connections that are there, but over new ones
    rate BYTES          forward at most so many bytes a second, in both directions; 0 ends this
    delay SECONDS       delay each piece of a reply by this time; 0 ends this
    trickle SECONDS     forward replies byte by byte, and wait for this time before each byte; 0 ends this
    close               close all connections
    refuse              listen no more, and close all connections
    accept              listen again
    muted               the reply comes after a cut, a cut-behind, a stop-behind or a sever has happened
    connected           the reply is the number of connections
    accepted            the reply is the number of all connections so far
"""

import asyncio
import socket

from serving import port_argument, serve_until_stopped


class Relay:
    def __init__(self, options):
        self.options = options
        self.server = None
        self.pairs = set()
        self.accepted = 0
        self.requests_pass = asyncio.Event()
        self.replies_pass = asyncio.Event()
        self.cut_happened = asyncio.Event()
        self.stopped_passes = asyncio.Event()
        self.delay = 0
        self.trickle = 0
        self.rate = 0
        self.budget_at = 0
        self.forgotten = set()
        self.about_keys = set()
        self.reset()

    def reset(self):
        self.requests_pass.set()
        self.replies_pass.set()
        self.stopped_passes.set()
        self.cut_happened.clear()
        self.plan = None
        self.delay = 0
        self.trickle = 0
        self.rate = 0

    async def listen(self):
        # a small buffer: a sender sees how fast its bytes are forwarded
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        listener.bind(('127.0.0.1', self.options.port))
        self.server = await asyncio.start_server(self.serve, sock=listener, backlog=512)

    async def keep_rate(self, data):
        if self.rate:
            now = asyncio.get_running_loop().time()
            self.budget_at = max(now, self.budget_at) + len(data) / self.rate
            await asyncio.sleep(self.budget_at - now)

    async def forget(self, pair):
        if pair[0] in self.forgotten:
            await asyncio.Event().wait()

    async def serve(self, reader, writer):
        self.accepted += 1
        try:
            host, _, port = self.options.to.rpartition(':')
            up_reader, up_writer = await (asyncio.open_unix_connection(self.options.to)
                if self.options.to.startswith('/') else asyncio.open_connection(host, int(port)))
        except OSError:
            writer.close()
            return

        pair = (writer, up_writer)
        self.pairs.add(pair)
        ways = [asyncio.ensure_future(way) for way in (
            self.requests(reader, up_writer, pair), self.replies(up_reader, writer, pair))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        self.pairs.discard(pair)
        self.about_keys.discard(pair)
        for end in pair:
            end.close()

    async def requests(self, reader, writer, pair):
        while data := await reader.read(65536):
            if b'EVAL' in data or b'\r\nGET\r\n' in data:
                self.about_keys.add(pair)
            elif data.startswith(b'*'):
                self.about_keys.discard(pair)
            await self.requests_pass.wait()
            await self.keep_rate(data)
            await self.forget(pair)
            writer.write(data)
            await writer.drain()

    async def replies(self, reader, writer, pair):
        while data := await reader.read(65536):
            await self.replies_pass.wait()
            await self.keep_rate(data)
            await self.forget(pair)
            if self.delay:
                await asyncio.sleep(self.delay)

            while self.trickle and len(data) > 1:
                await asyncio.sleep(self.trickle)
                writer.write(data[:1])
                await writer.drain()
                data = data[1:]

            if self.plan is not None and pair in self.about_keys:
                kind, value = self.plan
                if kind in ('insert', 'replace'):
                    self.plan = None
                    data = value + (data if kind == 'insert' else b'')
                else:
                    is_behind = kind in ('cut-behind', 'stop-behind')
                    end = data.find(value) + len(value) if is_behind else value
                    if is_behind and value not in data:
                        end = None
                    if end is not None:
                        self.plan = None
                        writer.write(data[:end])
                        await writer.drain()
                        data = data[end:]
                        self.cut_happened.set()
                        if kind == 'sever':
                            return
                        gate = self.stopped_passes if kind == 'stop-behind' else self.replies_pass
                        gate.clear()
                        await gate.wait()

            writer.write(data)
            await writer.drain()

    def close_all(self):
        for pair in self.pairs:
            for end in pair:
                end.transport.abort()

    async def command(self, word, argument):
        if word == 'pass':
            self.reset()
        elif word == 'hold':
            self.requests_pass.clear()
            self.replies_pass.clear()
        elif word == 'mute':
            self.replies_pass.clear()
        elif word in ('cut', 'sever'):
            self.plan = (word, int(argument))
        elif word in ('cut-behind', 'stop-behind', 'insert', 'replace'):
            self.plan = (word, bytes.fromhex(argument))
        elif word == 'delay':
            self.delay = float(argument)
        elif word == 'trickle':
            self.trickle = float(argument)
        elif word == 'forget':
            self.forgotten = {pair[0] for pair in self.pairs}
        elif word == 'rate':
            self.rate = int(argument)
        elif word == 'close':
            self.close_all()
        elif word == 'refuse':
            self.server.close()
            self.close_all()
        elif word == 'accept':
            await self.listen()
        elif word == 'muted':
            await asyncio.wait_for(self.cut_happened.wait(), 20)
        elif word == 'connected':
            return str(len(self.pairs))
        elif word == 'accepted':
            return str(self.accepted)
        else:
            return 'unknown'
        return 'ok'

    async def control(self, reader, writer):
        while line := await reader.readline():
            word, _, argument = line.decode().strip().partition(' ')
            try:
                answer = await self.command(word, argument)
            except (OSError, ValueError, asyncio.TimeoutError) as fault:
                answer = f'failed: {fault!r}'
            writer.write(answer.encode() + b'\n')
            await writer.drain()
        writer.close()


async def main():
    arguments = port_argument()
    arguments.add_argument('--to', required=True)
    arguments.add_argument('--control', required=True)
    options = arguments.parse_args()

    relay = Relay(options)
    await relay.listen()
    await asyncio.start_unix_server(relay.control, options.control)

    await serve_until_stopped()


if __name__ == '__main__':
    asyncio.run(main())
