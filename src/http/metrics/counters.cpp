#include "http/metrics/counters.h"

#include <new>

#include "http/metrics/process.h"
#include "nginx/clock.h"

namespace idempotency {

namespace {

// In milliseconds: for how long a store counts as refusing calls after it has refused one.
constexpr std::uint64_t kRefusingTime = 10000;

std::uint64_t unix_now()
{
    ngx_time_t *now = ngx_timeofday();

    return static_cast<std::uint64_t>(now->sec) * 1000 + now->msec;
}

// The Unix time of a value of ngx_current_msec; 0 stays 0.
std::uint64_t to_unix(std::uint64_t at)
{
    std::uint64_t age = ngx_current_msec > at ? ngx_current_msec - at : 0;

    return at != 0 ? unix_now() - age : 0;
}

}  // namespace

Counters *Counters::create(ngx_conf_t *cf, const ngx_str_t &store, void *tag)
{
    static constexpr char prefix[] = "idempotency_status ";
    void *memory = ngx_pmemalign(cf->pool, sizeof(Counters), alignof(Counters));
    ngx_str_t name;

    name.len = sizeof(prefix) - 1 + store.len;
    name.data = static_cast<u_char *>(ngx_pnalloc(cf->pool, name.len));

    if (memory == nullptr || name.data == nullptr) {
        return nullptr;
    }

    ngx_memcpy(ngx_cpymem(name.data, prefix, sizeof(prefix) - 1), store.data, store.len);

    // with space for the slab pool itself, and for a later layout
    size_t size = 8 * ngx_pagesize + 2 * sizeof(Shared);
    ngx_shm_zone_t *segment = ngx_shared_memory_add(cf, &name, ngx_align(size, ngx_pagesize), tag);

    if (segment == nullptr) {
        return nullptr;
    }

    segment->init = on_segment;
    segment->data = new (memory) Counters;
    return static_cast<Counters *>(memory);
}

// nginx's ngx_shm_zone_init_pt.  Counters of another layout stay in the zone, since old
// workers may still use them; new ones are allocated.
ngx_int_t Counters::on_segment(ngx_shm_zone_t *segment, void *)
{
    constexpr std::uint64_t layout = sizeof(Shared) << 16 | kCounts;
    auto *counters = static_cast<Counters *>(segment->data);
    auto *slab = reinterpret_cast<ngx_slab_pool_t *>(segment->shm.addr);
    auto *shared = static_cast<Shared *>(slab->data);

    if (shared == nullptr || shared->layout != layout) {
        shared = static_cast<Shared *>(ngx_slab_calloc(slab, sizeof(Shared)));

        if (shared == nullptr) {
            return NGX_ERROR;
        }

        shared->layout = layout;
        shared->started = unix_now();
        slab->data = shared;
    }

    counters->shared_ = shared;
    counters->slab_ = slab;
    return NGX_OK;
}

void Counters::attach_worker()
{
    cell_ = &unshared_;
    ngx_shmtx_lock(&slab_->mutex);

    for (WorkerCell &cell : shared_->cells) {
        bool is_free = get(cell.pid) == 0;

        // a worker that was killed
        if (!is_free
            && (get(cell.pid) == static_cast<std::uint64_t>(ngx_pid) || !is_alive(get(cell.pid)))) {
            set(cell.pid, 0);
            is_free = true;
        }

        if (is_free && cell_ == &unshared_) {
            cell.clear();
            set(cell.pid, static_cast<std::uint64_t>(ngx_pid));
            cell_ = &cell;
        }
    }

    ngx_shmtx_unlock(&slab_->mutex);
}

void Counters::detach_worker()
{
    set(cell_->pid, 0);
    cell_ = &unshared_;
}

bool Counters::call_ended(const Call &call, std::uint64_t started_at, bool at_once)
{
    const Reply &reply = call.reply;
    Cause cause = cause_of(reply);
    SlotLatency &latency = slot().latency[static_cast<std::size_t>(call.kind)];
    bool is_asked = !reply.is_copy || cause != Cause::none;

    if (reply.is_copy) {
        add(Count::near_hits);
    } else if (call.kind == Call::Kind::claim) {
        add(Count::near_misses);
    }

    if (is_asked) {
        idempotency::add(latency.calls, 1);
    }

    // a call to a store that is known to be down takes no time
    if (is_asked && !(at_once && cause != Cause::none)) {
        std::uint64_t micros = monotonic_micros() - started_at;

        idempotency::add(latency.sum, micros);
        idempotency::add(latency.buckets[latency_bucket(micros)], 1);
    }

    if (reply.verdict == Verdict::claimed) {
        set(slot().granted_at, ngx_current_msec);
    } else if (call.kind == Call::Kind::renew && reply.verdict == Verdict::done) {
        add(Count::renewed);
    }

    return cause != Cause::none && failed(cause);
}

bool Counters::failed(Cause cause)
{
    Slot &at = slot();
    std::uint64_t now = ngx_current_msec;

    add(count_of(cause));
    set(at.errors_at[static_cast<std::size_t>(cause)], now);

    if (!is_outage(cause)) {
        return false;
    }

    std::uint64_t refused_at = get(at.refused_at);
    bool is_over = refused_at == 0 || get(at.cleared_at) >= refused_at
                   || (get(at.granted_at) > refused_at && now - refused_at >= kRefusingTime);

    if (is_over) {
        set(at.failing_since, now);
    }

    set(at.cause, static_cast<std::uint64_t>(cause));
    set(at.refused_at, now);
    return is_over;
}

void Counters::available_again()
{
    Slot &at = slot();

    if (is_connection_fault(static_cast<Cause>(get(at.cause)))) {
        set(at.cleared_at, ngx_current_msec);
    }
}

void Counters::note(Event event, const KeyId &stored_id, Cause cause)
{
    SlotEvents &events = slot().events[static_cast<std::size_t>(event)];
    std::uint64_t number = events.next.fetch_add(1, std::memory_order_relaxed);
    SlotEvent &entry = events.ring[number % kEventsOfKind];

    entry.sequence.store(2 * number + 1, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_release);
    entry.event.time = unix_now();
    entry.event.event = event;
    entry.event.cause = cause;
    entry.event.id = stored_id;
    entry.sequence.store(2 * number + 2, std::memory_order_release);
}

void Counters::read(StoreMetrics &out, std::uint64_t free)
{
    for (Slot &at : shared_->slots) {
        for (std::size_t i = 0; i < kCounts; i++) {
            out.counts[i] += get(at.counts[i]);
        }

        for (std::size_t kind = 0; kind < kCallKinds; kind++) {
            Latency &latency = out.latency[kind];

            latency.calls += get(at.latency[kind].calls);
            latency.sum += get(at.latency[kind].sum);

            for (std::size_t i = 0; i < kLatencyBuckets; i++) {
                latency.buckets[i] += get(at.latency[kind].buckets[i]);
            }
        }

        for (std::size_t i = 0; i < kCauses; i++) {
            out.errors_at[i] = ngx_max(out.errors_at[i], to_unix(get(at.errors_at[i])));
        }
    }

    out.started = shared_->started;
    read_cells(out);
    read_health(out);
    read_events(out);
    read_nodes(out);
    read_usage(out, free);
}

void Counters::read_cells(StoreMetrics &out)
{
    for (WorkerCell &cell : shared_->cells) {
        std::uint64_t pid = get(cell.pid);

        if (pid == 0 || !is_alive(pid)) {
            continue;
        }

        std::uint64_t oldest = get(cell.oldest_claim);

        out.workers++;
        out.workers_up += get(cell.is_down) == 0;
        out.claims += get(cell.claims);
        out.waiting += get(cell.waiting);
        out.pending += get(cell.pending);

        if (oldest != 0 && ngx_current_msec > oldest) {
            out.oldest_claim = ngx_max(out.oldest_claim, ngx_current_msec - oldest);
        }
    }
}

// The store is healthy if no call was refused since the last claim that was granted.  If some calls
// are refused and some are not (a node of a cluster is down), it is not healthy either: so a
// refusal counts for kRefusingTime at least.
void Counters::read_health(StoreMetrics &out)
{
    std::uint64_t granted_at = 0;
    std::uint64_t refused_at = 0;
    std::uint64_t since = 0;

    for (Slot &at : shared_->slots) {
        std::uint64_t refused = get(at.refused_at);

        granted_at = ngx_max(granted_at, get(at.granted_at));
        out.last_refused = ngx_max(out.last_refused, to_unix(refused));

        if (refused != 0 && get(at.cleared_at) >= refused) {
            continue;
        }

        if (refused > refused_at) {
            refused_at = refused;
            out.cause = static_cast<Cause>(get(at.cause));
        }

        if (refused != 0 && (since == 0 || get(at.failing_since) < since)) {
            since = get(at.failing_since);
        }
    }

    bool is_refusing =
        refused_at != 0
        && (refused_at >= granted_at || ngx_current_msec - refused_at < kRefusingTime);

    out.last_granted = to_unix(granted_at);
    out.healthy = !is_refusing && out.workers_up == out.workers;

    if (is_refusing) {
        out.failing_since = to_unix(since);
    } else {
        out.cause = out.healthy ? Cause::none : Cause::connection;
    }
}

// The last kEventsOfKind events of one kind, over all workers.
void Counters::read_events(std::size_t kind, EventList<kEventsOfKind> &out)
{
    for (Slot &at : shared_->slots) {
        for (SlotEvent &entry : at.events[kind].ring) {
            std::uint64_t before = entry.sequence.load(std::memory_order_acquire);
            EventFigures event = entry.event;

            std::atomic_thread_fence(std::memory_order_acquire);

            if (before != 0 && before % 2 == 0
                && entry.sequence.load(std::memory_order_relaxed) == before) {
                out.add(event);
            }
        }
    }
}

void Counters::read_events(StoreMetrics &out)
{
    for (std::size_t kind = 0; kind < kEvents; kind++) {
        EventList<kEventsOfKind> events;

        read_events(kind, events);

        for (std::size_t i = 0; i < events.count; i++) {
            out.events.add(events.items[i]);
        }
    }
}

}  // namespace idempotency
