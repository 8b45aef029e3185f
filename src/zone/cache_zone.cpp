#include "zone/cache_zone.h"

#include "zone/zone_layout.h"

namespace idempotency {

CacheZone::Copy CacheZone::look_up(const KeyId &id, Millis now)
{
    ChangeGuard guard(*this);
    std::uint32_t at = find(id, now);
    Copy copy;

    if (at != kNoBlock) {
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
    ChangeGuard guard(*this);

    expire_some(now);

    std::uint32_t old = find(id, now);

    if (old != kNoBlock && entry(old).confirmed > confirmed) {
        return;
    }

    // before the new copy is written: if this process is killed in between, there is no copy, and
    // not the old one
    if (old != kNoBlock) {
        remove_entry(old);
    }

    std::size_t needed = zone_blocks_for(value.size());

    if (expires <= now || needed > block_count() / 4) {
        return;
    }

    // each removal frees at least one block
    while (free_block_count() < needed) {
        remove_entry(first_result_to_expire());
    }

    NewEntry copy;

    copy.expires = expires;
    copy.confirmed = confirmed;
    publish_entry(write_entry(id, copy, value));
}

void CacheZone::remove(const KeyId &id, Millis now)
{
    ChangeGuard guard(*this);
    std::uint32_t at = find(id, now);

    if (at != kNoBlock) {
        remove_entry(at);
    }
}

}  // namespace idempotency
