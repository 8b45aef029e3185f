#!/usr/bin/env python3
"""The relay of tools/torture between nginx and Redis: a proxy that shards by key, and that loses replies on command.

    torture-relay.py CONTROL HISTORY LISTEN=REDIS ...

It listens on each LISTEN, a unix socket or a port of 127.0.0.1, and forwards to the unix socket REDIS. As a proxy that
shards does, it refuses a command whose keys are in several slots (CROSSSLOT), and writes an event to HISTORY.

A command over the unix socket CONTROL is a line, its reply is a line:

    lose COMMAND HOW SECONDS

waits for at most two seconds for a COMMAND (`claim`, `settle`, `renew`, `release`, `any`, or `grant`: the reply to a claim
that was granted) on any connection. To the connection of this command it does

    close       forwards the command, waits for its reply, drops it and closes the connection
    abandon     forwards the command and closes the connection at once
    mute        forwards all commands and drops all replies for SECONDS, then closes the connection
    late        forwards all commands and holds all replies for SECONDS
    hold        holds all commands for SECONDS, then forwards them, also if nginx has closed the connection meanwhile

(not `abandon` and `hold` with `grant`).

The reply is `ok AT UNTIL` (seconds of the monotonic clock), or `none` if there was no such command.

    forget

All connections become half-open, as if a firewall had forgotten them: nothing is forwarded any more, and nobody is told.
New connections work. HISTORY gets an event for each such connection, when nginx closes it.

    lie HOW SECONDS

One node of a cluster sends wrong maps of the slots (CLUSTER SLOTS) for SECONDS, or wrong redirections:

    empty       a map without slots
    moved       a map that gives the slots of each node to another one
    part        a map of a few slots
    many        a map of 1,000 masters that do not exist
    large       a map of more than 4 MB
    garbage     another reply
    redirect    MOVED to a server that does not exist, instead of a claim

The reply is `ok AT UNTIL`, when it is over.
"""

import asyncio
import binascii
import json
import os
import random
import re
import signal
import socket
import sys
import time

CHUNK = 1 << 18
PATIENCE = 2.0      # for the command of a `lose`

# A script is known by the number of its arguments.
SCRIPTS = {4: 'claim', 3: 'settle', 2: 'renew', 1: 'release'}

# The token of a granted claim: microseconds.
GRANT = re.compile(rb':\d{16}\r\n')

def script(text):
    """A command that has a wanted reply: so replies stay in the order of the commands."""
    return b'*3\r\n$4\r\nEVAL\r\n$%d\r\n%s\r\n$1\r\n0\r\n' % (len(text), text)


REFUSAL = script(b"return redis.error_reply('CROSSSLOT Keys in request don\\'t hash to the same slot')")

# PORT is that at which nginx reaches another node. Nothing listens on port 1, and 10.255.255.1 does not reply.
LIES = {
    'empty': b"return {}",
    'moved': b"return {{0, 16383, {'127.0.0.1', PORT, 'x'}}}",
    'part': b"return {{100, 200, {'127.0.0.1', PORT, 'x'}}}",
    'many': b"local map = {} for i = 0, 999 do "
            b"map[i + 1] = {i * 16, i * 16 + 15, {i % 2 == 0 and '127.0.0.1' or '10.255.255.1', i % 2 + i, 'x' .. i}} "
            b"end return map",
    'large': b"local map = {} local name = string.rep('x', 250) for i = 0, 16383 do "
             b"map[i + 1] = {i, i, {'127.0.0.1', i + 1, name}} end return map",
    'garbage': b"return {{1, {2, {'x', {}}}}, 'no map'}",
}
REDIRECT = b"return redis.error_reply('MOVED 1 127.0.0.1:1')"


class Closed(Exception):
    """The relay closes this connection."""


def parse_command(data):
    """The words of the first command, and its length; nothing if it is not complete."""
    end = data.find(b'\r\n')
    if end < 0:
        return None
    if data[:1] != b'*':
        return [bytes(data[:end])], end + 2
    words = []
    at = end + 2
    for _ in range(int(data[1:end])):
        end = data.find(b'\r\n', at, at + 32)
        if end < 0:
            return None
        length = int(data[at + 1:end])
        at = end + 2 + length + 2
        if at > len(data):
            return None
        words.append(bytes(data[end + 2:end + 2 + min(length, 1024)]))
    return words, at


