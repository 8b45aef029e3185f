#!/usr/bin/env python3
"""Three sentinels of tools/torture, at most one of which lies at a time, and a server that a liar names.

    torture-sentinels.py CONTROL HISTORY PORT ...

The ports are those at which nginx reaches the Redis servers; the first one is the master. A command over the unix socket
CONTROL is a line, its reply is a line:

    ports                   `ok PORT PORT PORT`: those of the sentinels
    master NUMBER           another server is the master: the sentinels publish it
    lie HOW SECONDS         one sentinel, for SECONDS
                                other       names a server that is no master of anybody, and publishes it
                                old         names another one of the servers, and publishes it
                                unknown     does not know the master
                                mute        accepts connections and commands, and replies nothing
                                garbage     replies with bytes that are not of the protocol
                                closed      closes all connections
                            The reply is `ok AT UNTIL`, when it is over.

A connection to the server that only a liar has named is an event of HISTORY: nginx has believed it.
"""

import asyncio
import json
import random
import signal
import sys
import time

COUNT = 3


def bulk(*words):
    return b'*%d\r\n' % len(words) + b''.join(b'$%d\r\n%s\r\n' % (len(word), word) for word in words)


async def read_command(reader):
    words = []
    count = await reader.readuntil(b'\r\n')
    for _ in range(int(count[1:])):
        size = int((await reader.readuntil(b'\r\n'))[1:])
        words.append((await reader.readexactly(size + 2))[:-2])
    return words


class Sentinel:
    def __init__(self, sentinels):
        self.sentinels = sentinels
        self.lie = None
        self.writers = set()
        self.subscribers = set()

    @property
    def named(self):
        """The port of the server that it names."""
        if self.lie == 'other':
            return self.sentinels.trap
        if self.lie == 'old':
            return self.sentinels.ports[self.sentinels.master - 1]
        return self.sentinels.ports[self.sentinels.master]

    def begin(self, lie):
        self.lie = lie
        if lie == 'closed':
            for writer in self.writers:
                writer.close()
        elif lie in ('other', 'old'):
            self.publish()

    def publish(self):
        text = b'shop 127.0.0.1 1 127.0.0.1 %d' % self.named
        for writer in self.subscribers:
            writer.write(bulk(b'message', b'+switch-master', text))

    async def serve(self, reader, writer):
        if self.lie == 'closed':
            writer.close()
            return
        self.writers.add(writer)
        try:
            while True:
                reply = self.reply(await read_command(reader), writer)
                if self.lie == 'garbage':
                    reply = b'\x00\xff nothing of the protocol\r\n' * 20
                if self.lie != 'mute':
                    writer.write(reply)
                    await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            self.writers.discard(writer)
            self.subscribers.discard(writer)
            writer.close()

    def reply(self, words, writer):
        name = words[0].upper()
        if name == b'SUBSCRIBE':
            self.subscribers.add(writer)
            return b'*3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n'
        if name == b'PING':
            return bulk(b'pong', b'') if writer in self.subscribers else b'+PONG\r\n'
        if name == b'SENTINEL':
            return b'*-1\r\n' if self.lie == 'unknown' else bulk(b'127.0.0.1', b'%d' % self.named)
        return b'-ERR unknown command\r\n'


class Sentinels:
    def __init__(self, ports, history):
        self.ports = ports
        self.history = history
        self.master = 0
        self.trap = None
        self.sentinels = [Sentinel(self) for _ in range(COUNT)]
        self.own_ports = []
        self.chance = random.Random(2)

    async def listen(self, control):
        servers = [await asyncio.start_server(sentinel.serve, '127.0.0.1', 0, backlog=512) for sentinel in self.sentinels]
        self.own_ports = [server.sockets[0].getsockname()[1] for server in servers]
        trap = await asyncio.start_server(self.believe, '127.0.0.1', 0)
        self.trap = trap.sockets[0].getsockname()[1]
        return servers + [trap, await asyncio.start_unix_server(self.control, control)]

    async def believe(self, reader, writer):
        try:
            data = await asyncio.wait_for(reader.read(1000), 1)
        except (OSError, asyncio.TimeoutError):
            data = b''
        self.history.write(json.dumps(dict(event='believed', at=time.monotonic(), got=data.decode('latin-1'))) + '\n')
        writer.close()

    async def lie(self, how, seconds):
        liar = self.chance.choice(self.sentinels)
        at = time.monotonic()
        liar.begin(how)
        await asyncio.sleep(float(seconds))
        liar.lie = None
        return 'ok %.4f %.4f' % (at, time.monotonic())

    def change_master(self, number):
        self.master = int(number)
        for sentinel in self.sentinels:
            sentinel.publish()
        return 'ok'

    async def control(self, reader, writer):
        while line := await reader.readline():
            word, *arguments = line.decode().split()
            if word == 'lie':
                answer = await self.lie(*arguments)
            elif word == 'master':
                answer = self.change_master(*arguments)
            else:
                answer = 'ok ' + ' '.join(str(port) for port in self.own_ports)
            writer.write(answer.encode() + b'\n')
            await writer.drain()
        writer.close()


async def main():
    control, history_path, *ports = sys.argv[1:]
    with open(history_path, 'w', buffering=1, encoding='utf-8') as history:
        servers = await Sentinels([int(port) for port in ports], history).listen(control)
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        await stopped.wait()
        for server in servers:
            server.close()


if __name__ == '__main__':
    asyncio.run(main())
