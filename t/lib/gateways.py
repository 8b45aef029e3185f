"""The application of app.py with the other upstream protocols of nginx: FastCGI, SCGI,
uwsgi and gRPC, each on a unix socket.

App-Space and the query come as with HTTP: in HTTP_APP_SPACE and REQUEST_URI for the first
three. A call of gRPC may have a query too, though real calls have none; with `early` the response
begins before the messages have arrived.

The responses of the first three are those of CGI; framing and trailers do not apply. The response
to a call of gRPC has one message, or as many as `pieces` says, and grpc-status
and the trailers that were asked for; `kind=none` gives the trailers alone.
"""

import asyncio
import struct

import h2.config
import h2.connection
import h2.events

from request import Request

FCGI_BEGIN, FCGI_END, FCGI_PARAMS, FCGI_STDIN, FCGI_STDOUT = 1, 3, 4, 5, 6


async def start(application, directory):
    for name, serve in (('fastcgi', serve_fastcgi), ('scgi', serve_scgi),
                        ('uwsgi', serve_uwsgi), ('grpc', serve_grpc)):
        await asyncio.start_unix_server(connection(application, serve), f'{directory}/{name}.sock')


def connection(application, serve):
    async def run(reader, writer):
        try:
            await serve(application, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # nginx has closed the connection
        finally:
            writer.close()
    return run


class CgiAnswer:
    """`wrap` makes a record of the protocol of a piece of the response."""

    def __init__(self, writer, wrap=lambda data: data, end=b''):
        self.writer = writer
        self.wrap = wrap
        self.last = end

    def start(self, status, reason, fields, _framing):
        head = 'Status: %d %s\r\n' % (status, reason)
        head += ''.join('%s: %s\r\n' % field for field in fields) + '\r\n'
        self.piece(head.encode('latin-1'))

    def piece(self, data):
        for at in range(0, len(data), 32768):
            self.writer.write(self.wrap(data[at:at + 32768]))

    def end(self, _trailers):
        self.writer.write(self.last)

    def garbage(self):
        self.writer.write(self.wrap(b'\x00nonsense\r\n\r\n') + self.last)

    def reset(self):
        self.writer.transport.abort()

    async def drain(self):
        await self.writer.drain()


def cgi_request(params):
    headers = [(name[5:].replace('_', '-').lower(), value) for name, value in params if name.startswith('HTTP_')]
    of = dict(params)
    return Request(of['REQUEST_METHOD'], of['REQUEST_URI'], 'HTTP/1.1', headers)


async def arrive(application, params):
    request = cgi_request(params)
    await application.note_arrival(request)
    return request


def pairs(block):
    """The params of FastCGI."""
    at = 0
    result = []

    def length():
        nonlocal at
        n = block[at]
        if n < 128:
            at += 1
            return n
        at += 4
        return struct.unpack('>I', block[at - 4:at])[0] & 0x7fffffff

    while at < len(block):
        name, value = length(), length()
        result.append((block[at:at + name].decode('latin-1'), block[at + name:at + name + value].decode('latin-1')))
        at += name + value
    return result


async def serve_fastcgi(application, reader, writer):
    params, body, request = b'', b'', None

    while True:
        _, kind, number, length, padding, _ = struct.unpack('>BBHHBB', await reader.readexactly(8))
        content = await reader.readexactly(length)
        await reader.readexactly(padding)

        if kind == FCGI_PARAMS and content:
            params += content
        elif kind == FCGI_PARAMS:
            request = await arrive(application, pairs(params))
        elif kind == FCGI_STDIN and content:
            body += content
        elif kind == FCGI_STDIN:
            break

    def record(kind, data):
        return struct.pack('>BBHHBB', 1, kind, number, len(data), 0, 0) + data

    request.body = body
    await application.act(request, CgiAnswer(writer, lambda data: record(FCGI_STDOUT, data),
                                             record(FCGI_STDOUT, b'') + record(FCGI_END, b'\0' * 8)))


async def serve_scgi(application, reader, writer):
    length = int((await reader.readuntil(b':'))[:-1])
    words = (await reader.readexactly(length)).decode('latin-1').split('\0')
    await reader.readexactly(1)
    params = list(zip(words[0::2], words[1::2]))

    request = await arrive(application, params)
    request.body = await reader.readexactly(int(dict(params).get('CONTENT_LENGTH') or 0))
    await application.act(request, CgiAnswer(writer))


async def serve_uwsgi(application, reader, writer):
    _, length, _ = struct.unpack('<BHB', await reader.readexactly(4))
    block = await reader.readexactly(length)
    words, at = [], 0
    while at < len(block):
        size = struct.unpack('<H', block[at:at + 2])[0]
        words.append(block[at + 2:at + 2 + size].decode('latin-1'))
        at += 2 + size
    params = list(zip(words[0::2], words[1::2]))

    request = await arrive(application, params)
    request.body = await reader.readexactly(int(dict(params).get('CONTENT_LENGTH') or 0))
    await application.act(request, CgiAnswer(writer))


class GrpcAnswer:
    def __init__(self, server, stream):
        self.server = server
        self.stream = stream
        self.only_trailers = []

    def start(self, status, _reason, fields, framing):
        fields = [(name.lower(), value) for name, value in fields
                  if name.lower() not in ('content-length', 'content-type')]
        fields.append(('content-type', 'application/grpc'))
        headers = [(':status', '200' if status == 201 else str(status))] + fields
        if framing == 'none':
            self.only_trailers = headers
        else:
            self.server.send(lambda h: h.send_headers(self.stream, headers))

    def piece(self, data):
        self.server.queue(self.stream, struct.pack('>BI', 0, len(data)) + data)

    def end(self, trailers):
        trailers = [(name.lower(), value) for name, value in trailers]
        status = [] if any(name == 'grpc-status' for name, _ in trailers) else [('grpc-status', '0')]
        last = self.only_trailers + status + trailers
        self.server.finish(self.stream, last)

    def garbage(self):
        self.server.writer.write(b'\x00nonsense')

    def reset(self):
        self.server.send(lambda h: h.reset_stream(self.stream, 2))

    async def drain(self):
        if self.stream not in self.server.finished:
            await self.server.drained(self.stream)


class GrpcServer:
    """A connection; nginx has one call at a time on it."""

    def __init__(self, application, reader, writer):
        self.application = application
        self.reader = reader
        self.writer = writer
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding='latin-1'))
        self.requests = {}
        self.tasks = {}
        self.finished = set()
        self.waiting = {}
        self.window = asyncio.Event()

    def send(self, act):
        act(self.h2)
        self.writer.write(self.h2.data_to_send())

    def queue(self, stream, data):
        self.waiting[stream] = self.waiting.get(stream, b'') + data

    def flush(self, stream):
        while self.waiting.get(stream):
            size = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if size <= 0:
                return
            data = self.waiting[stream]
            self.waiting[stream] = data[size:]
            self.send(lambda h: h.send_data(stream, data[:size]))

    async def drained(self, stream):
        while True:
            self.window.clear()
            self.flush(stream)
            if not self.waiting.get(stream):
                break
            await self.window.wait()
        await self.writer.drain()

    def finish(self, stream, trailers):
        self.finished.add(stream)
        self.send(lambda h: h.send_headers(stream, trailers, end_stream=True))

    async def run(self):
        self.send(lambda h: h.initiate_connection())
        while True:
            data = await self.reader.read(65536)
            if not data:
                break
            for event in self.h2.receive_data(data):
                await self.on_event(event)
            self.writer.write(self.h2.data_to_send())
        # nginx closes when it has the end of a response: a finished response must not be cut off
        for stream, task in self.tasks.items():
            if stream not in self.finished:
                task.cancel()

    async def on_event(self, event):
        if isinstance(event, h2.events.RequestReceived):
            of = dict(event.headers)
            request = Request(of[':method'], of[':path'], 'HTTP/2', event.headers)
            self.requests[event.stream_id] = request
            await self.application.note_arrival(request)
            if request.arg('early'):
                self.begin(event.stream_id)
        elif isinstance(event, h2.events.DataReceived):
            self.requests[event.stream_id].body += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            if not self.requests[event.stream_id].arg('early'):
                self.begin(event.stream_id)
        elif isinstance(event, (h2.events.WindowUpdated, h2.events.RemoteSettingsChanged)):
            self.window.set()

    def begin(self, stream):
        request = self.requests[stream]

        async def act():
            try:
                if not await self.application.act(request, GrpcAnswer(self, stream)):
                    if request.arg('abort', 'no').split(',')[0] != 'reset':
                        self.writer.close()
            except ConnectionError:
                pass
        self.tasks[stream] = asyncio.create_task(act())


async def serve_grpc(application, reader, writer):
    await GrpcServer(application, reader, writer).run()
