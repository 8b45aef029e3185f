#include "zone/zone.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "zone/zone_layout.h"

namespace idempotency {

namespace {

// How often one call of expire_some calls expire_one at most.  A call to the zone adds one entry at
// most, which is expired in two steps if it is a claim, so a backlog of n steps is gone after n / 30
// calls.  With a million entries, the heap has 10 levels: 32 removals compare 32 * 10 * 4 = 1280
// nodes.
constexpr unsigned kMaxExpiredPerCall = 32;

}  // namespace

bool Zone::format(const SipKey &secret)
{
    if (size_ < kZoneMinimum) {
        return false;
    }

    ZoneDimensions dimensions = zone_dimensions(size_);
    ZoneHead *zone = head();

    std::memset(memory_, 0, sizeof(ZoneHead));
    std::fill_n(reinterpret_cast<std::uint32_t *>(zone + 1), dimensions.bucket_count, kNoBlock);
    zone->size = size_;
    zone->bucket_count = dimensions.bucket_count;
    zone->block_count = dimensions.block_count;
    zone->free_first = kNoBlock;
    zone->free_count = dimensions.block_count;
    zone->secret = secret;
    zone->magic = kZoneMagic;
    return true;
}

bool Zone::recover()
{
    ZoneHead *zone = head();

    if (zone->undo_count == 0) {
        return false;
    }

    for (std::uint32_t i = zone->undo_count; i-- > 0;) {
        std::memcpy(static_cast<char *>(memory_) + zone->undo[i].offset, &zone->undo[i].value,
                    sizeof(zone->undo[i].value));
    }

    commit();
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
std::size_t Zone::undo_count() const { return head()->undo_count; }

// Entries

std::uint32_t *Zone::bucket_of(const KeyId &id) const
{
    return buckets() + (siphash(head()->secret, id.view()) & (head()->bucket_count - 1));
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

// A block of the free list keeps its `next`: it is linked to the block that is taken next already,
// and needs no undo.
std::uint32_t Zone::take_free_block()
{
    std::uint32_t at = head()->free_first;

    if (at != kNoBlock) {
        head()->free_first = block(at)->next;
    } else {
        at = head()->first_unused++;
        block(at)->next = kNoBlock;
        block(at)->kind = ZoneKind::data;
    }

    head()->free_count--;
    return at;
}

std::uint32_t Zone::write_entry(const KeyId &id, const NewEntry &what, const Pieces &value)
{
    const std::uint32_t first_unused = head()->first_unused;

    save(&head()->free_first);
    save(&head()->first_unused);

    std::uint32_t at = take_free_block();
    ZoneBlock *current = block(at);
    ZoneEntry &written = current->entry;

    written.id = id;
    written.claim = what.claim;
    written.expires = what.expires;
    written.confirmed = what.confirmed;
    written.hold = what.hold;
    written.length = static_cast<std::uint32_t>(value.size());
    written.kind = what.kind;
    written.chain_last = kNoBlock;
    written.chain_count = 0;

    head()->written++;

    char *out = current->first;
    std::size_t space = kZoneInline;

    for (std::size_t i = 0; i < value.count; i++) {
        std::string_view piece = value.first[i];

        while (!piece.empty()) {
            if (space == 0) {
                std::uint32_t next = take_free_block();

                if (next == first_unused) {
                    save(&current->next);  // the last block of the free list
                }

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

void Zone::publish_entry(std::uint32_t at, std::uint32_t replaced)
{
    save(&block(at)->kind);
    block(at)->kind = ZoneKind::entry;
    link_to_bucket(at);
    insert_into_heap(at);

    if (replaced != kNoBlock) {
        take_out(replaced);
    }

    commit();
}

void Zone::remove_entry(std::uint32_t at)
{
    take_out(at);
    commit();
}

void Zone::take_out(std::uint32_t at)
{
    ZoneBlock *removed = block(at);

    save(&removed->kind);
    removed->kind = ZoneKind::data;
    unlink_from_bucket(at);
    remove_from_heap(at);

    std::uint32_t last = removed->entry.chain_count > 0 ? removed->entry.chain_last : at;
    free_chain(at, last, removed->entry.chain_count + 1);
}

void Zone::update_entry(std::uint32_t at, EntryKind kind, Millis expires)
{
    remove_from_heap(at);
    save(&entry(at).expires);
    entry(at).expires = expires;
    save(&entry(at).kind);
    entry(at).kind = kind;
    insert_into_heap(at);
    commit();
}

void Zone::link_to_bucket(std::uint32_t at)
{
    std::uint32_t *bucket = bucket_of(entry(at).id);

    entry(at).bucket_next = *bucket;
    save(bucket);
    *bucket = at;
}

void Zone::unlink_from_bucket(std::uint32_t at)
{
    std::uint32_t *link = bucket_of(entry(at).id);

    while (*link != at) {
        link = &entry(*link).bucket_next;
    }

    save(link);
    *link = entry(at).bucket_next;
}

void Zone::free_chain(std::uint32_t first, std::uint32_t last, std::uint32_t count)
{
    block(last)->next = head()->free_first;
    save(&head()->free_first);
    head()->free_first = first;
    head()->free_count += count;
}

// Expiry: the first node of a heap is the one that is due first

bool Zone::expire_one(Millis now)
{
    for (Heap heap : {results, claims}) {
        if (head()->heap_count[heap] == 0 || node(heap, 0).due_tick > now >> kZoneTickShift) {
            continue;
        }

        std::uint32_t at = node(heap, 0).entry;

        if (entry(at).expires > now) {
            update_entry(at, EntryKind::unreserved_claim, entry(at).expires);
        } else {
            remove_entry(at);
        }

        return true;
    }

    return false;
}

void Zone::expire_some(Millis now)
{
    for (unsigned i = 0; i < kMaxExpiredPerCall && expire_one(now); i++) {
    }
}

Millis Zone::time_to_next_expiry(Millis now) const
{
    Millis earliest = 0;

    for (Heap heap : {results, claims}) {
        if (head()->heap_count[heap] > 0) {
            Millis due = Millis(node(heap, 0).due_tick) << kZoneTickShift;

            earliest = earliest == 0 ? due : std::min(earliest, due);
        }
    }

    return earliest > now ? earliest - now : 0;
}

std::size_t Zone::result_count() const { return head()->heap_count[results]; }

std::uint32_t Zone::result_at(std::size_t i) const
{
    return node(results, static_cast<std::uint32_t>(i)).entry;
}

// The heaps

Zone::Heap Zone::heap_of(std::uint32_t at) const
{
    return entry(at).kind == EntryKind::claim ? claims : results;
}

// Of a claim.
Millis Zone::lease_end(std::uint32_t at) const
{
    return entry(at).expires - std::min(entry(at).expires, entry(at).hold);
}

// The first tick that begins when the entry, or the lease of a claim, has expired.
std::uint32_t Zone::due_tick_of(std::uint32_t at) const
{
    Millis due = heap_of(at) == claims ? lease_end(at) : entry(at).expires;

    return static_cast<std::uint32_t>(
        std::min<Millis>((due >> kZoneTickShift) + 1, std::numeric_limits<std::uint32_t>::max()));
}

void Zone::put_node(Heap heap, std::uint32_t i, const ZoneHeapNode &what)
{
    save(&node(heap, i));
    node(heap, i) = what;
    save(&entry(what.entry).heap_index);
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

    save(&head()->heap_count[heap]);
    sift_up(heap, head()->heap_count[heap]++, {due_tick_of(at), at});
}

void Zone::remove_from_heap(std::uint32_t at)
{
    Heap heap = heap_of(at);
    std::uint32_t i = entry(at).heap_index;

    save(&head()->heap_count[heap]);

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

}  // namespace idempotency
