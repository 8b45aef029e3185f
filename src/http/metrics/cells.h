// The gauges of each worker, in shared memory.
//
// A worker takes a cell when it starts and frees it when it exits.  The cell has the id of its
// process: that of a worker which was killed is not counted, and the next worker resets it.  During
// a reload, old and new workers have cells of their own.

#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "http/metrics/metrics.h"

namespace idempotency {

using SharedNumber = std::atomic<std::uint64_t>;

static_assert(SharedNumber::is_always_lock_free, "processes share it");

inline void set(SharedNumber &number, std::uint64_t value)
{
    number.store(value, std::memory_order_relaxed);
}

inline std::uint64_t get(const SharedNumber &number)
{
    return number.load(std::memory_order_relaxed);
}

inline void add(SharedNumber &number, std::uint64_t value)
{
    number.fetch_add(value, std::memory_order_relaxed);
}

// Of a gauge that only this process changes.
inline void change(SharedNumber &number, int by)
{
    set(number, get(number) + static_cast<std::uint64_t>(by));
}

// Of one Redis node.
struct NodeCell {
    SharedNumber connections;
    SharedNumber in_flight;
    SharedNumber is_down;

    void clear()
    {
        set(connections, 0);
        set(in_flight, 0);
        set(is_down, 0);
    }
};

struct alignas(64) WorkerCell {
    SharedNumber pid;           // 0: free
    SharedNumber claims;        // whose leases are renewed
    SharedNumber oldest_claim;  // when it was granted, as ngx_current_msec; 0: none
    SharedNumber waiting;       // requests that wait for their key
    SharedNumber pending;       // outcomes that are not recorded yet
    SharedNumber is_down;       // the store is down for this worker
    NodeCell nodes[kMaxNodes];

    void clear()
    {
        for (SharedNumber *number : {&claims, &oldest_claim, &waiting, &pending, &is_down}) {
            set(*number, 0);
        }

        for (NodeCell &node : nodes) {
            node.clear();
        }
    }
};

}  // namespace idempotency
