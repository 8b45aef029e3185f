#!/usr/bin/env python3
"""Measures this module beside its alternatives: see README.md.

Every contestant is an nginx of its own with one worker, made of front.conf and contestants/NAME.conf, in front of the
same application. Needs what ./setup installs, and nothing outside of Python's standard library.
"""

import argparse
import http.client
import itertools
import json
import os
import pathlib
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

BENCH = pathlib.Path(__file__).resolve().parent
ROOT = BENCH.parent
REFERENCES = ("limit", "plain")
ORDER = REFERENCES + ("proxy_cache", "srcache", "lua", "ours-memory", "ours-near", "ours-redis", "ours-redis-tls", "ours-redis-cluster")
# what is compared with what besides, where both are measured
BESIDE = {"ours-redis-tls": "ours-redis", "ours-redis-cluster": "ours-redis"}
CLUSTER = 3         # masters
SLOTS = 16384
MODES = {"replay": "replay: one key, its answer is kept already",
         "first": "first request: a new key each time"}
LISTING = ('{"id":"%s","assetId":"model-123","title":"Model 123, as new","status":"active","price":{"amount":"49.00",'
           '"currency":"USD"},"seller":{"id":"user-9","name":"A. Seller"},"links":{"self":"/v1/marketplace/listings/%s"}}')
DISTURBED = 0.15    # of a processor, by what is no part of the benchmark
MARK = "made-by-the-benchmark"
A_LISTING_ID = "5b0fbd7d8a0f4bd0b1b5a58ae8a3d0f4"


class Unusable(Exception):
    """What the benchmark can't do without is missing or does not work."""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for_port(port, process, name, log):
    for _ in range(500):
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    text = log.read_text(errors="replace")[-2000:] if log.exists() else ""
    raise Unusable(f"{name} does not start\n{text}")


class Server:
    """A process that listens on a port and is stopped at the end."""

    def __init__(self, name, port, command, directory):
        directory.mkdir(parents=True, exist_ok=True)
        self.name, self.port, self.directory = name, port, directory
        log = directory / "stderr.log"
        with open(log, "wb") as out:
            self.process = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            wait_for_port(port, self.process, name, log)
        except BaseException:
            self.stop()
            raise

    def say(self, text):
        with socket.create_connection(("127.0.0.1", self.port), 5) as s:
            s.sendall(text.encode())
            return s.recv(4096).decode()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def cpu(self):
        return cpu_of(self.process.pid)


def redis_command(binary, port, *more):
    return [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *map(str, more)]


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


def cpu_of(pid):
    """Seconds that all threads of a process have run."""
    return sum(int((task / "schedstat").read_text().split()[0])
               for task in pathlib.Path(f"/proc/{pid}/task").iterdir()) / 1e9


def busy_processors():
    """Seconds that all processors together have been busy."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def own_children():
    """Seconds that ended children (wrk, and the servers that were stopped) have run."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Nginx(Server):
    def __init__(self, name, port, config, directory, binary):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "nginx.conf").write_text(config)
        super().__init__(name, port, [binary, "-p", f"{directory}/", "-c", "nginx.conf", "-e", "start.log",
                                      "-g", "daemon off;"], directory)

    def children(self):
        master = self.process.pid
        return [int(pid) for pid in pathlib.Path(f"/proc/{master}/task/{master}/children").read_text().split()]

    def worker(self):
        for pid in self.children():
            if b"worker process" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        raise Unusable(f"{self.name} has no worker")

    def cpu(self):
        return cpu_of(self.worker())

    def cpu_of_helpers(self):
        """What is neither the worker nor of use to anybody else, like the manager of a cache."""
        worker, total = self.worker(), 0
        for pid in self.children():
            try:
                total += cpu_of(pid) if pid != worker else 0
            except FileNotFoundError:
                pass    # the loader of a cache ends by itself
        return total


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


def post(port, key, path="/v1/marketplace/listings"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", path, '{"assetId":"model-123","note":""}',
                       {"Content-Type": "application/json", "X-API-Key": "bench", "Idempotency-Key": key})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.getheader("Location"), body


def fill(text, values):
    def value(found):
        if found.group(1) not in values:
            raise Unusable(f"a configuration asks for an unknown @{found.group(1)}@")
        return str(values[found.group(1)])
    return re.sub(r"@(\w+)@", value, text)


def milliseconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 1e-3, "ms": 1, "s": 1e3, "m": 6e4}[unit]


class Bench:
    def __init__(self, options):
        self.options = options
        self.work = pathlib.Path(options.work).resolve()
        self.servers = {}
        self.cache = None
        self.runs = itertools.count(1)
        for tool in (options.nginx, "wrk"):
            if shutil.which(tool) is None:
                raise Unusable(f"there is no {tool}; bench/setup installs it")
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
        self.user = "user root;\n" if os.geteuid() == 0 else ""
        self.cache = tempfile.mkdtemp(prefix="bench-cache-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else self.work)
        self.values = {"app": free_port(), "redis": free_port(), "memcached": free_port(), "bench": BENCH, "cache": self.cache,
                       "listing": LISTING % ("$request_id", "$request_id"),
                       "a_listing": LISTING % (A_LISTING_ID, A_LISTING_ID)}
        self.servers["app"] = Nginx("app", self.values["app"],
                                    self.user + fill((BENCH / "app.conf").read_text(), self.values),
                                    self.work / "app", self.options.nginx)
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
        values = dict(self.values, front=free_port(),
                      modules="\n".join(f"load_module {self.module_file(m)};" for m in contestant.modules))
        directory.mkdir(parents=True)
        (directory / "contestant.conf").write_text(fill(contestant.text, values))
        return Nginx(contestant.name, values["front"], self.user + fill((BENCH / "front.conf").read_text(), values),
                     directory, self.options.nginx)

    def wrk(self, front, mode, prefix, duration):
        out = subprocess.run(["wrk", "-t1", f"-c{self.options.connections}", f"-d{duration}s", "--latency",
                              "-s", str(BENCH / "load.lua"), f"http://127.0.0.1:{front.port}/v1/marketplace/listings"],
                             env=dict(os.environ, MODE=mode, PREFIX=prefix, PADDING=str(self.options.padding)),
                             capture_output=True, text=True, timeout=duration + 60)
        if out.returncode != 0 or "requests in" not in out.stdout:
            raise Unusable(f"wrk failed: {out.stdout}{out.stderr}")
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", out.stdout)
        broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out.stdout)
        return {"requests": int(re.search(r"(\d+) requests in", out.stdout).group(1)),
                "rps": float(re.search(r"Requests/sec:\s*([\d.]+)", out.stdout).group(1)),
                "p50": milliseconds(re.search(r"^\s+50%\s+(\S+)", out.stdout, re.M).group(1)),
                "p99": milliseconds(re.search(r"^\s+99%\s+(\S+)", out.stdout, re.M).group(1)),
                "errors": (int(refused.group(1)) if refused else 0) + (sum(map(int, broken.groups())) if broken else 0)}

    def kept(self, contestant, front, key):
        """Sends a key until its answer is kept; a contestant that never keeps it is no contestant."""
        first = post(front.port, key)
        if first[0] != 201:
            raise Unusable(f"{contestant.name}: answers a first request with {first[0]}")
        if not contestant.keeps_answers:
            return
        for _ in range(100):
            again = post(front.port, key)
            if again == first:
                return
            if again[0] == 201:
                raise Unusable(f"{contestant.name}: a retry got another answer than the first")
            time.sleep(0.02)    # a contestant that keeps the answer a little later
        raise Unusable(f"{contestant.name}: a retry is answered with {again[0]}")

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
            # a load with a body of another length has a fingerprint of its own, so its key does too
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
        # a load's last requests reach the application without being counted
        if abs(row["asked"] - due) > 0.01 + 2 * self.options.connections / row["requests"]:
            row["errors"] += round(abs(row["asked"] - due) * row["requests"])
        shutil.rmtree(front.directory, ignore_errors=True)
        return row

    def measure_in_peace(self, contestant, mode):
        """The quietest of a few runs, of which one is enough where nothing else runs."""
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
    print(f"{'':<20}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU us':>9}{'/limit':>8}{'/plain':>8}"
          f"{'store us':>10}{'busy':>7}{'others':>8}{'app/req':>9}{'errors':>8}")
    summary = {}
    for contestant in contestants:
        mine = rows[contestant.name]
        middle = {key: statistics.median(row[key] for row in mine) for key in mine[0]}
        middle["errors"] = sum(row["errors"] for row in mine)
        ratios = ""
        for reference in REFERENCES:
            if reference in rows:
                # of each round, since a round's runs are neighbours in time
                ratio = statistics.median(a["cpu"] / b["cpu"] for a, b in zip(mine, rows[reference]))
                middle[f"cpu/{reference}"] = ratio
                ratios += f"{ratio:>8.2f}"
            else:
                ratios += f"{'-':>8}"
        store = f"{middle['store']:>10.2f}" if contestant.services else f"{'-':>10}"
        print(f"{contestant.name:<20}{middle['rps']:>9.0f}{middle['p50']:>9.2f}{middle['p99']:>9.2f}"
              f"{middle['cpu']:>9.2f}{ratios}{store}{middle['busy']:>7.0%}{middle['others']:>8.0%}"
              f"{middle['asked']:>9.2f}{middle['errors']:>8}")
        summary[contestant.name] = middle
    beside(rows, summary)
    return summary


