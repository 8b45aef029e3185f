// A segment of nginx's shared memory that holds one zone, used by all workers
// under the mutex of the segment.

#pragma once

#include "nginx/nginx.h"

#include <cstddef>

#include "zone/shared_memory.h"
#include "zone/zone.h"

namespace idempotency {

// The smallest segment: nginx's slab pool keeps some of it for itself.
constexpr ssize_t kSmallestSegment = 256 * 1024;

class ZoneSegment final : public SharedMemory {
public:
    // Asks nginx for a segment that is named `kind` and `name`.  A reload with
    // the same name and size gets the one that is there, with all that it holds.
    // Null where that fails; nginx or this has logged why.
    static ZoneSegment *create(ngx_conf_t *cf, const char *kind, const ngx_str_t &name, size_t size,
                               void *tag);

    // These are there once nginx has the segment: not before workers run.
    void *memory() const override { return memory_; }
    std::size_t size() const override { return size_; }
    void lock() override { ngx_shmtx_lock(&slab_->mutex); }
    void unlock() override { ngx_shmtx_unlock(&slab_->mutex); }
    Millis now() const override;

private:
    static ngx_int_t on_segment(ngx_shm_zone_t *segment, void *old);

    bool attach(ngx_shm_zone_t *segment);

    ngx_slab_pool_t *slab_ = nullptr;
    void *memory_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace idempotency
