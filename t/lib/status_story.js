// What the page of idempotency_status is shown in tests and for the screenshots, in place of the JSON of an nginx: figures as
// docs/status.schema.json has them, of a time that runs fast. `await storyTold()` returns after `story.until` answers, `story`
// changes them. The store payments fails from 12:03 on, after 150 answers; `story.skipped` answers are left out at first.
'use strict';

const story = { answers: 0, skipped: 130, until: 40, failure: 0, change: (page) => page };
const storyStart = Date.UTC(2026, 10, 28, 11, 58, 0) / 1000;

function storyLatency(calls, middle) {
    const bounds = ['0.00005', '0.0001', '0.00025', '0.0005', '0.001', '0.0025', '0.005', '0.01', '0.025', '0.05', '0.1', '0.25', '0.5', '1', '2.5'];
    const share = (bound) => 1 / (1 + (middle / bound) ** 3);
    return { buckets: Object.fromEntries(bounds.map((bound) => [bound, Math.round(calls * share(bound))])), count: calls, sum: calls * middle };
}

const storyCalls = (calls, middle) => Object.fromEntries(['claim', 'settle', 'release', 'renew'].map((call) => [call, storyLatency(calls, middle)]));

const storyErrors = (more) => ({ ...Object.fromEntries(['timeout', 'connection', 'oom', 'readonly', 'noperm', 'noauth', 'noscript', 'moved', 'loading', 'misconf', 'replicas',
    'error', 'full', 'refused_value', 'corrupt', 'no_memory'].map((cause) => [cause, 0])), ...more });

function storyStore(n, more) {
    const wave = Math.round(n * 24 + 30 * Math.sin(n / 9) + 12 * Math.cos(n / 4));
    return {
        engine: 'redis',
        health: { ok: true, cause: null, since: null, last_granted: storyStart + 2 * n, last_refused: null, workers: 2, workers_up: 2 },
        healthy: 1,
        store_up: 1,
        requests: { new: 9000 + wave, replayed: 1200 + Math.round(wave / 7), in_progress: 75 + Math.round(n / 6), reused: 3, missing: 0, invalid: 2, unknown: 1,
            not_kept: 4, store_error: 0, bypass: 0, unscoped: 12, quota: 0 },
        requests_without_key: 410,
        executions_saved: 1280 + Math.round(wave / 7),
        results: { kept: 8800 + wave, not_kept: 6, released: 41, unknown: 1 },
        not_kept: { size: 5, store: 0, stream: 1, word: 0 },
        released: { word: 0, status: 38, unsent: 3, policy: 0, refused: 0, upgrade: 0 },
        kept_bytes: 48e6 + 5000 * wave,
        replayed_bytes: 6e6 + 800 * wave,
        claims_running: Math.max(0, Math.round(8 + 5 * Math.sin(n / 7))),
        oldest_claim_seconds: 0.482,
        waiting_requests: n % 11 === 0 ? 2 : 0,
        pending_outcomes: 0,
        renewed_leases: 12,
        lost_claims: 0,
        reclaimed_claims: 0,
        late_results: 0,
        unkept_answers: 0,
        retries: 0,
        unrecorded_outcomes: 0,
        store_calls: { claim: 10400 + wave, settle: 9000 + wave, release: 41, renew: 12 },
        store_errors: storyErrors(),
        observed_requests: { new: 0, replayed: 0, in_progress: 0, reused: 0, missing: 0, invalid: 0, unknown: 0, not_kept: 0, store_error: 0, bypass: 0, unscoped: 0, quota: 0, undecided: 0 },
        observed_outcomes: { kept: 0, not_kept_size: 0, not_kept_stream: 0, not_kept_word: 0, released: 0, unknown: 0, unseen: 0 },
        observed_replays: { equal: 0, different: 0, not_compared: 0 },
        observed_differences: { status: 0, fields: 0, body: 0 },
        store_call_seconds: storyCalls(4000 + wave, 0.0006),
        last_error: null,
        nodes: [],
        events: [],
        ...more,
    };
}

const storyNode = (node, more) => ({ node, up: true, connections: 2, in_flight: 3, commands: 19000, reconnects: 1,
    info: { role: 'master', version: '7.0.15', maxmemory_policy: 'noeviction', evicts: false, used_memory_bytes: 6e8, maxmemory_bytes: 2 ** 30, replicas: 1, replica_lag_seconds: 0 }, ...more });

function storyPage(n) {
    const time = storyStart + 2 * n;
    const failing = storyStart + 300; // 12:03
    const isFailing = time >= failing;
    const stopped = Math.min(n, 150);
    const id = '9f2c5e1ab7d04e6f8c3b2a1908f7e6d5'.repeat(2);
    const payments = storyStore(stopped, isFailing ? {
        health: { ok: false, cause: 'oom', since: failing, last_granted: failing - 1, last_refused: time - 1, workers: 2, workers_up: 2 },
        healthy: 0,
        pending_outcomes: 3,
        store_errors: storyErrors({ timeout: 2, oom: 31 * (n - 149) }),
        last_error: { time: time - 1, cause: 'oom' },
        nodes: [storyNode('10.0.0.5:6379', { info: { ...storyNode('').info, used_memory_bytes: 2 ** 30 } })],
        events: [
            { time: failing + 4, event: 'unkept', key_id: id, cause: 'oom' },
            { time: failing + 3, event: 'unkept', key_id: id.split('').reverse().join(''), cause: 'oom' },
            { time: failing + 1, event: 'refused', key_id: id.replaceAll('9', 'a'), cause: 'oom' },
        ],
    } : { nodes: [storyNode('10.0.0.5:6379')] });
    payments.requests.store_error = isFailing ? 29 * (n - 149) : 0;

    return story.change({
        version: 1, time, host: 'edge-1', module_version: '1.0.0', nginx_version: '1.26.3', started: storyStart - 86400 * 3,
        stores: {
            payments,
            'local': storyStore(n, { engine: 'memory', memory_size_bytes: 2 ** 26, memory_used_bytes: 3.1e7 + 40000 * n, memory_free_blocks: 60000, memory_keys: 5200 + n, memory_full_seconds: 25200,
                store_call_seconds: storyCalls(4000 + 24 * n, 0.00003) }),
        },
    });
}

const storyTimeout = window.setTimeout.bind(window);
window.setTimeout = (call, milliseconds) => storyTimeout(call, story.answers < story.until ? 0 : milliseconds);
Date.now = () => (storyStart + 2 * (story.skipped + story.answers)) * 1000;

window.fetch = async () => {
    if (story.failure) return new Response('', { status: story.failure });
    const answer = Response.json(storyPage(story.skipped + story.answers));
    story.answers++;
    return answer;
};

async function storyTold() {
    while (story.answers < story.until) await new Promise((resolve) => storyTimeout(resolve, 5));
    await new Promise((resolve) => storyTimeout(resolve, 50));
    return document.getElementById('now').innerText;
}
