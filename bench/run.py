#!/usr/bin/env python3
"""Measures this module beside its alternatives: see README.md.

Every contestant is an nginx of its own with one worker, made of front.conf and contestants/NAME.conf, in front of the
same application. Needs what ./setup installs, and nothing outside of Python's standard library.
"""

import http.client
import itertools
import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
from side_by_side import (BENCH, ROOT, Load, Server, Unusable, free_port, in_rounds, median_of, median_ratio, parser, post,
                          print_table, progress, redis_command, require_tools, run, start_application, start_front)

REFERENCES = ("limit", "plain")
ORDER = REFERENCES + ("proxy_cache", "srcache", "lua", "ours-memory", "ours-near", "ours-redis", "ours-redis-tls", "ours-redis-cluster")
# pairs that are compared as well where both are measured
BESIDE = {"ours-redis-tls": "ours-redis", "ours-redis-cluster": "ours-redis"}
CLUSTER = 3         # masters
SLOTS = 16384
MODES = {"replay": "replay: one key, its response is already kept",
         "first": "first request: a new key each time"}
LISTING = ('{"id":"%s","assetId":"model-123","title":"Model 123, as new","status":"active","price":{"amount":"49.00",'
           '"currency":"USD"},"seller":{"id":"user-9","name":"A. Seller"},"links":{"self":"/v1/marketplace/listings/%s"}}')
DISTURBED = 0.15    # of a processor, used by other processes than those of the benchmark
MARK = "made-by-the-benchmark"
A_LISTING_ID = "5b0fbd7d8a0f4bd0b1b5a58ae8a3d0f4"
COLUMNS = [("", 20, ""), ("req/s", 9, ".0f"), ("p50 ms", 9, ".2f"), ("p99 ms", 9, ".2f"), ("CPU us", 9, ".2f"),
           *((f"/{name}", 8, ".2f") for name in REFERENCES),
           ("store us", 10, ".2f"), ("busy", 7, ".0%"), ("others", 8, ".0%"), ("app/req", 9, ".2f"), ("errors", 8, "")]


class TlsRedis(Server):
    """A Redis that listens with TLS, at `tls_port`, and without, with a certificate of its own."""

    def __init__(self, binary, directory):
        directory.mkdir(parents=True, exist_ok=True)
        self.tls_port, self.certificate = free_port(), directory / "redis.pem"
        key = directory / "redis.key"
        made = subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                               "-keyout", key, "-out", self.certificate, "-days", "30", "-subj", "/CN=bench",
                               "-addext", "subjectAltName = IP:127.0.0.1"], capture_output=True, text=True)
        if made.returncode != 0:
            raise Unusable(f"openssl makes no certificate: {made.stderr}")
        port = free_port()
        super().__init__("redis-tls", port, redis_command(binary, port, "--tls-port", self.tls_port, "--tls-cert-file", self.certificate,
                                                          "--tls-key-file", key, "--tls-ca-cert-file", self.certificate,
                                                          "--tls-auth-clients", "no"), directory)


class RedisCluster:
    """Masters without replicas; each request's key is on one of them."""

    def __init__(self, binary, directory):
        self.nodes = []
        try:
            for number in range(CLUSTER):
                port, bus = free_port(), free_port()
                self.nodes.append(Server(f"redis-cluster-{number}", port, redis_command(
                    binary, port, "--cluster-enabled", "yes", "--cluster-port", bus), directory / str(number)))
                first, last = SLOTS * number // CLUSTER, SLOTS * (number + 1) // CLUSTER - 1
                self.nodes[-1].say(f"CLUSTER ADDSLOTSRANGE {first} {last}\r\n")
                if number:
                    self.nodes[-1].say(f"CLUSTER MEET 127.0.0.1 {self.nodes[0].port} {self.first_bus}\r\n")
                else:
                    self.first_bus = bus
            for _ in range(1000):
                if all("cluster_state:ok" in node.say("CLUSTER INFO\r\n") and f"cluster_known_nodes:{CLUSTER}" in
                       node.say("CLUSTER INFO\r\n") for node in self.nodes):
                    break
                time.sleep(0.02)
            else:
                raise Unusable("the nodes of the cluster do not find together")
        except BaseException:
            self.stop()
            raise
        self.port = self.nodes[0].port

    def say(self, text):
        return [node.say(text) for node in self.nodes]

    def stop(self):
        for node in self.nodes:
            node.stop()

    def cpu(self):
        return sum(node.cpu() for node in self.nodes)


