// The segment of nginx's shared memory in which workers report the progress of erasures
// (http/admin/erasure.h), so that any worker can tell it.

#pragma once

#include "nginx/nginx.h"

#include <cstdint>

namespace idempotency {

enum class ErasureState : std::uint32_t {
    free,  // an entry that was never used
    running,
    done,
    failed,       // the store was unavailable for too long
    interrupted,  // its worker has ended
};

struct ErasureProgress {
    std::uint64_t id;
    std::uint64_t store;  // a hash of its name
    ErasureState state;
    std::uint32_t worker;      // process id
    std::uint64_t started;     // Unix time in milliseconds
    std::uint64_t updated;     // the same
    std::uint64_t examined;    // records
    std::uint64_t forgotten;   // keys
    std::uint64_t unknown;     // keys of the scope whose outcome is unknown: they are left
    std::uint64_t unreadable;  // records that can't be read: whose they are is not known
    std::uint64_t restarts;    // how often the walk began again, as the store was unavailable
};

class ErasureSegment {
public:
    // Adds the segment to the configuration.  A reload keeps it.  Null: it failed; if it was not
    // for lack of memory, nginx has logged the reason.
    static ErasureSegment *create(ngx_conf_t *cf, void *tag);

    // Adds a running erasure, in place of the oldest one that has ended.  False: an erasure of
    // this store is running, which `progress` is then; or the table is full of running ones.
    bool add(ErasureProgress &progress);

    // Replaces the entry with this id.
    void update(const ErasureProgress &progress);

    // False: there is none with this id.
    bool find(std::uint64_t id, ErasureProgress &progress);

private:
    static constexpr ngx_uint_t kEntries = 32;

    static ngx_int_t init_zone(ngx_shm_zone_t *segment, void *old_data);

    void note_dead_workers();

    ngx_slab_pool_t *slab_ = nullptr;
    ErasureProgress *entries_ = nullptr;
};

}  // namespace idempotency
