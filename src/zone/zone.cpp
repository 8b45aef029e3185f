#include "zone/zone.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/wire.h"
#include "zone/zone_layout.h"

namespace idempotency {

namespace {

// How many expired entries one call removes at most, apart from those whose blocks it needs.  A
// call adds one entry at most, so a backlog of n expired entries is gone after n / 31 calls.  With
// a million entries, the heap has 10 levels: 32 removals compare 32 * 10 * 4 = 1280 nodes.
constexpr unsigned kMaxExpiredPerCall = 32;

// The first tick that begins when the entry has expired.
std::uint32_t due_tick_of(Millis expires)
{
    return static_cast<std::uint32_t>(std::min<Millis>((expires >> kZoneTickShift) + 1,
                                                       std::numeric_limits<std::uint32_t>::max()));
}

std::uint64_t bucket_hash(const KeyId &id)
{
    return wire::get_u64(id.bytes.data());  // it is a SHA-256 already
}

}  // namespace

bool Zone::format()
{
    if (size_ < kZoneMinimum) {
        return false;
    }

    ZoneDimensions dimensions = zone_dimensions(size_);
    ZoneHead *zone = head();

    std::memset(memory_, 0, sizeof(ZoneHead));
    zone->size = size_;
    zone->bucket_count = dimensions.bucket_count;
    zone->block_count = dimensions.block_count;

    for (std::uint32_t i = 0; i < zone->block_count; i++) {
        block(i)->kind = ZoneKind::data;
    }

    rebuild();
    zone->magic = kZoneMagic;
    return true;
}

bool Zone::is_formatted() const { return head()->magic == kZoneMagic && head()->size == size_; }

ZoneFigures Zone::figures() const
{
    ZoneFigures figures;

    figures.size = block_count() * kZoneBlockSize;
    figures.free_blocks = free_block_count();
    figures.used = figures.size - figures.free_blocks * kZoneBlockSize;
    figures.keys = entry_count();
    return figures;
}

std::size_t Zone::entry_count() const
{
    return head()->heap_count[results] + head()->heap_count[claims];
}

std::size_t Zone::claim_count() const { return head()->heap_count[claims]; }
std::size_t Zone::block_count() const { return head()->block_count; }
std::size_t Zone::free_block_count() const { return head()->free_count; }
void Zone::mark_dirty() { head()->dirty = 1; }

// Entries

std::uint32_t *Zone::bucket_of(const KeyId &id) const
{
    return buckets() + (bucket_hash(id) & (head()->bucket_count - 1));
}

std::uint32_t Zone::find_in_bucket(const KeyId &id) const
{
    std::uint32_t at = *bucket_of(id);

    while (at != kNoBlock && entry(at).id != id) {
        at = entry(at).bucket_next;
    }

    return at;
}

std::uint32_t Zone::find(const KeyId &id, Millis now)
{
    std::uint32_t at = find_in_bucket(id);

    if (at != kNoBlock && entry(at).expires <= now) {
        remove_entry(at);
        return kNoBlock;
    }

    return at;
}

std::uint32_t Zone::take_free_block()
{
    std::uint32_t at = head()->free_first;

    head()->free_first = block(at)->next;
    head()->free_count--;
    block(at)->next = kNoBlock;
    return at;
}

std::uint32_t Zone::write_entry(const KeyId &id, const NewEntry &what, const Pieces &value)
{
    std::uint32_t at = take_free_block();
    ZoneBlock *current = block(at);
    ZoneEntry &written = current->entry;

    written.id = id;
    written.token = what.token;
    written.expires = what.expires;
    written.confirmed = what.confirmed;
    written.sequence = ++head()->sequence;
    written.length = static_cast<std::uint32_t>(value.size());
    written.is_claim = what.is_claim;
    written.chain_last = kNoBlock;
    written.chain_count = 0;

    char *out = current->first;
    std::size_t space = kZoneInline;

    for (std::size_t i = 0; i < value.count; i++) {
        std::string_view piece = value.first[i];

        while (!piece.empty()) {
            if (space == 0) {
                std::uint32_t next = take_free_block();

                current->next = next;
                current = block(next);
                out = current->data;
                space = kZonePayload;
                written.chain_last = next;
                written.chain_count++;
            }

            std::size_t n = std::min(space, piece.size());

            std::memcpy(out, piece.data(), n);
            out += n;
            space -= n;
            piece.remove_prefix(n);
        }
    }

    return at;
}

void Zone::read(std::uint32_t at, char *out) const
{
    const ZoneBlock *from = block(at);
    std::size_t left = from->entry.length;
    std::size_t n = std::min(left, kZoneInline);

    std::memcpy(out, from->first, n);

    while ((left -= n) > 0) {
        out += n;
        from = block(from->next);
        n = std::min(left, kZonePayload);
        std::memcpy(out, from->data, n);
    }
}

void Zone::publish_entry(std::uint32_t at)
{
    compiler_barrier();
    block(at)->kind = ZoneKind::entry;

    link_to_bucket(at);
    insert_into_heap(at);
}

void Zone::remove_entry(std::uint32_t at)
{
    ZoneBlock *removed = block(at);

    removed->kind = ZoneKind::data;
    compiler_barrier();

    unlink_from_bucket(at);
    remove_from_heap(at);

    std::uint32_t last = removed->entry.chain_count > 0 ? removed->entry.chain_last : at;
    free_chain(at, last, removed->entry.chain_count + 1);
}

void Zone::set_expiry(std::uint32_t at, Millis expires)
{
    remove_from_heap(at);
    entry(at).expires = expires;
    insert_into_heap(at);
}

void Zone::link_to_bucket(std::uint32_t at)
{
    std::uint32_t *bucket = bucket_of(entry(at).id);

    entry(at).bucket_next = *bucket;
    *bucket = at;
}

void Zone::unlink_from_bucket(std::uint32_t at)
{
    std::uint32_t *link = bucket_of(entry(at).id);

    while (*link != at) {
        link = &entry(*link).bucket_next;
    }

    *link = entry(at).bucket_next;
}

void Zone::free_chain(std::uint32_t first, std::uint32_t last, std::uint32_t count)
{
    block(last)->next = head()->free_first;
    head()->free_first = first;
    head()->free_count += count;
}

// Expiry: the first node of a heap is the one that expires first

bool Zone::remove_expired_entry(Millis now)
{
    for (Heap heap : {results, claims}) {
        if (head()->heap_count[heap] > 0 && node(heap, 0).due_tick <= now >> kZoneTickShift) {
            remove_entry(node(heap, 0).entry);
            return true;
        }
    }

    return false;
}

void Zone::remove_some_expired(Millis now)
{
    for (unsigned i = 0; i < kMaxExpiredPerCall && remove_expired_entry(now); i++) {
    }
}

std::uint32_t Zone::first_result_to_expire() const
{
    return head()->heap_count[results] > 0 ? node(results, 0).entry : kNoBlock;
}

// The heaps

Zone::Heap Zone::heap_of(std::uint32_t at) const
{
    return entry(at).is_claim != 0 ? claims : results;
}

void Zone::put_node(Heap heap, std::uint32_t i, const ZoneHeapNode &what)
{
    node(heap, i) = what;
    entry(what.entry).heap_index = i;
}

void Zone::sift_up(Heap heap, std::uint32_t i, const ZoneHeapNode &what)
{
    while (i > 0 && what.due_tick < node(heap, (i - 1) / kZoneHeapArity).due_tick) {
        put_node(heap, i, node(heap, (i - 1) / kZoneHeapArity));
        i = (i - 1) / kZoneHeapArity;
    }

    put_node(heap, i, what);
}

void Zone::sift_down(Heap heap, std::uint32_t i, const ZoneHeapNode &what)
{
    const std::uint64_t count = head()->heap_count[heap];

    for (;;) {
        std::uint64_t first = std::uint64_t(i) * kZoneHeapArity + 1;
        std::uint64_t end = std::min(first + kZoneHeapArity, count);
        std::uint32_t least = i;

        for (std::uint64_t child = first; child < end; child++) {
            auto c = static_cast<std::uint32_t>(child);

            if (node(heap, c).due_tick < (least == i ? what.due_tick : node(heap, least).due_tick))
            {
                least = c;
            }
        }

        if (least == i) {
            break;
        }

        put_node(heap, i, node(heap, least));
        i = least;
    }

    put_node(heap, i, what);
}

void Zone::insert_into_heap(std::uint32_t at)
{
    Heap heap = heap_of(at);

    sift_up(heap, head()->heap_count[heap]++, {due_tick_of(entry(at).expires), at});
}

void Zone::remove_from_heap(std::uint32_t at)
{
    Heap heap = heap_of(at);
    std::uint32_t i = entry(at).heap_index;
    ZoneHeapNode last = node(heap, --head()->heap_count[heap]);

    if (i == head()->heap_count[heap]) {
        return;
    }

    if (last.due_tick < node(heap, i).due_tick) {
        sift_up(heap, i, last);
    } else {
        sift_down(heap, i, last);
    }
}

// Recovery after a process was killed within a call

bool Zone::is_chain_complete(std::uint32_t at) const
{
    const ZoneEntry &of = entry(at);

    if (zone_blocks_for(of.length) != std::size_t(of.chain_count) + 1) {
        return false;
    }

    std::uint32_t last = at;

    for (std::uint32_t i = 0; i < of.chain_count; i++) {
        last = block(last)->next;

        if (last >= head()->block_count || block(last)->kind != ZoneKind::data) {
            return false;
        }
    }

    return of.chain_count == 0 || last == of.chain_last;
}

// Makes all that is derived from the published entries again, in one pass over all blocks.  The
// zone stays dirty until the end: if this process is killed, too, the next one starts over.
void Zone::rebuild()
{
    ZoneHead *zone = head();

    std::fill_n(buckets(), zone->bucket_count, kNoBlock);
    zone->heap_count[results] = 0;
    zone->heap_count[claims] = 0;
    zone->free_first = kNoBlock;
    zone->free_count = 0;

    for (std::uint32_t i = 0; i < zone->block_count; i++) {
        if (block(i)->kind != ZoneKind::entry) {
            block(i)->kind = ZoneKind::data;
        }
    }

    for (std::uint32_t i = 0; i < zone->block_count; i++) {
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

    for (std::uint32_t i = 0; i < zone->block_count; i++) {
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
        zone->last_token = std::max(zone->last_token, entry(i).token);
    }

    for (std::uint32_t i = zone->block_count; i-- > 0;) {
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
            || due_tick_of(entry(here.entry).expires) != here.due_tick
            || (i > 0 && node(heap, (i - 1) / kZoneHeapArity).due_tick > here.due_tick))
        {
            return false;
        }
    }

    return true;
}

bool Zone::is_consistent() const
{
    const ZoneHead *zone = head();
    std::size_t used = 0, found = 0, free = 0;

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
        if (at >= zone->block_count || ++free > zone->block_count) {
            return false;
        }
    }

    return found == entry_count() && is_heap_consistent(results) && is_heap_consistent(claims)
           && free == zone->free_count && used + free == zone->block_count;
}

}  // namespace idempotency
