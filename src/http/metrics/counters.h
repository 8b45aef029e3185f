// The counters of a store, shared by all workers, in nginx's shared memory.

#pragma once

#include <cstdint>

#include "nginx/nginx.h"

#include "http/metrics/counts.h"

namespace idempotency {

class Counters {
public:
    // Requests the shared memory zone during configuration; nginx creates it before the
    // workers start, and a reload keeps it.  Null on error; nginx has logged why.
    static Counters *create(ngx_conf_t *cf, const ngx_str_t &store, void *tag);

    void add(Count what, ngx_uint_t number = 1)
    {
        (void) ngx_atomic_fetch_add(&counter(ngx_worker, what), number);
    }

    // Sums up the counts of all workers.  They may change meanwhile, so the sums are not
    // of one moment.
    void read(std::uint64_t (&counts)[kCounts]);

private:
    // Each worker uses one slot; with more than 16 workers, several use the same.  Slots
    // share no cache line.
    static constexpr std::size_t kSlots = 16;

    struct alignas(64) Slot {
        ngx_atomic_t counts[kCounts];
    };

    struct Shared {
        std::uint64_t layout;
        Slot slots[kSlots];
    };

    static ngx_int_t on_segment(ngx_shm_zone_t *segment, void *old);

    ngx_atomic_t &counter(ngx_uint_t worker, Count what)
    {
        return shared_->slots[worker % kSlots].counts[static_cast<std::size_t>(what)];
    }

    Shared *shared_ = nullptr;
};

}  // namespace idempotency
