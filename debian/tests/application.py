"""Creates listings, and numbers them. Writes its port to the file that is its argument."""

import http.server
import os
import sys


class Listings(http.server.BaseHTTPRequestHandler):
    created = 0

    def do_POST(self):
        self.rfile.read(int(self.headers['Content-Length']))
        Listings.created += 1
        body = b'{ "id": "lst_%d" }\n' % Listings.created
        self.send_response(201)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Listings)

with open(sys.argv[1] + '.new', 'w', encoding='ascii') as port:
    port.write(str(server.server_address[1]))

os.rename(sys.argv[1] + '.new', sys.argv[1])
server.serve_forever()
