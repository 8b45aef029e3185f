"""A request as the test application sees it, whichever protocol it came with."""

import hashlib
import urllib.parse


class Request:
    def __init__(self, method, uri, version, headers):
        self.method = method
        self.uri = uri
        self.version = version
        self.headers = headers
        self.body = b''

        path, _, query = uri.partition('?')
        self.path = path
        self.args = urllib.parse.parse_qs(query, keep_blank_values=True)

    def header(self, name, default=''):
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return default

    def arg(self, name, default=None):
        return self.args.get(name, [default])[0]

    def arg_of(self, name, execution, default):
        """An argument with one value for each execution."""
        values = self.arg(name, default).split(',')
        return values[min(execution, len(values)) - 1]

    @property
    def space(self):
        return self.header('app-space')

    def digest(self):
        return hashlib.sha256(self.body).hexdigest()

    def keeps_alive(self):
        connection = self.header('connection').lower()
        if self.version == 'HTTP/1.0':
            return 'keep-alive' in connection
        return 'close' not in connection
