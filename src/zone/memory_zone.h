// The embedded store's zone: what a store does with its keys, in shared memory.
// The caller holds the mutex.

#pragma once

#include "zone/zone.h"

namespace idempotency {

class MemoryZone : public Zone {
public:
    using Zone::Zone;

    // Claims a free key, or finds what it holds.  `claim` is a record; the
    // token is written into it.  `clock` is the time of day in microseconds:
    // tokens are made from it and grow even where it goes back.
    // On `found` only `value_size` and `remaining` of the value are known; read
    // it with `read` before the mutex is given back.
    struct Found {
        Reply reply;
        std::size_t value_size = 0;
        std::uint32_t entry = 0;
    };

    Found claim(const KeyId &id, std::string_view claim, Millis lease, Millis now,
                std::uint64_t clock);

    // Replaces the value of the claim `token`, or of nobody: a key whose lease
    // has lapsed without a successor takes the late result.
    Verdict settle(const KeyId &id, Token token, const Pieces &value, Millis lifetime, Millis now);

    // Frees the key if the claim `token` still runs.
    Verdict release(const KeyId &id, Token token, Millis now);

    // Gives the claim `token` another lease from now on.
    Verdict renew(const KeyId &id, Token token, Millis lease, Millis now);

private:
    bool make_room(std::size_t blocks, Millis now);
};

}  // namespace idempotency
