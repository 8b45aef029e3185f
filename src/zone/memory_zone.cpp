#include "zone/memory_zone.h"

#include <algorithm>

#include "core/wire.h"
#include "zone/zone_layout.h"

namespace idempotency {

MemoryZone::ClaimReply MemoryZone::found_entry(std::uint32_t at, Millis now) const
{
    std::string_view first(block(at)->first, std::min<std::size_t>(entry(at).length, kZoneInline));
    ClaimReply found;

    found.reply.verdict = Verdict::found;
    found.reply.token = first.size() < kClearSize ? 0 : token_of(first);
    found.reply.remaining = entry(at).expires - now;
    found.value_size = entry(at).length;
    found.entry = at;
    return found;
}

MemoryZone::ClaimReply MemoryZone::look_up(const KeyId &id, Millis now)
{
    std::uint32_t at = find(id, now);

    if (at != kNoBlock && !is_freed(at)) {
        return found_entry(at, now);
    }

    ClaimReply nothing;

    nothing.reply.verdict = Verdict::gone;
    return nothing;
}

MemoryZone::ClaimReply MemoryZone::claim(const KeyId &id, std::string_view record, Millis lifetime,
                                         Token wanted, Millis now, std::uint64_t clock)
{
    ClaimReply found;

    expire_some(now);

    std::uint32_t freed = find(id, now);

    if (freed != kNoBlock && !is_freed(freed)) {
        return found_entry(freed, now);
    }

    // the blocks of the claim, and the one that is reserved for a short result
    if (record.size() < kRecordHeadSize
        || !make_space(zone_blocks_for(record.size()), 1, freed, now)) {
        found.reply.verdict = Verdict::full;
        found.reply.remaining = time_to_next_expiry(now);
        return found;
    }

    Token token = wanted != 0 ? wanted : std::max<Token>(head()->last_token + 1, clock);
    NewEntry claim;

    claim.kind = EntryKind::claim;
    claim.claim = claim_of(record);
    claim.expires = now + lifetime;
    claim.hold = hold_of(record);

    head()->last_token = std::max(head()->last_token, token);
    std::uint32_t at = write_entry(id, claim, {&record, 1});

    wire::put_u64(reinterpret_cast<unsigned char *>(block(at)->first) + kTokenOffset, token);
    publish_entry(at, freed);

    found.reply.verdict = Verdict::claimed;
    found.reply.token = token;
    return found;
}

Verdict MemoryZone::settle(const KeyId &id, const ClaimId &claim, const Pieces &value,
                           Millis lifetime, Millis now)
{
    expire_some(now);

    std::uint32_t old = find(id, now);

    if (old != kNoBlock && (entry(old).claim != claim || is_freed(old))) {
        return Verdict::lost;
    }

    if (!make_space(zone_blocks_for(value.size()), 0, old, now)) {
        return Verdict::full;
    }

    NewEntry result;

    result.claim = claim;
    result.expires = now + lifetime;

    publish_entry(write_entry(id, result, value), old);
    return Verdict::done;
}

Verdict MemoryZone::release(const KeyId &id, const ClaimId &claim, Millis now)
{
    std::uint32_t at = find(id, now);

    if (at == kNoBlock || !is_claim_of(at, claim)) {
        return Verdict::lost;
    }

    remove_entry(at);
    return Verdict::done;
}

Verdict MemoryZone::renew(const KeyId &id, const ClaimId &claim, Millis lifetime, Millis now)
{
    std::uint32_t at = find(id, now);

    if (at == kNoBlock) {
        return Verdict::gone;
    }

    if (!is_claim_of(at, claim)) {
        return Verdict::lost;
    }

    update_entry(at, entry(at).kind, now + lifetime);

    if (entry(at).kind == EntryKind::unreserved_claim && make_space(0, 1, kNoBlock, now)) {
        update_entry(at, EntryKind::claim, entry(at).expires);
    }

    return Verdict::done;
}

Verdict MemoryZone::replace(const KeyId &id, const Call &call, Millis now)
{
    std::uint32_t old = find(id, now);

    if (old == kNoBlock || (is_freed(old) && !call.seen.empty())) {
        return Verdict::gone;
    }

    std::string_view first(block(old)->first,
                           std::min<std::size_t>(entry(old).length, kZoneInline));

    if ((!call.seen.empty() && (first.size() < kClearSize || seen_part(first) != call.seen))
        || entry(old).expires - now > call.most_remaining)
    {
        return Verdict::lost;
    }

    if (call.value.count == 0) {
        remove_entry(old);
        return Verdict::done;
    }

    if (!make_space(zone_blocks_for(call.value.size()), 0, old, now)) {
        return Verdict::full;
    }

    NewEntry written;

    written.claim = claim_of(call.value.first[0]);
    written.expires = now + call.lifetime;
    publish_entry(write_entry(id, written, call.value), old);
    return Verdict::done;
}

std::size_t MemoryZone::list(std::uint64_t &next, std::size_t blocks, KeyId *out,
                             bool &is_last) const
{
    std::uint64_t end = std::min<std::uint64_t>(next + blocks, head()->first_unused);
    std::size_t count = 0;

    for (; next < end; next++) {
        auto at = static_cast<std::uint32_t>(next);

        if (block(at)->kind == ZoneKind::entry) {
            out[count++] = entry(at).id;
        }
    }

    is_last = next >= head()->first_unused;
    return count;
}

// The entry is of no claim any more, and a new claim replaces it.
bool MemoryZone::is_freed(std::uint32_t at) const
{
    return entry(at).kind == EntryKind::result && entry(at).length >= kClearSize
           && static_cast<State>(block(at)->first[kStateOffset]) == State::freed;
}

bool MemoryZone::is_claim_of(std::uint32_t at, const ClaimId &claim) const
{
    return entry(at).kind != EntryKind::result && entry(at).claim == claim;
}

// Whether `wanted` blocks are free for an entry that replaces `replaced` (kNoBlock: none), so that
// afterwards one block is free for each claim and for `new_claims` more, and one in any case.  The
// new entry is written before the old one is removed, so reserved blocks are used meanwhile.
bool MemoryZone::has_space(std::size_t wanted, std::size_t new_claims, std::uint32_t replaced) const
{
    std::size_t free = free_block_count();
    std::size_t freed = 0;
    std::size_t claims = claim_count() + new_claims;

    if (replaced != kNoBlock) {
        freed = entry(replaced).chain_count + 1;
        claims -= entry(replaced).kind == EntryKind::claim ? 1 : 0;
    }

    return free >= wanted && free - wanted + freed >= std::max<std::size_t>(claims, 1);
}

// Expires entries until there is space (see has_space).  False: the zone is full.  Each step makes
// at least one block available - apart from one step, if the lease of `replaced` expires - so that
// there are about as many steps as blocks to write.
bool MemoryZone::make_space(std::size_t wanted, std::size_t new_claims, std::uint32_t replaced,
                            Millis now)
{
    while (!has_space(wanted, new_claims, replaced)) {
        if (!expire_one(now)) {
            return false;
        }
    }

    return true;
}

bool MemoryZone::is_consistent() const
{
    return Zone::is_consistent() && free_block_count() >= std::max<std::size_t>(claim_count(), 1);
}

}  // namespace idempotency
