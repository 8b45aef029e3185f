// The zone of MemoryStore: claims and results, each under its key.
//
// Each operation is that of Store (core/store.h) and has its verdicts.  A claim is an entry of kind
// `claim` or `unreserved_claim`; a result with the same claim id replaces it.
//
// A full zone refuses new claims: it never removes an entry that has not expired.  For each claim
// whose lease runs, one free block is reserved, so that the claim can always be settled with a
// short result, even if the response does not fit.  When the lease has expired, the claim stays as
// long as its outcome is held, and the reserved block is free for others: a claim whose outcome is
// unknown takes one block.  One block of the zone is never used for anything but to replace an
// entry by one that is not larger.  So such a claim can be settled with a short result as well, if
// its holder continues after a pause.
//
// The conventions are those of zone.h: the caller holds the mutex.

#pragma once

#include <cstddef>
#include <cstdint>

#include "zone/zone.h"

namespace idempotency {

class MemoryZone : public Zone {
public:
    using Zone::Zone;

    // After `found`: reply.value is not filled in.  The value has `value_size` bytes; `read` copies
    // it from `entry`, before the mutex is unlocked.
    struct ClaimReply {
        Reply reply;
        std::size_t value_size = 0;
        std::uint32_t entry = 0;
    };

    // Claims a free key for `lifetime`, or finds its entry.  `record` is the record of the claim,
    // with its id and its hold; the token is written into it here.  `wanted` is the token; 0: a new
    // one.  `clock` is the Unix time in microseconds: a new token is this time, or the last token
    // plus 1 where that is higher, so that tokens grow even if the time is set back.
    ClaimReply claim(const KeyId &id, std::string_view record, Millis lifetime, Token wanted,
                     Millis now, std::uint64_t clock);

    // Finds the entry of a key; `gone`: there is none.
    ClaimReply look_up(const KeyId &id, Millis now);

    // Replaces the value under the claim.  A key that has no entry any more, because the claim has
    // expired and no other claim has followed, gets the late result as well.
    Verdict settle(const KeyId &id, const ClaimId &claim, const Pieces &value, Millis lifetime,
                   Millis now);

    // Removes the claim.
    Verdict release(const KeyId &id, const ClaimId &claim, Millis now);

    // Lets the claim expire at now + lifetime.  If its lease had expired, a block is reserved for
    // it again, unless the zone is full.
    Verdict renew(const KeyId &id, const ClaimId &claim, Millis lifetime, Millis now);

    // Replaces the value that the caller has seen (Call::seen), or removes it if `value` is empty.
    Verdict replace(const KeyId &id, const Call &call, Millis now);

    // Writes the ids of all entries whose first blocks are among the `blocks` blocks from `next`
    // on to `out`, which has space for that many, and moves `next` behind them.  Returns how many
    // there are; `is_last`: there are no more blocks.
    std::size_t list(std::uint64_t &next, std::size_t blocks, KeyId *out, bool &is_last) const;

    // As Zone::is_consistent, and checks the reserved blocks; for tests.
    bool is_consistent() const;

private:
    ClaimReply found_entry(std::uint32_t number, Millis now) const;
    bool is_freed(std::uint32_t number) const;
    bool is_claim_of(std::uint32_t number, const ClaimId &claim) const;
    bool has_space(std::size_t block_count, std::size_t new_claims, std::uint32_t replaced) const;
    bool make_space(std::size_t block_count, std::size_t new_claims, std::uint32_t replaced,
                    Millis now);
};

}  // namespace idempotency
