#!/usr/bin/env python3
"""The application behind nginx, which the tests protect against duplicate executions.

    app.py --port PORT        serves 127.0.0.1:PORT, prints 'ready' once it listens
           --gateways DIRECTORY   also fastcgi.sock, scgi.sock, uwsgi.sock and grpc.sock in
                                  there (gateways.py): the same application, the same counts

Every request that is not one of the questions below is an execution. It is
counted by its space (the header App-Space, so that tests which share this
process never meet) and its path without the query, and its number N in that
count is part of every body: two executions never give equal responses.

The query controls the response:

    status=CODE           201; with commas, one for each execution, the last one for the rest
    reason=TEXT           the reason phrase
    kind=echo|binary|none echo: '#N METHOD URI DIGEST\\n', DIGEST being 12 digits of the SHA-256
                          of the request's body or '-' without one; binary: '#N\\n' and then all
                          byte values over and over; none: no body, no length (204, 304)
    text=TEXT             the text after #N in place of the echo, in UTF-8
    size=BYTES            cut or stretch the body to this length
    framing=length|chunked|close
    header=NAME:VALUE     a field of the response, in the order given, as often as given
    trailer=NAME:VALUE    a trailer field (chunked only)
    part=BYTES            execute the request when so many bytes of its body are here; the rest is not read
    gate=NAME             respond only after GET /open/NAME; the header App-Gate does the same
    delay=SECONDS         wait before the response
    pieces=COUNT          send the body in so many pieces,
    pause=SECONDS         with a pause between them
    abort=before|reset|mid|garbage|chunk
                          close instead of responding, with a reset, after half of the body,
                          or send nonsense, at once or after half of a chunked body; with commas, one for each execution, e.g. abort=before,no
    middle=NAME           after the first piece of the body wait for GET /open/NAME; with commas, one for each piece

Questions, which are never counted:

    GET /count/PATH       how often PATH was executed
    GET /last/PATH        the last request for PATH, as JSON: method, uri, headers, length, sha256
    GET /arrived/PATH     held until the head of a request for PATH is here; ?n=N for the Nth
    GET /answered/PATH    held until the response to a request for PATH is sent; ?n=N for the Nth
    GET /open/NAME        opens a gate for good

The PATH * of /count and /arrived stands for all paths of a space.
"""

import asyncio
import collections
import http
import json
import socket
import struct
from email.utils import formatdate

from request import Request
from serving import port_argument, serve_until_stopped

ANY = '/*'
HELD_AT_MOST = 30  # seconds: a test that waits for too long must fail, not hang


class Steps:
    """Counts events of one kind; a task can wait for the Nth event."""

    def __init__(self):
        self.counts = collections.Counter()
        self.changed = asyncio.Condition()

    async def add(self, name):
        async with self.changed:
            self.counts[name] += 1
            self.changed.notify_all()
            return self.counts[name]

    async def reached(self, name, n):
        async with self.changed:
            await asyncio.wait_for(
                self.changed.wait_for(lambda: self.counts[name] >= n), HELD_AT_MOST)


async def read_request(reader):
    """Reads the head of a request, or returns None at the end of the connection."""
    try:
        head = await reader.readuntil(b'\r\n\r\n')
    except (asyncio.IncompleteReadError, ConnectionError):
        return None

    request_line, *lines = head.decode('latin-1').split('\r\n')[:-2]
    method, uri, version = request_line.split(' ', 2)
    headers = []
    for line in lines:
        name, _, value = line.partition(':')
        headers.append((name, value.strip()))
    return Request(method, uri, version, headers)


async def read_body(reader, request):
    if request.header('transfer-encoding').lower() == 'chunked':
        chunks = []
        while True:
            size = int((await reader.readuntil(b'\r\n')).split(b';')[0], 16)
            chunks.append(await reader.readexactly(size))
            await reader.readuntil(b'\r\n')
            if size == 0:
                return b''.join(chunks)
    return await reader.readexactly(int(request.header('content-length', '0')))


