#include "zone/memory_zone.h"

#include <algorithm>

#include "core/wire.h"
#include "zone/zone_layout.h"

namespace idempotency {

MemoryZone::Found MemoryZone::claim(const KeyId &id, std::string_view claim, Millis lease,
                                    Millis now, std::uint64_t clock)
{
    Guard guard(*this);
    Found found;

    expire_some(now);

    std::uint32_t at = find(id, now);

    if (at != kNone) {
        found.reply.verdict = Verdict::found;
        found.reply.token = entry(at).token;
        found.reply.remaining = entry(at).expires - now;
        found.value_size = entry(at).length;
        found.entry = at;
        return found;
    }

    // its own block, and one in which to write that its answer was not kept
    if (claim.size() < kTokenOffset + kTokenSize
        || !make_room(zone_blocks_for(claim.size()) + 1, now)) {
        found.reply.verdict = Verdict::full;
        return found;
    }

    New what;

    what.token = std::max<Token>(head()->last_token + 1, clock);
    what.expires = now + lease;
    what.running = true;

    head()->last_token = what.token;
    at = write(id, what, {&claim, 1});
    wire::put_u64(reinterpret_cast<unsigned char *>(block(at)->first) + kTokenOffset, what.token);
    publish(at);

    found.reply.verdict = Verdict::claimed;
    found.reply.token = what.token;
    return found;
}

Verdict MemoryZone::settle(const KeyId &id, Token token, const Pieces &value, Millis lifetime,
                           Millis now)
{
    Guard guard(*this);

    expire_some(now);

    std::uint32_t old = find(id, now);

    if (old != kNone && entry(old).token != token) {
        return Verdict::lost;
    }

    // the claim's own reserve may be spent now
    std::size_t reserve = old != kNone ? entry(old).running : 0;
    std::size_t needed = zone_blocks_for(value.size());

    if (!make_room(needed - std::min(needed, reserve), now)) {
        return Verdict::full;
    }

    New what;

    what.token = token;
    what.expires = now + lifetime;

    // before the old one goes: a process that is killed in between forgets nothing
    publish(write(id, what, value));

    if (old != kNone) {
        remove(old);
    }

    return Verdict::done;
}

Verdict MemoryZone::release(const KeyId &id, Token token, Millis now)
{
    Guard guard(*this);
    std::uint32_t at = find(id, now);

    if (at == kNone || entry(at).token != token || entry(at).running == 0) {
        return Verdict::lost;
    }

    remove(at);
    return Verdict::done;
}

Verdict MemoryZone::renew(const KeyId &id, Token token, Millis lease, Millis now)
{
    Guard guard(*this);
    std::uint32_t at = find(id, now);

    if (at == kNone || entry(at).token != token || entry(at).running == 0) {
        return Verdict::lost;
    }

    set_end(at, now + lease);
    return Verdict::done;
}

// Whether so many blocks are free beside those in reserve, one for each claim.
// Each that has expired frees one at the least, so that it takes no more steps
// than there are blocks to write.
bool MemoryZone::make_room(std::size_t wanted, Millis now)
{
    while (free_blocks() < wanted + running()) {
        if (!expire_one(now)) {
            return false;
        }
    }

    return true;
}

}  // namespace idempotency
