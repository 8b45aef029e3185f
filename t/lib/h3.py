#!/usr/bin/env python3
"""A client of HTTP/3 that can disconnect in every way. One connection; its commands are lines of
JSON, [COMMAND, ARGUMENT...], and answers each with one:

    h3.py --port PORT [--window BYTES]

    ["send", {"path": ..., "headers": [[NAME, VALUE], ...], "body": ..., "rest": true}]
                            a POST; its stream. `rest`: more of the body is to come
    ["answer", STREAM]      awaits the whole answer: {"status", "headers", "body" (hex), "end"}, where
                            `end` is whole, or says how it was broken off
    ["begin", STREAM]       awaits the first bytes of the answer's body
    ["stop", STREAM]        STOP_SENDING: no more of the answer is wanted
    ["reset", STREAM]       RESET_STREAM: the request is given up
    ["stop_and_reset", STREAM]  both
    ["close"]               CONNECTION_CLOSE
    ["stop_and_close", STREAM]  one right after the other
    ["vanish"]              not a word more

With --window the client takes so many bytes of each answer and never grants more.
"""

import argparse
import asyncio
import json
import os
import socket
import ssl
import sys

# Names for annotations, which the cryptography of Debian 12 has not.
from cryptography.hazmat.primitives.asymmetric import types

for name in ('CertificateIssuerPublicKeyTypes', 'PrivateKeyTypes'):
    if not hasattr(types, name):
        setattr(types, name, object)

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, StreamReset

CANCELLED = ErrorCode.H3_REQUEST_CANCELLED


class Answer:
    def __init__(self):
        self.headers = []
        self.body = b''
        self.end = None
        self.changed = asyncio.Event()

    def finish(self, end):
        self.end = self.end or end
        self.changed.set()

    async def reaches(self, condition):
        while not (self.end or condition()):
            self.changed.clear()
            await self.changed.wait()


class Client(QuicConnectionProtocol):
    def __init__(self, quic):
        super().__init__(quic)
        self.http = H3Connection(quic)
        self.answers = {}
        self.ended = None

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            self.ended = 'connection closed: %s' % (event.reason_phrase or event.error_code)
            for answer in self.answers.values():
                answer.finish(self.ended)
        elif isinstance(event, StreamReset) and event.stream_id in self.answers:
            self.answers[event.stream_id].finish('stream reset: %d' % event.error_code)

        for http_event in self.http.handle_event(event):
            self.http_event_received(http_event)

    def http_event_received(self, event):
        answer = self.answers.get(getattr(event, 'stream_id', None))
        if answer is None:
            return
        if isinstance(event, HeadersReceived):
            answer.headers += [[name.decode(), value.decode('latin-1')] for name, value in event.headers]
        elif isinstance(event, DataReceived):
            answer.body += event.data
        if event.stream_ended:
            answer.finish('whole')
        answer.changed.set()

    async def send(self, request):
        stream = self._quic.get_next_available_stream_id()
        self.answers[stream] = Answer()
        if self.ended:
            # nothing is going to come
            self.answers[stream].finish(self.ended)
            return stream
        fields = [(':method', 'POST'), (':scheme', 'https'), (':authority', request.get('host') or 'localhost'), (':path', request['path'])]
        fields += [(name.lower(), value) for name, value in request.get('headers', [])]
        body = request.get('body', '').encode()
        rest = bool(request.get('rest'))
        self.http.send_headers(stream, [(name.encode(), value.encode()) for name, value in fields], not body and not rest)
        if body:
            self.http.send_data(stream, body, not rest)
        self.transmit()
        return stream

    async def answer(self, stream):
        answer = self.answers[stream]
        await answer.reaches(lambda: False)
        status = next((int(value) for name, value in answer.headers if name == ':status'), 0)
        headers = [field for field in answer.headers if not field[0].startswith(':')]
        return {'status': status, 'headers': headers, 'body': answer.body.hex(), 'end': answer.end}

    async def begin(self, stream):
        answer = self.answers[stream]
        await answer.reaches(lambda: answer.body)
        return len(answer.body)

    async def stop(self, stream):
        self._quic.stop_stream(stream, CANCELLED)
        self.transmit()

    async def reset(self, stream):
        self._quic.reset_stream(stream, CANCELLED)
        self.transmit()

    async def stop_and_reset(self, stream):
        self._quic.stop_stream(stream, CANCELLED)
        self._quic.reset_stream(stream, CANCELLED)
        self.transmit()

    async def stop_and_close(self, stream):
        # aioquic sends nothing besides a CONNECTION_CLOSE in its datagram
        self._quic.stop_stream(stream, CANCELLED)
        self.transmit()
        self.close(ErrorCode.H3_NO_ERROR)

    async def leave(self):
        self.close(ErrorCode.H3_NO_ERROR)


def never_grant_more(quic):
    quic._write_connection_limits = lambda builder, space: None
    quic._write_stream_limits = lambda builder, space, stream: None


async def connect(options):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name='localhost',
                                      verify_mode=ssl.CERT_NONE)
    if options.window:
        configuration.max_stream_data = options.window
    quic = QuicConnection(configuration=configuration)
    if options.window:
        never_grant_more(quic)

    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setblocking(False)
    opened.bind(('127.0.0.1', 0))
    _, client = await asyncio.get_running_loop().create_datagram_endpoint(lambda: Client(quic), sock=opened)
    client.connect(('127.0.0.1', options.port))
    await client.wait_connected()
    return client


async def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument('--port', type=int, required=True)
    arguments.add_argument('--window', type=int, default=0)

    client = await asyncio.wait_for(connect(arguments.parse_args()), 20)
    commands = {'send': client.send, 'answer': client.answer, 'begin': client.begin, 'stop': client.stop,
                'reset': client.reset, 'close': client.leave, 'stop_and_close': client.stop_and_close, 'stop_and_reset': client.stop_and_reset}

    while True:
        line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        if not line:
            return
        command, *rest = json.loads(line)
        if command == 'vanish':
            print('null', flush=True)
            os._exit(0)
        print(json.dumps(await commands[command](*rest)), flush=True)


if __name__ == '__main__':
    asyncio.run(main())