class Http1Answer:
    """Writes one response; gateways.py has a class for each of its protocols."""

    def __init__(self, writer, request):
        self.writer = writer
        self.request = request
        self.framing = None

    def start(self, status, reason, fields, framing):
        if framing == 'chunked' and self.request.version == 'HTTP/1.0':
            framing = 'close'
        self.framing = framing

        fields = [('Server', 'app'), ('Date', formatdate(usegmt=True))] + fields
        if framing == 'chunked':
            fields.append(('Transfer-Encoding', 'chunked'))
        if framing == 'close':
            fields.append(('Connection', 'close'))
        elif self.request.version == 'HTTP/1.0' and self.request.keeps_alive():
            fields.append(('Connection', 'keep-alive'))

        head = 'HTTP/1.1 %d %s\r\n' % (status, reason)
        head += ''.join('%s: %s\r\n' % field for field in fields) + '\r\n'
        self.writer.write(head.encode('latin-1'))

    def piece(self, data):
        if self.framing == 'chunked':
            data = b'%x\r\n%s\r\n' % (len(data), data)
        self.writer.write(data)

    def end(self, trailers):
        if self.framing == 'chunked':
            lines = ''.join('%s: %s\r\n' % field for field in trailers)
            self.writer.write(b'0\r\n' + lines.encode('latin-1') + b'\r\n')

    def garbage(self):
        # without a status line nginx would treat this as HTTP/0.9
        self.writer.write(b'HTTP/1.1 201 Created\r\n\x00nonsense\r\n\r\n')

    def reset(self):
        reset(self.writer)

    async def drain(self):
        await self.writer.drain()


def reset(writer):
    """The other side gets an error instead of the end of the TCP connection."""
    opened = writer.get_extra_info('socket')
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    writer.transport.abort()


