#include "zone/memory_zone.h"

#include <algorithm>

#include "core/wire.h"
#include "zone/zone_layout.h"

namespace idempotency {

MemoryZone::ClaimReply MemoryZone::claim(const KeyId &id, std::string_view record, Millis lease,
                                         Millis now, std::uint64_t clock)
{
    ChangeGuard guard(*this);
    ClaimReply found;

    remove_some_expired(now);

    std::uint32_t at = find(id, now);

    if (at != kNoBlock) {
        found.reply.verdict = Verdict::found;
        found.reply.token = entry(at).token;
        found.reply.remaining = entry(at).expires - now;
        found.value_size = entry(at).length;
        found.entry = at;
        return found;
    }

    // the blocks of the claim, and the one that is reserved for a short result
    if (record.size() < kTokenOffset + kTokenSize
        || !make_space(zone_blocks_for(record.size()) + 1, now))
    {
        found.reply.verdict = Verdict::full;
        return found;
    }

    NewEntry claim;

    claim.token = std::max<Token>(head()->last_token + 1, clock);
    claim.expires = now + lease;
    claim.is_claim = true;

    head()->last_token = claim.token;
    at = write_entry(id, claim, {&record, 1});
    wire::put_u64(reinterpret_cast<unsigned char *>(block(at)->first) + kTokenOffset, claim.token);
    publish_entry(at);

    found.reply.verdict = Verdict::claimed;
    found.reply.token = claim.token;
    return found;
}

Verdict MemoryZone::settle(const KeyId &id, Token token, const Pieces &value, Millis lifetime,
                           Millis now)
{
    ChangeGuard guard(*this);

    remove_some_expired(now);

    std::uint32_t old = find(id, now);

    if (old != kNoBlock && entry(old).token != token) {
        return Verdict::lost;
    }

    // the block that is reserved for this claim may be used now
    std::size_t reserve = old != kNoBlock ? entry(old).is_claim : 0;
    std::size_t needed = zone_blocks_for(value.size());

    if (!make_space(needed - std::min(needed, reserve), now)) {
        return Verdict::full;
    }

    NewEntry result;

    result.token = token;
    result.expires = now + lifetime;

    // before the old entry is removed: if this process is killed in between, there are two, and
    // the next call keeps the new one
    publish_entry(write_entry(id, result, value));

    if (old != kNoBlock) {
        remove_entry(old);
    }

    return Verdict::done;
}

Verdict MemoryZone::release(const KeyId &id, Token token, Millis now)
{
    ChangeGuard guard(*this);
    std::uint32_t at = find(id, now);

    if (at == kNoBlock || entry(at).token != token || entry(at).is_claim == 0) {
        return Verdict::lost;
    }

    remove_entry(at);
    return Verdict::done;
}

Verdict MemoryZone::renew(const KeyId &id, Token token, Millis lease, Millis now)
{
    ChangeGuard guard(*this);
    std::uint32_t at = find(id, now);

    if (at == kNoBlock || entry(at).token != token || entry(at).is_claim == 0) {
        return Verdict::lost;
    }

    set_expiry(at, now + lease);
    return Verdict::done;
}

// Removes expired entries until `wanted` blocks are free in addition to the reserve of one block
// for each claim.  False: the zone is full.  Each removal frees at least one block, so that there
// are at most as many removals as blocks to write.
bool MemoryZone::make_space(std::size_t wanted, Millis now)
{
    while (free_block_count() < wanted + claim_count()) {
        if (!remove_expired_entry(now)) {
            return false;
        }
    }

    return true;
}

}  // namespace idempotency
