// A zone: a hash table in memory that several processes share, with values of any size and an
// expiry time for each entry.  MemoryZone (a store) and CacheZone (a cache) are built on it and
// say what an entry means.
//
// Purpose
//
// - Nothing fragments: values lie in chains of blocks of one size.
// - The time of a call is bounded: it removes some of the expired entries, never all of them.
// - A process may be killed at any instruction.  A change is made as a whole or not at all: the
//   words that it overwrites are in an undo log until it has ended, and the next process that locks
//   the zone writes them back (`recover`).  This takes a microsecond, whatever the size of the zone.
//
// Conventions
//
// - The caller holds the mutex of the memory (SharedMemory::lock) during each call, and until it
//   has read the value that a call has found.  It calls `recover` first (LockedZone does).
// - Times are milliseconds of a clock that all processes share and that never goes back
//   (CLOCK_MONOTONIC).
// - An entry is named by the number of its first block, which is valid until the next call that
//   changes the zone.
// - Nothing here throws, allocates memory, or needs nginx.
//
// zone_layout.h has the layout.

#pragma once

#include <cstddef>
#include <cstdint>

#include "core/digest.h"
#include "core/siphash.h"
#include "core/store.h"

namespace idempotency {

constexpr std::size_t kZoneBlockSize = 512;
constexpr std::size_t kZoneMinimum = 64 * 1024;  // bytes of the smallest zone

constexpr std::uint32_t kNoBlock = ~std::uint32_t(0);

struct ZoneHead;
struct ZoneBlock;
struct ZoneEntry;
struct ZoneHeapNode;

enum class EntryKind : std::uint32_t {
    result = 0,            // a result, or a copy in a cache; in the heap of results
    claim = 1,             // a claim with a block in reserve; in the heap of claims
    unreserved_claim = 2,  // a claim without one; in the heap of results
};

// An object of this class is a view of the memory; copies are views of the same memory.
class Zone {
public:
    // The zone lives in [memory, memory + size), aligned to 8 bytes.
    Zone(void *memory, std::size_t size) : memory_(memory), size_(size) {}

    // Makes an empty zone.  `secret` is random; nobody who can choose keys knows it.  False: `size`
    // is less than kZoneMinimum.
    bool format(const SipKey &secret);

    // Whether the memory holds a zone of this size, made by a version with this layout.
    bool is_formatted() const;

    // Undoes the change that a process was making when it was killed.  True: there was one.
    bool recover();

    // Copies the value of an entry that a call has found; `out` has space for all of it.
    void read(std::uint32_t entry, char *out) const;

    ZoneFigures figures() const;

    // With entries that have expired and were not removed yet.
    std::size_t entry_count() const;

    std::size_t block_count() const;
    std::size_t free_block_count() const;

    // Checks the whole structure; for tests.
    bool is_consistent() const;

    // The number of entries in the bucket with most of them; for tests.
    std::size_t longest_bucket() const;

    // The number of words in the undo log; for tests.
    std::size_t undo_count() const;

protected:
    struct NewEntry {
        EntryKind kind = EntryKind::result;
        ClaimId claim{};
        Millis expires = 0;
        Millis confirmed = 0;
        Millis hold = 0;
    };

    ZoneHead *head() const;
    ZoneBlock *block(std::uint32_t number) const;
    ZoneEntry &entry(std::uint32_t number) const;

    // Returns the entry of a key, or kNoBlock.  An entry that has expired is removed.
    std::uint32_t find(const KeyId &id, Millis now);

    // Writes an entry to free blocks, zone_blocks_for(value.size()) of them, which the caller has
    // made sure of.  It can not be found before it is published: the next call is publish_entry.
    std::uint32_t write_entry(const KeyId &id, const NewEntry &entry, const Pieces &value);

    // Each of these is one change.  `replaced` (kNoBlock: none) is removed.
    void publish_entry(std::uint32_t number, std::uint32_t replaced);
    void remove_entry(std::uint32_t number);
    void update_entry(std::uint32_t number, EntryKind kind, Millis expires);

    // Removes one entry that has expired, or makes one claim whose lease has expired an
    // unreserved_claim.  False: there is none.
    bool expire_one(Millis now);

    // The same, for up to a fixed number of entries.
    void expire_some(Millis now);

    // How long it takes until the first entry, or the first lease, expires.  0: there is none.
    Millis time_to_next_expiry(Millis now) const;

    // The number of entries of kind `claim`.
    std::size_t claim_count() const;

    // The heap of results as an array, with the entry that expires first at 0.
    std::size_t result_count() const;
    std::uint32_t result_at(std::size_t i) const;

private:
    enum Heap : unsigned { results, claims };

    std::uint32_t *buckets() const;
    std::uint32_t *bucket_of(const KeyId &id) const;
    std::uint32_t find_in_bucket(const KeyId &id) const;
    void link_to_bucket(std::uint32_t number);
    void unlink_from_bucket(std::uint32_t number);

    std::uint32_t take_free_block();
    void free_chain(std::uint32_t first, std::uint32_t last, std::uint32_t count);

    ZoneHeapNode &node(Heap heap, std::uint32_t i) const;
    Heap heap_of(std::uint32_t number) const;
    Millis lease_end(std::uint32_t number) const;
    std::uint32_t due_tick_of(std::uint32_t number) const;
    void put_node(Heap heap, std::uint32_t i, const ZoneHeapNode &node);
    void sift_up(Heap heap, std::uint32_t i, const ZoneHeapNode &node);
    void sift_down(Heap heap, std::uint32_t i, const ZoneHeapNode &node);
    void insert_into_heap(std::uint32_t number);
    void remove_from_heap(std::uint32_t number);

    // The undo log: see zone_layout.h.
    void save(const void *field);
    void commit();

    void take_out(std::uint32_t number);
    bool is_chain_complete(std::uint32_t number) const;
    bool is_heap_consistent(Heap heap) const;

    void *memory_;
    std::size_t size_;
};

}  // namespace idempotency
