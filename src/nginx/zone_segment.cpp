#include "nginx/zone_segment.h"

#include <ctime>
#include <new>

#include "nginx/secret_memory.h"

namespace idempotency {

ZoneSegment *ZoneSegment::create(ngx_conf_t *cf, const char *kind, const ngx_str_t &name,
                                 size_t size, void *tag)
{
    void *memory = ngx_palloc(cf->pool, sizeof(ZoneSegment));
    size_t kind_length = ngx_strlen(kind);
    ngx_str_t full;

    full.len = kind_length + 1 + name.len;
    full.data = static_cast<u_char *>(ngx_pnalloc(cf->pool, full.len));

    if (memory == nullptr || full.data == nullptr) {
        return nullptr;
    }

    u_char *end = ngx_cpymem(full.data, kind, kind_length);

    *end++ = ' ';
    ngx_memcpy(end, name.data, name.len);

    ngx_shm_zone_t *segment = ngx_shared_memory_add(cf, &full, size, tag);

    if (segment == nullptr) {
        return nullptr;
    }

    segment->init = init_zone;
    segment->data = new (memory) ZoneSegment;
    return static_cast<ZoneSegment *>(memory);
}

ngx_int_t ZoneSegment::init_zone(ngx_shm_zone_t *segment, void *)
{
    return static_cast<ZoneSegment *>(segment->data)->attach(segment) ? NGX_OK : NGX_ERROR;
}

// The zone is one allocation that takes all pages of the slab pool.  The pool serves for its mutex,
// which nginx unlocks if a worker dies while it holds it (ngx_unlock_mutexes), and for its `data`,
// in which a reload finds the zone.
bool ZoneSegment::attach(ngx_shm_zone_t *segment)
{
    exclude_from_core_dump(segment->shm.addr, segment->shm.size);
    slab_ = reinterpret_cast<ngx_slab_pool_t *>(segment->shm.addr);
    size_ = static_cast<size_t>(slab_->last - slab_->pages) * ngx_pagesize;

    if (slab_->data != nullptr) {
        memory_ = slab_->data;

        if (!Zone(memory_, size_).is_formatted()) {
            ngx_log_error(NGX_LOG_EMERG, ngx_cycle->log, 0,
                          "idempotency: shared memory \"%V\" was made by another version of "
                          "the module: restart nginx",
                          &segment->shm.name);
            return false;
        }

        return true;
    }

    SipKey secret;

    memory_ = ngx_slab_alloc(slab_, size_);

    if (memory_ == nullptr || !make_sip_key(secret) || !Zone(memory_, size_).format(secret)) {
        ngx_log_error(NGX_LOG_EMERG, ngx_cycle->log, 0,
                      "idempotency: shared memory \"%V\" can't be initialized: it is too small, or "
                      "OpenSSL has no random numbers (RAND_bytes)",
                      &segment->shm.name);
        return false;
    }

    slab_->data = memory_;
    return true;
}

// Not ngx_current_msec: it is cached, and its values in two workers differ.  A lease must expire at
// the same time for both.
Millis ZoneSegment::now() const
{
    timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<Millis>(now.tv_sec) * 1000 + static_cast<Millis>(now.tv_nsec) / 1000000;
}

}  // namespace idempotency
