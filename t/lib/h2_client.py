#!/usr/bin/env python3
"""A client of HTTP/2 that reads responses and can disconnect. One connection; its commands are lines of JSON,
[COMMAND, ARGUMENT...], and each is replied to with one:

    h2_client.py --socket PATH [--window BYTES]

    ["send", {"path": ..., "headers": [[NAME, VALUE], ...], "body": ...}]
                            a POST; its stream
    ["answer", STREAM]      awaits the whole response: {"status", "headers", "body" (hex), "end"}, where
                            `end` is whole, or says how it was broken off
    ["begin", STREAM]       awaits the header of the response; its status, 0 if there is none
    ["read"]                returns when nginx has read all that was sent
    ["reset", STREAM]       RST_STREAM: the request is given up
    ["grant", BYTES]        a larger window for each stream, and for the connection

With --window the client grants only so many bytes of each response.
"""

import argparse
import json
import socket
import sys

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings

SECONDS_AT_MOST = 60  # a test that waits in vain shall fail, not hang


class Client:
    def __init__(self, path, window):
        self.window = window
        self.answers = {}
        self.pings = 0
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(SECONDS_AT_MOST)
        self.socket.connect(path)
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding='latin-1'))
        self.http.initiate_connection()
        if window is not None:
            self.http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.flush()

    def flush(self):
        self.socket.sendall(self.http.data_to_send())

    def read_some(self):
        data = self.socket.recv(1 << 18)
        if not data:
            self.finish_all('connection closed')
            return
        for event in self.http.receive_data(data):
            self.take(event)
        self.flush()

    def finish_all(self, why):
        for answer in self.answers.values():
            answer['end'] = answer['end'] or why

    def take(self, event):
        answer = self.answers.get(getattr(event, 'stream_id', None))
        if isinstance(event, h2.events.ConnectionTerminated):
            self.finish_all('connection closed')
        elif isinstance(event, h2.events.PingAckReceived):
            self.pings -= 1
        elif answer is None:
            return
        elif isinstance(event, h2.events.ResponseReceived):
            answer['headers'] = [list(field) for field in event.headers]
        elif isinstance(event, h2.events.DataReceived):
            answer['body'] += event.data
            if self.window is None:
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            answer['end'] = answer['end'] or 'whole'
        elif isinstance(event, h2.events.StreamReset):
            answer['end'] = answer['end'] or 'stream reset: %d' % event.error_code

    def wait(self, condition):
        while not condition():
            self.read_some()

    def send(self, request):
        stream = self.http.get_next_available_stream_id()
        self.answers[stream] = {'headers': [], 'body': b'', 'end': None}
        body = request.get('body', '').encode()
        fields = [(':method', 'POST'), (':scheme', 'http'), (':authority', request.get('host') or 'localhost'), (':path', request['path'])]
        fields += [(name.lower(), value) for name, value in request.get('headers', [])]
        self.http.send_headers(stream, fields + [('content-length', str(len(body)))], end_stream=not body)
        if body:
            self.http.send_data(stream, body, end_stream=True)
        self.flush()
        return stream

    def answer(self, stream):
        answer = self.answers[stream]
        self.wait(lambda: answer['end'])
        headers = [field for field in answer['headers'] if not field[0].startswith(':')]
        return {'status': self.status(answer), 'headers': headers, 'body': answer['body'].hex(), 'end': answer['end']}

    def begin(self, stream):
        answer = self.answers[stream]
        self.wait(lambda: answer['headers'] or answer['end'])
        return self.status(answer)

    @staticmethod
    def status(answer):
        return next((int(value) for name, value in answer['headers'] if name == ':status'), 0)

    def read(self):
        self.pings += 1
        self.http.ping(b'all read')
        self.flush()
        self.wait(lambda: self.pings == 0)

    def reset(self, stream):
        self.http.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        self.flush()

    def grant(self, size):
        self.window = None
        self.http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: size})
        self.http.increment_flow_control_window(size)
        self.flush()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument('--socket', required=True)
    arguments.add_argument('--window', type=int)
    options = arguments.parse_args()
    client = Client(options.socket, options.window)

    for line in sys.stdin:
        command, *rest = json.loads(line)
        print(json.dumps(getattr(client, command)(*rest)), flush=True)


if __name__ == '__main__':
    main()
