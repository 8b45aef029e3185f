#include "store/memory_zone.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <type_traits>

#include "core/wire.h"

namespace idempotency {

namespace {

constexpr std::uint64_t kZoneMagic = 0x49444d5a4f4e4531;    // "IDMZONE1"
constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();

// A tick is 128 ms; four levels of 256 slots reach seventeen years ahead.
constexpr unsigned kTickShift = 7;
constexpr unsigned kLevels = 4;
constexpr unsigned kSlotBits = 8;
constexpr unsigned kSlots = 1u << kSlotBits;

// What one call may spend on the expiry of others, so that no call is slow.
// Each call adds one entry at the most, so the wheel keeps up.
constexpr unsigned kExpiryBudget = 32;
constexpr unsigned kTickBudget = 8192;

// And what it may spend where it needs the room.  A full zone that has so many
// keys to look at before one that has expired refuses, and the next call goes on.
constexpr unsigned kRoomBudget = 4096;

enum class Kind : std::uint32_t {
    data = 0,           // free, or part of an entry's chain
    entry = 1,          // published
    claimed_data = 2,   // only within a rebuild: data that an entry owns
};

struct Entry {
    KeyId id;
    Token token;
    Millis expires;
    std::uint64_t sequence;
    std::uint32_t length;
    std::uint32_t running;
    std::uint32_t chain_last;
    std::uint32_t chain_count;
    std::uint32_t bucket_next;
    std::uint32_t wheel_prev;
    std::uint32_t wheel_next;
    std::uint32_t wheel_slot;
};

constexpr std::size_t kPayload = kZoneBlockSize - 2 * sizeof(std::uint32_t);
constexpr std::size_t kInline = kPayload - sizeof(Entry);

static_assert(std::is_trivially_copyable<Entry>::value, "entries lie in shared memory");
static_assert(kRecordHeadSize <= kInline, "a claim takes one block");

std::size_t blocks_for(std::size_t size)
{
    return size <= kInline ? 1 : 1 + (size - kInline + kPayload - 1) / kPayload;
}

// Another process sees the stores of a killed one in program order: only the
// compiler has to be kept from moving them.
void stores_before_this_come_first() { std::atomic_signal_fence(std::memory_order_seq_cst); }

std::uint64_t bucket_hash(const KeyId &id)
{
    return wire::get_u64(id.bytes.data());      // a SHA-256 needs no further hashing
}

}  // namespace

struct ZoneHead {
    std::uint64_t magic;
    std::uint64_t size;
    std::uint32_t block_count;
    std::uint32_t bucket_count;     // a power of two
    std::uint32_t dirty;
    std::uint32_t entries;
    std::uint32_t running;          // claims that are not settled; each has a block in reserve
    std::uint32_t free_first;
    std::uint32_t free_count;
    std::uint32_t unused;
    Token last_token;
    std::uint64_t sequence;
    std::uint64_t tick;
    std::uint32_t wheel[kLevels * kSlots];
};

struct ZoneBlock {
    std::uint32_t next;
    Kind kind;
    union {
        struct {
            Entry entry;
            char first[kInline];
        };
        char data[kPayload];
    };
};

static_assert(sizeof(ZoneBlock) == kZoneBlockSize, "blocks have one size");

// Marks the zone as being changed; the first to find it so makes it whole.
class MemoryZone::Guard {
public:
    Guard(MemoryZone &zone, Millis now) : head_(zone.head())
    {
        if (head_->dirty != 0) {
            zone.rebuild(now);
        }

        head_->dirty = 1;
        stores_before_this_come_first();
    }

    ~Guard()
    {
        stores_before_this_come_first();
        head_->dirty = 0;
    }

