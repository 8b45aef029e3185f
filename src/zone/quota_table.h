// A table of fixed size in memory that several processes share: how many new keys each value of
// `idempotency_quota` has used.
//
// For each value there is a time at which its bucket is empty again (the generic cell rate
// algorithm).  Each new key moves this time by 1 / RATE into the future; it may not be further away
// than burst / RATE.
//
// A value has its place in a set of kQuotaWays entries, chosen by a keyed hash.  A new value
// replaces the entry whose bucket is empty first.  So an entry that is still needed is lost only if
// kQuotaWays values of one set are in use at the same time, and then the one that has used least.
//
// The caller holds the mutex of the memory.  A process may be killed at any instruction: each
// store is of one word, and leaves a table that can be used.  Nothing here throws, allocates memory
// or needs nginx.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/siphash.h"

namespace idempotency {

constexpr std::size_t kQuotaWays = 8;
constexpr std::size_t kQuotaSets = 4096;

// Times are in microseconds.
struct QuotaLimit {
    std::uint64_t interval = 0;   // 1 / RATE
    std::uint64_t tolerance = 0;  // burst / RATE
};

// All bytes are 0 except the key: a new table.
class QuotaTable {
public:
    // In shared memory.
    struct Memory {
        SipKey key;
        struct Entry {
            std::uint64_t value;  // its hash; 0: the entry was never used
            std::uint64_t empty_at;
        } entries[kQuotaSets][kQuotaWays];
    };

    explicit QuotaTable(Memory &memory) : memory_(memory) {}

    // The hash of a value of the directive with the number `directive`, never 0.
    static std::uint64_t hash(const SipKey &key, std::uint64_t directive, std::string_view value);

    // Counts a new key.  Returns 0, or the time after which there will be one to use: then nothing
    // is counted.
    std::uint64_t take(std::uint64_t value, const QuotaLimit &limit, std::uint64_t now);

    // What was taken was not used.
    void give_back(std::uint64_t value, const QuotaLimit &limit);

private:
    Memory::Entry *set_of(std::uint64_t value) { return memory_.entries[value % kQuotaSets]; }

    Memory &memory_;
};

}  // namespace idempotency
