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

    call.reply = Reply{};

    switch (call.kind) {
    case Call::Kind::claim:
        claim(*zone, call, now);
        break;

    case Call::Kind::settle:
        call.reply.verdict = zone->settle(call.id, call.claim, call.value, call.lifetime, now);
        break;

    case Call::Kind::release:
        call.reply.verdict = zone->release(call.id, call.claim, now);
        break;

    case Call::Kind::renew:
        call.reply.verdict = zone->renew(call.id, call.claim, call.lifetime, now);
        break;

    case Call::Kind::replace:
        call.reply.verdict = zone->replace(call.id, call, now);
        break;
    }

    return true;
}

void MemoryStore::claim(MemoryZone &zone, Call &call, Millis now)
{
    MemoryZone::ClaimReply found = call.only_looks_up()
                                       ? zone.look_up(call.id, now)
                                       : zone.claim(call.id, *call.value.first, call.lifetime,
                                                    call.token, now, unix_microseconds());

    call.reply = found.reply;

    if (found.reply.verdict != Verdict::found) {
        return;
    }

    char *buffer = call.allocate_value(call, found.value_size);

    if (buffer == nullptr) {
        call.reply.verdict = Verdict::unavailable;
        call.reply.cause = Cause::no_memory;
        return;
    }

    zone.read(found.entry, buffer);
    call.reply.value = {buffer, found.value_size};
}

// The memory is locked while the ids of one step are copied.
bool MemoryStore::walk(WalkStep &step)
{
    constexpr std::size_t blocks = 256;
    KeyId ids[blocks];
    std::size_t count = Locked(memory_)->list(step.position, blocks, ids, step.is_last);

    for (std::size_t i = 0; i < count; i++) {
        step.found(step, ids[i]);
    }

    return true;
}

StoreFigures MemoryStore::figures()
{
    StoreFigures figures;

    figures.engine = "memory";
    figures.memory = Locked(memory_)->figures();
    return figures;
}

}  // namespace idempotency
