// The embedded store: a memory zone in nginx's shared memory, used by all
// workers under the mutex of the segment.

#pragma once

#include "store/nginx.h"

#include "store/memory_zone.h"
#include "store/store.h"

namespace idempotency {

// The smallest segment: nginx's slab pool keeps some of it for itself.
constexpr ssize_t kSmallestSegment = 256 * 1024;

class MemoryStore final : public Store {
public:
    // Asks nginx for a segment named after the store.  A reload with the same
    // name and size gets the one that is there, with all that it holds.
    // Null where that fails; nginx or this has logged why.
    static MemoryStore *create(ngx_conf_t *cf, ngx_str_t *name, size_t size, void *tag);

    bool open() override { return true; }
    void close() override {}
    bool start(Call &call) override;
    void renew(const Lease *leases, std::size_t count) override;

private:
    class Lock;

    static ngx_int_t on_segment(ngx_shm_zone_t *segment, void *old);

    bool attach(ngx_shm_zone_t *segment);
    static void claim(MemoryZone &memory, Call &call, Millis now);
    MemoryZone zone() const { return MemoryZone(memory_, size_); }

    ngx_slab_pool_t *slab_ = nullptr;
    void *memory_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace idempotency
