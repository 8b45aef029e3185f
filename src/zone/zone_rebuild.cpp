// Recovery of a zone after a process was killed within a call, and the checks of its structure.

#include <algorithm>

#include "zone/zone.h"
#include "zone/zone_layout.h"

namespace idempotency {

bool Zone::is_chain_complete(std::uint32_t at) const
{
    const ZoneEntry &of = entry(at);

    if (zone_blocks_for(of.length) != std::size_t(of.chain_count) + 1) {
        return false;
    }

    std::uint32_t last = at;

    for (std::uint32_t i = 0; i < of.chain_count; i++) {
        last = block(last)->next;

        if (last >= head()->first_unused || block(last)->kind != ZoneKind::data) {
            return false;
        }
    }

    return of.chain_count == 0 || last == of.chain_last;
}

// Makes all that is derived from the published entries again, in passes over all blocks that were ever used.  The
// zone stays dirty until the end: if this process is killed, too, the next one starts over.
void Zone::rebuild()
{
    ZoneHead *zone = head();

    std::fill_n(buckets(), zone->bucket_count, kNoBlock);
    zone->heap_count[results] = 0;
    zone->heap_count[claims] = 0;
    zone->free_first = kNoBlock;
    zone->free_count = zone->block_count - zone->first_unused;

    for (std::uint32_t i = 0; i < zone->first_unused; i++) {
        if (block(i)->kind != ZoneKind::entry) {
            block(i)->kind = ZoneKind::data;
        }
    }

    for (std::uint32_t i = 0; i < zone->first_unused; i++) {
        ZoneBlock *candidate = block(i);

        if (candidate->kind != ZoneKind::entry) {
            continue;
        }

        // of two entries with one key, the older one was about to be removed
        std::uint32_t other = find_in_bucket(candidate->entry.id);
        bool stale = other != kNoBlock && entry(other).sequence > candidate->entry.sequence;

        if (stale || !is_chain_complete(i)) {
            candidate->kind = ZoneKind::data;
            continue;
        }

        if (other != kNoBlock) {
            block(other)->kind = ZoneKind::data;
            unlink_from_bucket(other);
        }

        link_to_bucket(i);
    }

    for (std::uint32_t i = 0; i < zone->first_unused; i++) {
        if (block(i)->kind != ZoneKind::entry) {
            continue;
        }

        std::uint32_t owned = i;

        for (std::uint32_t n = 0; n < entry(i).chain_count; n++) {
            owned = block(owned)->next;
            block(owned)->kind = ZoneKind::owned_data;
        }

        insert_into_heap(i);
        zone->sequence = std::max(zone->sequence, entry(i).sequence);
    }

    for (std::uint32_t i = zone->first_unused; i-- > 0;) {
        if (block(i)->kind == ZoneKind::data) {
            free_chain(i, i, 1);
        } else if (block(i)->kind == ZoneKind::owned_data) {
            block(i)->kind = ZoneKind::data;
        }
    }

    zone->dirty = 0;
}

bool Zone::is_heap_consistent(Heap heap) const
{
    for (std::uint32_t i = 0; i < head()->heap_count[heap]; i++) {
        ZoneHeapNode here = node(heap, i);

        if (here.entry >= head()->block_count || block(here.entry)->kind != ZoneKind::entry
            || entry(here.entry).heap_index != i || heap_of(here.entry) != heap
            || due_tick_of(here.entry) != here.due_tick
            || (i > 0 && node(heap, (i - 1) / kZoneHeapArity).due_tick > here.due_tick))
        {
            return false;
        }
    }

    return true;
}

std::size_t Zone::longest_bucket() const
{
    std::size_t longest = 0;

    for (std::uint32_t b = 0; b < head()->bucket_count; b++) {
        std::size_t length = 0;

        for (std::uint32_t at = buckets()[b]; at != kNoBlock; at = entry(at).bucket_next) {
            length++;
        }

        longest = std::max(longest, length);
    }

    return longest;
}

bool Zone::is_consistent() const
{
    const ZoneHead *zone = head();
    std::size_t used = 0, found = 0, free = 0;
    std::size_t unused = zone->block_count - zone->first_unused;

    for (std::uint32_t b = 0; b < zone->bucket_count; b++) {
        for (std::uint32_t at = buckets()[b]; at != kNoBlock; at = entry(at).bucket_next) {
            if (block(at)->kind != ZoneKind::entry || bucket_of(entry(at).id) != buckets() + b
                || find_in_bucket(entry(at).id) != at || !is_chain_complete(at))
            {
                return false;
            }

            found++;
            used += 1 + entry(at).chain_count;
        }
    }

    for (std::uint32_t at = zone->free_first; at != kNoBlock; at = block(at)->next) {
        if (at >= zone->first_unused || ++free > zone->block_count) {
            return false;
        }
    }

    return found == entry_count() && is_heap_consistent(results) && is_heap_consistent(claims)
           && free + unused == zone->free_count && used + free + unused == zone->block_count;
}

}  // namespace idempotency
