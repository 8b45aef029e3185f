#!/usr/bin/env python3
"""The relay of tools/torture between nginx and Redis: a proxy that shards by key, and that loses replies on command.

    torture-relay.py SOCKET REDIS CONTROL HISTORY

It listens on the unix socket SOCKET and forwards to the unix socket REDIS. As a proxy that shards does, it refuses a
command whose keys are in several slots (CROSSSLOT), and writes an event to HISTORY.

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
"""

import asyncio
import binascii
import json
import os
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

CROSSSLOT = b"return redis.error_reply('CROSSSLOT Keys in request don\\'t hash to the same slot')"
REFUSAL = b'*3\r\n$4\r\nEVAL\r\n$%d\r\n%s\r\n$1\r\n0\r\n' % (len(CROSSSLOT), CROSSSLOT)


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
    def __init__(self, relay, client):
        self.relay = relay
        self.client = client
        self.redis = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.redis.setblocking(False)
        self.loop = asyncio.get_running_loop()
        self.dropping = False
        self.dropped = asyncio.Event()
        self.replies_pass = asyncio.Event()
        self.replies_pass.set()
        self.loss = None

    async def run(self):
        ways = []
        try:
            await self.loop.sock_connect(self.redis, self.relay.redis)
            ways = [asyncio.ensure_future(way) for way in (self.forward_commands(), self.forward_replies())]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass    # Redis is down
        for way in ways:
            way.cancel()
        for result in await asyncio.gather(*ways, return_exceptions=True):
            if isinstance(result, Exception) and not isinstance(result, (OSError, Closed)):
                raise result
        self.client.close()
        self.redis.close()
        if self.loss is not None:
            self.loss.over.set()

    async def forward_commands(self):
        data = bytearray()
        while piece := await self.loop.sock_recv(self.client, CHUNK):
            data += piece
            ready = bytearray()
            while data and (parsed := parse_command(data)):
                words, length = parsed
                command = self.check_slots(words, bytes(data[:length]))
                del data[:length]
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
            if data:
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
            loss = self.relay.take_loss('grant') if GRANT.search(data) else None
            if loss is not None:
                self.lose_grant(loss)
            await self.replies_pass.wait()
            if self.dropping:
                self.dropped.set()
            else:
                await self.loop.sock_sendall(self.client, data)


class Relay:
    def __init__(self, redis, history):
        self.redis = redis
        self.history = history
        self.waiting = None
        self.tasks = set()

    def write(self, **event):
        self.history.write(json.dumps(event) + '\n')

    async def listen(self, path):
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(path)
        listening.listen(512)
        os.chmod(path, 0o777)
        listening.setblocking(False)
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listening)
            client.setblocking(False)
            task = asyncio.ensure_future(Connection(self, client).run())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

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
            answer = await self.lose(*arguments) if word == 'lose' else 'unknown'
            writer.write(answer.encode() + b'\n')
            await writer.drain()
        writer.close()


async def main():
    path, redis, control, history_path = sys.argv[1:]
    with open(history_path, 'w', buffering=1, encoding='utf-8') as history:
        relay = Relay(redis, history)
        await asyncio.start_unix_server(relay.control, control)
        listening = asyncio.ensure_future(relay.listen(path))
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        await asyncio.wait([listening, asyncio.ensure_future(stopped.wait())], return_when=asyncio.FIRST_COMPLETED)


if __name__ == '__main__':
    asyncio.run(main())
