#!/usr/bin/env python3
"""TLS in front of a Redis; it reports what it learns about each client.

    tls_front.py --port PORT --to PATH --certificate FILE --key FILE
                        listens on 127.0.0.1:PORT, forwards to the unix socket of a Redis; prints 'ready' once it listens
        --authority FILE    requests a client certificate, which must be of this authority
        --protocol VERSION  TLSv1.2 or TLSv1.3 alone
        --silent            accepts connections, and sends nothing

For each handshake that has succeeded a line with a JSON object: sni, reused, protocol, client (the common name of its
certificate). For each that has failed, one with `failed`. For each connection, before that, 'accepted'.
"""

import json
import socket
import ssl
import threading

from serving import exit_on_signals, port_argument

output = threading.Lock()


def tell(text):
    with output:
        print(text, flush=True)


def forward(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def common_name(certificate):
    for part in (certificate or {}).get('subject', ()):
        for key, value in part:
            if key == 'commonName':
                return value
    return None


def serve(context, client, to):
    try:
        secure = context.wrap_socket(client, server_side=True)
    except OSError as fault:
        tell(json.dumps({'failed': str(fault)}))
        client.close()
        return

    tell(json.dumps({'sni': getattr(secure, 'asked_for', None), 'reused': secure.session_reused,
                     'protocol': secure.version(), 'client': common_name(secure.getpeercert())}))
    try:
        redis = socket.socket(socket.AF_UNIX)
        redis.connect(to)
    except OSError:
        secure.close()
        return
    # two threads use one connection: one only reads, the other only writes
    threading.Thread(target=forward, args=(redis, secure), daemon=True).start()
    forward(secure, redis)
    redis.close()


def note_name(secure, name, _context):
    secure.asked_for = name


def main():
    arguments = port_argument()
    for name in ('to', 'certificate', 'key', 'authority', 'protocol'):
        arguments.add_argument('--' + name)
    arguments.add_argument('--silent', action='store_true')
    options = arguments.parse_args()
    exit_on_signals()

    listener = socket.create_server(('127.0.0.1', options.port), backlog=64)
    context = None
    if not options.silent:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate, options.key)
        context.sni_callback = note_name
        if options.authority:
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(options.authority)
        if options.protocol:
            version = ssl.TLSVersion[options.protocol.replace('.', '_')]
            context.minimum_version = context.maximum_version = version

    tell('ready')
    held = []
    while True:
        client, _ = listener.accept()
        tell('accepted')
        if context is None:
            held.append(client)
        else:
            threading.Thread(target=serve, args=(context, client, options.to), daemon=True).start()


if __name__ == '__main__':
    main()
