// The metrics of a store, shared by all workers, in nginx's shared memory.  No function that a
// request calls takes a lock.

#pragma once

#include "nginx/nginx.h"

#include "http/metrics/cells.h"
#include "http/metrics/metrics.h"

namespace idempotency {

class Counters {
public:
    // Requests the shared memory zone during configuration; nginx creates it before the
    // workers start, and a reload keeps it.  Null on error; nginx has logged why.
    static Counters *create(ngx_conf_t *cf, const ngx_str_t &store, void *tag);

    // In each worker, before the gauges are used, and when it exits.
    void attach_worker();
    void detach_worker();

    void add(Count what, ngx_uint_t number = 1)
    {
        idempotency::add(slot().counts[index(what)], number);
    }

    // A call to the store that was started at `started_at` (monotonic_micros) has ended;
    // `at_once`: before Store::start has returned.  True if it is the first that the store refuses.
    bool call_ended(const Call &call, std::uint64_t started_at, bool at_once);

    // What has failed; the rest is as for `call_ended`.
    bool failed(Cause cause);

    // This worker is connected to the store again.
    void available_again();

    // What this worker knows about the servers of the store; how much of the memory of a store is
    // used.  Both are called from time to time, and take a lock.
    void put_nodes(const NodeState *states, std::size_t count);
    void put_used_memory(std::uint64_t used);

    void note(Event event, const KeyId &stored_id, Cause cause = Cause::none);

    // The gauges of this worker.
    WorkerCell &cell() { return *cell_; }

    // Sums up the metrics of all workers.  They may change meanwhile, so they are not of one
    // moment.  `free`: bytes of the memory of a store.
    void read(StoreMetrics &out, std::uint64_t free);

private:
    static constexpr std::size_t kSlots = 16;
    static constexpr std::size_t kCells = 256;

    struct SlotLatency {
        SharedNumber calls;
        SharedNumber sum;
        SharedNumber buckets[kLatencyBuckets];
    };

    // `sequence` is odd while the event is being written.
    struct SlotEvent {
        SharedNumber sequence;
        EventFigures event;
    };

    // The last events of one kind: a ring.
    struct SlotEvents {
        SharedNumber next;
        SlotEvent ring[kEventsOfKind];
    };

    // Each worker uses one slot; with more than 16 workers, several use the same.  Slots
    // share no cache line.  Times are ngx_current_msec, which all processes share.
    struct alignas(64) Slot {
        SharedNumber counts[kCounts];
        SlotLatency latency[kCallKinds];
        SharedNumber errors_at[kCauses];
        SharedNumber granted_at;
        SharedNumber refused_at;
        SharedNumber failing_since;
        SharedNumber cleared_at;  // what was refused before is over
        SharedNumber cause;       // of the last refusal
        SlotEvents events[kEvents];
    };

    struct Node {
        char name[sizeof(NodeFigures::name)];  // empty: the entry was never used
        std::uint64_t seen_at;
        std::uint64_t commands;
        std::uint64_t reconnects;
        NodeInfo info;
    };

    // How much memory was used, at intervals of kUsageInterval.
    struct Usage {
        std::uint64_t at;
        std::uint64_t used;
    };

    static constexpr std::size_t kUsages = 60;

    struct Shared {
        std::uint64_t layout;
        std::uint64_t started;  // Unix time, milliseconds
        Slot slots[kSlots];
        WorkerCell cells[kCells];
        Node nodes[kMaxNodes];
        Usage usages[kUsages];  // a ring
        std::size_t next_usage;
    };

    // What this worker has added to a node of Shared already.
    struct Added {
        std::uint64_t commands = 0;
        std::uint64_t reconnects = 0;
    };

    static ngx_int_t on_segment(ngx_shm_zone_t *segment, void *old);
    static std::size_t index(Count what) { return static_cast<std::size_t>(what); }

    Slot &slot() { return shared_->slots[ngx_worker % kSlots]; }
    std::size_t find_node(std::string_view name);
    void put_node(const NodeState &state, std::size_t index);
    void read_cells(StoreMetrics &out);
    void read_nodes(StoreMetrics &out);
    void read_usage(StoreMetrics &out, std::uint64_t free);
    void read_health(StoreMetrics &out);
    void read_events(std::size_t kind, EventList<kEventsOfKind> &out);
    void read_events(StoreMetrics &out);

    Shared *shared_ = nullptr;
    ngx_slab_pool_t *slab_ = nullptr;
    WorkerCell *cell_ = &unshared_;
    WorkerCell unshared_{};  // if all cells are taken
    Added added_[kMaxNodes];
};

}  // namespace idempotency
