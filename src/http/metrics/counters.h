// The counters of a store, of all workers together, in nginx's shared memory.

#pragma once

#include "nginx/nginx.h"

#include "http/metrics/counts.h"

namespace idempotency {

class Counters {
public:
    // Asks nginx for the memory; it is there once workers run.  A reload keeps
    // it.  Null where that fails; nginx has logged why.
    static Counters *create(ngx_conf_t *cf, const ngx_str_t &store, void *tag);

    void add(Count what, ngx_uint_t number = 1)
    {
        (void) ngx_atomic_fetch_add(&place(ngx_worker, what), number);
    }

    // Not of one moment: the others go on.
    void read(std::uint64_t (&counts)[kCounts]);

private:
    // Workers with the same place share it; with another they share no line of
    // the processor's cache.
    static constexpr std::size_t kPlaces = 16;

    struct alignas(64) Place {
        ngx_atomic_t counts[kCounts];
    };

    struct Shared {
        std::uint64_t layout;
        Place places[kPlaces];
    };

    static ngx_int_t on_segment(ngx_shm_zone_t *segment, void *old);

    ngx_atomic_t &place(ngx_uint_t worker, Count what)
    {
        return shared_->places[worker % kPlaces].counts[static_cast<std::size_t>(what)];
    }

    Shared *shared_ = nullptr;
};

}  // namespace idempotency