    Guard(const Guard &) = delete;
    Guard &operator=(const Guard &) = delete;

private:
    ZoneHead *head_;
};

ZoneHead *MemoryZone::head() const { return static_cast<ZoneHead *>(memory_); }

std::uint32_t *MemoryZone::buckets() const
{
    return reinterpret_cast<std::uint32_t *>(head() + 1);
}

ZoneBlock *MemoryZone::block(std::uint32_t index) const
{
    return reinterpret_cast<ZoneBlock *>(buckets() + head()->bucket_count) + index;
}

bool MemoryZone::format(Millis now)
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
        (room - bucket_count * sizeof(std::uint32_t)) / kZoneBlockSize, kNone - 1));

    for (std::uint32_t i = 0; i < zone->block_count; i++) {
        block(i)->kind = Kind::data;
    }

    rebuild(now);
    zone->magic = kZoneMagic;
    return true;
}

bool MemoryZone::valid() const { return head()->magic == kZoneMagic && head()->size == size_; }

std::size_t MemoryZone::entries() const { return head()->entries; }
std::size_t MemoryZone::free_blocks() const { return head()->free_count; }
std::size_t MemoryZone::blocks() const { return head()->block_count; }
void MemoryZone::pretend_killed() { head()->dirty = 1; }

// Calls

MemoryZone::Found MemoryZone::claim(const KeyId &id, std::string_view claim, Millis lease,
                                    Millis now, std::uint64_t clock)
{
    Guard guard(*this, now);
    Found found;

    wheel_advance(now, kExpiryBudget);

    std::uint32_t at = find(id, now);

    if (at != kNone) {
        const Entry &entry = block(at)->entry;

        found.reply.verdict = Verdict::found;
        found.reply.token = entry.token;
        found.reply.remaining = entry.expires - now;
        found.value_size = entry.length;
        found.entry = at;
        return found;
    }

    // its own block, and one in which to write that its answer was not kept
    if (claim.size() < kTokenOffset + kTokenSize || !make_room(blocks_for(claim.size()) + 1, now)) {
        found.reply.verdict = Verdict::full;
        return found;
    }

    Token token = std::max<Token>(head()->last_token + 1, clock);
    Pieces value{&claim, 1};

    head()->last_token = token;
    at = write_entry(id, token, value, now + lease, true);
    wire::put_u64(reinterpret_cast<unsigned char *>(block(at)->first) + kTokenOffset, token);
    publish(at);

    found.reply.verdict = Verdict::claimed;
    found.reply.token = token;
    return found;
}

void MemoryZone::read(std::uint32_t at, char *out) const
{
    const ZoneBlock *from = block(at);
    std::size_t left = from->entry.length;
    std::size_t n = std::min(left, kInline);

    std::memcpy(out, from->first, n);

    while ((left -= n) > 0) {
        out += n;
        from = block(from->next);
        n = std::min(left, kPayload);
        std::memcpy(out, from->data, n);
    }
}

Verdict MemoryZone::settle(const KeyId &id, Token token, const Pieces &value, Millis lifetime,
                           Millis now)
{
    Guard guard(*this, now);

    wheel_advance(now, kExpiryBudget);

    std::uint32_t old = find(id, now);

    if (old != kNone && block(old)->entry.token != token) {
        return Verdict::lost;
    }

    // the claim's own reserve may be spent now
    std::size_t reserve = old != kNone ? block(old)->entry.running : 0;
    std::size_t needed = blocks_for(value.size());

    if (!make_room(needed - std::min(needed, reserve), now)) {
        return Verdict::full;
    }

    publish(write_entry(id, token, value, now + lifetime, false));

    if (old != kNone) {
        remove(old);
    }

    return Verdict::done;
}

Verdict MemoryZone::release(const KeyId &id, Token token, Millis now)
{
    Guard guard(*this, now);
    std::uint32_t at = find(id, now);

    if (at == kNone || block(at)->entry.token != token || block(at)->entry.running == 0) {
        return Verdict::lost;
    }

    remove(at);
    return Verdict::done;
}

