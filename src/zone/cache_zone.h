// A cache in shared memory: copies of finished results, each for as long as the
// result itself at the most.  A copy may be gone at any time; what is there is
// what was put last.  The caller holds the mutex.

#pragma once

#include "zone/zone.h"

namespace idempotency {

class CacheZone : public Zone {
public:
    using Zone::Zone;

    struct Copy {
        bool found = false;
        std::size_t size = 0;  // of the value; see Zone::read
        std::uint32_t entry = 0;
        Millis expires = 0;
        Millis confirmed = 0;
    };

    Copy look_up(const KeyId &id, Millis now);

    // Puts a copy in place of the one that is there, unless that was confirmed
    // later.  Where there is no room those that end first make way; a value that
    // takes more than a quarter of the zone is left out.
    // `confirmed` is when the result was last known to be in its store.
    void put(const KeyId &id, const Pieces &value, Millis expires, Millis confirmed, Millis now);

    void drop(const KeyId &id, Millis now);
};

}  // namespace idempotency
