#!/usr/bin/env python3
"""What small requests feel of large answers beside them, through the same worker: see README.md.

Small first requests, each a claim and an answer to be kept, at a pace that leaves the worker idle most of the time: alone,
then beside replays of 1 MiB. The same through an nginx that proxies and keeps nothing: what is left of the
difference is due to this module and its store.
"""

import argparse
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

from run import BENCH, ROOT, Nginx, Server, Unusable, fill, free_port, milliseconds, post, redis_command

LARGE = 1024 * 1024
FRONTS = {
    "plain": "location / { proxy_pass http://app; }",
    "ours-redis": "idempotency bench; idempotency_scope $http_x_api_key; idempotency_max_body 2m; location / { proxy_pass http://app; }",
}
LOCATIONS = """
        # a file that is asked for with POST
        location = /large {
            root       @directory@;
            error_page 405 =201 /large;
        }
"""


class Loads:
    """What wrk does at the same time."""

    def __init__(self, port, seconds):
        self.port, self.seconds = port, seconds

    def start(self, path, key, connections, pause, seconds=None):
        return subprocess.Popen(["wrk", "-t1", f"-c{connections}", f"-d{seconds or self.seconds}s", "--latency", "-s", str(BENCH / "paced.lua"),
                                 f"http://127.0.0.1:{self.port}{path}"], env=dict(os.environ, KEY=key, PAUSE=str(pause)),
                                stdout=subprocess.PIPE, text=True)

    @staticmethod
    def end(process):
        text, _ = process.communicate()
        if process.returncode != 0 or "Non-2xx" in text or "Socket errors" in text:
            raise Unusable(f"a load failed: {text}")
        figure = {part: milliseconds(re.search(rf"^\s+{part}%\s+(\S+)", text, re.M).group(1)) for part in ("50", "99")}
        return {"p50": figure["50"], "p99": figure["99"], "rate": float(re.search(r"Requests/sec:\s*([\d.]+)", text).group(1))}


def measure(front, options, number):
    """Small requests alone, and beside the large ones."""
    loads = Loads(front.port, options.seconds)
    loads.end(loads.start("/small", f"warm-{number}-", 4, 1, 1))
    alone = loads.end(loads.start("/small", f"alone-{number}-", 4, 1))
    large = loads.start("/large", "the-large-one", options.connections, options.pause, options.seconds + 1)
    beside = loads.end(loads.start("/small", f"beside-{number}-", 4, 1))
    return alone, beside, loads.end(large)["rate"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=4, help="of each run (default 4)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is run (default 3)")
    parser.add_argument("--connections", type=int, default=2, help="of the large answers (default 2)")
    parser.add_argument("--pause", type=int, default=20, metavar="MS", help="of each of these, after an answer (default 20)")
    parser.add_argument("--module", default=ROOT / "build/ngx_http_idempotency_module.so", metavar="FILE")
    parser.add_argument("--nginx", default="nginx", metavar="BINARY")
    parser.add_argument("--redis", default="redis-server", metavar="BINARY", help="or valkey-server")
    options = parser.parse_args()

    os.environ["PATH"] += ":/usr/sbin:/usr/local/sbin"
    for tool in (options.nginx, options.redis, "wrk"):
        if shutil.which(tool) is None:
            raise Unusable(f"there is no {tool}; bench/setup installs it")
    if not pathlib.Path(options.module).exists():
        raise Unusable(f"there is no {options.module}")

    directory = pathlib.Path(tempfile.mkdtemp(prefix="bench-large-"))
    directory.chmod(0o755)
    user = "user root;\n" if os.geteuid() == 0 else ""
    values = {"app": free_port(), "redis": free_port(), "directory": directory, "listing": "{}"}
    servers, rows = [], {name: [] for name in FRONTS}
    try:
        (directory / "large").write_bytes(os.urandom(LARGE))
        app = (BENCH / "app.conf").read_text().replace("        # how often", LOCATIONS + "\n        # how often", 1)
        servers.append(Nginx("app", values["app"], user + fill(app, values), directory / "app", options.nginx))
        servers.append(Server("redis", values["redis"], redis_command(options.redis, values["redis"]), directory / "redis"))
        fronts = {}
        for name, locations in FRONTS.items():
            place = directory / name
            place.mkdir()
            values.update(front=free_port(), modules=f"load_module {pathlib.Path(options.module).resolve()};")
            (place / "contestant.conf").write_text(fill(
                "idempotency_store bench { redis redis://127.0.0.1:@redis@; }\n"
                "server { listen 127.0.0.1:@front@; proxy_buffers 16 64k; proxy_buffer_size 64k; proxy_busy_buffers_size 128k; "
                + locations + " }\n", values))
            fronts[name] = Nginx(name, values["front"], user + fill((BENCH / "front.conf").read_text(), values), place, options.nginx)
            servers.append(fronts[name])
            first, again = (post(fronts[name].port, "the-large-one", "/large") for _ in range(2))
            if first[0] != 201 or len(first[2]) != LARGE or again != first:
                raise Unusable(f"{name}: the large answer is not what it should be: {first[0]}, {len(first[2])} bytes; {again[0]}")
        for number in range(options.rounds):
            for name, front in fronts.items():
                rows[name].append(measure(front, options, number))
                alone, beside, rate = rows[name][-1]
                print(f"round {number + 1} of {options.rounds}, {name}: p99 {alone['p99']:.2f} ms alone, {beside['p99']:.2f} ms beside "
                      f"{rate:.0f}/s of {LARGE >> 20} MiB", file=sys.stderr)
    finally:
        for server in servers:
            server.stop()
        shutil.rmtree(directory, ignore_errors=True)

    print(f"{os.cpu_count()} processors, {options.rounds} rounds of {options.seconds} s; medians; milliseconds of small first requests")
    print(f"{'':<13}{'p50 alone':>11}{'p50 beside':>12}{'ratio':>7}{'p99 alone':>11}{'p99 beside':>12}{'ratio':>7}{'large/s':>9}")
    for name, mine in rows.items():
        line = f"{name:<13}"
        for part in ("p50", "p99"):
            # of each round, since a round's runs are neighbours in time
            ratio = statistics.median(beside[part] / alone[part] for alone, beside, _ in mine)
            line += f"{statistics.median(row[0][part] for row in mine):>11.2f}{statistics.median(row[1][part] for row in mine):>12.2f}{ratio:>7.2f}"
        print(line + f"{statistics.median(rate for *_, rate in mine):>9.0f}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Unusable as reason:
        print(f"bench: {reason}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
