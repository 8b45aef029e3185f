#!/usr/bin/env python3
"""Counts the instructions that nginx executes for one request, on each path through the module.

    bench/instructions.py MODULE.so [MODULE.so ...]

With two files, such as the module before and after a change, the table shows both and their ratio.

Each figure is the difference between two runs of nginx under valgrind's callgrind, one of which
sends twice as many requests as the other, divided by the number of requests that it sends more:
what starting and stopping costs is in both runs.  It counts the instructions of nginx, the module and
their libraries, not those of the kernel.

nginx is one process (`master_process off`), the requests come one by one, and whatever nginx receives,
from the client, the application or Redis, is sent to it only when it waits for events.  So it takes
the same path through its code each time, and a figure is the same on a busy machine.

Each figure is measured --rounds times: the table has the median, and by how much the other ones
differ from it.  Needs nginx, valgrind and redis-server (tools/setup, and apt install valgrind).
"""

import argparse
import http.client
import http.server
import pathlib
import re
import shutil
import socket
import socketserver
import statistics
import subprocess
import sys
import tempfile
import threading
import time

BODY = b'{"assetId":"model-123"}'
RESPONSE = (b'{"id":"5b0fbd7d8a0f4bd0b1b5a58ae8a3d0f4","assetId":"model-123","title":"Model 123, as new","status":"active",'
            b'"price":{"amount":"49.00","currency":"USD"},"seller":{"id":"user-9","name":"A. Seller"}}')
WARM_UP = 50
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
    idempotency_lease 120s;
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


def wait_until_idle(pid):
    """Until the process sleeps: nginx does so only when it waits for events."""
    stat = pathlib.Path(f"/proc/{pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "S":
        time.sleep(0.0001)


class Relay(socketserver.ThreadingTCPServer):
    """Stands between nginx and Redis, and passes a reply on when nginx waits for it."""

    daemon_threads = True

    def __init__(self, redis):
        super().__init__(("127.0.0.1", 0), RelayHandler)
        self.redis, self.port = redis, self.server_address[1]
        self.nginx = None   # its process id
        threading.Thread(target=self.serve_forever, daemon=True).start()


class RelayHandler(socketserver.BaseRequestHandler):
    def handle(self):
        with socket.create_connection(("127.0.0.1", self.server.redis)) as redis:
            for s in (redis, self.request):
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.pass_replies, args=(redis,), daemon=True).start()
            while commands := self.request.recv(65536):
                redis.sendall(commands)
            redis.shutdown(socket.SHUT_WR)

    def pass_replies(self, redis):
        try:
            while replies := redis.recv(65536):
                wait_until_idle(self.server.nginx)
                self.request.sendall(replies)
        except OSError:
            pass    # nginx has ended


class Application(http.server.ThreadingHTTPServer):
    """Responds to a request with the key `running` only when it is told to."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), ApplicationHandler)
        self.port = self.server_address[1]
        self.nginx = None   # its process id
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
        wait_until_idle(self.server.nginx)
        # in one write: nginx then always reads it at once
        self.wfile.write(b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nLocation: /v1/listings/1\r\n"
                         b"Content-Length: %d\r\n\r\n%s" % (len(RESPONSE), RESPONSE))

    def log_message(self, *arguments):
        pass


class Client:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 60)

    def post(self, path, key, status):
        # in one piece, which http.client's own request() does not do
        self.socket.sendall((f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nX-API-Key: bench\r\n"
                             f"Idempotency-Key: {key}\r\nContent-Length: {len(BODY)}\r\n\r\n").encode() + BODY)
        response = http.client.HTTPResponse(self.socket, method="POST")
        response.begin()
        response.read()
        if response.status != status:
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
    application, relay = Application(), Relay(redis)

    with tempfile.TemporaryDirectory(prefix="instructions-") as directory:
        directory = pathlib.Path(directory)
        port, out = free_port(), directory / "callgrind.out"
        configuration = directory / "nginx.conf"
        user = "user root;" if pathlib.Path.home().owner() == "root" else ""
        configuration.write_text(CONFIGURATION.format(module=module, directory=directory, port=port, redis=relay.port,
                                                      app=application.port, user=user))

        with socket.create_connection(("127.0.0.1", redis), 5) as s:
            s.sendall(b"FLUSHALL\r\n")
            s.recv(100)

        log = directory / "valgrind.log"
        nginx = subprocess.Popen(["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", f"--log-file={log}",
                                  "nginx", "-p", str(directory), "-c", str(configuration), "-e", str(directory / "error.log")])
        application.nginx = relay.nginx = nginx.pid
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
                wait_until_idle(nginx.pid)
                response = client.post(location, f"key-{i:08}" if keys == "new" else keys, status)
                if keys == "kept" and response.getheader("Idempotent-Replayed") != "true":
                    sys.exit(f"{name}: a response is not replayed")

            application.finish.set()
            if runner is not None:
                runner.join()
            wait_until_idle(nginx.pid)
            client.socket.close()
        finally:
            stop(nginx)
            for server in (application, relay):
                server.shutdown()
                server.server_close()

        return int(re.search(r"^(?:summary|totals): (\d+)", out.read_text(errors="replace"), re.M).group(1))


def measure(module, path, requests, rounds, redis):
    """The instructions of one request, and by how much the rounds differ from it, as a share."""
    figures = []
    for _ in range(rounds):
        less, more = (count(module, path, n, redis) for n in (requests, 2 * requests))
        figures.append((more - less) / requests)
    median = statistics.median(figures)
    return median, max(abs(figure / median - 1) for figure in figures)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="+", metavar="MODULE.so", type=lambda name: pathlib.Path(name).resolve(strict=True))
    parser.add_argument("--requests", type=int, default=300, help="how many requests more the second run sends (default: 300)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each figure is measured (default: 3)")
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
