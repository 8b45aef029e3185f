#!/usr/bin/env python3
"""Sends one request very many times at once over HTTP/2, and prints the distinct responses.

    h2_many.py --socket PATH --connections N --streams N --path URI [--header NAME:VALUE ...]

Prints 'here' once nginx has read all of them, and then what has been answered until then: a count.
At the end it prints a line of JSON for each distinct response, [COUNT, STATUS, FIELDS, BODY]. FIELDS
are without Date and Age, which the second of an answer decides.
"""

import argparse
import collections
import json
import selectors
import signal
import socket
import struct

import hpack

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
ACK = END_STREAM = 1
END_HEADERS = 4

SECONDS_AT_MOST = 240  # a test that waits in vain shall fail, not hang


def frame(kind, flags, stream, payload=b''):
    return struct.pack('>I', len(payload))[1:] + struct.pack('>BBI', kind, flags, stream) + payload


def literal(name, value):
    """Without indexing, and so the same bytes in every request."""
    name, value = name.encode(), value.encode()
    return b'\0' + bytes([len(name)]) + name + bytes([len(value)]) + value


class Connection:
    def __init__(self, path, block, streams):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.unread = b''
        self.is_here = False
        self.left = {1 + 2 * n for n in range(streams)}
        self.blocks = {}
        self.bodies = collections.defaultdict(bytes)
        # a PING behind the requests is acknowledged after they have been read
        self.socket.sendall(b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0)
                            + b''.join(frame(HEADERS, END_HEADERS | END_STREAM, stream, block)
                                       for stream in sorted(self.left))
                            + frame(PING, 0, 0, b'all here'))

    def read(self):
        bytes_read = self.socket.recv(1 << 18)
        if not bytes_read:
            raise SystemExit(f'a connection was closed with {len(self.left)} streams left')
        self.unread += bytes_read
        at = 0

        while len(self.unread) >= at + 9:
            length = int.from_bytes(self.unread[at:at + 3], 'big')
            if len(self.unread) < at + 9 + length:
                break
            kind, flags, stream = struct.unpack('>BBI', self.unread[at + 3:at + 9])
            self.take(kind, flags, stream, self.unread[at + 9:at + 9 + length])
            at += 9 + length

        self.unread = self.unread[at:]

    def take(self, kind, flags, stream, payload):
        if kind == PING and flags & ACK:
            self.is_here = True
        elif kind in (RST_STREAM, GOAWAY):
            raise SystemExit(f'stream {stream} was broken off: frame {kind}, {payload.hex()}')
        elif kind == HEADERS:
            self.blocks[stream] = payload
        elif kind == DATA:
            self.bodies[stream] += payload
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            self.left.discard(stream)


def read_until(connections, condition):
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            if not condition(connection):
                selector.register(connection.socket, selectors.EVENT_READ, connection)
        while selector.get_map():
            for key, _ in selector.select():
                key.data.read()
                if condition(key.data):
                    selector.unregister(key.fileobj)


def fields_of(block, known={}):
    """nginx does not refer to the fields of other responses, so equal bytes mean equal fields."""
    if block not in known:
        fields = [[name, value] for name, value in hpack.Decoder().decode(block)]
        known[block] = ([value for name, value in fields if name == ':status'][0],
                        [field for field in fields if field[0] not in (':status', 'date', 'age')])
    return known[block]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--socket', required=True)
    parser.add_argument('--connections', type=int, required=True)
    parser.add_argument('--streams', type=int, required=True)
    parser.add_argument('--path', required=True)
    parser.add_argument('--header', action='append', default=[])
    options = parser.parse_args()
    signal.alarm(SECONDS_AT_MOST)

    pseudo = [(':method', 'POST'), (':scheme', 'http'), (':path', options.path), (':authority', 'localhost')]
    block = b''.join(literal(*field) for field in pseudo + [tuple(h.split(':', 1)) for h in options.header])
    connections = [Connection(options.socket, block, options.streams) for _ in range(options.connections)]

    read_until(connections, lambda connection: connection.is_here)
    print('here', sum(options.streams - len(connection.left) for connection in connections), flush=True)

    read_until(connections, lambda connection: not connection.left)
    kinds = collections.Counter()
    for connection in connections:
        for stream, answer in connection.blocks.items():
            status, fields = fields_of(answer)
            kinds[json.dumps([status, fields, connection.bodies[stream].decode('latin-1')])] += 1
    for kind, count in kinds.most_common():
        print(json.dumps([count, *json.loads(kind)]), flush=True)


main()