def busy_processors():
    """Seconds that all processors together have been busy."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def own_children():
    """Seconds that ended children (wrk, and the servers that were stopped) have run."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Contestant:
    def __init__(self, path):
        self.name = path.stem
        self.text = path.read_text()
        self.what = self.said("what")
        self.modules = self.said("modules").split()
        self.services = self.said("services").split()
        self.ours = self.name.startswith("ours-")
        self.keeps_answers = self.name not in REFERENCES

    def said(self, key):
        found = re.search(rf"^# {key}: (.*)$", self.text, re.M)
        return found.group(1).strip() if found else ""

    def missing(self, bench):
        absent = [str(bench.module_file(m)) for m in self.modules if not bench.module_file(m).exists()]
        absent += [binary for s in self.services for binary in bench.service_binaries(s) if shutil.which(binary) is None]
        return absent


class Bench:
    def __init__(self, options):
        self.options = options
        self.work = pathlib.Path(options.work).resolve()
        self.servers = {}
        self.cache = None
        self.runs = itertools.count(1)
        require_tools(options.nginx, "wrk")
        about = subprocess.run([options.nginx, "-V"], capture_output=True, text=True).stderr
        modules = re.search(r"--modules-path=(\S+)", about)
        self.modules = pathlib.Path(modules.group(1)) if modules else pathlib.Path("/usr/lib/nginx/modules")
        self.version = about.splitlines()[0].split(": ")[-1]

    def module_file(self, name):
        if name == "ngx_http_idempotency_module":
            return pathlib.Path(self.options.module).resolve()
        return self.modules / f"{name}.so"

    def service_binaries(self, service):
        return {"memcached": ["memcached"], "redis-tls": [self.options.redis, "openssl"]}.get(service, [self.options.redis])

    def contestants(self):
        known = {path.stem: Contestant(path) for path in (BENCH / "contestants").glob("*.conf")}
        wanted = self.options.only.split(",") if self.options.only else \
            sorted(known, key=lambda n: ORDER.index(n) if n in ORDER else len(ORDER))
        for name in wanted:
            if name not in known:
                raise Unusable(f"there is no contestant {name}; there are {', '.join(sorted(known))}")
        chosen = []
        for name in wanted:
            contestant = known[name]
            if contestant.ours and self.options.peers:
                continue
            absent = contestant.missing(self)
            if not absent:
                chosen.append(contestant)
            elif contestant.ours or self.options.only:
                raise Unusable(f"{name}: missing {', '.join(absent)}")
            else:
                print(f"left out: {name}, for want of {', '.join(absent)} (bench/setup)")
        return chosen

    def start(self, contestants):
        if self.work.exists() and any(self.work.iterdir()) and not (self.work / MARK).exists():
            raise Unusable(f"{self.work} holds something that is not of a benchmark")
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        (self.work / MARK).touch()
        self.cache = tempfile.mkdtemp(prefix="bench-cache-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else self.work)
        self.values = {"app": free_port(), "redis": free_port(), "memcached": free_port(), "bench": BENCH, "cache": self.cache,
                       "listing": LISTING % ("$request_id", "$request_id"),
                       "a_listing": LISTING % (A_LISTING_ID, A_LISTING_ID)}
        self.servers["app"] = start_application((BENCH / "app.conf").read_text(), self.values, self.work / "app", self.options.nginx)
        needed = {service for contestant in contestants for service in contestant.services}
        if "redis" in needed:
            port = self.values["redis"]
            self.servers["redis"] = Server("redis", port, redis_command(self.options.redis, port), self.work / "redis")
        if "redis-tls" in needed:
            server = self.servers["redis-tls"] = TlsRedis(self.options.redis, self.work / "redis-tls")
            self.values.update(redis_tls=server.tls_port, certificate=server.certificate)
        if "redis-cluster" in needed:
            server = self.servers["redis-cluster"] = RedisCluster(self.options.redis, self.work / "redis-cluster")
            self.values.update(redis_cluster=server.port)
        if "memcached" in needed:
            port = self.values["memcached"]
            as_root = ["-u", "root"] if os.geteuid() == 0 else []
            self.servers["memcached"] = Server("memcached", port, ["memcached", "-l", "127.0.0.1", "-p", str(port),
                                                                   "-m", "1024", "-t", "1", *as_root],
                                               self.work / "memcached")

    def stop(self):
        for server in self.servers.values():
            server.stop()
        if self.cache:
            shutil.rmtree(self.cache, ignore_errors=True)

    def asked(self):
        """How many requests the application has had."""
        connection = http.client.HTTPConnection("127.0.0.1", self.values["app"], timeout=10)
        connection.request("GET", "/count")
        text = connection.getresponse().read().decode()
        connection.close()
        return int(re.search(r"requests\s+\d+ \d+ (\d+)", text).group(1))

    def front(self, contestant):
        directory = self.work / f"{next(self.runs):03}-{contestant.name}"
        return start_front(contestant.name, contestant.text, self.values, map(self.module_file, contestant.modules), directory,
                           self.options.nginx)

    def wrk(self, front, mode, prefix, duration):
        return Load("load.lua", front.port, "/v1/marketplace/listings", self.options.connections, duration,
                    MODE=mode, PREFIX=prefix, PADDING=self.options.padding).figures()

    def kept(self, contestant, front, key):
        """Sends a key until its response is kept; a contestant that never keeps it can't be measured."""
        first = post(front.port, key)
        if first[0] != 201:
            raise Unusable(f"{contestant.name}: the response to a first request is {first[0]}")
        if not contestant.keeps_answers:
            return
        for _ in range(100):
            again = post(front.port, key)
            if again == first:
                return
            if again[0] == 201:
                raise Unusable(f"{contestant.name}: a retry got another response than the first request")
            time.sleep(0.02)    # this contestant keeps the response a little later
        raise Unusable(f"{contestant.name}: the response to a retry is {again[0]}")

    def clocks(self, front, services):
        return {"asked": self.asked(), "time": time.monotonic(), "all": busy_processors(), "children": own_children(),
                "front": front.cpu(), "services": sum(service.cpu() for service in services),
                "app": self.servers["app"].cpu(), "helpers": front.cpu_of_helpers()}

    def measure(self, contestant, mode):
        for name, server in self.servers.items():
            if name.startswith("redis"):
                server.say("FLUSHALL\r\n")
        if "memcached" in self.servers:
            self.servers["memcached"].say("flush_all\r\n")

        shutil.rmtree(self.cache)
        os.mkdir(self.cache)

        front = self.front(contestant)
        try:
            # the body of the load may have another length, and so another fingerprint: its keys are others
            self.kept(contestant, front, "check")
            self.wrk(front, mode, "warm-", 1)

            services = [self.servers[s] for s in contestant.services]
            before = self.clocks(front, services)
            row = self.wrk(front, mode, "warm-" if mode == "replay" else "run-", self.options.seconds)
            passed = {key: value - before[key] for key, value in self.clocks(front, services).items()}

            row["cpu"] = passed["front"] / row["requests"] * 1e6
            row["store"] = passed["services"] / row["requests"] * 1e6
            row["asked"] = (passed["asked"] - 1) / row["requests"]
            row["busy"] = passed["front"] / passed["time"]
            ours = sum(passed[key] for key in ("front", "helpers", "services", "app", "children"))
            row["others"] = max(0, passed["all"] - ours) / passed["time"]
        finally:
            front.stop()

        due = contestant.name == "plain" or (mode == "first" and contestant.name != "limit")
        # wrk does not count its last requests, which reach the application
        if abs(row["asked"] - due) > 0.01 + 2 * self.options.connections / row["requests"]:
            row["errors"] += round(abs(row["asked"] - due) * row["requests"])
        shutil.rmtree(front.directory, ignore_errors=True)
        return row

    def measure_undisturbed(self, contestant, mode):
        """The least disturbed of a few runs; one run is enough where no other process is busy."""
        quietest = None
        for _ in range(self.options.tries):
            row = self.measure(contestant, mode)
            if quietest is None or row["others"] < quietest["others"]:
                quietest = row
            if row["others"] < DISTURBED:
                break
        return quietest


def table(mode, contestants, rows):
    print(f"\n{MODES[mode]}")
    summary = {contestant.name: medians(rows, contestant.name) for contestant in contestants}
    print_table(COLUMNS, [table_row(contestant, summary[contestant.name]) for contestant in contestants])
    compare_pairs(rows, summary)
    return summary


def medians(rows, name):
    mine = rows[name]
    middle = {key: median_of(mine, lambda row: row[key]) for key in mine[0]}
    middle["errors"] = sum(row["errors"] for row in mine)
    for reference in REFERENCES:
        if reference in rows:
            middle[f"cpu/{reference}"] = median_ratio(mine, rows[reference], lambda row: row["cpu"])
    return middle


def table_row(contestant, middle):
    return [contestant.name, middle["rps"], middle["p50"], middle["p99"], middle["cpu"],
            *(middle.get(f"cpu/{reference}") for reference in REFERENCES),
            middle["store"] if contestant.services else None, middle["busy"], middle["others"], middle["asked"], middle["errors"]]


def compare_pairs(rows, summary):
    for name, other in BESIDE.items():
        if name in rows and other in rows:
            ratio = {key: median_ratio(rows[name], rows[other], lambda row: row[key]) for key in ("cpu", "rps", "store")}
            summary[name].update({f"{key}/{other}": value for key, value in ratio.items()})
            print(f"{name} / {other}: CPU {ratio['cpu']:.2f}, req/s {ratio['rps']:.2f}, store {ratio['store']:.2f}")


def main():
    arguments = parser(__doc__, 32, "of the load")
    arguments.add_argument("--tries", type=int, default=3, help="how often a run is done at most if other processes disturb it (default 3)")
    arguments.add_argument("--padding", type=int, default=0, metavar="BYTES", help="added to each request's body")
    arguments.add_argument("--mode", choices=[*MODES, "both"], default="both")
    arguments.add_argument("--only", metavar="NAME,...", help="these contestants, none of which may be missing")
    arguments.add_argument("--peers", action="store_true", help="all but this module")
    arguments.add_argument("--work", default=ROOT / "build-bench", metavar="DIRECTORY", help="is emptied first")
    arguments.add_argument("--json", metavar="FILE", help="also writes all figures there")
    options = arguments.parse_args()

    bench = Bench(options)
    try:
        contestants = bench.contestants()
        modes = list(MODES) if options.mode == "both" else [options.mode]
        bench.start(contestants)
        rows = {mode: {contestant.name: [] for contestant in contestants} for mode in modes}
        for number, (mode, contestant) in in_rounds(options, [(mode, contestant) for mode in modes for contestant in contestants]):
            progress(number, options, f"{mode}, {contestant.name} ...", end="")
            row = bench.measure_undisturbed(contestant, mode)
            print(f" {row['rps']:.0f} req/s, {row['cpu']:.2f} us, others {row['others']:.0%}", file=sys.stderr)
            rows[mode][contestant.name].append(row)
    finally:
        bench.stop()

    print(f"{bench.version}, {os.cpu_count()} processors, {options.connections} connections, "
          f"{options.rounds} rounds of {options.seconds} s, body + {options.padding} bytes; medians")
    summary = {mode: table(mode, contestants, rows[mode]) for mode in modes}
    disturbed = max(row["others"] for by_name in rows.values() for mine in by_name.values() for row in mine)
    if disturbed >= DISTURBED:
        print(f"\nOther processes used up to {disturbed:.0%} of a processor: do not trust these figures.")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({"medians": summary, "runs": rows}, indent=1) + "\n")
    return 1 if any(row["errors"] for by_name in summary.values() for row in by_name.values()) else 0


if __name__ == "__main__":
    run(main)
