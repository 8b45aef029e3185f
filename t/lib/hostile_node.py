#!/usr/bin/env python3
"""A node of a cluster that sends wrong maps of the slots, and replies to nothing else.

    hostile_node.py --port PORT --map masters|long|elements
                        listens on port PORT of 127.0.0.0/8; prints 'ready' once it listens
        masters         1,000 masters, all of which are this server under different addresses
        long            more than 4 MB
        elements        less than 1 MB, and 200,000 elements
"""

import asyncio

from serving import port_argument, serve_until_stopped


def array(items):
    return b'*%d\r\n' % len(items) + b''.join(items)


def number(value):
    return b':%d\r\n' % value


def bulk(text):
    return b'$%d\r\n%b\r\n' % (len(text), text)


def masters(port):
    return array([array([number(i * 16), number(i * 16 + 15), array([
        bulk(b'127.0.%d.%d' % (1 + i // 250, 1 + i % 250)), number(port), bulk(b'id')])]) for i in range(1000)])


def long(port):
    return array([array([number(i), number(i), array([bulk(b'x' * 240), number(port), bulk(b'id')])]) for i in range(16384)])


def elements(_):
    return array([array([number(1)] * 1000)] * 200)


async def serve(reader, writer, reply):
    try:
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                length = int((await reader.readline())[1:])
                words.append((await reader.readexactly(length + 2))[:-2])
            if words[0] == b'CLUSTER':
                writer.write(reply)
                await writer.drain()
    except (OSError, EOFError):
        pass
    writer.close()


async def main():
    arguments = port_argument()
    arguments.add_argument('--map', required=True, choices=('masters', 'long', 'elements'))
    options = arguments.parse_args()
    reply = globals()[options.map](options.port)

    await asyncio.start_server(lambda reader, writer: serve(reader, writer, reply), '0.0.0.0', options.port, backlog=1024)
    await serve_until_stopped()


if __name__ == '__main__':
    asyncio.run(main())
