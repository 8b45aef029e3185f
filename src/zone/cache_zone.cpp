#include "zone/cache_zone.h"

#include "zone/zone_layout.h"

namespace idempotency {

CacheZone::Copy CacheZone::look_up(const KeyId &id, Millis now)
{
    Guard guard(*this);
    std::uint32_t at = find(id, now);
    Copy copy;

    if (at != kNone) {
        copy.found = true;
        copy.size = entry(at).length;
        copy.entry = at;
        copy.expires = entry(at).expires;
        copy.confirmed = entry(at).confirmed;
    }

    return copy;
}

void CacheZone::put(const KeyId &id, const Pieces &value, Millis expires, Millis confirmed,
                    Millis now)
{
    Guard guard(*this);

    expire_some(now);

    std::uint32_t old = find(id, now);

    if (old != kNone && entry(old).confirmed > confirmed) {
        return;
    }

    // first, so that no kill in between brings back what was replaced
    if (old != kNone) {
        remove(old);
    }

    std::size_t needed = zone_blocks_for(value.size());

    if (expires <= now || needed > blocks() / 4) {
        return;
    }

    // each frees one block at the least
    while (free_blocks() < needed) {
        remove(first_to_end());
    }

    New what;

    what.expires = expires;
    what.confirmed = confirmed;
    publish(write(id, what, value));
}

void CacheZone::drop(const KeyId &id, Millis now)
{
    Guard guard(*this);
    std::uint32_t at = find(id, now);

    if (at != kNone) {
        remove(at);
    }
}

}  // namespace idempotency
