#!/usr/bin/env python3
"""The application of tools/demo: it creates listings and does not know about idempotency keys.

    demo-application.py FILE    listens on a free port of 127.0.0.1 and writes the port to FILE;
                                writes each listing that it creates as a line to FILE.listings.
                                If there is a FIFO FILE.gate, it creates FILE.received when it has a
                                request, and responds when somebody opens the FIFO for writing
"""

import http.server
import json
import os
import sys


class Listings(http.server.BaseHTTPRequestHandler):
    created = 0

    def do_POST(self):
        listing = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        gate = sys.argv[1] + '.gate'

        if os.path.exists(gate):
            open(sys.argv[1] + '.received', 'wb').close()
            open(gate, 'rb').close()

        Listings.created += 1
        listing = {'id': 'lst_%d' % Listings.created, **listing, 'status': 'active'}
        body = json.dumps(listing).encode() + b'\n'

        self.send_response(201)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.send_header('Location', '/v1/marketplace/listings/' + listing['id'])
        self.end_headers()
        self.wfile.write(body)

        with open(sys.argv[1] + '.listings', 'ab') as log:
            log.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Listings)

# write to a temporary file and rename it, so that a reader never sees an incomplete file
with open(sys.argv[1] + '.new', 'w') as file:
    print(server.server_port, file=file)
os.rename(sys.argv[1] + '.new', sys.argv[1])
server.serve_forever()
