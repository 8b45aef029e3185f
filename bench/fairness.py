#!/usr/bin/env python3
"""What the worst of one client does to another client: with the module, and with the same nginx without it.

    bench/fairness.py [--seconds 5] [--store memory|redis] [--rounds 3] [ATTACK ...]

The module is build/ngx_http_idempotency_module.so, or IDEMPOTENCY_MODULE. An attacker and a victim use one nginx with one worker
in front of one application. The victim sends one request after the other, each with a new key. For each attack, the table has
the victim's median (p50) and 99th percentile (p99) in milliseconds with the attack, and their ratio to those without it: for nginx
with the module, and for nginx without it under the same load of the same clients. The rounds take turns, and the median of them
counts, so that other work on the machine meets both.

    idle        no attack
    new_keys    32 connections that send requests with new keys
    one_key     32 connections that send requests with one key
    large       8 connections that fetch responses of 1 MB, with 64 keys (new keys would only fill the store)
    waiters     1,000 duplicates of one running request (`idempotency_conflict wait`)
    slow        200 clients that request a response of 1 MB and do not read it
    chosen      8 connections that send 6,000 keys chosen so that 12 bits of their identity are equal, in a zone of 16 MB: with
                them, they share a bucket of a zone that takes its buckets from the identity
"""

import argparse
import asyncio
import hashlib
import os
import shutil
import statistics
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, HERE + '/../tools')
from torture_servers import find_program, free_ports, kill_process, start_process, until

CONFIGURATION = '''
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log error;
{user}
{load}
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    keepalive_requests 1000000;
    {store}
    upstream application {{ server unix:{directory}/app.sock; keepalive 64; }}
    server {{
        listen unix:{directory}/http.sock;
        {cover}
        location / {{ proxy_pass http://application; }}
        location /chosen {{ {small} proxy_pass http://application; }}
        location /held {{ proxy_pass http://unix:{directory}/held.sock; }}
    }}
    server {{
        listen unix:{directory}/app.sock;
        location / {{ return 201 created; }}
        location /large {{ alias {directory}/large; }}
    }}
}}
'''
COVER = 'idempotency main; idempotency_scope $http_x_api_key; idempotency_conflict wait 30s; idempotency_max_body 2m; idempotency_methods POST PUT GET;'
ATTACKS = ('idle', 'new_keys', 'one_key', 'large', 'waiters', 'slow', 'chosen')


def identity_function(scope):
    """Gives the identity of a key (docs/format.md) with this value of the scope."""
    start = hashlib.sha256(b'S\1' + len(scope).to_bytes(8, 'big') + scope + b'K')

    def identity_of(key):
        digest = start.copy()
        digest.update(key)
        return digest.digest()

    return identity_of


def chosen_keys(count):
    """Keys of the attacker whose identities have the same 12 bits at the end of their first 8 bytes."""
    if identity_function(b'YOUR_API_KEY')(b'uuid-abc-123')[:4].hex() != '71a29430':
        raise SystemExit('the identity differs from the first one in docs/format.md')
    identity_of = identity_function(b'attacker')
    keys = []
    number = 0
    while len(keys) < count:
        number += 1
        key = b'%x' % number
        identity = identity_of(key)
        if identity[7] == 0 and identity[6] & 15 == 0:
            keys.append(key.decode())
    return keys


class Client:
    """One connection with keep-alive."""

    def __init__(self, path, name):
        self.path = path
        self.name = name
        self.reader = None
        self.writer = None

    def request(self, uri, key, method='POST'):
        return ('%s %s HTTP/1.1\r\nHost: x\r\nX-API-Key: %s\r\nIdempotency-Key: %s\r\nContent-Length: 0\r\n\r\n'
                % (method, uri, self.name, key)).encode()

    async def connect(self):
        self.reader, self.writer = await asyncio.open_unix_connection(self.path)

    async def ask(self, uri, key, method='POST'):
        if self.writer is None:
            await self.connect()
        self.writer.write(self.request(uri, key, method))
        head = await self.reader.readuntil(b'\r\n\r\n')
        length = next(int(line[15:]) for line in head.split(b'\r\n') if line.lower().startswith(b'content-length:'))
        await self.reader.readexactly(length)
        return int(head.split(b' ', 2)[1])


class Attack:
    def __init__(self, path, kind):
        self.path = path
        self.kind = kind
        self.tasks = []
        self.number = 0
        self.keys = []
        if kind == 'chosen':
            with open(os.path.dirname(path) + '/../chosen', encoding='ascii') as file:
                self.keys = file.read().split()

    def next_key(self):
        self.number += 1
        if self.kind == 'chosen':
            return self.keys[self.number % len(self.keys)]
        number = self.number % 64 if self.kind in ('large', 'slow') else self.number
        return 'attack-%d-%d' % (os.getpid(), number)

    async def send(self, uri, method, key):
        client = Client(self.path, 'attacker')
        while True:
            try:
                await client.ask(uri, key or self.next_key(), method)
            except (OSError, asyncio.IncompleteReadError):
                client = Client(self.path, 'attacker')

    async def hold(self, uri, method, key):
        client = Client(self.path, 'attacker')
        client.reader, client.writer = await asyncio.open_unix_connection(self.path, limit=1)
        client.writer.write(client.request(uri, key or self.next_key(), method))
        await asyncio.Event().wait()

    def start(self):
        count, how, uri, method, key = {
            'idle': (0, None, None, None, None),
            'new_keys': (32, self.send, '/', 'POST', None),
            'one_key': (32, self.send, '/', 'POST', 'one'),
            'large': (8, self.send, '/large', 'GET', None),
            'waiters': (1000, self.hold, '/held', 'POST', 'held-%d' % os.getpid()),
            'slow': (200, self.hold, '/large', 'GET', None),
            'chosen': (8, self.send, '/chosen', 'POST', None),
        }[self.kind]
        self.tasks = [asyncio.ensure_future(how(uri, method, key)) for _ in range(count)]

    async def run(self):
        self.start()
        await asyncio.gather(*self.tasks)


