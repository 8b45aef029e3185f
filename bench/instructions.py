#!/usr/bin/env python3
"""Counts the instructions that nginx executes for one request, on each path through the module.

    bench/instructions.py MODULE.so [MODULE.so ...]

With two files, such as the module before and after a change, the table shows both and their ratio.

Each figure is the difference between two runs of nginx under valgrind's callgrind, one of which
sends twice as many requests as the other, divided by the number of requests that it sends more:
what starting and stopping costs is in both runs.  nginx is one process (`master_process off`), and
the requests come one by one over one connection, so a figure is the same on a busy machine.  It
counts the instructions of nginx, the module and their libraries, not those of the kernel.

Each run is repeated --rounds times, and the lowest count is taken, since a disturbance can only add
to it.  `+-` is by how much the figure of the second lowest counts differs.  Needs nginx, valgrind and redis-server (tools/setup, and apt install valgrind).
"""

import argparse
import http.client
import http.server
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

BODY = b'{"assetId":"model-123"}'
RESPONSE = (b'{"id":"5b0fbd7d8a0f4bd0b1b5a58ae8a3d0f4","assetId":"model-123","title":"Model 123, as new","status":"active",'
            b'"price":{"amount":"49.00","currency":"USD"},"seller":{"id":"user-9","name":"A. Seller"}}')
WARM_UP = 50
# Before each request, and before the application responds: nginx then always waits for events, and
# never finds the next bytes there already, which would be another path through its code.
PAUSE = 0.003

CONFIGURATION = """
load_module {module};
daemon off;
master_process off;
{user}
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;

# Without this nginx formats the time of day anew each second: the figures would depend on how long a run takes.
timer_resolution 1000s;
events {{ worker_connections 64; }}

http {{
    access_log off;
    keepalive_requests 1000000;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;

    idempotency_store embedded {{ memory 64m; }}
    idempotency_store shared {{ redis redis://127.0.0.1:{redis}/0; timeout 30s; connect_timeout 30s; }}

    upstream app {{
        server 127.0.0.1:{app};
        keepalive 4;
        keepalive_requests 1000000;
    }}

    proxy_http_version 1.1;
    proxy_set_header Connection "";
    idempotency_scope $http_x_api_key;

    server {{
        listen 127.0.0.1:{port};

        location /plain {{ proxy_pass http://app; }}
        location /memory {{ idempotency embedded; proxy_pass http://app; }}
        location /redis {{ idempotency shared; proxy_pass http://app; }}
    }}
}}
"""

# What a path is called, the location, which key each request has, and the status it gets.
PATHS = [
    ("proxy, without idempotency", "/plain", "new", 201),
    ("first request, memory", "/memory", "new", 201),
    ("replay, memory", "/memory", "kept", 201),
    ("conflict, memory", "/memory", "running", 409),
    ("first request, Redis", "/redis", "new", 201),
    ("replay, Redis", "/redis", "kept", 201),
    ("conflict, Redis", "/redis", "running", 409),
]


