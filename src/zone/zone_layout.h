// The layout of a zone in memory.  Only the files that implement a zone include this.
//
//   memory                                                                  memory + size
//   +----------+------------------+-----------------------+--------------------+--------+
//   | ZoneHead |     buckets      |      heap nodes       |       blocks       | unused |
//   +----------+------------------+-----------------------+--------------------+--------+
//        80      4 * bucket_count      8 * block_count       512 * block_count    bytes
//
// Blocks: all values lie in blocks of one size.  A block is free, or belongs to one entry.
// Free blocks make up a list through `next`, which begins at `free_first`.  The blocks from
// `first_unused` on were never used: they are free, too, and in no list, so that the memory of a
// zone is touched only as far as the zone has been filled.
//
// Entry: a key and its value, in a chain of blocks through `next`.  The number of the first
// block is the number of the entry.
//
//   first block                   second block           last block (chain_last)
//   +------+--------+-----------+ +------+------+------+ +------+------+--------------+
//   | next |  kind  | ZoneEntry | | next | kind | data | | next | kind | data, unused |
//   |      | =entry | and value | |      |=data |      | | none |=data |              |
//   +--|---+--------+-----------+ +--|---+------+------+ +------+------+--------------+
//      '---------------------------^  '-----------------^
//
//   byte      0      4      8            112                    512
//   first     | next | kind | ZoneEntry  | 400 bytes of value     |
//   others    | next | kind | 504 bytes of value                  |
//
// Buckets: the hash table.  A bucket has the number of its first entry; the entries of a bucket
// are linked by `bucket_next`.  The hash is a SipHash of the key's id with a secret of the zone: the
// id is a SHA-256 whose beginning a client can choose, by trying keys.
//
// Heap nodes: one array with two heaps (kZoneHeapArity children for each node), in which the
// node with the earliest due time comes first.  An entry of the heap of results is due when it
// expires, an entry of the heap of claims when its lease expires.  There are never more entries
// than blocks, so the heaps, which grow towards each other, never meet.  Running claims come and
// go quickly: in a heap of their own they do not move the nodes of the many results.  The number
// of nodes in this heap is the number of running claims, for each of which MemoryZone keeps one
// block in reserve.
//
//   node      0   1   2   3 ...                          ... block_count - 1
//             | results -->                          <-- claims |
//
// Conventions
//
// - Positions are block numbers, never pointers: each process maps the memory at its own
//   address.  kNoBlock ends a list.
// - Integers have the byte order of the host.
// - An entry is published when the `kind` of its first block becomes ZoneKind::entry.  Everything
//   else that is needed to find entries - buckets, `bucket_next`, heaps, `heap_index`, the free
//   list, counts - is derived from the published entries, and `rebuild` makes it again.
// - Of two published entries with one key, `rebuild` keeps the one with the higher `sequence`.
// - Once an entry is published, only `expires`, ZoneEntry::kind (between claim and
//   unreserved_claim), the last use (in a cache) and what is derived change in it.
// - `dirty` is set while a call changes the zone (ChangeGuard).

#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "zone/zone.h"

