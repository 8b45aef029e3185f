// Draws the page from the JSON of the same location, again and again. All texts are set as text, never as markup.

const EVERY = 2; // seconds
const KEPT = 600; // seconds

const SVG = 'http://www.w3.org/2000/svg';
const samples = new Map(); // store => [{ time, sample, requests }]
let last = null; // the last answer
let previous = null; // the one before, for the differences
let failure = null; // why there is no newer one
let paused = false;
let timer = null;

function element(name, attributes, ...children) {
    const isSvg = ['svg', 'path', 'line'].includes(name);
    const made = isSvg ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes ?? {})) {
        if (value !== false && value !== null) made.setAttribute(key, value === true ? '' : String(value));
    }
    made.append(...children.flat(9).filter((child) => child !== null));
    return made;
}

// Makes the children of `old` equal to those of `fresh`, and keeps what is equal: so focus, selection and scrolling stay.
function patch(old, fresh) {
    const wanted = [...fresh.childNodes];
    while (old.childNodes.length > wanted.length) old.lastChild.remove();

    wanted.forEach((node, i) => {
        const there = old.childNodes[i];
        if (!there) {
            old.append(node);
        } else if (there.nodeName !== node.nodeName || there.id !== node.id) {
            there.replaceWith(node);
        } else if (node.nodeType === Node.TEXT_NODE) {
            if (there.data !== node.data) there.data = node.data;
        } else {
            for (const { name } of [...there.attributes]) if (!node.hasAttribute(name)) there.removeAttribute(name);
            for (const { name, value } of node.attributes) if (there.getAttribute(name) !== value) there.setAttribute(name, value);
            patch(there, node);
        }
    });
}

function show(id, ...children) {
    patch(document.getElementById(id), element('div', null, ...children));
}

// One line for each of `names`, which are members of the samples.
function chart(title, store, names, format) {
    const points = samples.get(store) ?? [];
    const end = last.time;
    const span = Math.max(60, end - (points[0]?.time ?? end));
    const values = points.flatMap((point) => names.map((name) => point.sample[name])).filter((value) => value !== null);
    const top = Math.max(...values, 0) || 1;
    const current = names.map((name) => points.at(-1)?.sample[name] ?? null).map((value) => (value === null ? '–' : format(value))).join(' / ');

    const paths = names.map((name, i) => {
        let pen = 'M';
        const d = points.map(({ time, sample }) => {
            if (sample[name] === null) {
                pen = 'M';
                return '';
            }
            const step = `${pen}${(300 - (300 * (end - time)) / span).toFixed(1)} ${(54 - (52 * sample[name]) / top).toFixed(1)}`;
            pen = 'L';
            return step;
        }).join('');
        return d ? element('path', { d, class: i > 0 ? 'second' : null }) : null;
    });
    const most = values.length > 0 ? `, at most ${format(Math.max(...values))} in the last ${seconds(span)}` : '';

    return element('figure', null,
        element('figcaption', null, element('span', null, title), element('b', null, current)),
        element('svg', { viewBox: '0 0 300 56', preserveAspectRatio: 'none', role: 'img', 'aria-label': `${title}: ${current.replaceAll('–', 'none')}${most}` },
            element('line', { x1: 0, y1: 55, x2: 300, y2: 55 }), paths));
}

// `head`: titles of the columns, or none. A cell that is a number is aligned to the right.
function table(id, caption, head, rows, wide = false) {
    if (rows.length === 0) return null;
    const isNumber = (i) => rows.every((row) => typeof row[i] === 'number' || row[i] === null);
    const shown = (value) => (typeof value === 'number' ? count(value) : value ?? '');

    return element('div', { class: wide ? 'scroll wide' : null, tabindex: wide ? 0 : null, role: wide ? 'region' : null, 'aria-labelledby': wide ? id : null },
        element('table', null,
            element('caption', { id }, caption),
            head ? element('thead', null, element('tr', null, head.map((title, i) => element('th', { scope: 'col', class: isNumber(i) ? 'number' : null }, title)))) : null,
            element('tbody', null, rows.map((row) => element('tr', null, row.map((value, i) => (i === 0
                ? element('th', { scope: 'row' }, shown(value))
                : element('td', { class: isNumber(i) || !head ? 'number' : null }, shown(value)))))))));
}

// The lines of a counter with a label that are not 0.
const lines = (table_, counts) => Object.entries(counts ?? {}).filter(([, n]) => n > 0).map(([name, n]) => [text(table_, name), n]);

