#!/usr/bin/env python3
"""A name server, over UDP.

    names.py --port PORT --zone FILE
                        listens on 127.0.0.1:PORT; prints 'ready' once it does, and each queried name

A line of the zone, which is read again for each query, is `NAME ADDRESS ...`, with IPv4 and IPv6 addresses, or
`NAME SILENT`: no response. Any other name does not exist. The TTL of responses is one second.
"""

import ipaddress
import socket
import struct

from serving import exit_on_signals, port_argument

A, AAAA, NXDOMAIN = 1, 28, 3


def read_zone(file):
    with open(file, encoding='ascii') as lines:
        return {words[0]: words[1:] for words in map(str.split, lines) if words}


def read_name(question):
    labels, at = [], 12
    while length := question[at]:
        labels.append(question[at + 1:at + 1 + length].decode())
        at += 1 + length
    return '.'.join(labels), at + 1


def answer(question, zone):
    name, end = read_name(question)
    kind, = struct.unpack_from('!H', question, end)
    print(name, flush=True)

    values = zone.get(name)
    if values == ['SILENT']:
        return None

    records = [ipaddress.ip_address(value).packed for value in values or ()]
    records = [packed for packed in records if len(packed) == {A: 4, AAAA: 16}.get(kind)]
    head = question[:2] + struct.pack('!HHHHH', 0x8180 | (NXDOMAIN if values is None else 0), 1, len(records), 0, 0)
    body = question[12:end + 4]
    for packed in records:
        body += struct.pack('!HHHIH', 0xc00c, kind, 1, 1, len(packed)) + packed
    return head + body


def main():
    arguments = port_argument()
    arguments.add_argument('--zone', required=True)
    options = arguments.parse_args()
    exit_on_signals()

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(('127.0.0.1', options.port))
        print('ready', flush=True)
        while True:
            question, client = server.recvfrom(512)
            bytes_ = answer(question, read_zone(options.zone))
            if bytes_ is not None:
                server.sendto(bytes_, client)


if __name__ == '__main__':
    main()