Verdict MemoryZone::renew(const KeyId &id, Token token, Millis lease, Millis now)
{
    Guard guard(*this, now);
    std::uint32_t at = find(id, now);

    if (at == kNone || block(at)->entry.token != token || block(at)->entry.running == 0) {
        return Verdict::lost;
    }

    // the wheel finds out when it comes by: see wheel_advance
    block(at)->entry.expires = now + lease;
    return Verdict::done;
}

// Entries

std::uint32_t *MemoryZone::bucket_of(const KeyId &id) const
{
    return buckets() + (bucket_hash(id) & (head()->bucket_count - 1));
}

std::uint32_t MemoryZone::lookup(const KeyId &id) const
{
    std::uint32_t at = *bucket_of(id);

    while (at != kNone && block(at)->entry.id != id) {
        at = block(at)->entry.bucket_next;
    }

    return at;
}

// What has expired is not there, whether or not the wheel has come by.
std::uint32_t MemoryZone::find(const KeyId &id, Millis now)
{
    std::uint32_t at = lookup(id);

    if (at != kNone && block(at)->entry.expires <= now) {
        remove(at);
        return kNone;
    }

    return at;
}

std::uint32_t MemoryZone::take_block()
{
    std::uint32_t at = head()->free_first;

    head()->free_first = block(at)->next;
    head()->free_count--;
    block(at)->next = kNone;
    return at;
}

// Whether `wanted` blocks are free beside those in reserve.
bool MemoryZone::make_room(std::size_t wanted, Millis now)
{
    wanted += head()->running;

    unsigned left = kRoomBudget;

    // no more than is needed
    while (head()->free_count < wanted && head()->tick < now >> kTickShift && left > 0) {
        left -= wheel_advance(now, std::min(left, kExpiryBudget));
    }

    return head()->free_count >= wanted;
}

