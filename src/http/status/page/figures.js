// What the figures of the JSON mean: differences, rates and problems. Nothing in here uses the document.
'use strict';

// [what is wrong, what to do]
const CAUSES = {
    timeout: ['it does not reply in time', 'Look at its load, at slow commands and at the network; see timeout.'],
    connection: ['it can\'t be reached', 'Check that it runs, its address, the network and TLS.'],
    oom: ['Redis refuses writes: OOM', 'Raise maxmemory, or keep responses for a shorter time.'],
    readonly: ['Redis refuses writes: READONLY, it is a replica', 'Send nginx to the master: topology sentinel or cluster.'],
    noperm: ['Redis refuses commands: NOPERM', 'Give the ACL user the commands and keys that the module needs.'],
    noauth: ['Redis refuses the user or the password', 'Check user, password and password_file.'],
    noscript: ['Redis does not keep the scripts: NOSCRIPT', 'Check that EVAL is allowed.'],
    moved: ['the Redis cluster does not serve the slots of the keys', 'Check the state of the cluster, and topology.'],
    loading: ['Redis is loading its data', 'It is available when it has read its data.'],
    misconf: ['Redis refuses writes: MISCONF, it can\'t save to disk', 'Check the disk of Redis.'],
    replicas: ['too few replicas confirm writes', 'Check the replicas; see wait_replicas.'],
    error: ['Redis replies with an error', 'The error log of nginx has its text.'],
    full: ['the memory is full', 'Enlarge memory, or keep responses for a shorter time.'],
    refused_value: ['Redis does not take a value of this size', 'Lower idempotency_max_body, or raise proto-max-bulk-len.'],
    corrupt: ['the value of a key can\'t be read', 'Check encryption_key_file on all hosts, and whether others write to these keys.'],
    no_memory: ['nginx has no memory', 'Check the memory of this host.'],
};

const REQUESTS = {
    new: 'new: sent to the application',
    replayed: 'replayed',
    in_progress: '409: the first request still ran',
    reused: '422: the key was used for another request',
    missing: '400: no key',
    invalid: '400: invalid key',
    unknown: '409 or 502: unknown outcome',
    not_kept: '409: the response was not kept',
    store_error: 'error of the store',
    bypass: 'bypassed',
    unscoped: 'no scope: not covered, or 400',
    quota: '429: too many new keys',
};

const REFUSED = ['in_progress', 'reused', 'missing', 'invalid', 'unknown', 'not_kept', 'store_error', 'quota'];

const RESULTS = { kept: 'kept', not_kept: 'not kept', released: 'released', unknown: 'unknown' };

const REASONS = {
    size: 'the response is too large',
    store: 'the store did not take the response',
    stream: 'a stream that broke off',
    word: 'the application said so',
    status: 'the status is retriable',
    unsent: 'the application did not get the request',
    policy: 'unknown outcome, and idempotency_unknown release',
    refused: 'nginx refused the request',
    upgrade: 'the connection was upgraded',
};

const OBSERVED = {
    undecided: 'not known: the body was not read to its end',
    equal: 'a replay would have been equal',
    different: 'a replay would have differed',
    not_compared: 'a replay: the responses could not be compared',
    status: 'differed in the status',
    fields: 'differed in the headers',
    body: 'differed in the body',
};

const EVENTS = {
    lost: 'claim lost while its request ran',
    reclaimed: 'claim was lost in the store, and made again',
    fenced: 'response came after its claim was lost: not kept',
    unkept: 'response delivered before it was kept',
    unrecorded: 'outcome not recorded: a retry may be executed again',
    unknown: 'outcome unknown: retries get 409',
    not_kept: 'store did not take the response',
    late_grant: 'claim granted too late, and released',
    corrupt: 'value of the key can\'t be read',
    refused: 'store began to refuse calls',
};

const number = (value) => (typeof value === 'number' && Number.isFinite(value) ? value : 0);
const text = (table, name) => (Object.hasOwn(table, name) ? table[name] : String(name));
const sum = (counts, names) => names.reduce((total, name) => total + number(counts?.[name]), 0);
const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

function count(value) {
    return new Intl.NumberFormat('en').format(Math.round(value));
}

function short(value, digits = 3) {
    return new Intl.NumberFormat('en', { maximumSignificantDigits: digits, notation: value >= 1e5 ? 'compact' : 'standard' }).format(value);
}

function bytes(value) {
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
    let i = 0;
    for (; value >= 1024 && i < units.length - 1; i++) value /= 1024;
    return `${short(value)} ${units[i]}`;
}

function seconds(value) {
    if (value === 0) return '0 s';
    if (value < 0.001) return `${short(value * 1e6)} µs`;
    if (value < 1) return `${short(value * 1e3)} ms`;
    if (value < 120) return `${short(value)} s`;
    if (value < 7200) return `${Math.round(value / 60)} min`;
    return value < 172800 ? `${Math.round(value / 3600)} h` : `${Math.round(value / 86400)} days`;
}