async def measure(path, kind, seconds):
    """The times of the victim's requests under the attack."""
    # a process of its own: its work is not that of the victim
    attack = start_process([sys.executable, os.path.abspath(__file__), '--attack', kind, path], os.devnull) if kind != 'idle' else None
    await asyncio.sleep(1.5)
    victim = Client(path, 'victim')
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        at = time.monotonic()
        if await victim.ask('/chosen' if kind == 'chosen' else '/', 'victim-%s-%d-%f' % (kind, len(times), at)) != 201:
            raise SystemExit('%s: the victim was refused' % kind)
        times.append(time.monotonic() - at)
        await asyncio.sleep(0.001)
    kill_process(attack)
    victim.writer.close()
    return sorted(times)


class Nginx:
    def __init__(self, directory, name, load='', store='', cover='', small=''):
        self.directory = '%s/%s' % (directory, name)
        os.mkdir(self.directory)
        with open(self.directory + '/large', 'wb') as large:
            large.write(b'x' * (1 << 20))
        with open(self.directory + '/nginx.conf', 'w', encoding='utf-8') as conf:
            conf.write(CONFIGURATION.format(directory=self.directory, load=load, store=store, cover=cover, small=small,
                                            user='user root;' if os.geteuid() == 0 else ''))
        self.path = self.directory + '/http.sock'
        self.process = None
        self.held = None

    async def start(self):
        self.held = await asyncio.start_unix_server(lambda reader, writer: None, self.directory + '/held.sock', backlog=2048)
        nginx = os.environ.get('TEST_NGINX_BINARY') or find_program('nginx')
        self.process = start_process([nginx, '-p', self.directory, '-c', self.directory + '/nginx.conf', '-e', self.directory + '/error.log'],
                                     self.directory + '/output')
        await until(lambda: os.path.exists(self.path), 60, 'nginx')


async def compare(options, directory):
    module = os.path.abspath(os.environ.get('IDEMPOTENCY_MODULE') or HERE + '/../build/ngx_http_idempotency_module.so')
    redis = None
    store = 'memory 1g;'
    if options.store == 'redis':
        port = free_ports(1)[0]
        redis = start_process([find_program('redis-server', 'valkey-server'), '--port', str(port), '--save', ''], directory + '/redis.output')
        store = 'redis redis://127.0.0.1:%d;' % port
    with open(directory + '/chosen', 'w', encoding='ascii') as file:
        file.write('\n'.join(chosen_keys(6000)))
    with_module = Nginx(directory, 'with', 'load_module %s;' % module,
                        'idempotency_store main { %s } idempotency_store small { memory 16m; }' % store, COVER, 'idempotency small;')
    without = Nginx(directory, 'without')
    try:
        for nginx in (with_module, without):
            await nginx.start()
        await run(options, with_module, without)
    finally:
        for process in (with_module.process, without.process, redis):
            kill_process(process)


async def run(options, with_module, without):
    print('| attack | with: p50 | p99 | ratio p50 | p99 | without: p50 | p99 | ratio p50 | p99 |')
    print('| --- | --- | --- | --- | --- | --- | --- | --- | --- |')
    base = {}
    for kind in ['idle'] + [kind for kind in options.attacks or ATTACKS if kind != 'idle']:
        found = {nginx: [] for nginx in (with_module, without)}
        for _ in range(options.rounds):
            for nginx in found:
                times = await measure(nginx.path, kind, options.seconds)
                found[nginx].append((times[len(times) // 2] * 1000, times[int(len(times) * 0.99)] * 1000))
        cells = []
        for nginx in found:
            p50, p99 = (statistics.median(values) for values in zip(*found[nginx]))
            base.setdefault(nginx, (p50, p99))
            cells += ['%.2f' % p50, '%.2f' % p99, '%.1f' % (p50 / base[nginx][0]), '%.1f' % (p99 / base[nginx][1])]
        print('| %s | %s |' % (kind, ' | '.join(cells)), flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    arguments.add_argument('attacks', nargs='*', metavar='ATTACK', help='these alone: ' + ', '.join(ATTACKS))
    arguments.add_argument('--seconds', type=float, default=5)
    arguments.add_argument('--rounds', type=int, default=3)
    arguments.add_argument('--store', choices=('memory', 'redis'), default='memory')
    arguments.add_argument('--attack', nargs=2, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.attack:
        asyncio.run(Attack(options.attack[1], options.attack[0]).run())
        return
    directory = tempfile.mkdtemp(prefix='fairness')
    try:
        asyncio.run(compare(options, directory))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == '__main__':
    main()
