// The layout of a zone in memory.  Only the files that implement a zone include this.
//
//   memory                                                                  memory + size
//   +----------+------------------+-----------------------+--------------------+--------+
//   | ZoneHead |     buckets      |      heap nodes       |       blocks       | unused |
//   +----------+------------------+-----------------------+--------------------+--------+
//       1616     4 * bucket_count      8 * block_count       512 * block_count    bytes
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
//   |      | =entry | and value | |      |=data |      | | any  |=data |              |
//   +--|---+--------+-----------+ +--|---+------+------+ +------+------+--------------+
//      '---------------------------^  '-----------------^
//
//   byte      0      4      8            104                    512
//   first     | next | kind | ZoneEntry  | 408 bytes of value     |
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
//
// Undo log
//
// A change makes the zone consistent again only with its last write, and the process may be killed
// before.  So each word of 8 bytes that is in use is saved in the undo log (Zone::save) before it is
// overwritten, and the change ends when the log is emptied by one write (Zone::commit).  If there is
// something in the log when a process locks the zone, another one was killed within a change: the
// words are written back, the last one first (Zone::recover).  A process that is killed within
// `recover` does no harm: the next one writes the same words again.
//
// - Not saved: what nothing can reach before the change ends (all of a free block but its `next`
//   and `kind`, blocks that were never used), and what may have any value (the highest token, the
//   count of entries, the last use of a copy).
// - A block that a change makes free is used again only by the next change: its old contents must
//   be there if the change is undone.
// - A change saves kZoneUndoMost words at most, whatever the size of the zone and of the value.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "zone/zone.h"

namespace idempotency {

// "IDMZONE5".  A change of the layout needs another number: after an upgrade of the module, a
// reload finds the zone that the old version has made.
constexpr std::uint64_t kZoneMagic = 0x49444d5a4f4e4535;

enum class ZoneKind : std::uint32_t {
    data = 0,   // free, or a block of an entry that is not its first
    entry = 1,  // the first block of a published entry
};

struct ZoneEntry {
    KeyId id;
    ClaimId claim;         // the claim, or the claim that was settled; 0 in a cache
    Millis expires;        // the entry does not exist any more at this time
    Millis confirmed;      // CacheZone::put; 0 in a store
    Millis hold;           // RecordHead::hold of a claim; 0 in a result; in a cache: the last use
    std::uint32_t length;  // of the value, in bytes
    EntryKind kind;
    std::uint32_t chain_last;   // the last block; kNoBlock if there is only the first
    std::uint32_t chain_count;  // number of blocks after the first
    std::uint32_t bucket_next;  // the next entry in the bucket
    std::uint32_t heap_index;   // of the entry's node in its heap
};

static_assert(std::is_trivially_copyable<ZoneEntry>::value, "entries lie in shared memory");
static_assert(sizeof(ZoneEntry) == 96, "there is no padding");

// A block's `next` and `kind` take 8 bytes of 512, or 1.6 %.
constexpr std::size_t kZonePayload = kZoneBlockSize - 2 * sizeof(std::uint32_t);

// Bytes of value in the first block.  A claim needs 174 of them at most, and 250 if it is sealed; a
// result whose header fields and body are short fits, too.
constexpr std::size_t kZoneInline = kZonePayload - sizeof(ZoneEntry);

static_assert(kZonePayload == 504 && kZoneInline == 408, "as drawn");
static_assert(kLargestClaim <= kZoneInline, "a claim takes one block");

// A heap of a million entries has 10 levels with four children (4^10 = 1048576), and 20 with two.
// Four children take 32 bytes: one cache line, or two.
constexpr std::uint32_t kZoneHeapArity = 4;

// Levels of a heap with 2^32 nodes.
constexpr unsigned zone_heap_levels()
{
    unsigned levels = 0;

    for (std::uint64_t nodes = 0; nodes < std::uint64_t(1) << 32; levels++) {
        nodes = nodes * kZoneHeapArity + 1;
    }

    return levels;
}

static_assert(zone_heap_levels() == 17, "17 levels of four children have 2^32 nodes");

struct ZoneUndo {
    std::uint64_t offset;  // of the word, from the beginning of the memory
    std::uint64_t value;   // before the change
};

// Of the largest change, which publishes an entry and removes another: on each level of a heap a
// node and the index of its entry, twice; and a dozen words of blocks, buckets and the head.
constexpr std::uint32_t kZoneUndoMost = 96;

static_assert(2 * 2 * zone_heap_levels() + 12 <= kZoneUndoMost, "the largest change fits");

struct ZoneHead {
    std::uint64_t magic;
    std::uint64_t size;  // of the memory
    std::uint32_t block_count;
    std::uint32_t first_unused;   // this block and those after it were never used
    std::uint32_t bucket_count;   // a power of two
    std::uint32_t undo_count;     // of words in `undo`; not in a word that is saved
    std::uint32_t heap_count[2];  // number of nodes; indexed by Zone::Heap
    std::uint32_t free_first;
    std::uint32_t free_count;
    Token last_token;       // the highest one that was given to a claim
    std::uint64_t written;  // number of entries that were written
    SipKey secret;          // of the buckets
    ZoneUndo undo[kZoneUndoMost];
};

static_assert(std::is_trivially_copyable<ZoneHead>::value, "it lies in shared memory");
static_assert(sizeof(ZoneHead) == 1616, "as drawn");
static_assert(offsetof(ZoneHead, undo_count) / 8 == offsetof(ZoneHead, bucket_count) / 8,
              "bucket_count never changes, so its word is never saved");
static_assert(offsetof(ZoneHead, undo_count) == 28, "t/zone_killed.t reads it");
static_assert(offsetof(ZoneHead, free_count) / 8 == offsetof(ZoneHead, free_first) / 8,
              "free_count is saved with free_first");

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
                  && offsetof(ZoneBlock, first) == 104,
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
// heap node and up to 2 for buckets.  1 MiB holds 2000 results of up to 408 bytes.
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
                  && zone_dimensions(kZoneMinimum).block_count == 122,
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

inline void Zone::save(const void *field)
{
    ZoneHead *zone = head();
    ZoneUndo &undo = zone->undo[zone->undo_count];
    auto offset = static_cast<std::size_t>(static_cast<const char *>(field)
                                           - static_cast<const char *>(memory_));

    undo.offset = offset / 8 * 8;
    std::memcpy(&undo.value, static_cast<const char *>(memory_) + undo.offset, sizeof(undo.value));
    compiler_barrier();
    zone->undo_count++;
    compiler_barrier();
}

inline void Zone::commit()
{
    compiler_barrier();
    head()->undo_count = 0;
    compiler_barrier();
}

}  // namespace idempotency
