#!/usr/bin/env python3
"""A client of gRPC, with the library that real ones use. Its commands are lines of JSON, and each is replied to with one:

    grpc_client.py --socket PATH --port PORT      nginx, and the application of grpc_server.py

    ["call", METHOD, KEY, {ARGUMENT: VALUE}, SECONDS]   Unary or Stream; its number. SECONDS: the deadline, or null
    ["response", NUMBER]    awaits it: {"status", "detail", "messages", "headers", "trailers"}
    ["message", NUMBER]     awaits the next message of a stream
    ["cancel", NUMBER]
    ["ask", QUESTION, NAME] asks the application itself
"""

import argparse
import json
import sys

import grpc

SECONDS_AT_MOST = 60  # a test that waits in vain shall fail, not hang


class Client:
    def __init__(self, path, port):
        # retries of the library's own would hide what nginx does
        options = (('grpc.enable_retries', 0),)
        self.nginx = grpc.insecure_channel(f'unix:{path}', options)
        self.application = grpc.insecure_channel(f'127.0.0.1:{port}', options)
        self.calls = []

    def call(self, method, key, arguments, seconds):
        metadata = (('x-api-key', 'alice'), ('idempotency-key', key))
        timeout = seconds or SECONDS_AT_MOST
        request = json.dumps(arguments, sort_keys=True).encode()
        if method == 'Stream':
            call = self.nginx.unary_stream(f'/app.Test/{method}')(request, timeout=timeout, metadata=metadata)
        else:
            call = self.nginx.unary_unary(f'/app.Test/{method}').future(request, timeout=timeout, metadata=metadata)
        self.calls.append((method, call, []))
        return len(self.calls) - 1

    def message(self, number):
        _, call, messages = self.calls[number]
        messages.append(next(call).decode())
        return messages[-1]

    def response(self, number):
        method, call, messages = self.calls[number]
        try:
            if method == 'Stream':
                messages += [message.decode() for message in call]
            else:
                messages.append(call.result().decode())
        except (grpc.RpcError, grpc.FutureCancelledError):
            pass
        return {'status': call.code().name, 'detail': call.details(), 'messages': messages,
                'headers': {field.key: field.value for field in call.initial_metadata() or ()},
                'trailers': {field.key: field.value for field in call.trailing_metadata() or ()}}

    def cancel(self, number):
        self.calls[number][1].cancel()

    def ask(self, question, name):
        return self.application.unary_unary(f'/ask.Test/{question}')(name.encode(), timeout=SECONDS_AT_MOST).decode()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument('--socket', required=True)
    arguments.add_argument('--port', type=int, required=True)
    options = arguments.parse_args()
    client = Client(options.socket, options.port)

    for line in sys.stdin:
        command, *rest = json.loads(line)
        print(json.dumps(getattr(client, command)(*rest)), flush=True)


if __name__ == '__main__':
    main()