// A time of the day, with the date unless it is the day of `now`.
function clock(time, now, withSeconds = false) {
    const date = new Date(time * 1000);
    const two = (n) => String(n).padStart(2, '0');
    const hours = `${two(date.getHours())}:${two(date.getMinutes())}${withSeconds ? `:${two(date.getSeconds())}` : ''}`;
    if (date.toDateString() === new Date(now * 1000).toDateString()) return hours;
    return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${hours}`;
}

// What is wrong: { level: 'bad' or 'warn', store, what, todo }, the worst first.
function problemsOf(page) {
    const problems = [];
    const now = page.time;

    for (const [store, s] of Object.entries(page.stores)) {
        const add = (level, what, todo = '') => problems.push({ level, store, what, todo });
        const { health } = s;

        if (!health.ok) {
            const [what, todo] = CAUSES[health.cause] ?? [health.cause ? String(health.cause) : 'calls fail', ''];
            const since = health.since ? `, since ${clock(health.since, now)}` : '';
            const isPart = health.workers_up > 0 && health.workers_up < health.workers && (health.cause ?? 'connection') === 'connection';
            const effect = isPart ? '503 for the new keys of some workers' : '503 for every new key';
            add('bad', `${what}${since}; ${effect}`, `${todo} (Where idempotency_store_error is pass, requests go through without protection instead.)`);
        }
        if (health.workers_up < health.workers && health.workers_up > 0) {
            add('warn', `${plural(health.workers - health.workers_up, 'worker')} of ${count(health.workers)} can't reach it`, 'The error log of nginx says why.');
        }
        if (number(s.pending_outcomes) > 0) {
            add('warn', `${plural(s.pending_outcomes, 'outcome')} could not be recorded yet: retries of these keys get a 409 or 503 until then`, 'nginx tries again by itself.');
        }

        const used = number(s.memory_size_bytes) > 0 ? number(s.memory_used_bytes) / s.memory_size_bytes : 0;
        if (typeof s.memory_full_seconds === 'number' && s.memory_full_seconds < 3600) {
            add('warn', `the memory will be full in ${seconds(s.memory_full_seconds)} if it goes on growing like this`, CAUSES.full[1]);
        } else if (used >= 0.9) {
            add('warn', `${Math.floor(used * 100)} % of the memory is used`, CAUSES.full[1]);
        }

        for (const node of s.nodes ?? []) {
            if (!node.up) add('warn', `the server ${node.node} can't be reached`, CAUSES.connection[1]);
            if (node.info?.evicts) {
                add('warn', `the server ${node.node} may remove keys before their time: maxmemory-policy ${node.info.maxmemory_policy}`, 'Set maxmemory-policy noeviction.');
            }
            const { used_memory_bytes: usedMemory, maxmemory_bytes: most } = node.info ?? {};
            if (number(most) > 0 && usedMemory / most >= 0.9) {
                add('warn', `the server ${node.node} uses ${Math.floor((usedMemory / most) * 100)} % of maxmemory`, CAUSES.oom[1]);
            }
        }

        const recent = new Map();
        for (const event of s.events ?? []) {
            if (now - event.time < 600 && event.event !== 'refused') recent.set(event.event, [...(recent.get(event.event) ?? []), event]);
        }
        for (const [name, events] of recent) {
            const level = name === 'unrecorded' || name === 'lost' ? 'bad' : 'warn';
            add(level, `${text(EVENTS, name)}: ${plural(events.length, 'key')} in the last 10 minutes, the last one at ${clock(events[0].time, now)}`, 'The key ids are in the list of events of the store.');
        }
    }

    return problems.sort((a, b) => (a.level === b.level ? 0 : a.level === 'bad' ? -1 : 1));
}

// The `share` quantile of the calls between two moments, in seconds; null without calls.
function quantile(share, before, after) {
    const bounds = Object.keys(after?.buckets ?? {}).map((name) => [Number(name), name]).sort((a, b) => a[0] - b[0]);
    const total = number(after?.count) - number(before?.count);
    if (total <= 0) return null;

    let lower = 0;
    let counted = 0;
    for (const [bound, name] of bounds) {
        const upTo = number(after.buckets[name]) - number(before?.buckets?.[name]);
        if (upTo >= share * total) {
            return upTo > counted ? lower + (bound - lower) * ((share * total - counted) / (upTo - counted)) : bound;
        }
        lower = bound;
        counted = upTo;
    }
    return lower; // longer than the last bound
}

// What the charts draw: the values of one store between two answers. Null where there is none.
function sampleOf(before, after, elapsed) {
    const rate = (read) => {
        const difference = before ? read(after) - read(before) : -1;
        return difference >= 0 && elapsed > 0 ? difference / elapsed : null; // nginx was started anew
    };
    const claim = (share) => (before ? quantile(share, before.store_call_seconds?.claim, after.store_call_seconds?.claim) : null);
    const size = number(after.memory_size_bytes);

    return {
        fresh: rate((s) => number(s.requests?.new)),
        replayed: rate((s) => number(s.requests?.replayed)),
        refused: rate((s) => sum(s.requests, REFUSED)),
        median: claim(0.5),
        slow: claim(0.99),
        running: number(after.claims_running),
        waiting: number(after.waiting_requests),
        used: size > 0 ? (100 * number(after.memory_used_bytes)) / size : null,
    };
}
