#include "http/metrics/counters.h"

#include <new>

namespace idempotency {

Counters *Counters::create(ngx_conf_t *cf, const ngx_str_t &store, void *tag)
{
    static constexpr char kind[] = "idempotency_status ";
    void *place = ngx_palloc(cf->pool, sizeof(Counters));
    ngx_str_t name;

    name.len = sizeof(kind) - 1 + store.len;
    name.data = static_cast<u_char *>(ngx_pnalloc(cf->pool, name.len));

    if (place == nullptr || name.data == nullptr) {
        return nullptr;
    }

    ngx_memcpy(ngx_cpymem(name.data, kind, sizeof(kind) - 1), store.data, store.len);

    // the slab pool needs some of it; and a later layout may need some
    size_t size = 8 * ngx_pagesize + 2 * sizeof(Shared);
    ngx_shm_zone_t *segment = ngx_shared_memory_add(cf, &name, ngx_align(size, ngx_pagesize), tag);

    if (segment == nullptr) {
        return nullptr;
    }

    segment->init = on_segment;
    segment->data = new (place) Counters;
    return static_cast<Counters *>(place);
}

// nginx's ngx_shm_zone_init_pt.  Counters of another layout are left to the
// workers that still use them.
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

        for (ngx_uint_t worker = 0; worker < kPlaces; worker++) {
            counts[i] += place(worker, static_cast<Count>(i));
        }
    }
}

}  // namespace idempotency
