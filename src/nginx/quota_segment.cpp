#include "nginx/quota_segment.h"

#include <ctime>
#include <new>

namespace idempotency {

namespace {

// In microseconds.  Not the cached time of nginx: it differs between workers.
std::uint64_t monotonic_microseconds()
{
    timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1000000
           + static_cast<std::uint64_t>(now.tv_nsec) / 1000;
}

}  // namespace

QuotaSegment *QuotaSegment::create(ngx_conf_t *cf, void *tag)
{
    // another layout of the table needs another name
    ngx_str_t name = ngx_string("idempotency_quota 1");
    void *memory = ngx_palloc(cf->pool, sizeof(QuotaSegment));

    // with space for the slab pool itself
    size_t size = ngx_align(sizeof(QuotaTable::Memory), ngx_pagesize) + 8 * ngx_pagesize;
    ngx_shm_zone_t *segment = ngx_shared_memory_add(cf, &name, size, tag);

    if (memory == nullptr || segment == nullptr) {
        return nullptr;
    }

    segment->init = init_zone;
    segment->data = new (memory) QuotaSegment;
    return static_cast<QuotaSegment *>(memory);
}

ngx_int_t QuotaSegment::init_zone(ngx_shm_zone_t *segment, void *)
{
    auto *quota = static_cast<QuotaSegment *>(segment->data);

    quota->slab_ = reinterpret_cast<ngx_slab_pool_t *>(segment->shm.addr);
    quota->memory_ = static_cast<QuotaTable::Memory *>(quota->slab_->data);

    if (quota->memory_ != nullptr) {
        return NGX_OK;
    }

    quota->memory_ = static_cast<QuotaTable::Memory *>(
        ngx_slab_calloc(quota->slab_, sizeof(QuotaTable::Memory)));

    if (quota->memory_ == nullptr || !make_sip_key(quota->memory_->key)) {
        ngx_log_error(NGX_LOG_EMERG, ngx_cycle->log, 0,
                      "idempotency: no memory or no random numbers for \"idempotency_quota\"");
        return NGX_ERROR;
    }

    quota->slab_->data = quota->memory_;
    return NGX_OK;
}

std::uint64_t QuotaSegment::take(std::uint64_t value, const QuotaLimit &limit)
{
    ngx_shmtx_lock(&slab_->mutex);

    std::uint64_t wait = QuotaTable(*memory_).take(value, limit, monotonic_microseconds());

    ngx_shmtx_unlock(&slab_->mutex);
    return wait;
}

void QuotaSegment::give_back(std::uint64_t value, const QuotaLimit &limit)
{
    ngx_shmtx_lock(&slab_->mutex);
    QuotaTable(*memory_).give_back(value, limit);
    ngx_shmtx_unlock(&slab_->mutex);
}

}  // namespace idempotency