def is_script(words):
    return words[0].upper() in (b'EVAL', b'EVALSHA') and len(words) > 2


def keys_of(words):
    if is_script(words):
        return words[3:3 + int(words[2])]
    if words[0].upper() in (b'DEL', b'UNLINK', b'EXISTS', b'MGET', b'TOUCH'):
        return words[1:]
    return []


def slot_of(key):
    start = key.find(b'{')
    end = key.find(b'}', start + 1)
    if start >= 0 and end > start + 1:
        key = key[start + 1:end]
    return binascii.crc_hqx(key, 0) & 16383


def kind_of(words):
    return SCRIPTS.get(len(words) - 3 - int(words[2])) if is_script(words) else None


class Loss:
    """A `lose` that waits for its command, or has begun."""

    def __init__(self, kind, how, seconds):
        self.kind = kind
        self.how = how
        self.seconds = seconds
        self.at = None
        self.begun = asyncio.Event()
        self.over = asyncio.Event()


class Connection:
    def __init__(self, relay, route, client):
        self.relay = relay
        self.route = route
        self.client = client
        self.redis = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.redis.setblocking(False)
        self.loop = asyncio.get_running_loop()
        self.dropping = False
        self.dropped = asyncio.Event()
        self.replies_pass = asyncio.Event()
        self.replies_pass.set()
        self.loss = None
        self.is_of_nginx = True     # and not of a replica
        self.forgotten = None       # when it became half-open
        self.first_lost = None      # when nginx sent the first command after that

    async def run(self):
        ways = []
        try:
            await self.loop.sock_connect(self.redis, self.route.redis)
            ways = [asyncio.ensure_future(way) for way in (self.forward_commands(), self.forward_replies())]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass    # Redis is down
        for way in ways:
            way.cancel()
        for result in await asyncio.gather(*ways, return_exceptions=True):
            if isinstance(result, Exception) and not isinstance(result, (OSError, Closed)):
                raise result
        if self.forgotten is not None:
            self.relay.write(event='fault', fault='half_open', at=self.forgotten, first=self.first_lost, until=time.monotonic())
        self.client.close()
        self.redis.close()
        self.relay.connections.discard(self)
        if self.loss is not None:
            self.loss.over.set()

    async def forward_commands(self):
        data = bytearray()
        while piece := await self.loop.sock_recv(self.client, CHUNK):
            if self.forgotten is not None:
                self.first_lost = self.first_lost or time.monotonic()
                continue
            data += piece
            ready = bytearray()
            while data and (parsed := parse_command(data)):
                words, length = parsed
                command = self.route.lie_about(words) or self.check_slots(words, bytes(data[:length]))
                del data[:length]
                self.is_of_nginx = self.is_of_nginx and words[0].upper() not in (b'REPLCONF', b'PSYNC')
                loss = self.relay.take_loss(kind_of(words))
                if loss is None:
                    ready += command
                    continue
                await self.send(ready)
                ready.clear()
                await self.lose(loss, command)
            await self.send(ready)

    def check_slots(self, words, command):
        if len({slot_of(key) for key in keys_of(words)}) <= 1:
            return command
        self.relay.write(event='cross_slot', at=time.monotonic(), command=words[0].decode(), keys=len(keys_of(words)))
        return REFUSAL

    async def send(self, data):
        try:
            if data and self.forgotten is None:
                await self.loop.sock_sendall(self.redis, data)
        except OSError:
            # Redis has closed the connection: its last reply is still to be forwarded
            await asyncio.Event().wait()

    async def lose(self, loss, command):
        self.loss = loss
        if loss.how == 'hold':
            await asyncio.sleep(loss.seconds)
            await self.send(command)
            loss.over.set()
            return
        if loss.how == 'late':
            self.replies_pass.clear()
            self.loop.call_later(loss.seconds, self.end_late, loss)
            await self.send(command)
            return

        self.dropping = True
        await self.send(command)
        if loss.how == 'close':
            try:
                await asyncio.wait_for(self.dropped.wait(), PATIENCE)
            except asyncio.TimeoutError:
                pass
        elif loss.how == 'mute':
            self.loop.call_later(loss.seconds, self.shut)
            return
        raise Closed

    def lose_grant(self, loss):
        self.loss = loss
        if loss.how == 'late':
            self.replies_pass.clear()
            self.loop.call_later(loss.seconds, self.end_late, loss)
            return
        self.dropping = True
        if loss.how == 'close':
            raise Closed
        self.loop.call_later(loss.seconds, self.shut)

    def end_late(self, loss):
        self.replies_pass.set()
        loss.over.set()

    def shut(self):
        try:
            self.redis.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass    # it is closed already

    async def forward_replies(self):
        while data := await self.loop.sock_recv(self.redis, CHUNK):
            loss = self.relay.take_loss('grant') if self.is_of_nginx and GRANT.search(data) else None
            if loss is not None:
                self.lose_grant(loss)
            await self.replies_pass.wait()
            if self.dropping:
                self.dropped.set()
            elif self.forgotten is None:
                await self.loop.sock_sendall(self.client, data)


