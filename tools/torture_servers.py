"""The Redis servers of tools/torture: a single server, a master with sentinels, or a cluster.

nginx reaches each Redis only over the relay (torture-relay.py). The sentinels, and a server that nobody should use, are in
torture-sentinels.py.
"""

import asyncio
import ctypes
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PASSWORD = 'torture-password'
SLOTS = 16384


class Failure(Exception):
    """The run itself failed."""


class RedisError(Exception):
    """An error reply."""


# Processes

def die_with_parent(signal_number):
    prctl = ctypes.CDLL(None).prctl

    def prepare():
        prctl(1, signal_number)     # PR_SET_PDEATHSIG
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return prepare


def start_process(command, output, signal_number=signal.SIGKILL, **environment):
    # a sanitizer would make something else of a SIGSEGV
    sanitizer = ':'.join(filter(None, [os.environ.get('ASAN_OPTIONS'), 'handle_segv=0']))
    with open(output, 'ab') as out:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                env=dict(os.environ, ASAN_OPTIONS=sanitizer, **environment), start_new_session=True,
                                preexec_fn=die_with_parent(signal_number))


def kill_process(process):
    """The process with all its group."""
    if process is None:
        return
    for number in (signal.SIGCONT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
    process.wait()


async def until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failure('waited in vain for ' + what)
        await asyncio.sleep(0.02)


def find_program(*names):
    for name in names:
        path = shutil.which(name, path=os.environ.get('PATH', '') + ':/usr/sbin:/usr/bin:/usr/local/bin')
        if path:
            return path
    raise Failure('not installed: ' + ' or '.join(names))


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(('127.0.0.1', 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class ShiftedClock:
    """The clock of the processes in which t/lib/shifted_clock.c is preloaded."""

    def __init__(self, directory):
        self.library = directory + '/shifted_clock.so'
        self.control = directory + '/clock'
        self.seconds = 0
        self.set(0)
        built = subprocess.run([find_program('cc', 'gcc', 'clang'), '-shared', '-fPIC', '-O1', '-o', self.library,
                                HERE + '/../t/lib/shifted_clock.c'], stderr=subprocess.PIPE, check=False)
        if built.returncode != 0:
            raise Failure(built.stderr.decode())

    def set(self, seconds):
        self.seconds = seconds
        with open(self.control, 'r+b' if os.path.exists(self.control) else 'wb') as control:
            control.write(struct.pack('iiq', 0, 0, seconds))

    def environment(self):
        return {'LD_PRELOAD': self.library, 'FAULT_CONTROL': self.control}


# Redis

async def read_reply(reader):
    line = await reader.readline()
    if not line.endswith(b'\r\n'):
        raise ConnectionError('closed')
    kind, rest = line[:1], line[1:-2]
    if kind == b'-':
        return RedisError(rest.decode())
    if kind == b':':
        return int(rest)
    if kind == b'$':
        return (await reader.readexactly(int(rest) + 2))[:-2] if rest != b'-1' else None
    if kind == b'*':
        return [await read_reply(reader) for _ in range(int(rest))]
    return rest


def encode_command(words):
    encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b'*%d\r\n' % len(encoded) + b''.join(b'$%d\r\n%s\r\n' % (len(word), word) for word in encoded)


class Redis:
    """One Redis process. It loses nothing that it has confirmed."""

    def __init__(self, directory, name, clock, port=0, options=(), password=None):
        self.directory = '%s/%s' % (directory, name)
        os.mkdir(self.directory)
        self.socket = self.directory + '/redis.sock'
        self.clock = clock
        self.port = port
        self.options = list(options)
        self.password = password
        self.process = None

    def start(self, *options):
        command = [find_program('redis-server', 'valkey-server'), '--port', self.port, '--bind', '127.0.0.1',
                   '--unixsocket', self.socket, '--dir', self.directory, '--save', '', '--appendonly', 'yes',
                   '--appendfsync', 'always', '--maxmemory-policy', 'noeviction'] + self.options + list(options)
        if self.password:
            command += ['--requirepass', self.password, '--masterauth', self.password]
        self.process = start_process([str(word) for word in command], self.directory + '/redis.output',
                                     **(self.clock.environment() if self.clock is not None else {}))

    async def answers(self, *words, expected=b'PONG'):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Failure('redis has ended by itself')
            reply = await self.command(*(words or ('PING',)))
            if isinstance(reply, bytes) and expected in reply:
                return
            await asyncio.sleep(0.02)
        raise Failure('redis does not reply')

    async def commands(self, *lines):
        """The replies; None if there is none."""
        writer = None
        try:
            reader, writer = await asyncio.open_unix_connection(self.socket)
            lines = ([('AUTH', self.password)] if self.password else []) + list(lines)
            writer.write(b''.join(encode_command(words) for words in lines))

            async def read():
                return [await read_reply(reader) for _ in lines]
            return (await asyncio.wait_for(read(), 2))[1 if self.password else 0:]
        except (OSError, EOFError, asyncio.TimeoutError):
            return None
        finally:
            if writer is not None:
                writer.close()

    async def command(self, *words):
        """Its reply, or None if there is none."""
        replies = await self.commands(words)
        return replies[0] if replies else None

    async def insist(self, *words):
        """A Redis that is stalled carries it out later."""
        while await self.command(*words) is None:
            await asyncio.sleep(0.1)

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        kill_process(self.process)


class Controlled:
    """A process that takes commands, as lines, over a unix socket."""

    def __init__(self, directory, name, *arguments):
        self.name = name
        self.control = '%s/%s.control' % (directory, name)
        self.history = '%s/%s.jsonl' % (directory, name)
        self.process = start_process([sys.executable, '%s/torture-%s.py' % (HERE, name), self.control, self.history]
                                     + [str(argument) for argument in arguments], '%s/%s.output' % (directory, name))

    def is_ready(self):
        return os.path.exists(self.control)

    async def command(self, *words):
        """The words of the reply."""
        reader, writer = await asyncio.open_unix_connection(self.control)
        writer.write(' '.join(str(word) for word in words).encode() + b'\n')
        reply = (await reader.readline()).decode().split()
        writer.close()
        if not reply:
            raise Failure('the %s has ended' % self.name)
        return reply

    async def span(self, *words):
        """When what was wanted began and ended, or nothing if it did not happen."""
        reply = await self.command(*words)
        return (float(reply[1]), float(reply[2])) if reply[0] == 'ok' else None


# Topologies

class Standalone:
    """One Redis behind the relay."""

    name = 'standalone'

    def __init__(self, directory, clock):
        self.directory = directory
        self.chance = random.Random(1)
        self.lock = asyncio.Lock()      # one server at a time is killed, stalled, or gives its data away
        self.nodes = [Redis(directory, 'redis', clock)]
        self.relay = None
        self.others = []                # other processes of the topology

    def store(self):
        """The directives of the store for nginx."""
        return 'redis unix:%s/relay.sock;' % self.directory

    def routes(self):
        return ['%s/relay.sock=%s' % (self.directory, self.nodes[0].socket)]

    async def start(self):
        for node in self.nodes:
            self.start_node(node)
        for node in self.nodes:
            await node.answers()
        self.relay = Controlled(self.directory, 'relay', *self.routes())
        await until(self.relay.is_ready, 10, 'the relay')
        await self.connect()

    async def connect(self):
        pass

    def start_node(self, node):
        node.start()

    async def restart(self, node):
        self.start_node(node)
        await node.answers()

    def any_node(self):
        return self.chance.choice(self.nodes)

    def processes(self):
        return [server.process for server in self.nodes + self.others + [self.relay] if server is not None]

    def histories(self):
        return [server.history for server in self.others + [self.relay] if server is not None]


class Sentinel(Standalone):
    """A master, a replica, and three sentinels, at most one of which lies at a time.

    A failover loses nothing (the command FAILOVER): Redis itself does not promise that for other failovers.
    """

    name = 'sentinel'

    def __init__(self, directory, clock):
        super().__init__(directory, clock)
        self.nodes = [Redis(directory, 'redis%d' % number, clock, port, ['--repl-diskless-sync-delay', 0, '--repl-timeout', 3600],
                            PASSWORD) for number, port in enumerate(free_ports(2))]
        self.master = self.nodes[0]
        self.relayed = free_ports(2)
        self.sentinels = None
        self.ports = []

    def start_node(self, node):
        node.start(*([] if node is self.master else ['--replicaof', '127.0.0.1 %d' % self.master.port]))

    def routes(self):
        return ['%d=%s' % (port, node.socket) for port, node in zip(self.relayed, self.nodes)]

    async def connect(self):
        self.sentinels = Controlled(self.directory, 'sentinels', *self.relayed)
        self.others.append(self.sentinels)
        await until(self.sentinels.is_ready, 10, 'the sentinels')
        self.ports = (await self.sentinels.command('ports'))[1:]

    def store(self):
        urls = ' '.join('redis://127.0.0.1:%s' % port for port in self.ports)
        return 'redis %s; topology sentinel shop; password %s;' % (urls, PASSWORD)

    async def fail_over(self):
        """Whether the replica has become the master."""
        target = self.nodes[1 - self.nodes.index(self.master)]
        if await self.master.command('FAILOVER', 'TO', '127.0.0.1', target.port, 'TIMEOUT', 3000) != b'OK':
            return False
        if not await self.await_master(target):
            return False
        await asyncio.sleep(self.chance.uniform(0, 0.5))
        self.master = target
        await self.sentinels.command('master', self.nodes.index(target))
        return True

    async def await_master(self, target):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            # in this order: the state changes last
            state = await self.master.command('INFO', 'replication')
            roles = [await node.command('ROLE') for node in (self.master, target)]
            if all(isinstance(role, list) for role in roles) and isinstance(state, bytes):
                if roles[1][0] == b'master' and roles[0][0] == b'slave':
                    return True
                if roles[0][0] == b'master' and b'master_failover_state:no-failover' in state:
                    return False
            await asyncio.sleep(0.05)
        raise Failure('FAILOVER does not end')


class Cluster(Standalone):
    """Three masters, and a replica of the first one.

    As with sentinels, a failover loses nothing (CLUSTER FAILOVER), and no node becomes a master by itself.
    """

    name = 'cluster'

    def __init__(self, directory, clock):
        super().__init__(directory, clock)
        all_ports = free_ports(12)
        ports, self.buses, self.relayed = all_ports[:4], all_ports[4:8], all_ports[8:]
        self.nodes = [
            Redis(directory, 'redis%d' % number, clock, port, [
                '--cluster-enabled', 'yes', '--cluster-config-file', 'nodes.conf', '--cluster-port', bus,
                '--cluster-announce-ip', '127.0.0.1', '--cluster-announce-port', relayed, '--cluster-announce-bus-port', bus,
                '--cluster-require-full-coverage', 'no', '--cluster-replica-no-failover', 'yes',
                '--cluster-node-timeout', 100000, '--cluster-allow-replica-migration', 'no',
                '--repl-diskless-sync-delay', 0, '--repl-timeout', 3600], PASSWORD)
            for number, (port, bus, relayed) in enumerate(zip(ports, self.buses, self.relayed))]

    def routes(self):
        return ['%d=%s' % (port, node.socket) for port, node in zip(self.relayed, self.nodes)]

    def store(self):
        urls = ' '.join('redis://127.0.0.1:%d' % port for port in self.relayed[:2])
        return 'redis %s; topology cluster; password %s;' % (urls, PASSWORD)

    async def connect(self):
        first = self.nodes[0]
        for number, node in enumerate(self.nodes[:3]):
            await node.command('CLUSTER', 'ADDSLOTSRANGE', SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1)
            await node.command('CLUSTER', 'SET-CONFIG-EPOCH', number + 1)
        for node, bus in list(zip(self.nodes, self.buses))[1:]:
            await first.command('CLUSTER', 'MEET', '127.0.0.1', node.port, bus)
        identity = await first.command('CLUSTER', 'MYID')
        deadline = time.monotonic() + 30
        while await self.nodes[3].command('CLUSTER', 'REPLICATE', identity) != b'OK':
            if time.monotonic() > deadline:
                raise Failure('the nodes of the cluster do not meet')
            await asyncio.sleep(0.1)
        for node in self.nodes:
            await node.answers('CLUSTER', 'INFO', expected=b'cluster_state:ok')
            await node.answers('CLUSTER', 'INFO', expected=b'cluster_known_nodes:4')

    async def restart(self, node):
        await super().restart(node)
        await node.answers('CLUSTER', 'INFO', expected=b'cluster_state:ok')

    async def is_master(self, node):
        role = await node.command('ROLE')
        return isinstance(role, list) and role[0] == b'master'

    async def fail_over(self):
        """Whether the replica of a shard has become its master."""
        for node in self.nodes:
            if not await self.is_master(node):
                if await node.command('CLUSTER', 'FAILOVER') != b'OK':
                    return False
                # it gives up after 5 seconds; a jump of the clock may end it at once. The old master learns of it later
                deadline = time.monotonic() + 15
                while time.monotonic() < deadline:
                    if await self.is_master(node) and len(await self.masters()) == 3:
                        return True
                    await asyncio.sleep(0.05)
                return False
        return False

    async def masters(self):
        return [node for node in self.nodes if await self.is_master(node)]

    async def move_slots(self, count):
        """From one master to another one, with all their keys."""
        masters = await self.masters()
        if len(masters) != 3:
            return False
        source, target = self.chance.sample(masters, 2)
        identities = [await node.command('CLUSTER', 'MYID') for node in (source, target)]
        nodes = await source.command('CLUSTER', 'NODES')
        if None in identities or not isinstance(nodes, bytes):
            return False
        slots = self.slots_of(nodes, identities[0])
        first = self.chance.randrange(max(1, len(slots) - count))
        for slot in slots[first:first + count]:
            await self.move_slot(slot, source, target, masters, identities)
        return True

    @staticmethod
    def slots_of(nodes, identity):
        slots = []
        for line in nodes.decode().splitlines():
            words = line.split()
            if words[0].encode() == identity:
                for span in words[8:]:
                    if not span.startswith('['):
                        first, _, last = span.partition('-')
                        slots += range(int(first), int(last or first) + 1)
        return slots

    async def move_slot(self, slot, source, target, masters, identities):
        async def insist(node, *words):
            deadline = time.monotonic() + 30
            while True:
                reply = await node.command(*words)
                if reply is not None and not isinstance(reply, RedisError):
                    return reply
                if time.monotonic() > deadline:
                    raise Failure('%s: %r' % (' '.join(str(word) for word in words[:3]), reply))
                await asyncio.sleep(0.1)

        await insist(target, 'CLUSTER', 'SETSLOT', slot, 'IMPORTING', identities[0])
        await insist(source, 'CLUSTER', 'SETSLOT', slot, 'MIGRATING', identities[1])
        while keys := await insist(source, 'CLUSTER', 'GETKEYSINSLOT', slot, 10):
            await insist(source, 'MIGRATE', '127.0.0.1', target.port, '', 0, 5000, 'REPLACE', 'AUTH', PASSWORD, 'KEYS', *keys)
        for node in [target, source] + [node for node in masters if node not in (source, target)]:
            await insist(node, 'CLUSTER', 'SETSLOT', slot, 'NODE', identities[1])


TOPOLOGIES = {topology.name: topology for topology in (Standalone, Sentinel, Cluster)}