def beside(rows, summary):
    """Ratios of each round, since a round's runs are neighbours in time."""
    for name, other in BESIDE.items():
        if name in rows and other in rows:
            ratio = {key: statistics.median(a[key] / b[key] for a, b in zip(rows[name], rows[other])) for key in ("cpu", "rps", "store")}
            summary[name].update({f"{key}/{other}": value for key, value in ratio.items()})
            print(f"{name} / {other}: CPU {ratio['cpu']:.2f}, req/s {ratio['rps']:.2f}, store {ratio['store']:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=4, help="of each run (default 4)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is run (default 3)")
    parser.add_argument("--tries", type=int, default=3, help="how often a run is repeated that something else disturbs (default 3)")
    parser.add_argument("--connections", type=int, default=32, help="of the load (default 32)")
    parser.add_argument("--padding", type=int, default=0, metavar="BYTES", help="added to each request's body")
    parser.add_argument("--mode", choices=[*MODES, "both"], default="both")
    parser.add_argument("--only", metavar="NAME,...", help="these contestants, none of which may be missing")
    parser.add_argument("--peers", action="store_true", help="all but this module")
    parser.add_argument("--module", default=ROOT / "build/ngx_http_idempotency_module.so", metavar="FILE")
    parser.add_argument("--nginx", default="nginx", metavar="BINARY")
    parser.add_argument("--redis", default="redis-server", metavar="BINARY", help="or valkey-server")
    parser.add_argument("--work", default=ROOT / "build-bench", metavar="DIRECTORY", help="is emptied first")
    parser.add_argument("--json", metavar="FILE", help="also writes all figures there")
    options = parser.parse_args()

    os.environ["PATH"] += ":/usr/sbin:/usr/local/sbin"
    bench = Bench(options)
    try:
        contestants = bench.contestants()
        modes = list(MODES) if options.mode == "both" else [options.mode]
        bench.start(contestants)
        rows = {mode: {contestant.name: [] for contestant in contestants} for mode in modes}
        for number in range(options.rounds):
            for mode in modes:
                for contestant in contestants:
                    print(f"round {number + 1} of {options.rounds}, {mode}, {contestant.name} ...", end="",
                          file=sys.stderr, flush=True)
                    row = bench.measure_in_peace(contestant, mode)
                    print(f" {row['rps']:.0f} req/s, {row['cpu']:.2f} us, others {row['others']:.0%}", file=sys.stderr)
                    rows[mode][contestant.name].append(row)
    finally:
        bench.stop()

    print(f"{bench.version}, {os.cpu_count()} processors, {options.connections} connections, "
          f"{options.rounds} rounds of {options.seconds} s, body + {options.padding} bytes; medians")
    summary = {mode: table(mode, contestants, rows[mode]) for mode in modes}
    disturbed = max(row["others"] for by_name in rows.values() for mine in by_name.values() for row in mine)
    if disturbed >= DISTURBED:
        print(f"\nSomething else kept up to {disturbed:.0%} of a processor busy: do not trust these figures.")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps({"medians": summary, "runs": rows}, indent=1) + "\n")
    return 1 if any(row["errors"] for by_name in summary.values() for row in by_name.values()) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Unusable as reason:
        print(f"bench: {reason}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