class Application:
    def __init__(self):
        self.arrived = Steps()
        self.executed = Steps()
        self.answered = Steps()
        self.opened = Steps()
        self.last = {}

    async def serve(self, reader, writer):
        try:
            while True:
                request = await read_request(reader)
                if request is None:
                    break
                if not await self.handle(request, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # nginx has closed the connection
        finally:
            writer.close()

    async def handle(self, request, reader, writer):
        """Responds to one request; returns whether the connection can be used again."""
        question, _, subject = request.path[1:].partition('/')
        ask = getattr(self, 'ask_' + question, None) if subject else None

        if ask is not None:
            request.body = await read_body(reader, request)
            name = subject if question == 'open' else '/' + subject
            status, text = await ask((request.space, name), int(request.arg('n', '1')))
            await self.send(Http1Answer(writer, request), request, status, [], text.encode(), 'length')
            return request.keeps_alive()

        await self.note_arrival(request)
        part = int(request.arg('part', '0'))
        request.body = await (reader.readexactly(part) if part else read_body(reader, request))
        return await self.act(request, Http1Answer(writer, request)) and not part

    async def note_arrival(self, request):
        await self.arrived.add((request.space, request.path))
        await self.arrived.add((request.space, ANY))

    async def act(self, request, answer):
        """Executes a request that has arrived; returns whether the connection can be used again."""
        name = (request.space, request.path)
        goes_on = await self.execute(name, request, answer)
        await self.answered.add(name)
        return goes_on

    async def ask_count(self, name, _n):
        return 200, '%d\n' % self.executed.counts[name]

    async def ask_last(self, name, _n):
        request = self.last.get(name)
        if request is None:
            return 404, 'no such request\n'
        return 200, json.dumps({
            'method': request.method,
            'uri': request.uri,
            'headers': request.headers,
            'length': len(request.body),
            'sha256': request.digest(),
        })

    async def ask_arrived(self, name, n):
        return await self.hold(self.arrived, name, n)

    async def ask_answered(self, name, n):
        return await self.hold(self.answered, name, n)

    async def ask_open(self, name, _n):
        await self.opened.add(name)
        return 200, 'opened\n'

    @staticmethod
    async def hold(steps, name, n):
        try:
            await steps.reached(name, n)
        except asyncio.TimeoutError:
            return 504, 'waited in vain\n'
        return 200, '%d\n' % steps.counts[name]

    async def execute(self, name, request, answer):
        self.last[name] = request
        n = await self.executed.add(name)
        await self.executed.add((request.space, ANY))

        gate = request.arg('gate') or request.header('app-gate')
        if gate:
            await self.opened.reached((request.space, gate), 1)
        await asyncio.sleep(float(request.arg('delay', '0')))

        abort = request.arg_of('abort', n, 'no')
        if abort == 'before':
            return False
        if abort == 'reset':
            answer.reset()
            return False
        if abort == 'garbage':
            answer.garbage()
            await answer.drain()
            return False

        status = int(request.arg_of('status', n, '201'))
        headers = [tuple(field.split(':', 1)) for field in request.args.get('header', [])]
        framing = request.arg('framing', 'length')
        body = self.body(request, n)
        if request.arg('kind') == 'none':
            framing = 'none'
        await self.send(answer, request, status, headers, body, framing, halve=abort in ('mid', 'chunk'))
        if abort == 'chunk':
            answer.writer.write(b'nonsense\r\n' * 10)
            await answer.drain()
        return request.keeps_alive() and framing != 'close' and abort not in ('mid', 'chunk')

    @staticmethod
    def body(request, n):
        kind = request.arg('kind', 'echo')
        if kind == 'none':
            return b''
        if kind == 'binary':
            size = int(request.arg('size', '260'))
            every_byte = bytes(range(256))
            return (b'#%d\n' % n + every_byte * (size // 256 + 1))[:size]

        if request.arg('text'):
            return ('#%d %s\n' % (n, request.arg('text'))).encode()

        digest = request.digest()[:12] if request.body else '-'
        body = ('#%d %s %s %s\n' % (n, request.method, request.uri, digest)).encode('latin-1')
        if request.arg('size'):
            size = int(request.arg('size'))
            body = (body + b'.' * size)[:size]
        return body

    async def send(self, answer, request, status, headers, body, framing, halve=False):
        try:
            reason = http.HTTPStatus(status).phrase
        except ValueError:
            reason = 'Whatever'

        fields = list(headers)
        if framing != 'none' and not any(name.lower() == 'content-type' for name, _ in headers):
            fields.insert(0, ('Content-Type', 'text/plain'))
        if framing == 'length':
            fields.append(('Content-Length', str(len(body))))
        answer.start(status, request.arg('reason', reason), fields, framing)

        if request.method == 'HEAD':
            await answer.drain()
            return

        if halve:
            body = body[:len(body) // 2]

        pause = float(request.arg('pause', '0'))
        count = int(request.arg('pieces', '1'))
        step = max(1, -(-len(body) // count))
        for n, start in enumerate(range(0, len(body), step)):
            if n:
                await self.rest(request, pause, n)
            answer.piece(body[start:start + step])
            await answer.drain()

        if not halve:
            answer.end([tuple(field.split(':', 1)) for field in request.args.get('trailer', [])])
        await answer.drain()

    async def rest(self, request, pause, n):
        if request.arg('middle'):
            await self.opened.reached((request.space, request.arg_of('middle', n, '')), 1)
        if pause:
            await asyncio.sleep(pause)


async def main():
    arguments = port_argument()
    arguments.add_argument('--gateways')
    options = arguments.parse_args()

    application = Application()
    await asyncio.start_server(application.serve, '127.0.0.1', options.port, backlog=512, limit=1 << 20)
    if options.gateways:
        import gateways     # needs h2, which most tests do without
        await gateways.start(application, options.gateways)
    await serve_until_stopped()


if __name__ == '__main__':
    asyncio.run(main())
