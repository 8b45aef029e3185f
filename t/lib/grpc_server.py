#!/usr/bin/env python3
"""An application of gRPC, with the library that real ones use.

    grpc_server.py --port PORT      serves 127.0.0.1:PORT, prints 'ready' once it listens

/app.Test/Unary and /app.Test/Stream take JSON and respond with it and the number of the execution:

    gate=NAME       the response waits for /ask.Test/Open
    status=CODE     of the call, with the detail "on purpose" and a field in the trailers
    word=VALUE      x-accel-idempotency in the trailers
    messages=N      of a stream; `gate` is for the second one

Questions, not counted: /ask.Test/Count, /ask.Test/Arrived (waits), /ask.Test/Open, /ask.Test/Cancelled (whether the client of an
execution has gone). Their argument is a name; executions are counted by `name`.
"""

import collections
import concurrent.futures
import json
import signal
import threading

import grpc

from serving import port_argument

HELD_AT_MOST = 30  # seconds: a test that waits for too long must fail, not hang


class Application:
    def __init__(self):
        self.changed = threading.Condition()
        self.counts = collections.Counter()
        self.opened = set()
        self.cancelled = set()

    def wait(self, condition):
        with self.changed:
            return self.changed.wait_for(condition, HELD_AT_MOST)

    def begin(self, request, context):
        arguments = json.loads(request)
        name = arguments['name']
        with self.changed:
            self.counts[name] += 1
            execution = self.counts[name]
            self.changed.notify_all()
        # without a deadline it is some hundred years
        deadline = 'none' if context.time_remaining() is None or context.time_remaining() > 1e6 else 'set'
        context.send_initial_metadata((('x-execution', str(execution)), ('x-deadline', deadline)))
        return arguments, execution

    def finish(self, arguments, context):
        if 'gate' in arguments:
            self.wait(lambda: arguments['gate'] in self.opened)
        if not context.is_active():
            with self.changed:
                self.cancelled.add(arguments['name'])
        word = (('x-accel-idempotency', arguments['word']),) if 'word' in arguments else ()
        context.set_trailing_metadata((('x-trailer', 'told'),) + word)
        if 'status' in arguments:
            context.abort(getattr(grpc.StatusCode, arguments['status']), 'on purpose')

    def unary(self, request, context):
        arguments, execution = self.begin(request, context)
        self.finish(arguments, context)
        return b'#%d %s' % (execution, request)

    def stream(self, request, context):
        arguments, execution = self.begin(request, context)
        for n in range(arguments.get('messages', 3)):
            if n == 1:
                self.finish(arguments, context)
            yield b'#%d %d %s' % (execution, n, request)

    def ask(self, method, name):
        name = name.decode()
        if method == 'Count':
            return b'%d' % self.counts[name]
        if method == 'Arrived':
            return b'yes' if self.wait(lambda: self.counts[name]) else b'no'
        if method == 'Cancelled':
            return b'yes' if name in self.cancelled else b'no'
        with self.changed:
            self.opened.add(name)
            self.changed.notify_all()
        return b'opened'


class Handler(grpc.GenericRpcHandler):
    def __init__(self):
        self.application = Application()

    def service(self, details):
        _, service, method = details.method.split('/')
        if service == 'ask.Test':
            return grpc.unary_unary_rpc_method_handler(lambda request, context: self.application.ask(method, request))
        if method == 'Unary':
            return grpc.unary_unary_rpc_method_handler(self.application.unary)
        return grpc.unary_stream_rpc_method_handler(self.application.stream)


def main():
    options = port_argument().parse_args()
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=20))
    server.add_generic_rpc_handlers((Handler(),))
    server.add_insecure_port(f'127.0.0.1:{options.port}')
    server.start()
    print('ready', flush=True)
    signal.signal(signal.SIGTERM, lambda *_: server.stop(0))
    server.wait_for_termination()


if __name__ == '__main__':
    main()
