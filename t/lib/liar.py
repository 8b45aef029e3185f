#!/usr/bin/env python3
"""A sentinel that always names the same master.

    liar.py --port PORT --names PORT [--tells]
                        listens on 127.0.0.1:PORT, replies to queries with 127.0.0.1:PORT as any master,
                        and, with --tells, publishes it to subscribers; prints 'ready' once it listens
"""

import asyncio

from serving import port_argument, serve_until_stopped


def bulk(*words):
    return b''.join(b'$%d\r\n%b\r\n' % (len(word), word) for word in words)


async def serve(reader, writer, named, tells):
    while line := await reader.readline():
        words = []
        for _ in range(int(line[1:])):
            length = int((await reader.readline())[1:])
            words.append((await reader.readexactly(length + 2))[:-2])

        if words[0] == b'SENTINEL':
            writer.write(b'*2\r\n' + bulk(b'127.0.0.1', named))
        elif words[0] == b'SUBSCRIBE':
            writer.write(b'*3\r\n' + bulk(b'subscribe', words[1]) + b':1\r\n')
            if tells:
                told = b'shop 127.0.0.1 1 127.0.0.1 ' + named
                writer.write(b'*3\r\n' + bulk(b'message', words[1], told))
        else:
            writer.write(b'+OK\r\n')
        await writer.drain()
    writer.close()


async def main():
    arguments = port_argument()
    arguments.add_argument('--names', required=True)
    arguments.add_argument('--tells', action='store_true')
    options = arguments.parse_args()

    await asyncio.start_server(
        lambda reader, writer: serve(
            reader, writer, options.names.encode(), options.tells),
        '127.0.0.1', options.port)
    await serve_until_stopped()


if __name__ == '__main__':
    asyncio.run(main())
