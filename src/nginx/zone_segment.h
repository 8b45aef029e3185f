// A segment of nginx's shared memory (ngx_shm_zone_t) that holds one zone.

#pragma once

#include "nginx/nginx.h"

#include <cstddef>

#include "zone/shared_memory.h"
#include "zone/zone.h"

namespace idempotency {

// In bytes.  The head of nginx's slab pool takes a part of the segment.
constexpr ssize_t kSmallestSegment = 256 * 1024;

class ZoneSegment final : public SharedMemory {
public:
    // Adds a segment named "kind name" to the configuration (ngx_shared_memory_add); the object
    // lives in cf->pool.  After a reload with the same name and size, nginx provides the old
    // segment with its contents.  Null: it failed; if it was not for lack of memory, nginx has
    // logged the reason.
    static ZoneSegment *create(ngx_conf_t *cf, const char *kind, const ngx_str_t &name, size_t size,
                               void *tag);

    // Not before nginx has initialized the segment, which is before it starts workers.
    void *memory() const override { return memory_; }
    std::size_t size() const override { return size_; }
    void lock() override { ngx_shmtx_lock(&slab_->mutex); }
    void unlock() override { ngx_shmtx_unlock(&slab_->mutex); }
    Millis now() const override;

private:
    // nginx's ngx_shm_zone_init_pt
    static ngx_int_t init_zone(ngx_shm_zone_t *segment, void *old_data);

    bool attach(ngx_shm_zone_t *segment);

    ngx_slab_pool_t *slab_ = nullptr;
    void *memory_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace idempotency