namespace idempotency {

// "IDMZONE4".  A change of the layout needs another number: after an upgrade of the module, a
// reload finds the zone that the old version has made.
constexpr std::uint64_t kZoneMagic = 0x49444d5a4f4e4534;

enum class ZoneKind : std::uint32_t {
    data = 0,        // free, or a block of an entry that is not its first
    entry = 1,       // the first block of a published entry
    owned_data = 2,  // only within `rebuild`: data that belongs to a published entry
};

struct ZoneEntry {
    KeyId id;
    ClaimId claim;           // the claim, or the claim that was settled; 0 in a cache
    Millis expires;          // the entry does not exist any more at this time
    Millis confirmed;        // CacheZone::put; 0 in a store
    Millis hold;             // RecordHead::hold of a claim; 0 in a result; in a cache: the last use
    std::uint64_t sequence;  // grows with each entry that is written
    std::uint32_t length;    // of the value, in bytes
    EntryKind kind;
    std::uint32_t chain_last;   // the last block; kNoBlock if there is only the first
    std::uint32_t chain_count;  // number of blocks after the first
    std::uint32_t bucket_next;  // the next entry in the bucket
    std::uint32_t heap_index;   // of the entry's node in its heap
};

static_assert(std::is_trivially_copyable<ZoneEntry>::value, "entries lie in shared memory");
static_assert(sizeof(ZoneEntry) == 104, "there is no padding");

// A block's `next` and `kind` take 8 bytes of 512, or 1.6 %.
constexpr std::size_t kZonePayload = kZoneBlockSize - 2 * sizeof(std::uint32_t);

// Bytes of value in the first block.  A claim needs 174 of them at most, and 250 if it is sealed; a
// result whose header fields and body are short fits, too.
constexpr std::size_t kZoneInline = kZonePayload - sizeof(ZoneEntry);

static_assert(kZonePayload == 504 && kZoneInline == 400, "as drawn");
static_assert(kLargestClaim <= kZoneInline, "a claim takes one block");

struct ZoneHead {
    std::uint64_t magic;
    std::uint64_t size;  // of the memory
    std::uint32_t block_count;
    std::uint32_t bucket_count;  // a power of two
    std::uint32_t dirty;
    std::uint32_t first_unused;   // this block and those after it were never used
    std::uint32_t heap_count[2];  // number of nodes; indexed by Zone::Heap
    std::uint32_t free_first;
    std::uint32_t free_count;
    Token last_token;        // the highest one that was given to a claim
    std::uint64_t sequence;  // of the entry that was written last
    SipKey secret;           // of the buckets
};

static_assert(std::is_trivially_copyable<ZoneHead>::value, "it lies in shared memory");
static_assert(sizeof(ZoneHead) == 80, "as drawn");

// With the expiry in the node, the heaps are sorted without a look at the entries.  The node has
// 32 bits for it, so the unit is a tick of 2^7 = 128 ms.  The clock begins when the host boots:
// 2^32 ticks are 17 years of uptime.
struct ZoneHeapNode {
    std::uint32_t due_tick;  // the entry, or its lease, has expired when this tick begins
    std::uint32_t entry;
};

static_assert(sizeof(ZoneHeapNode) == 8, "as drawn");

constexpr unsigned kZoneTickShift = 7;

static_assert((std::uint64_t(1) << (32 + kZoneTickShift)) / 1000 / 3600 / 24 / 365 == 17,
              "ticks of 32 bits last for 17 years");

// A heap of a million entries has 10 levels with four children (4^10 = 1048576), and 20 with two.
// Four children take 32 bytes: one cache line, or two.
constexpr std::uint32_t kZoneHeapArity = 4;

static_assert(kZoneHeapArity * sizeof(ZoneHeapNode) <= 64, "children take one cache line or two");

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
static_assert(offsetof(ZoneBlock, entry) == 8 && offsetof(ZoneBlock, data) == 8
                  && offsetof(ZoneBlock, first) == 112,
              "as drawn");

// How many blocks an entry with a value of `size` bytes takes.
constexpr std::size_t zone_blocks_for(std::size_t size)
{
    return size <= kZoneInline ? 1 : 1 + (size - kZoneInline + kZonePayload - 1) / kZonePayload;
}

static_assert(zone_blocks_for(0) == 1 && zone_blocks_for(kZoneInline) == 1
                  && zone_blocks_for(kZoneInline + 1) == 2
                  && zone_blocks_for(kZoneInline + kZonePayload) == 2
                  && zone_blocks_for(kZoneInline + kZonePayload + 1) == 3,
              "a block is added when those before it are full");

struct ZoneDimensions {
    std::uint32_t bucket_count;
    std::uint32_t block_count;
};

// How a memory of `size` bytes, kZoneMinimum at least, is divided.
//
// Let n be the number of blocks if there were only blocks.  bucket_count is the power of two in
// (n / 4, n / 2]: if each entry takes one block, about two to four of them share a bucket in a
// full zone; most entries take more than one.  So a block costs 522 bytes at most: 512, 8 for its
// heap node and up to 2 for buckets.  1 MiB holds 2000 results of up to 400 bytes.
constexpr ZoneDimensions zone_dimensions(std::size_t size)
{
    constexpr std::size_t kMaxBlocks = kNoBlock - 1;
    std::size_t after_head = size - sizeof(ZoneHead);
    std::size_t most = std::min(after_head / kZoneBlockSize, kMaxBlocks);
    std::size_t buckets = 1;

    while (buckets * 4 <= most) {
        buckets *= 2;
    }

    std::size_t blocks =
        (after_head - buckets * sizeof(std::uint32_t)) / (kZoneBlockSize + sizeof(ZoneHeapNode));

    return {static_cast<std::uint32_t>(buckets),
            static_cast<std::uint32_t>(std::min(blocks, kMaxBlocks))};
}

static_assert(zone_dimensions(kZoneMinimum).bucket_count == 32
                  && zone_dimensions(kZoneMinimum).block_count == 125,
              "the smallest zone");
static_assert(zone_dimensions(1024 * 1024).block_count >= 2000, "1 MiB holds 2000 small results");

// The buckets take a multiple of 8 bytes (there are two of them at least), so that the heap nodes
// and the blocks are aligned if the memory is aligned to 8 bytes.
static_assert(zone_dimensions(kZoneMinimum).bucket_count * sizeof(std::uint32_t) % 8 == 0
                  && alignof(ZoneHead) <= 8 && alignof(ZoneBlock) <= 8 && sizeof(ZoneHead) % 8 == 0
                  && sizeof(ZoneHeapNode) % 8 == 0,
              "everything is aligned to 8 bytes");

// Keeps the compiler from moving stores over this point.  That is enough for what a killed process
// leaves: another process sees its stores in program order.
inline void compiler_barrier() { std::atomic_signal_fence(std::memory_order_seq_cst); }

// Every call that changes the zone holds one.  A zone that is dirty before was being changed by a
// process that was killed: it is rebuilt first.
class Zone::ChangeGuard {
public:
    explicit ChangeGuard(Zone &zone) : head_(zone.head())
    {
        if (head_->dirty != 0) {
            zone.rebuild();
        }

        head_->dirty = 1;
        compiler_barrier();
    }

    ~ChangeGuard()
    {
        compiler_barrier();
        head_->dirty = 0;
    }

    ChangeGuard(const ChangeGuard &) = delete;
    ChangeGuard &operator=(const ChangeGuard &) = delete;

private:
    ZoneHead *head_;
};

inline ZoneHead *Zone::head() const { return static_cast<ZoneHead *>(memory_); }

inline std::uint32_t *Zone::buckets() const
{
    return reinterpret_cast<std::uint32_t *>(head() + 1);
}

inline ZoneHeapNode &Zone::node(Heap heap, std::uint32_t i) const
{
    auto *nodes = reinterpret_cast<ZoneHeapNode *>(buckets() + head()->bucket_count);

    return nodes[heap == results ? i : head()->block_count - 1 - i];
}

inline ZoneBlock *Zone::block(std::uint32_t number) const
{
    // the blocks begin behind the last heap node
    return reinterpret_cast<ZoneBlock *>(&node(results, head()->block_count)) + number;
}

inline ZoneEntry &Zone::entry(std::uint32_t number) const { return block(number)->entry; }

}  // namespace idempotency
