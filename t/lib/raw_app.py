#!/usr/bin/env python3
"""An application that responds with any bytes, and that tells which connection a request used.

    raw_app.py --port PORT [--certificate FILE --key FILE] [--idle SECONDS [--closing SECONDS]]
                        serves 127.0.0.1:PORT, prints 'ready' once it listens

    --certificate, --key    it speaks TLS
    --idle                  it closes a connection on which no request has come for so long
    --closing               how long closing takes: meanwhile it reads nothing, so a request that arrives is lost

A client may speak HTTP/1.1 or SCGI.

A request with a body is answered with this body, byte by byte: it is the whole response with its head. Then the connection
is closed. The query may have `delay=SECONDS`, which delays what follows the first empty line.

A request without a body is answered with 201 and the body '#N CONNECTION': its number among the requests for its path, and
the number of its connection.

GET /count/PATH says how often a request for PATH has come. It is not counted itself.
"""

import asyncio
import collections
import ssl

from request import Request
from serving import port_argument, serve_until_stopped

counts = collections.Counter()
connections = 0


async def read_scgi_request(reader, first):
    """Reads a request whose first byte is a digit."""
    length = int(first + (await reader.readuntil(b':'))[:-1])
    words = (await reader.readexactly(length + 1))[:-2].decode('latin-1').split('\0')
    params = dict(zip(words[::2], words[1::2]))
    request = Request(params['REQUEST_METHOD'], params['REQUEST_URI'], 'SCGI', [])
    request.body = await reader.readexactly(int(params['CONTENT_LENGTH'] or '0'))
    return request


async def read_request(reader):
    """Reads a request, or returns None at the end of the connection."""
    try:
        first = await reader.readexactly(1)
        if first.isdigit():
            return await read_scgi_request(reader, first)
        head = first + await reader.readuntil(b'\r\n\r\n')
        request_line, *lines = head.decode('latin-1').split('\r\n')[:-2]
        method, uri, version = request_line.split(' ', 2)
        headers = [(name, value.strip()) for name, _, value in (line.partition(':') for line in lines)]
        request = Request(method, uri, version, headers)
        request.body = await reader.readexactly(int(request.header('content-length', '0')))
        return request
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def send_raw(writer, request):
    head, empty_line, rest = request.body.partition(b'\r\n\r\n')
    delay = float(request.arg('delay', '0'))
    if delay:
        writer.write(head + empty_line)
        await writer.drain()
        await asyncio.sleep(delay)
        writer.write(rest)
    else:
        writer.write(request.body)
    await writer.drain()


async def serve(reader, writer, options):
    global connections
    connections += 1
    number = connections

    try:
        while True:
            try:
                request = await asyncio.wait_for(read_request(reader), options.idle)
            except asyncio.TimeoutError:
                # wait_for has cancelled the read: from here on no request is read
                writer.transport.pause_reading()
                await asyncio.sleep(options.closing)
                break
            if request is None:
                break

            if request.path.startswith('/count/'):
                body = b'%d\n' % counts[request.path[len('/count'):]]
                writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % len(body) + body)
                await writer.drain()
                continue

            counts[request.path] += 1
            if request.body:
                await send_raw(writer, request)
                break

            body = b'#%d %d\n' % (counts[request.path], number)
            writer.write(b'HTTP/1.1 201 Created\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n' % len(body) + body)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


async def main():
    arguments = port_argument()
    arguments.add_argument('--certificate')
    arguments.add_argument('--key')
    arguments.add_argument('--idle', type=float)
    arguments.add_argument('--closing', type=float, default=0)
    options = arguments.parse_args()

    context = None
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate, options.key)

    await asyncio.start_server(
        lambda reader, writer: serve(reader, writer, options), '127.0.0.1', options.port, backlog=512, limit=1 << 22, ssl=context)
    await serve_until_stopped()


if __name__ == '__main__':
    asyncio.run(main())
