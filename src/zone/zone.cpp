#include "zone/zone.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/wire.h"
#include "zone/zone_layout.h"

namespace idempotency {

namespace {

constexpr std::uint64_t kZoneMagic = 0x49444d5a4f4e4532;  // "IDMZONE2"

// A tick is 128 ms; 32 bits of them reach seventeen years.
constexpr unsigned kTickShift = 7;

// What one call may spend on the expiry of others, so that no call is slow.
// Each call adds one entry at the most, so this keeps up.
constexpr unsigned kExpiryBudget = 32;

// Four children lie in half a cache line.
constexpr std::uint32_t kChildren = 4;

// What has a tick due has expired when that tick begins.
std::uint32_t due_of(Millis expires)
{
    return static_cast<std::uint32_t>(
        std::min<Millis>((expires >> kTickShift) + 1, std::numeric_limits<std::uint32_t>::max()));
}

std::uint64_t bucket_hash(const KeyId &id)
{
    return wire::get_u64(id.bytes.data());  // a SHA-256 needs no further hashing
}

}  // namespace

bool Zone::format()
{
    if (size_ < kZoneMinimum) {
        return false;
    }

    std::size_t room = size_ - sizeof(ZoneHead);
    std::size_t most = std::min<std::size_t>(room / kZoneBlockSize, kNone - 1);
    std::size_t bucket_count = 1;

    // about one bucket for two blocks: most entries take more than one
    while (bucket_count * 4 <= most) {
        bucket_count *= 2;
    }

    ZoneHead *zone = head();

    std::memset(memory_, 0, sizeof(ZoneHead));
    zone->size = size_;
    zone->bucket_count = static_cast<std::uint32_t>(bucket_count);
    zone->block_count = static_cast<std::uint32_t>(std::min<std::size_t>(
        (room - bucket_count * sizeof(std::uint32_t)) / (kZoneBlockSize + sizeof(ZoneHeapNode)),
        kNone - 1));

    for (std::uint32_t i = 0; i < zone->block_count; i++) {
        block(i)->kind = ZoneKind::data;
    }

    rebuild();
    zone->magic = kZoneMagic;
    return true;
}

bool Zone::valid() const { return head()->magic == kZoneMagic && head()->size == size_; }

ZoneFigures Zone::figures() const
{
    ZoneFigures figures;

    figures.size = blocks() * kZoneBlockSize;
    figures.free_blocks = free_blocks();
    figures.used = figures.size - figures.free_blocks * kZoneBlockSize;
    figures.keys = entries();
    return figures;
}

std::size_t Zone::entries() const
{
    return head()->heap_count[results] + head()->heap_count[claims];
}
std::size_t Zone::running() const { return head()->heap_count[claims]; }
std::size_t Zone::free_blocks() const { return head()->free_count; }
std::size_t Zone::blocks() const { return head()->block_count; }
void Zone::pretend_killed() { head()->dirty = 1; }

// Entries

std::uint32_t *Zone::bucket_of(const KeyId &id) const
{
    return buckets() + (bucket_hash(id) & (head()->bucket_count - 1));
}

std::uint32_t Zone::lookup(const KeyId &id) const
{
    std::uint32_t at = *bucket_of(id);

    while (at != kNone && entry(at).id != id) {
        at = entry(at).bucket_next;
    }

    return at;
}

std::uint32_t Zone::find(const KeyId &id, Millis now)
{
    std::uint32_t at = lookup(id);

    if (at != kNone && entry(at).expires <= now) {
        remove(at);
        return kNone;
    }

    return at;
}

std::uint32_t Zone::take_block()
{
    std::uint32_t at = head()->free_first;

    head()->free_first = block(at)->next;
    head()->free_count--;
    block(at)->next = kNone;
    return at;
}

std::uint32_t Zone::write(const KeyId &id, const New &what, const Pieces &value)
{
    std::uint32_t at = take_block();
    ZoneBlock *into = block(at);
    ZoneEntry &made = into->entry;

    made.id = id;
    made.token = what.token;
    made.expires = what.expires;
    made.confirmed = what.confirmed;
    made.sequence = ++head()->sequence;
    made.length = static_cast<std::uint32_t>(value.size());
    made.running = what.running;
    made.chain_last = kNone;
    made.chain_count = 0;

    char *out = into->first;
    std::size_t room = kZoneInline;

    for (std::size_t i = 0; i < value.count; i++) {
        std::string_view piece = value.first[i];

        while (!piece.empty()) {
            if (room == 0) {
                std::uint32_t next = take_block();

                into->next = next;
                into = block(next);
                out = into->data;
                room = kZonePayload;
                made.chain_last = next;
                made.chain_count++;
            }

            std::size_t n = std::min(room, piece.size());

            std::memcpy(out, piece.data(), n);
            out += n;
            room -= n;
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

void Zone::publish(std::uint32_t at)
{
    stores_before_this_come_first();
    block(at)->kind = ZoneKind::entry;

    std::uint32_t *bucket = bucket_of(entry(at).id);

    entry(at).bucket_next = *bucket;
    *bucket = at;
    heap_insert(at);
}

void Zone::remove(std::uint32_t at)
{
    ZoneBlock *gone = block(at);

    gone->kind = ZoneKind::data;
    stores_before_this_come_first();

    unlink_bucket(at);
    heap_remove(at);

    std::uint32_t last = gone->entry.chain_count > 0 ? gone->entry.chain_last : at;
    free_chain(at, last, gone->entry.chain_count + 1);
}

void Zone::set_end(std::uint32_t at, Millis expires)
{
    heap_remove(at);
    entry(at).expires = expires;
    heap_insert(at);
}

void Zone::unlink_bucket(std::uint32_t at)
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

// Expiry.  Whoever ends first is on top of its heap.

bool Zone::expire_one(Millis now)
{
    for (Heap heap : {results, claims}) {
        if (head()->heap_count[heap] > 0 && node(heap, 0).due <= now >> kTickShift) {
            remove(node(heap, 0).entry);
            return true;
        }
    }

    return false;
}

void Zone::expire_some(Millis now)
{
    for (unsigned i = 0; i < kExpiryBudget && expire_one(now); i++) {
    }
}

std::uint32_t Zone::first_to_end() const
{
    return head()->heap_count[results] > 0 ? node(results, 0).entry : kNone;
}

// The heaps

void Zone::place(Heap heap, std::uint32_t i, const ZoneHeapNode &what)
{
    node(heap, i) = what;
    entry(what.entry).heap_at = i;
}

void Zone::sift_up(Heap heap, std::uint32_t i, const ZoneHeapNode &what)
{
    while (i > 0 && what.due < node(heap, (i - 1) / kChildren).due) {
        place(heap, i, node(heap, (i - 1) / kChildren));
        i = (i - 1) / kChildren;
    }

    place(heap, i, what);
}

void Zone::sift_down(Heap heap, std::uint32_t i, const ZoneHeapNode &what)
{
    const std::uint64_t count = head()->heap_count[heap];

    for (;;) {
        std::uint64_t first = std::uint64_t(i) * kChildren + 1;
        std::uint64_t end = std::min(first + kChildren, count);
        std::uint32_t least = i;

        for (std::uint64_t child = first; child < end; child++) {
            auto c = static_cast<std::uint32_t>(child);

            if (node(heap, c).due < (least == i ? what.due : node(heap, least).due)) {
                least = c;
            }
        }

        if (least == i) {
            break;
        }

        place(heap, i, node(heap, least));
        i = least;
    }

    place(heap, i, what);
}

void Zone::heap_insert(std::uint32_t at)
{
    Heap heap = entry(at).running != 0 ? claims : results;

    sift_up(heap, head()->heap_count[heap]++, {due_of(entry(at).expires), at});
}

void Zone::heap_remove(std::uint32_t at)
{
    Heap heap = entry(at).running != 0 ? claims : results;
    std::uint32_t i = entry(at).heap_at;
    ZoneHeapNode last = node(heap, --head()->heap_count[heap]);

    if (i == head()->heap_count[heap]) {
        return;
    }

    if (last.due < node(heap, i).due) {
        sift_up(heap, i, last);
    } else {
        sift_down(heap, i, last);
    }
}

// After a killed process

bool Zone::chain_is_whole(std::uint32_t at) const
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

// Makes everything that is derived anew from the published entries.  Of two
// entries of one key the later counts: its predecessor was about to go.
void Zone::rebuild()
{
    ZoneHead *zone = head();

    std::fill_n(buckets(), zone->bucket_count, kNone);
    zone->heap_count[results] = 0;
    zone->heap_count[claims] = 0;
    zone->free_first = kNone;
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

        std::uint32_t other = lookup(candidate->entry.id);
        bool stale = other != kNone && entry(other).sequence > candidate->entry.sequence;

        if (stale || !chain_is_whole(i)) {
            candidate->kind = ZoneKind::data;
            continue;
        }

        if (other != kNone) {
            block(other)->kind = ZoneKind::data;
            unlink_bucket(other);
        }

        std::uint32_t *bucket = bucket_of(candidate->entry.id);

        candidate->entry.bucket_next = *bucket;
        *bucket = i;
    }

    for (std::uint32_t i = 0; i < zone->block_count; i++) {
        if (block(i)->kind != ZoneKind::entry) {
            continue;
        }

        std::uint32_t owned = i;

        for (std::uint32_t n = 0; n < entry(i).chain_count; n++) {
            owned = block(owned)->next;
            block(owned)->kind = ZoneKind::claimed_data;
        }

        heap_insert(i);
        zone->sequence = std::max(zone->sequence, entry(i).sequence);
        zone->last_token = std::max(zone->last_token, entry(i).token);
    }

    for (std::uint32_t i = zone->block_count; i-- > 0;) {
        if (block(i)->kind == ZoneKind::data) {
            free_chain(i, i, 1);
        } else if (block(i)->kind == ZoneKind::claimed_data) {
            block(i)->kind = ZoneKind::data;
        }
    }

    zone->dirty = 0;
}

bool Zone::heap_is_sound(Heap heap) const
{
    for (std::uint32_t i = 0; i < head()->heap_count[heap]; i++) {
        ZoneHeapNode here = node(heap, i);

        if (here.entry >= head()->block_count || block(here.entry)->kind != ZoneKind::entry
            || entry(here.entry).heap_at != i
            || (entry(here.entry).running != 0) != (heap == claims)
            || due_of(entry(here.entry).expires) != here.due
            || (i > 0 && node(heap, (i - 1) / kChildren).due > here.due))
        {
            return false;
        }
    }

    return true;
}

bool Zone::sound() const
{
    const ZoneHead *zone = head();
    std::size_t used = 0, found = 0, free = 0;

    for (std::uint32_t b = 0; b < zone->bucket_count; b++) {
        for (std::uint32_t at = buckets()[b]; at != kNone; at = entry(at).bucket_next) {
            if (block(at)->kind != ZoneKind::entry || bucket_of(entry(at).id) != buckets() + b
                || lookup(entry(at).id) != at || !chain_is_whole(at))
            {
                return false;
            }

            found++;
            used += 1 + entry(at).chain_count;
        }
    }

    for (std::uint32_t at = zone->free_first; at != kNone; at = block(at)->next) {
        if (at >= zone->block_count || ++free > zone->block_count) {
            return false;
        }
    }

    return found == entries() && heap_is_sound(results) && heap_is_sound(claims)
           && free == zone->free_count && used + free == zone->block_count;
}

}  // namespace idempotency
