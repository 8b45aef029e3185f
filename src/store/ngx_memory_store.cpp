#include "store/ngx_memory_store.h"

#include <ctime>
#include <new>

namespace idempotency {

namespace {

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
    explicit Lock(ZoneSegment &segment) : segment_(segment) { segment_.lock(); }
    ~Lock() { segment_.unlock(); }
    Lock(const Lock &) = delete;
    Lock &operator=(const Lock &) = delete;

private:
    ZoneSegment &segment_;
};

MemoryStore *MemoryStore::create(ngx_conf_t *cf, ngx_str_t *name, size_t size, void *tag)
{
    ZoneSegment *segment = ZoneSegment::create(cf, "idempotency_store", *name, size, tag);
    void *place = ngx_palloc(cf->pool, sizeof(MemoryStore));

    return segment != nullptr && place != nullptr ? new (place) MemoryStore(*segment) : nullptr;
}

bool MemoryStore::start(Call &call)
{
    Lock lock(segment_);
    MemoryZone memory = zone();
    Millis now = ZoneSegment::now();

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
    Lock lock(segment_);
    MemoryZone memory = zone();
    Millis now = ZoneSegment::now();

    for (std::size_t i = 0; i < count; i++) {
        memory.renew(leases[i].id, leases[i].token, leases[i].length, now);
    }
}

StoreFigures MemoryStore::figures()
{
    Lock lock(segment_);
    StoreFigures figures;

    figures.engine = "memory";
    figures.memory = zone().figures();
    return figures;
}

}  // namespace idempotency