function tablesOf(name, s, id) {
    const points = samples.get(name) ?? [];
    const recent = (status) => Math.max(0, number(s.requests?.[status]) - number(points[0]?.requests?.[status]));
    const requests = Object.keys(REQUESTS).filter((status) => number(s.requests?.[status]) > 0);
    const near = number(s.near_cache_hits) + number(s.near_cache_misses);

    return [
        table(`${id}-saved`, 'What is saved', null, [
            ['executions that the application was spared', number(s.executions_saved)],
            ['bytes replayed', bytes(number(s.replayed_bytes))],
            ['bytes kept', bytes(number(s.kept_bytes))],
            ...(near > 0 ? [['lookups answered by the near cache', `${Math.round((100 * number(s.near_cache_hits)) / near)} %`]] : []),
        ]),
        table(`${id}-full`, 'How full it is', null, [
            ...(number(s.memory_size_bytes) > 0 ? [
                ['memory used', `${bytes(s.memory_used_bytes)} of ${bytes(s.memory_size_bytes)}`],
                ['keys in memory', number(s.memory_keys)],
                ['full in', typeof s.memory_full_seconds === 'number' ? seconds(s.memory_full_seconds) : 'not in sight'],
            ] : []),
            ...(number(s.near_cache_size_bytes) > 0 ? [
                ['near cache used', `${bytes(s.near_cache_used_bytes)} of ${bytes(s.near_cache_size_bytes)}`],
                ['copies in the near cache', number(s.near_cache_keys)],
                ['copies evicted', number(s.near_cache_evictions)],
            ] : []),
            ...(s.nodes ?? []).filter((node) => node.info).map(({ node, info }) => [`memory of ${node}`,
                info.maxmemory_bytes > 0 ? `${bytes(info.used_memory_bytes)} of ${bytes(info.maxmemory_bytes)}` : `${bytes(info.used_memory_bytes)}, no maxmemory`]),
        ]),
        table(`${id}-now`, 'Running now', null, [
            ['claims', number(s.claims_running)],
            ['oldest claim', seconds(number(s.oldest_claim_seconds))],
            ['duplicates that wait', number(s.waiting_requests)],
            ['outcomes not recorded yet', number(s.pending_outcomes)],
        ]),
        table(`${id}-requests`, 'Requests', ['what happened', 'lately', 'in all'], [
            ...requests.map((status) => [REQUESTS[status], recent(status), s.requests[status]]),
            ...(number(s.requests_without_key) > 0 ? [['no key: not covered', null, s.requests_without_key]] : []),
        ]),
        table(`${id}-results`, 'Claims that have ended', ['how', 'in all'], [
            ...lines(RESULTS, s.results),
            ...lines(REASONS, s.not_kept).map(([reason, n]) => [`not kept: ${reason}`, n]),
            ...lines(REASONS, s.released).map(([reason, n]) => [`released: ${reason}`, n]),
            ...[['unkept_answers', 'delivered before they were kept'], ['lost_claims', 'claims lost'], ['reclaimed_claims', 'claims lost and made again'],
                ['late_results', 'too late, not kept'], ['unrecorded_outcomes', 'outcomes not recorded']]
                .filter(([member]) => number(s[member]) > 0).map(([member, what]) => [what, s[member]]),
        ]),
        table(`${id}-observed`, 'Observed: what would have happened', ['what', 'in all'], [
            ...lines({ ...REQUESTS, ...OBSERVED }, s.observed_requests),
            ...lines(OBSERVED, s.observed_replays),
            ...lines(OBSERVED, s.observed_differences),
        ]),
        table(`${id}-errors`, 'Calls to the store that failed', ['why', 'in all'],
            Object.entries(s.store_errors ?? {}).filter(([, n]) => n > 0).map(([cause, n]) => [CAUSES[cause]?.[0] ?? cause, n])),
        table(`${id}-nodes`, 'Redis servers', ['server', 'state', 'role', 'version', 'connections', 'in flight', 'reconnects', 'replicas', 'lag'],
            (s.nodes ?? []).map(({ node, up, info, ...n }) => [node, up ? 'up' : 'down', info?.role ?? '', info?.version ?? '', number(n.connections), number(n.in_flight),
                number(n.reconnects), info ? number(info.replicas) : null, info ? seconds(number(info.replica_lag_seconds)) : '']), true),
        table(`${id}-events`, 'Last events', ['time', 'what happened', 'why', 'key id'],
            (s.events ?? []).map((event) => [clock(event.time, last.time, true), text(EVENTS, event.event), event.cause ? CAUSES[event.cause]?.[0] ?? event.cause : '',
                event.key_id ? element('code', null, event.key_id) : '']), true),
    ];
}

