#!/usr/bin/env python3
"""What large responses cost the small requests that share their worker: see README.md.

Small first requests, each with a claim and a response to be kept, at a pace that leaves the worker idle most of the time: alone,
then beside replays of 1 MiB. The same through an nginx that proxies and keeps nothing: what is left of the
difference is due to this module and its store.
"""

import os
import pathlib
import shutil
import sys
import tempfile

sys.dont_write_bytecode = True
from side_by_side import (BENCH, Load, Server, Unusable, free_port, in_rounds, median_of, median_ratio, parser, post, print_table,
                          progress, redis_command, require_tools, run, start_application, start_front)

LARGE = 1024 * 1024
FRONTS = {
    "plain": "location / { proxy_pass http://app; }",
    "ours-redis": "idempotency bench; idempotency_scope $http_x_api_key; idempotency_max_body 2m; location / { proxy_pass http://app; }",
}
SERVER = """
idempotency_store bench { redis redis://127.0.0.1:@redis@; }
server {
    listen 127.0.0.1:@front@;
    proxy_buffers 16 64k;
    proxy_buffer_size 64k;
    proxy_busy_buffers_size 128k;
    %s
}
"""
LOCATIONS = """
        # a file that a POST gets
        location = /large {
            root       @directory@;
            error_page 405 =201 /large;
        }
"""
COLUMNS = [("", 13, ""), ("p50 alone", 11, ".2f"), ("p50 beside", 12, ".2f"), ("ratio", 7, ".2f"),
           ("p99 alone", 11, ".2f"), ("p99 beside", 12, ".2f"), ("ratio", 7, ".2f"), ("large/s", 9, ".0f")]


def figures(load):
    result = load.figures()
    if result["errors"]:
        raise Unusable(f"a load had {result['errors']} errors")
    return result


def measure(front, options, number):
    """Small requests alone, and beside the large ones."""
    def small(key, seconds):
        return Load("paced.lua", front.port, "/small", 4, seconds, KEY=f"{key}-{number}-", PAUSE=1)

    figures(small("warm", 1))
    alone = figures(small("alone", options.seconds))
    large = Load("paced.lua", front.port, "/large", options.connections, options.seconds + 1, KEY="the-large-one", PAUSE=options.pause)
    beside = figures(small("beside", options.seconds))
    return {"alone": alone, "beside": beside, "rate": figures(large)["rps"]}


def check_large_response(name, front):
    first, again = (post(front.port, "the-large-one", "/large") for _ in range(2))
    if first[0] != 201 or len(first[2]) != LARGE or again != first:
        raise Unusable(f"{name}: the large response is wrong: {first[0]}, {len(first[2])} bytes; {again[0]}")


def start_servers(options, directory, servers):
    """Adds all servers to `servers`, and returns the fronts by name."""
    values = {"app": free_port(), "redis": free_port(), "directory": directory, "listing": "{}"}
    (directory / "large").write_bytes(os.urandom(LARGE))
    application = (BENCH / "app.conf").read_text().replace("        # how often", LOCATIONS + "\n        # how often", 1)
    servers.append(start_application(application, values, directory / "app", options.nginx))
    servers.append(Server("redis", values["redis"], redis_command(options.redis, values["redis"]), directory / "redis"))
    fronts = {}
    for name, locations in FRONTS.items():
        fronts[name] = start_front(name, SERVER % locations, values, [pathlib.Path(options.module).resolve()],
                                   directory / name, options.nginx)
        servers.append(fronts[name])
        check_large_response(name, fronts[name])
    return fronts


def table_row(name, rows):
    line = [name]
    for part in ("p50", "p99"):
        alone, beside = ([row[when][part] for row in rows] for when in ("alone", "beside"))
        line += [median_of(alone, float), median_of(beside, float), median_ratio(beside, alone, float)]
    return line + [median_of(rows, lambda row: row["rate"])]


def main():
    arguments = parser(__doc__, 2, "for the large responses")
    arguments.add_argument("--pause", type=int, default=20, metavar="MS",
                           help="of each of these connections, after a response (default 20)")
    options = arguments.parse_args()
    require_tools(options.nginx, options.redis, "wrk")
    if not pathlib.Path(options.module).exists():
        raise Unusable(f"there is no {options.module}")

    directory = pathlib.Path(tempfile.mkdtemp(prefix="bench-large-"))
    directory.chmod(0o755)
    servers, rows = [], {name: [] for name in FRONTS}
    try:
        fronts = start_servers(options, directory, servers)
        for number, name in in_rounds(options, FRONTS):
            row = measure(fronts[name], options, number)
            rows[name].append(row)
            progress(number, options, f"{name}: p99 {row['alone']['p99']:.2f} ms alone, {row['beside']['p99']:.2f} ms beside "
                                      f"{row['rate']:.0f}/s of {LARGE >> 20} MiB")
    finally:
        for server in servers:
            server.stop()
        shutil.rmtree(directory, ignore_errors=True)

    print(f"{os.cpu_count()} processors, {options.rounds} rounds of {options.seconds} s; medians; milliseconds of small first requests")
    print_table(COLUMNS, [table_row(name, mine) for name, mine in rows.items()])
    return 0


if __name__ == "__main__":
    run(main)
