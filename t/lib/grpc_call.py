#!/usr/bin/env python3
"""Makes one call of gRPC over a unix socket and prints, as JSON, what came of it.

    grpc_call.py SOCKET PATH BODY-FILE NAME:VALUE ...

A response that arrives before the complete call was sent is valid, as in HTTP/2: curl
reports the RST_STREAM (NO_ERROR) after it as an error.
"""

import json
import socket
import sys

import h2.config
import h2.connection
import h2.events


def fields(headers):
    return [list(field) for field in headers]


def main():
    path, uri, body, *headers = sys.argv[1:]
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(path)

    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding='latin-1'))
    client.initiate_connection()
    client.increment_flow_control_window(1 << 24)
    client.send_headers(1, [(':method', 'POST'), (':scheme', 'http'), (':authority', 'localhost'), (':path', uri),
                            ('content-type', 'application/grpc'), ('te', 'trailers')]
                        + [tuple(field.split(':', 1)) for field in headers])
    client.increment_flow_control_window(1 << 24, 1)
    with open(body, 'rb') as file:
        client.send_data(1, file.read(), end_stream=True)
    connection.sendall(client.data_to_send())

    answer = {'headers': [], 'trailers': [], 'body': '', 'ended': 0}
    while not answer['ended']:
        data = connection.recv(65536)
        if not data:
            break
        for event in client.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                answer['headers'] = fields(event.headers)
            elif isinstance(event, h2.events.TrailersReceived):
                answer['trailers'] = fields(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                answer['body'] += event.data.hex()
            elif isinstance(event, h2.events.StreamEnded):
                answer['ended'] = 1
            elif isinstance(event, h2.events.StreamReset):
                print(json.dumps(answer))
                return
    print(json.dumps(answer))


main()
