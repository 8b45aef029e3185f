#include "store/ngx_memory_store.h"

#include <ctime>
#include <new>

namespace idempotency {

namespace {

// Not nginx's cached time: that of two workers differs, and a lease must not.
Millis monotonic_now()
{
    timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<Millis>(now.tv_sec) * 1000 + static_cast<Millis>(now.tv_nsec) / 1000000;
}

std::uint64_t microseconds_of_day()
{
    timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1000000
           + static_cast<std::uint64_t>(now.tv_nsec) / 1000;
}

}  // namespace

class MemoryStore::Lock {
public:
    explicit Lock(ngx_slab_pool_t *slab) : slab_(slab) { ngx_shmtx_lock(&slab_->mutex); }
    ~Lock() { ngx_shmtx_unlock(&slab_->mutex); }
    Lock(const Lock &) = delete;
    Lock &operator=(const Lock &) = delete;

private:
    ngx_slab_pool_t *slab_;
};

MemoryStore *MemoryStore::create(ngx_conf_t *cf, ngx_str_t *name, size_t size, void *tag)
{
    void *place = ngx_palloc(cf->pool, sizeof(MemoryStore));

    if (place == nullptr) {
        return nullptr;
    }

    auto *store = new (place) MemoryStore;
    ngx_str_t segment_name;

    segment_name.len = sizeof("idempotency_store ") - 1 + name->len;
    segment_name.data = static_cast<u_char *>(ngx_pnalloc(cf->pool, segment_name.len));

    if (segment_name.data == nullptr) {
        return nullptr;
    }

    ngx_memcpy(ngx_cpymem(segment_name.data, "idempotency_store ",
                          sizeof("idempotency_store ") - 1),
               name->data, name->len);

    ngx_shm_zone_t *segment = ngx_shared_memory_add(cf, &segment_name, size, tag);

    if (segment == nullptr) {
        return nullptr;
    }

    segment->init = on_segment;
    segment->data = store;
    return store;
}

// nginx's ngx_shm_zone_init_pt
ngx_int_t MemoryStore::on_segment(ngx_shm_zone_t *segment, void *)
{
    return static_cast<MemoryStore *>(segment->data)->attach(segment) ? NGX_OK : NGX_ERROR;
}

// One allocation takes the whole segment; the slab pool serves for the mutex,
// which nginx frees where a worker dies with it (ngx_unlock_mutexes), and for
// finding the zone again after a reload.
bool MemoryStore::attach(ngx_shm_zone_t *segment)
{
    slab_ = reinterpret_cast<ngx_slab_pool_t *>(segment->shm.addr);
    size_ = static_cast<size_t>(slab_->last - slab_->pages) * ngx_pagesize;

    if (slab_->data != nullptr) {
        memory_ = slab_->data;

        if (!zone().valid()) {
            ngx_log_error(NGX_LOG_EMERG, ngx_cycle->log, 0,
                          "\"%V\" is of another version of this module: restart nginx",
                          &segment->shm.name);
            return false;
        }

        return true;
    }

    memory_ = ngx_slab_alloc(slab_, size_);

    if (memory_ == nullptr || !zone().format()) {
        return false;
    }

    slab_->data = memory_;
    return true;
}

bool MemoryStore::start(Call &call)
{
    Lock lock(slab_);
    MemoryZone memory = zone();
    Millis now = monotonic_now();

    switch (call.kind) {
    case Call::Kind::claim:
        claim(memory, call, now);
        break;

    case Call::Kind::settle:
        call.reply.verdict = memory.settle(call.id, call.token, call.value, call.lifetime, now);
        break;

    case Call::Kind::release:
        call.reply.verdict = memory.release(call.id, call.token, now);
        break;
    }

    return true;
}

void MemoryStore::claim(MemoryZone &memory, Call &call, Millis now)
{
    MemoryZone::Found found =
        memory.claim(call.id, *call.value.first, call.lifetime, now, microseconds_of_day());

    call.reply = found.reply;

    if (found.reply.verdict != Verdict::found) {
        return;
    }

    char *room = call.room(call, found.value_size);

    if (room == nullptr) {
        call.reply.verdict = Verdict::unavailable;
        return;
    }

    memory.read(found.entry, room);
    call.reply.value = {room, found.value_size};
}

void MemoryStore::renew(const Lease *leases, std::size_t count)
{
    Lock lock(slab_);
    MemoryZone memory = zone();
    Millis now = monotonic_now();

    for (std::size_t i = 0; i < count; i++) {
        memory.renew(leases[i].id, leases[i].token, leases[i].length, now);
    }
}

}  // namespace idempotency
