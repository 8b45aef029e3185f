// How a zone lies in memory; for those alone who build on it.

#pragma once

#include <atomic>
#include <type_traits>

#include "zone/zone.h"

namespace idempotency {

enum class ZoneKind : std::uint32_t {
    data = 0,          // free, or part of an entry's chain
    entry = 1,         // published
    claimed_data = 2,  // only within a rebuild: data that an entry owns
};

struct ZoneEntry {
    KeyId id;
    Token token;
    Millis expires;
    Millis confirmed;  // only in a cache
    std::uint64_t sequence;
    std::uint32_t length;
    std::uint32_t running;
    std::uint32_t chain_last;
    std::uint32_t chain_count;
    std::uint32_t bucket_next;
    std::uint32_t heap_at;
};

constexpr std::size_t kZonePayload = kZoneBlockSize - 2 * sizeof(std::uint32_t);
constexpr std::size_t kZoneInline = kZonePayload - sizeof(ZoneEntry);

static_assert(std::is_trivially_copyable<ZoneEntry>::value, "entries lie in shared memory");
static_assert(kRecordHeadSize <= kZoneInline, "a claim takes one block");

struct ZoneHead {
    std::uint64_t magic;
    std::uint64_t size;
    std::uint32_t block_count;
    std::uint32_t bucket_count;  // a power of two
    std::uint32_t dirty;
    std::uint32_t unused;
    std::uint32_t heap_count[2];
    std::uint32_t free_first;
    std::uint32_t free_count;
    Token last_token;
    std::uint64_t sequence;
};

// The heaps know when an entry ends without a look at it.
struct ZoneHeapNode {
    std::uint32_t due;  // the tick by which it has expired
    std::uint32_t entry;
};

struct ZoneBlock {
    std::uint32_t next;
    ZoneKind kind;
    union {
        struct {
            ZoneEntry entry;
            char first[kZoneInline];
        };
        char data[kZonePayload];
    };
};

static_assert(sizeof(ZoneBlock) == kZoneBlockSize, "blocks have one size");

// How many blocks an entry with a value of this size takes.
constexpr std::size_t zone_blocks_for(std::size_t size)
{
    return size <= kZoneInline ? 1 : 1 + (size - kZoneInline + kZonePayload - 1) / kZonePayload;
}

// Another process sees the stores of a killed one in program order: only the
// compiler has to be kept from moving them.
inline void stores_before_this_come_first() { std::atomic_signal_fence(std::memory_order_seq_cst); }

// Marks the zone as being changed; the first to find it so makes it whole.
class Zone::Guard {
public:
    explicit Guard(Zone &zone) : head_(zone.head())
    {
        if (head_->dirty != 0) {
            zone.rebuild();
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

inline ZoneHead *Zone::head() const { return static_cast<ZoneHead *>(memory_); }

// Behind the head: the buckets, a heap node for each block, the blocks.

inline std::uint32_t *Zone::buckets() const
{
    return reinterpret_cast<std::uint32_t *>(head() + 1);
}

// Two heaps that grow towards each other: there are never more entries than
// blocks.  Claims, which come and go, have one of their own, so that they don't
// move the many results.
inline ZoneHeapNode &Zone::node(Heap heap, std::uint32_t i) const
{
    auto *nodes = reinterpret_cast<ZoneHeapNode *>(buckets() + head()->bucket_count);

    return nodes[heap == results ? i : head()->block_count - 1 - i];
}

inline ZoneBlock *Zone::block(std::uint32_t index) const
{
    return reinterpret_cast<ZoneBlock *>(&node(results, head()->block_count)) + index;
}

inline ZoneEntry &Zone::entry(std::uint32_t index) const { return block(index)->entry; }

}  // namespace idempotency
