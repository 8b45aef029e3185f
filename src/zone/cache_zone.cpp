#include "zone/cache_zone.h"

#include "zone/zone_layout.h"

namespace idempotency {

CacheZone::Copy CacheZone::look_up(const KeyId &id, Millis now)
{
    std::uint32_t at = find(id, now);
    Copy copy;

    if (at != kNoBlock) {
        entry(at).hold = now;
        copy.found = true;
        copy.size = entry(at).length;
        copy.entry = at;
        copy.expires = entry(at).expires;
        copy.confirmed = entry(at).confirmed;
    }

    return copy;
}

std::size_t CacheZone::put(const KeyId &id, const Pieces &value, Millis expires, Millis confirmed,
                           Millis now)
{
    expire_some(now);

    std::uint32_t old = find(id, now);

    if (old != kNoBlock && entry(old).confirmed > confirmed) {
        return 0;
    }

    // before the new copy is written, which may need its blocks
    if (old != kNoBlock) {
        remove_entry(old);
    }

    std::size_t needed = zone_blocks_for(value.size());

    if (expires <= now || needed > block_count() / 4) {
        return 0;
    }

    std::size_t removed = 0;

    // each removal frees at least one block
    for (; free_block_count() < needed; removed++) {
        remove_entry(choose_copy_to_remove());
    }

    NewEntry copy;

    copy.expires = expires;
    copy.confirmed = confirmed;
    copy.hold = now;
    publish_entry(write_entry(id, copy, value), kNoBlock);
    return removed;
}

// There is at least one.  The numbers are random enough for samples: they differ from one removal to
// the next, as each of them changes the number of free blocks.
std::uint32_t CacheZone::choose_copy_to_remove() const
{
    std::uint64_t random = head()->written << 32 ^ free_block_count();
    std::uint32_t chosen = kNoBlock;

    for (unsigned i = 0; i < kCacheSamples; i++) {
        // splitmix64
        random += 0x9e3779b97f4a7c15;

        std::uint64_t mixed = (random ^ random >> 30) * 0xbf58476d1ce4e5b9;

        mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;

        std::uint32_t at = result_at((mixed ^ mixed >> 31) % result_count());

        if (chosen == kNoBlock || entry(at).hold < entry(chosen).hold) {
            chosen = at;
        }
    }

    return chosen;
}

void CacheZone::remove(const KeyId &id, Millis now)
{
    std::uint32_t at = find(id, now);

    if (at != kNoBlock) {
        remove_entry(at);
    }
}

}  // namespace idempotency
