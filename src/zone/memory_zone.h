// The zone of MemoryStore: claims and results, each under its key.
//
// Each operation is that of Store (core/store.h) and has its verdicts.  A claim is an entry with
// `is_claim` set; a result replaces it under the claim's token.
//
// A full zone refuses new claims: it never removes an entry that has not expired.  For each claim
// one free block is reserved, so that a claim can always be settled with a short result, even if
// the response does not fit.
//
// The conventions are those of zone.h: the caller holds the mutex.

#pragma once

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

    // Claims a free key, or finds its entry.  `record` is the record of the claim; its token is
    // assigned here and written into the record.  `clock` is the Unix time in microseconds: the
    // token is this time, or the last token plus 1 where that is higher, so that tokens grow
    // even if the time is set back.
    ClaimReply claim(const KeyId &id, std::string_view record, Millis lease, Millis now,
                     std::uint64_t clock);

    // Replaces the value under the claim `token`.  A key that has no entry any more, because the
    // lease has expired and no other request has claimed the key, gets the late result as well.
    Verdict settle(const KeyId &id, Token token, const Pieces &value, Millis lifetime, Millis now);

    // Removes the claim `token`.
    Verdict release(const KeyId &id, Token token, Millis now);

    // Lets the claim `token` expire at now + lease.
    Verdict renew(const KeyId &id, Token token, Millis lease, Millis now);

private:
    bool make_space(std::size_t block_count, Millis now);
};

}  // namespace idempotency
