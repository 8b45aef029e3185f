// The checks of the structure of a zone, for tests.

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

    if (zone->undo_count != 0) {
        return false;
    }

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
