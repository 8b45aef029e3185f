// The zone of NearStore: copies of results that another store keeps.
//
// A copy expires with its result, or earlier: a full cache removes copies that were not used for a
// long time.  It chooses the one of kCacheSamples random copies whose last use is the longest ago,
// which is about what an exact order would choose (Redis does the same with `allkeys-lru`), and
// needs no list that each lookup changes.  So a copy may be missing at any time; the one that is
// found is the one with the latest confirmation.
//
// The conventions are those of zone.h: the caller holds the mutex.

#pragma once

#include <cstddef>
#include <cstdint>

#include "zone/zone.h"

namespace idempotency {

constexpr unsigned kCacheSamples = 8;

class CacheZone : public Zone {
public:
    using Zone::Zone;

    struct Copy {
        bool found = false;
        std::size_t size = 0;     // of the value, in bytes
        std::uint32_t entry = 0;  // for Zone::read
        Millis expires = 0;
        Millis confirmed = 0;
    };

    // A copy that is found has been used now.
    Copy look_up(const KeyId &id, Millis now);

    // Puts a copy, and replaces the one that is there unless that was confirmed later.
    // `confirmed` is the time at which the store was last known to have the result.  A value
    // that takes more than a quarter of the zone is not copied.  Returns how many copies were
    // removed because the cache was full.
    std::size_t put(const KeyId &id, const Pieces &value, Millis expires, Millis confirmed,
                    Millis now);

    void remove(const KeyId &id, Millis now);

private:
    std::uint32_t choose_copy_to_remove() const;
};

}  // namespace idempotency
