// The segment of nginx's shared memory that holds the quota table of this nginx.

#pragma once

#include "nginx/nginx.h"

#include "zone/quota_table.h"

namespace idempotency {

class QuotaSegment {
public:
    // Adds the segment to the configuration (ngx_shared_memory_add).  A reload keeps it.  Null: it
    // failed; if it was not for lack of memory, nginx has logged the reason.
    static QuotaSegment *create(ngx_conf_t *cf, void *tag);

    // As in QuotaTable, with the mutex locked.  Not before nginx has initialized the segment.
    std::uint64_t hash(std::uint64_t directive, std::string_view value) const
    {
        return QuotaTable::hash(memory_->key, directive, value);
    }

    std::uint64_t take(std::uint64_t value, const QuotaLimit &limit);
    void give_back(std::uint64_t value, const QuotaLimit &limit);

private:
    // nginx's ngx_shm_zone_init_pt
    static ngx_int_t init_zone(ngx_shm_zone_t *segment, void *old_data);

    ngx_slab_pool_t *slab_ = nullptr;
    QuotaTable::Memory *memory_ = nullptr;
};

}  // namespace idempotency
