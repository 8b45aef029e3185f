#include "nginx/erasure_segment.h"

#include <csignal>
#include <new>

namespace idempotency {

ErasureSegment *ErasureSegment::create(ngx_conf_t *cf, void *tag)
{
    // another layout of the table needs another name
    ngx_str_t name = ngx_string("idempotency_erasures 1");
    void *memory = ngx_palloc(cf->pool, sizeof(ErasureSegment));
    ngx_shm_zone_t *segment = ngx_shared_memory_add(cf, &name, 8 * ngx_pagesize, tag);

    if (memory == nullptr || segment == nullptr) {
        return nullptr;
    }

    segment->init = init_zone;
    segment->data = new (memory) ErasureSegment;
    return static_cast<ErasureSegment *>(memory);
}

ngx_int_t ErasureSegment::init_zone(ngx_shm_zone_t *segment, void *)
{
    auto *self = static_cast<ErasureSegment *>(segment->data);

    self->slab_ = reinterpret_cast<ngx_slab_pool_t *>(segment->shm.addr);
    self->entries_ = static_cast<ErasureProgress *>(self->slab_->data);

    if (self->entries_ == nullptr) {
        self->entries_ = static_cast<ErasureProgress *>(
            ngx_slab_calloc(self->slab_, kEntries * sizeof(ErasureProgress)));
        self->slab_->data = self->entries_;
    }

    if (self->entries_ == nullptr) {
        ngx_log_error(NGX_LOG_EMERG, ngx_cycle->log, 0,
                      "idempotency: no memory for the progress of erasures");
        return NGX_ERROR;
    }

    return NGX_OK;
}

void ErasureSegment::note_dead_workers()
{
    for (ngx_uint_t i = 0; i < kEntries; i++) {
        ErasureProgress &entry = entries_[i];

        if (entry.state == ErasureState::running && kill(static_cast<pid_t>(entry.worker), 0) == -1
            && ngx_errno == ESRCH)
        {
            entry.state = ErasureState::interrupted;
        }
    }
}

bool ErasureSegment::add(ErasureProgress &progress)
{
    ErasureProgress *oldest = nullptr;
    bool is_running = false;

    ngx_shmtx_lock(&slab_->mutex);
    note_dead_workers();

    for (ngx_uint_t i = 0; i < kEntries && !is_running; i++) {
        ErasureProgress &entry = entries_[i];

        if (entry.state == ErasureState::running) {
            is_running = entry.store == progress.store;

            if (is_running) {
                progress = entry;
            }

        } else if (oldest == nullptr || entry.updated < oldest->updated) {
            oldest = &entry;
        }
    }

    bool added = !is_running && oldest != nullptr;

    if (added) {
        *oldest = progress;
    }

    ngx_shmtx_unlock(&slab_->mutex);
    return added;
}

void ErasureSegment::update(const ErasureProgress &progress)
{
    ngx_shmtx_lock(&slab_->mutex);

    for (ngx_uint_t i = 0; i < kEntries; i++) {
        if (entries_[i].id == progress.id) {
            entries_[i] = progress;
            break;
        }
    }

    ngx_shmtx_unlock(&slab_->mutex);
}

bool ErasureSegment::find(std::uint64_t id, ErasureProgress &progress)
{
    bool found = false;

    ngx_shmtx_lock(&slab_->mutex);
    note_dead_workers();

    for (ngx_uint_t i = 0; i < kEntries && !found; i++) {
        found = entries_[i].state != ErasureState::free && entries_[i].id == id;

        if (found) {
            progress = entries_[i];
        }
    }

    ngx_shmtx_unlock(&slab_->mutex);
    return found;
}

}  // namespace idempotency
