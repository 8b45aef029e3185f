"""What the benchmarks have in common: they start servers, put load on them in rounds and print medians.

Needs nothing outside of Python's standard library.
"""

import argparse
import http.client
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time

BENCH = pathlib.Path(__file__).resolve().parent
ROOT = BENCH.parent
WRK_ENDS_WITHIN = 60    # seconds after its load


class Unusable(Exception):
    """Something that the benchmark needs is missing or does not work."""


def run(main):
    """Ends the process with the status that main returns, or with 2 if something is unusable."""
    try:
        sys.exit(main())
    except Unusable as reason:
        print(f"bench: {reason}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def parser(description, connections, connections_help):
    """A parser of the arguments that all benchmarks have."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=int, default=4, help="duration of each run (default 4)")
    arguments.add_argument("--rounds", type=int, default=3, help="how often each run is repeated (default 3)")
    arguments.add_argument("--connections", type=int, default=connections, help=f"{connections_help} (default {connections})")
    arguments.add_argument("--module", default=ROOT / "build/ngx_http_idempotency_module.so", metavar="FILE")
    arguments.add_argument("--nginx", default="nginx", metavar="BINARY")
    arguments.add_argument("--redis", default="redis-server", metavar="BINARY", help="or valkey-server")
    return arguments


def require_tools(*tools):
    """Debian has nginx in a directory that the PATH of a user does not contain."""
    os.environ["PATH"] += ":/usr/sbin:/usr/local/sbin"
    for tool in tools:
        if shutil.which(tool) is None:
            raise Unusable(f"there is no {tool}; bench/setup installs it")


# Servers

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


def cpu_of(pid):
    """Seconds that all threads of a process have run."""
    return sum(int((task / "schedstat").read_text().split()[0])
               for task in pathlib.Path(f"/proc/{pid}/task").iterdir()) / 1e9


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


class Nginx(Server):
    def __init__(self, name, port, config, directory, binary):
        directory.mkdir(parents=True, exist_ok=True)
        user = "user root;\n" if os.geteuid() == 0 else ""
        (directory / "nginx.conf").write_text(user + config)
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
        """CPU time of the processes that nginx has besides the worker, like the manager of a cache."""
        worker, total = self.worker(), 0
        for pid in self.children():
            try:
                total += cpu_of(pid) if pid != worker else 0
            except FileNotFoundError:
                pass    # the loader of a cache ends by itself
        return total


def fill(text, values):
    """Replaces each @name@ by its value."""
    def value(found):
        if found.group(1) not in values:
            raise Unusable(f"a configuration uses an unknown @{found.group(1)}@")
        return str(values[found.group(1)])
    return re.sub(r"@(\w+)@", value, text)


def start_application(config, values, directory, binary):
    return Nginx("app", values["app"], fill(config, values), directory, binary)


def start_front(name, config, values, modules, directory, binary):
    """The nginx of one contestant: front.conf and the contestant's own configuration."""
    values = dict(values, front=free_port(), modules="\n".join(f"load_module {module};" for module in modules))
    directory.mkdir(parents=True)
    (directory / "contestant.conf").write_text(fill(config, values))
    return Nginx(name, values["front"], fill((BENCH / "front.conf").read_text(), values), directory, binary)


# Requests

def post(port, key, path="/v1/marketplace/listings"):
    """Status, Location and body of the response to one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", path, '{"assetId":"model-123","note":""}',
                       {"Content-Type": "application/json", "X-API-Key": "bench", "Idempotency-Key": key})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, response.getheader("Location"), body


def milliseconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 1e-3, "ms": 1, "s": 1e3, "m": 6e4}[unit]


class Load:
    """A run of wrk. `variables` are those of the script."""

    def __init__(self, script, port, path, connections, seconds, **variables):
        self.seconds = seconds
        self.process = subprocess.Popen(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency",
                                         "-s", str(BENCH / script), f"http://127.0.0.1:{port}{path}"],
                                        env={**os.environ, **{name: str(value) for name, value in variables.items()}},
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def figures(self):
        """Waits for the end of the run; its latencies are in milliseconds."""
        try:
            text, _ = self.process.communicate(timeout=self.seconds + WRK_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        if self.process.returncode != 0 or "requests in" not in text:
            raise Unusable(f"wrk failed: {text}")
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
        broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
        return {"requests": int(re.search(r"(\d+) requests in", text).group(1)),
                "rps": float(re.search(r"Requests/sec:\s*([\d.]+)", text).group(1)),
                "p50": milliseconds(re.search(r"^\s+50%\s+(\S+)", text, re.M).group(1)),
                "p99": milliseconds(re.search(r"^\s+99%\s+(\S+)", text, re.M).group(1)),
                "errors": (int(refused.group(1)) if refused else 0) + (sum(map(int, broken.groups())) if broken else 0)}


# Rounds and figures

def in_rounds(options, things):
    """Each thing once in each round: a machine that becomes slower does so for all of them."""
    for number in range(options.rounds):
        for thing in things:
            yield number, thing


def progress(number, options, text, end="\n"):
    print(f"round {number + 1} of {options.rounds}, {text}", end=end, file=sys.stderr, flush=True)


def median_of(rows, figure):
    return statistics.median(figure(row) for row in rows)


def median_ratio(numerators, denominators, figure):
    """The ratios are those of each round, because the runs of a round are neighbours in time."""
    return statistics.median(figure(a) / figure(b) for a, b in zip(numerators, denominators))


def print_table(columns, rows):
    """Columns: (heading, width, format); the first one is the name. A missing value is None."""
    print("".join(f"{heading:{'<' if number == 0 else '>'}{width}}" for number, (heading, width, _) in enumerate(columns)))
    for name, *values in rows:
        line = f"{name:<{columns[0][1]}}"
        for (_, width, form), value in zip(columns[1:], values):
            line += f"{'-':>{width}}" if value is None else f"{value:>{width}{form}}"
        print(line)
