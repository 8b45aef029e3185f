#include "store/memory_store.h"

#include <ctime>

namespace idempotency {

namespace {

std::uint64_t unix_microseconds()
{
    timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1000000
           + static_cast<std::uint64_t>(now.tv_nsec) / 1000;
}

}  // namespace

bool MemoryStore::start(Call &call)
{
    Locked zone(memory_);
    Millis now = memory_.now();

    switch (call.kind) {
    case Call::Kind::claim:
        claim(*zone, call, now);
        break;

    case Call::Kind::settle:
        call.reply.verdict = zone->settle(call.id, call.token, call.value, call.lifetime, now);
        break;

    case Call::Kind::release:
        call.reply.verdict = zone->release(call.id, call.token, now);
        break;
    }

    return true;
}

void MemoryStore::claim(MemoryZone &zone, Call &call, Millis now)
{
    MemoryZone::ClaimReply found =
        zone.claim(call.id, *call.value.first, call.lifetime, now, unix_microseconds());

    call.reply = found.reply;

    if (found.reply.verdict != Verdict::found) {
        return;
    }

    char *buffer = call.room(call, found.value_size);

    if (buffer == nullptr) {
        call.reply.verdict = Verdict::unavailable;
        return;
    }

    zone.read(found.entry, buffer);
    call.reply.value = {buffer, found.value_size};
}

void MemoryStore::renew(const Lease *leases, std::size_t count)
{
    Locked zone(memory_);
    Millis now = memory_.now();

    for (std::size_t i = 0; i < count; i++) {
        zone->renew(leases[i].id, leases[i].token, leases[i].length, now);
    }
}

StoreFigures MemoryStore::figures()
{
    StoreFigures figures;

    figures.engine = "memory";
    figures.memory = Locked(memory_)->figures();
    return figures;
}

}  // namespace idempotency
