#include "http/metrics/counters.h"

#include <new>

namespace idempotency {

Counters *Counters::create(ngx_conf_t *cf, const ngx_str_t &store, void *tag)
{
    static constexpr char prefix[] = "idempotency_status ";
    void *memory = ngx_palloc(cf->pool, sizeof(Counters));
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
        slab->data = shared;
    }

    counters->shared_ = shared;
    return NGX_OK;
}

void Counters::read(std::uint64_t (&counts)[kCounts])
{
    for (std::size_t i = 0; i < kCounts; i++) {
        counts[i] = 0;

        for (ngx_uint_t worker = 0; worker < kSlots; worker++) {
            counts[i] += counter(worker, static_cast<Count>(i));
        }
    }
}

}  // namespace idempotency
