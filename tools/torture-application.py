#!/usr/bin/env python3
"""The application of tools/torture: records each execution, and names it in its response.

    torture-application.py PORTS HISTORY

A connection that was kept open and idle for STALE seconds is reset by the next request, which is not executed: nginx must
not use it any more.

It listens on a port of 127.0.0.1 that is free, and reserves another one on which nothing listens; it writes both numbers
to the file PORTS.

A request for /LOCATION/KEY?plan=WORDS&delay=SECONDS&size=BYTES is the Nth execution of KEY, and goes by
the Nth of the WORDS (the last one serves for the rest):

    created     201, to be kept                 refused     400, to be kept
    retriable   503, not acted on               released    201, with the directive `release`
    no-store    201, with the directive         large       201, larger than what nginx keeps
                `no-store`
    before      closes before a response        within      closes during its response
    reset       the same as `before`, but       cut         the same as `within`, but resets the
                resets the connection                       connection
    slow        responds after proxy_read_timeout (`timeout`)
    dropped     resets a connection that was kept open as the request arrives on it
"""

import asyncio
import json
import os
import signal
import socket
import struct
import sys
import time
import urllib.parse

LARGE = 40000       # over idempotency_max_body
STALE = 2.0         # a connection that was idle for so long is reset by the next request; over idempotency_keepalive_idle
IDLE = 10.0         # and is closed after this time

KINDS = {'created': 'kept', 'refused': 'kept', 'retriable': 'free', 'released': 'free',
         'no-store': 'not_kept', 'large': 'large', 'before': 'broken', 'within': 'broken',
         'reset': 'broken', 'cut': 'broken', 'slow': 'broken', 'dropped': 'broken'}
STATUSES = {'refused': '400 Bad Request', 'retriable': '503 Service Unavailable'}
DIRECTIVES = {'released': 'release', 'no-store': 'no-store'}


def answer_body(key, number, size):
    """The body of the response of an execution: each is different."""
    mark = '%s execution %d\n' % (key, number)
    return (mark * (size // len(mark) + 1))[:max(size, len(mark))].encode()


def reset(writer):
    """Closes the connection with RST."""
    writer.get_extra_info('socket').setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    writer.transport.abort()


class Application:
    def __init__(self, history):
        self.history = history
        self.executions = {}

    def write(self, **event):
        self.history.write(json.dumps(event) + '\n')

    async def serve(self, reader, writer):
        idle_since = None
        try:
            while await self.serve_request(reader, writer, idle_since):
                idle_since = time.monotonic()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            pass    # nginx has closed the connection: what was executed stays executed
        finally:
            writer.close()

    async def serve_request(self, reader, writer, idle_since):
        """True if the connection stays open."""
        head = (await asyncio.wait_for(reader.readuntil(b'\r\n\r\n'), IDLE)).decode('latin-1')
        if idle_since is not None and time.monotonic() - idle_since > STALE:
            self.write(event='stale', at=time.monotonic(), idle=time.monotonic() - idle_since, uri=head.split(' ', 2)[1])
            reset(writer)
            return False
        headers = dict(line.lower().split(': ', 1) for line in head.split('\r\n')[1:-2])
        body = reader.readexactly(int(headers.get('content-length', 0)))
        uri = head.split(' ', 2)[1]
        path, _, query = uri.partition('?')
        _, location, key = path.split('/')
        arguments = dict(urllib.parse.parse_qsl(query))
        keeps_open = headers.get('connection') != 'close'

        # the word of the next execution; it counts only once the whole request is there
        number = self.executions.get(key, 0) + 1
        plan = arguments['plan'].split(',')
        word = plan[min(number, len(plan)) - 1]
        if word == 'dropped' and idle_since is not None:
            body.close()
        else:
            await body
            number = self.executions.get(key, 0) + 1
            word = plan[min(number, len(plan)) - 1]

        self.executions[key] = number
        event = dict(key=key, number=number)
        more = {'timeout': float(arguments['timeout'])} if word == 'slow' else {}
        self.write(event='start', at=time.monotonic(), location=location, worker=int(headers['x-worker']),
                   token=headers['idempotency-token'], kind=KINDS[word], word=word, **event, **more)
        if word == 'slow':
            await asyncio.sleep(more['timeout'] + 1 + float(arguments['delay']))
        elif word != 'dropped':
            await asyncio.sleep(float(arguments['delay']))
        self.write(event='end', at=time.monotonic(), **event)

        if word in ('reset', 'dropped'):
            reset(writer)
            return False
        if word == 'before':
            return False
        size = LARGE if word == 'large' else int(arguments['size'])
        await self.answer(writer, word, number, answer_body(key, number, size), 'chunked' in arguments, keeps_open)
        return keeps_open and word not in ('within', 'cut')

    @staticmethod
    async def answer(writer, word, number, body, chunked, keeps_open):
        fields = ['HTTP/1.1 ' + STATUSES.get(word, '201 Created'), 'Content-Type: text/plain', 'X-Execution: %d' % number]
        if not keeps_open:
            fields.append('Connection: close')
        if word in DIRECTIVES:
            fields.append('X-Accel-Idempotency: ' + DIRECTIVES[word])
        fields.append('Transfer-Encoding: chunked' if chunked else 'Content-Length: %d' % len(body))
        data = b'%x\r\n%s\r\n0\r\n\r\n' % (len(body), body) if chunked else body
        if word in ('within', 'cut'):
            data = data[:len(data) // 2]
        writer.write('\r\n'.join(fields + ['', '']).encode() + data)
        await writer.drain()
        if word == 'cut':
            reset(writer)

    async def watch_for_pauses(self):
        while True:
            at = time.monotonic()
            await asyncio.sleep(0.05)
            if time.monotonic() - at > 0.3:
                self.write(event='fault', fault='pause', at=at, until=time.monotonic())


async def main():
    with open(sys.argv[2], 'w', buffering=1, encoding='utf-8') as history, socket.socket() as closed:
        application = Application(history)
        closed.bind(('127.0.0.1', 0))
        server = await asyncio.start_server(application.serve, '127.0.0.1', 0, backlog=512)
        with open(sys.argv[1] + '.new', 'w', encoding='utf-8') as ports:
            ports.write('%d %d' % (server.sockets[0].getsockname()[1], closed.getsockname()[1]))
        os.rename(sys.argv[1] + '.new', sys.argv[1])

        watch = asyncio.ensure_future(application.watch_for_pauses())
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        await stopped.wait()
        watch.cancel()


if __name__ == '__main__':
    asyncio.run(main())