class Application(http.server.ThreadingHTTPServer):
    """Responds to a request with the key `running` only when it is told to."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), ApplicationHandler)
        self.port = self.server_address[1]
        self.started, self.finish = threading.Event(), threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class ApplicationHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Idempotency-Key"] == "running":
            self.server.started.set()
            self.server.finish.wait()
        time.sleep(PAUSE)
        # in one write: nginx then always reads it at once
        self.wfile.write(b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nLocation: /v1/listings/1\r\n"
                         b"Content-Length: %d\r\n\r\n%s" % (len(RESPONSE), RESPONSE))

    def log_message(self, *arguments):
        pass


class Client:
    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(self, path, key, status):
        self.connection.request("POST", path, BODY, {"Content-Type": "application/json", "X-API-Key": "bench",
                                                     "Idempotency-Key": key})
        response = self.connection.getresponse()
        response.read()
        if status is not None and response.status != status:
            sys.exit(f"{path} responds with {response.status} instead of {status}")
        return response


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for_port(port, process, log):
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"{process.args[0]} ended\n" + "".join(path.read_text() for path in log if path.exists()))


def start_redis(directory):
    port = free_port()
    process = subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                                "--dir", str(directory)], stdout=subprocess.DEVNULL)
    wait_for_port(port, process, [])
    return process, port


def stop(nginx):
    """A signal that arrives just before nginx waits for events only counts when one comes: so again."""
    while True:
        nginx.terminate()
        try:
            nginx.wait(0.5)
            return
        except subprocess.TimeoutExpired:
            pass


def count(module, path, requests, redis):
    """The instructions of one nginx, from its start to its end, that gets this many requests."""
    name, location, keys, status = path
    application = Application()

    with tempfile.TemporaryDirectory(prefix="instructions-") as directory:
        directory = pathlib.Path(directory)
        port, out = free_port(), directory / "callgrind.out"
        configuration = directory / "nginx.conf"
        user = "user root;" if pathlib.Path.home().owner() == "root" else ""
        configuration.write_text(CONFIGURATION.format(module=module, directory=directory, port=port, redis=redis,
                                                      app=application.port, user=user))

        with socket.create_connection(("127.0.0.1", redis), 5) as s:
            s.sendall(b"FLUSHALL\r\n")
            s.recv(100)

        log = directory / "valgrind.log"
        nginx = subprocess.Popen(["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", f"--log-file={log}",
                                  "nginx", "-p", str(directory), "-c", str(configuration), "-e", str(directory / "error.log")])
        try:
            wait_for_port(port, nginx, [log, directory / "error.log"])
            client = Client(port)
            runner = None

            if keys == "running":
                runner = threading.Thread(target=lambda: Client(port).post(location, "running", 201))
                runner.start()
                application.started.wait()

            # the store is connected, and a response is kept, ahead of what is counted; one that is
            # claimed anew differs only in its key
            if keys == "kept":
                client.post(location, "kept", 201)
            for i in range(WARM_UP + requests):
                time.sleep(PAUSE)
                response = client.post(location, f"key-{i:08}" if keys == "new" else keys, status)
                if keys == "kept" and response.getheader("Idempotent-Replayed") != "true":
                    sys.exit(f"{name}: a response is not replayed")

            application.finish.set()
            if runner is not None:
                runner.join()
            time.sleep(0.1)     # nginx finishes the last request after the client has its response
            client.connection.close()
        finally:
            stop(nginx)
            application.shutdown()
            application.server_close()

        return int(re.search(r"^(?:summary|totals): (\d+)", out.read_text(errors="replace"), re.M).group(1))


def measure(module, path, requests, rounds, redis):
    """The instructions of one request, and by how much the second best runs give another figure, as a share."""
    less, more = (sorted(count(module, path, n, redis) for _ in range(rounds)) for n in (requests, 2 * requests))
    best, second = ((more[i] - less[i]) / requests for i in (0, min(1, rounds - 1)))
    return best, abs(second / best - 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="+", metavar="MODULE.so", type=lambda name: pathlib.Path(name).resolve(strict=True))
    parser.add_argument("--requests", type=int, default=1000, help="how many requests more the second run sends (default: 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each run is repeated (default: 3)")
    parser.add_argument("--only", default="", help="only paths whose name has this in it, such as 'replay'")
    options = parser.parse_args()

    for tool in ("nginx", "valgrind", "redis-server"):
        if shutil.which(tool) is None:
            sys.exit(f"there is no {tool}")

    for number, module in enumerate(options.modules, 1):
        print(f"{number}: {module}")
    print()
    titles = [f"module {number}" for number in range(1, len(options.modules) + 1)]
    print(f"{'instructions per request':28}" + "".join(f"{title:>12}{'+-':>8}" for title in titles)
          + ("       ratio" if len(titles) > 1 else ""), flush=True)

    with tempfile.TemporaryDirectory(prefix="instructions-redis-") as directory:
        server, redis = start_redis(directory)
        try:
            for path in PATHS:
                if options.only not in path[0]:
                    continue
                row = [measure(module, path, options.requests, options.rounds, redis) for module in options.modules]
                line = f"{path[0]:28}" + "".join(f"{figure:12.0f}{spread:8.2%}" for figure, spread in row)
                print(line + (f"{row[-1][0] / row[0][0]:12.4f}" if len(row) > 1 else ""), flush=True)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