std::uint32_t MemoryZone::write_entry(const KeyId &id, Token token, const Pieces &value,
                                      Millis expires, bool running)
{
    std::uint32_t at = take_block();
    ZoneBlock *first = block(at);
    Entry &entry = first->entry;

    entry.id = id;
    entry.token = token;
    entry.expires = expires;
    entry.sequence = ++head()->sequence;
    entry.length = static_cast<std::uint32_t>(value.size());
    entry.running = running;
    entry.chain_last = kNone;
    entry.chain_count = 0;

    ZoneBlock *into = first;
    char *out = first->first;
    std::size_t room = kInline;

    for (std::size_t i = 0; i < value.count; i++) {
        std::string_view piece = value.first[i];

        while (!piece.empty()) {
            if (room == 0) {
                std::uint32_t next = take_block();

                into->next = next;
                into = block(next);
                out = into->data;
                room = kPayload;
                entry.chain_last = next;
                entry.chain_count++;
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

void MemoryZone::publish(std::uint32_t at)
{
    Entry &entry = block(at)->entry;
    std::uint32_t *bucket = bucket_of(entry.id);

    stores_before_this_come_first();
    block(at)->kind = Kind::entry;

    entry.bucket_next = *bucket;
    *bucket = at;
    wheel_insert(at);
    head()->entries++;
    head()->running += entry.running;
}

void MemoryZone::remove(std::uint32_t at)
{
    ZoneBlock *gone = block(at);

    gone->kind = Kind::data;
    stores_before_this_come_first();

    unlink_bucket(at);
    wheel_remove(at);
    head()->entries--;
    head()->running -= gone->entry.running;

    std::uint32_t last = gone->entry.chain_count > 0 ? gone->entry.chain_last : at;
    free_chain(at, last, gone->entry.chain_count + 1);
}

void MemoryZone::unlink_bucket(std::uint32_t at)
{
    std::uint32_t *link = bucket_of(block(at)->entry.id);

    while (*link != at) {
        link = &block(*link)->entry.bucket_next;
    }

    *link = block(at)->entry.bucket_next;
}

void MemoryZone::free_chain(std::uint32_t first, std::uint32_t last, std::uint32_t count)
{
    block(last)->next = head()->free_first;
    head()->free_first = first;
    head()->free_count += count;
}

// The wheel

void MemoryZone::wheel_insert(std::uint32_t at)
{
    ZoneHead *zone = head();
    Entry &entry = block(at)->entry;
    std::uint64_t due = std::max((entry.expires >> kTickShift) + 1, zone->tick + 1);
    std::uint64_t ahead = due - zone->tick;
    unsigned level = 0;

    while (level + 1 < kLevels && ahead > std::uint64_t(1) << (kSlotBits * (level + 1))) {
        level++;
    }

    // beyond the last level: it is looked at again when the wheel gets there
    ahead = std::min(ahead, std::uint64_t(1) << (kSlotBits * kLevels));
    due = zone->tick + ahead;

    entry.wheel_slot = level * kSlots
                       + static_cast<std::uint32_t>((due >> (kSlotBits * level)) & (kSlots - 1));
    entry.wheel_prev = kNone;
    entry.wheel_next = zone->wheel[entry.wheel_slot];

    if (entry.wheel_next != kNone) {
        block(entry.wheel_next)->entry.wheel_prev = at;
    }

    zone->wheel[entry.wheel_slot] = at;
}

void MemoryZone::wheel_remove(std::uint32_t at)
{
    Entry &entry = block(at)->entry;

    if (entry.wheel_prev != kNone) {
        block(entry.wheel_prev)->entry.wheel_next = entry.wheel_next;
    } else {
        head()->wheel[entry.wheel_slot] = entry.wheel_next;
    }

    if (entry.wheel_next != kNone) {
        block(entry.wheel_next)->entry.wheel_prev = entry.wheel_prev;
    }
}

// Spreads the slot of `level` that begins at `tick` over the levels below.
// False where the budget ended first; the next call goes on.
bool MemoryZone::wheel_cascade(unsigned level, std::uint64_t tick, Millis now, unsigned &budget)
{
    std::uint32_t &slot = head()->wheel[level * kSlots + ((tick >> (kSlotBits * level)) & (kSlots - 1))];

    while (slot != kNone) {
        if (budget == 0) {
            return false;
        }

        wheel_look_at(slot, now);
        budget--;
    }

    return true;
}

void MemoryZone::wheel_look_at(std::uint32_t at, Millis now)
{
    if (block(at)->entry.expires <= now) {
        remove(at);
    } else {
        // not its time yet, or renewed since
        wheel_remove(at);
        wheel_insert(at);
    }
}

// How much of the budget it took.
unsigned MemoryZone::wheel_advance(Millis now, const unsigned budget)
{
    ZoneHead *zone = head();
    std::uint64_t target = now >> kTickShift;
    unsigned left = budget;

    if (zone->entries == 0) {
        zone->tick = std::max(zone->tick, target);
        return 0;
    }

    for (unsigned ticks = 0; zone->tick < target && ticks < kTickBudget; ticks++) {
        std::uint64_t next = zone->tick + 1;

        for (unsigned level = kLevels; level-- > 1; ) {
            bool begins = (next & ((std::uint64_t(1) << (kSlotBits * level)) - 1)) == 0;

            if (begins && !wheel_cascade(level, next, now, left)) {
                return budget;
            }
        }

        std::uint32_t &slot = zone->wheel[next & (kSlots - 1)];

        while (slot != kNone) {
            if (left == 0) {
                return budget;
            }

            wheel_look_at(slot, now);
            left--;
        }

        zone->tick = next;
    }

    return budget - left;
}

// After a killed process

bool MemoryZone::chain_is_whole(std::uint32_t at) const
{
    const Entry &entry = block(at)->entry;

    if (blocks_for(entry.length) != std::size_t(entry.chain_count) + 1) {
        return false;
    }

    std::uint32_t last = at;

    for (std::uint32_t i = 0; i < entry.chain_count; i++) {
        last = block(last)->next;

        if (last >= head()->block_count || block(last)->kind != Kind::data) {
            return false;
        }
    }

    return entry.chain_count == 0 || last == entry.chain_last;
}

// Makes everything that is derived anew from the published entries.  Of two
// entries of one key the later counts: its predecessor was about to go.
void MemoryZone::rebuild(Millis now)
{
    ZoneHead *zone = head();

    std::fill_n(buckets(), zone->bucket_count, kNone);
    std::fill_n(zone->wheel, kLevels * kSlots, kNone);
    zone->tick = now >> kTickShift;
    zone->entries = 0;
    zone->running = 0;
    zone->free_first = kNone;
    zone->free_count = 0;

    for (std::uint32_t i = 0; i < zone->block_count; i++) {
        if (block(i)->kind != Kind::entry) {
            block(i)->kind = Kind::data;
        }
    }

    for (std::uint32_t i = 0; i < zone->block_count; i++) {
        ZoneBlock *candidate = block(i);

        if (candidate->kind != Kind::entry) {
            continue;
        }

        std::uint32_t other = lookup(candidate->entry.id);
        bool stale = other != kNone
                     && block(other)->entry.sequence > candidate->entry.sequence;

        if (stale || !chain_is_whole(i)) {
            candidate->kind = Kind::data;
            continue;
        }

        if (other != kNone) {
            block(other)->kind = Kind::data;
            unlink_bucket(other);
        }

        std::uint32_t *bucket = bucket_of(candidate->entry.id);

        candidate->entry.bucket_next = *bucket;
        *bucket = i;
    }

    for (std::uint32_t i = 0; i < zone->block_count; i++) {
        if (block(i)->kind != Kind::entry) {
            continue;
        }

        const Entry &entry = block(i)->entry;
        std::uint32_t owned = i;

        for (std::uint32_t n = 0; n < entry.chain_count; n++) {
            owned = block(owned)->next;
            block(owned)->kind = Kind::claimed_data;
        }

        wheel_insert(i);
        zone->entries++;
        zone->running += entry.running;
        zone->sequence = std::max(zone->sequence, entry.sequence);
        zone->last_token = std::max(zone->last_token, entry.token);
    }

    for (std::uint32_t i = zone->block_count; i-- > 0; ) {
        if (block(i)->kind == Kind::data) {
            free_chain(i, i, 1);
        } else if (block(i)->kind == Kind::claimed_data) {
            block(i)->kind = Kind::data;
        }
    }

    zone->dirty = 0;
}

bool MemoryZone::sound() const
{
    const ZoneHead *zone = head();
    std::size_t used = 0, entries = 0, running = 0, on_wheel = 0, free = 0;

    for (std::uint32_t b = 0; b < zone->bucket_count; b++) {
        for (std::uint32_t at = buckets()[b]; at != kNone; at = block(at)->entry.bucket_next) {
            const Entry &entry = block(at)->entry;

            if (block(at)->kind != Kind::entry || bucket_of(entry.id) != buckets() + b
                || lookup(entry.id) != at || !chain_is_whole(at))
            {
                return false;
            }

            entries++;
            running += entry.running;
            used += 1 + entry.chain_count;
        }
    }

    for (std::uint32_t slot = 0; slot < kLevels * kSlots; slot++) {
        for (std::uint32_t at = zone->wheel[slot]; at != kNone; at = block(at)->entry.wheel_next) {
            if (block(at)->entry.wheel_slot != slot || ++on_wheel > entries) {
                return false;
            }
        }
    }

    for (std::uint32_t at = zone->free_first; at != kNone; at = block(at)->next) {
        if (at >= zone->block_count || ++free > zone->block_count) {
            return false;
        }
    }

    return entries == zone->entries && running == zone->running && on_wheel == entries
           && free == zone->free_count && used + free == zone->block_count;
}

}  // namespace idempotency