function storeOf(name, s, i, problems) {
    const id = `store-${i}`;
    const level = problems.some((problem) => problem.store === name && problem.level === 'bad') ? 'bad'
        : problems.some((problem) => problem.store === name) ? 'warn' : 'good';
    const state = { bad: 'wrong', warn: 'look at it', good: 'works' }[level];
    const { health } = s;

    return element('section', { id, 'aria-labelledby': `${id}-title` },
        element('h2', { id: `${id}-title` }, element('span', { class: 'name' }, name), ' ', element('span', { class: `badge ${level}` }, state)),
        element('p', null, `${s.engine === 'redis' ? 'Redis' : 'shared memory'}; ${plural(health.workers, 'worker')}`,
            health.last_granted ? `; last new key at ${clock(health.last_granted, last.time, true)}` : '; no new key yet',
            health.last_refused ? `; last call refused at ${clock(health.last_refused, last.time, true)}` : ''),
        element('div', { class: 'charts' },
            chart('new requests a second', name, ['fresh'], short),
            chart('replays a second', name, ['replayed'], short),
            chart('refused a second', name, ['refused'], short),
            chart('claim latency, p50 / p99', name, ['median', 'slow'], seconds),
            chart('claims running / waiting', name, ['running', 'waiting'], count),
            number(s.memory_size_bytes) > 0 ? chart('memory used, %', name, ['used'], (value) => short(value, 2)) : null),
        element('div', { class: 'tables' }, tablesOf(name, s, id)));
}

function draw() {
    const problems = last ? problemsOf(last) : [];
    if (failure) problems.unshift({ level: 'bad', store: 'this page', what: `the figures can't be read: ${failure}${last ? `; those below are of ${clock(last.time, Date.now() / 1000, true)}` : ''}`, todo: '' });

    show('now', problems.length > 0
        ? element('ul', { class: 'problems' }, problems.map(({ level, store, what, todo }) => element('li', { class: level },
            element('span', { class: 'what' }, element('span', { class: 'name' }, store), `: ${what}.`), todo ? element('span', { class: 'do' }, todo) : null)))
        : element('p', { class: 'problems' }, Object.keys(last.stores).length > 0 ? 'All stores work.' : 'There is no store.'));
    document.title = problems.length > 0 ? `(${problems.length}) Idempotency` : 'Idempotency';
    document.getElementById('pause').setAttribute('aria-pressed', String(paused));
    if (!last) return;

    show('stores', Object.entries(last.stores).map(([name, s], i) => storeOf(name, s, i, problems)));
    show('host', [last.host, last.nginx_version && `nginx ${last.nginx_version}`, last.module_version && `module ${last.module_version}`,
        last.started && `counts since ${clock(last.started, last.time)}`].filter(Boolean).join(' · '));
    show('updated', `${clock(last.time, last.time, true)}${paused ? ', paused' : `, every ${EVERY} s`}`);
}

function remember(page) {
    [previous, last] = [last, page];
    for (const [name, s] of Object.entries(page.stores)) {
        const points = samples.get(name) ?? [];
        const before = previous?.stores[name];
        const elapsed = previous ? page.time - previous.time : 0;
        if (before && number(s.requests?.new) < number(before.requests?.new)) points.length = 0;
        points.push({ time: page.time, sample: sampleOf(before, s, elapsed), requests: s.requests });
        samples.set(name, points.filter(({ time }) => page.time - time <= KEPT));
    }
    for (const name of samples.keys()) if (!Object.hasOwn(page.stores, name)) samples.delete(name);
}

async function update() {
    clearTimeout(timer);
    try {
        const response = await fetch('?format=json', { cache: 'no-store', signal: AbortSignal.timeout(10000) });
        if (!response.ok) throw new Error(`status ${response.status}`);
        remember(await response.json());
        failure = null;
    } catch (error) {
        failure = error.message;
    }
    draw();
    if (!paused) timer = setTimeout(update, EVERY * 1000);
}

document.getElementById('pause').addEventListener('click', () => {
    paused = !paused;
    if (paused) {
        clearTimeout(timer);
        draw();
    } else {
        update();
    }
});

document.querySelector('.tools').hidden = false;
update();