class Route:
    """To one Redis."""

    def __init__(self, listen, redis):
        self.listen = listen
        self.redis = redis
        self.lie = None
        self.named = None       # the port of another node

    def lie_about(self, words):
        """The command to send instead, or None."""
        if self.lie == 'redirect':
            return script(REDIRECT) if kind_of(words) == 'claim' else None
        if self.lie is None or words[0].upper() != b'CLUSTER':
            return None
        return script(LIES[self.lie].replace(b'PORT', self.named.encode()))


class Relay:
    def __init__(self, routes, history):
        self.routes = routes
        self.history = history
        self.waiting = None
        self.tasks = set()
        self.connections = set()
        self.chance = random.Random(3)

    def write(self, **event):
        self.history.write(json.dumps(event) + '\n')

    @staticmethod
    def bind(path):
        if path.isdigit():
            listening = socket.socket()
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(('127.0.0.1', int(path)))
        else:
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listening.bind(path)
            os.chmod(path, 0o777)
        listening.listen(512)
        listening.setblocking(False)
        return listening

    async def listen(self, route, listening):
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listening)
            client.setblocking(False)
            if client.family == socket.AF_INET:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, route, client)
            self.connections.add(connection)
            task = asyncio.ensure_future(connection.run())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    def forget(self):
        at = time.monotonic()
        for connection in self.connections:
            if connection.is_of_nginx and connection.forgotten is None:
                connection.forgotten = at
        return 'ok %.4f %.4f' % (at, at)

    async def lie(self, how, seconds):
        route, other = self.chance.sample(self.routes, 2)
        at = time.monotonic()
        route.named = other.listen
        route.lie = how
        await asyncio.sleep(float(seconds))
        route.lie = None
        return 'ok %.4f %.4f' % (at, time.monotonic())

    def take_loss(self, kind):
        loss = self.waiting
        if loss is None or loss.kind != kind and (loss.kind != 'any' or kind == 'grant'):
            return None
        self.waiting = None
        loss.at = time.monotonic()
        loss.begun.set()
        return loss

    async def lose(self, kind, how, seconds):
        loss = self.waiting = Loss(kind, how, float(seconds))
        try:
            await asyncio.wait_for(loss.begun.wait(), PATIENCE)
        except asyncio.TimeoutError:
            if self.waiting is loss:
                self.waiting = None
                return 'none'
        await loss.over.wait()
        return 'ok %.4f %.4f' % (loss.at, time.monotonic())

    async def control(self, reader, writer):
        while line := await reader.readline():
            word, *arguments = line.decode().split()
            if word == 'forget':
                answer = self.forget()
            elif word == 'lie':
                answer = await self.lie(*arguments)
            else:
                answer = await self.lose(*arguments)
            writer.write(answer.encode() + b'\n')
            await writer.drain()
        writer.close()


async def main():
    control, history_path, *pairs = sys.argv[1:]
    with open(history_path, 'w', buffering=1, encoding='utf-8') as history:
        relay = Relay([Route(*pair.split('=')) for pair in pairs], history)
        tasks = [asyncio.ensure_future(relay.listen(route, relay.bind(route.listen))) for route in relay.routes]
        await asyncio.start_unix_server(relay.control, control)
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        await asyncio.wait(tasks + [asyncio.ensure_future(stopped.wait())], return_when=asyncio.FIRST_COMPLETED)


if __name__ == '__main__':
    asyncio.run(main())
