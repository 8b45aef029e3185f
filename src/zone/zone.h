// One stretch of shared memory that several processes use in turn, under a mutex
// that the caller holds: entries of any size, each under its key, each with its
// end.  What they mean is for those who build on it: MemoryZone, CacheZone.
//
// Blocks of one size make up everything, so that nothing fragments.  The truth
// lies in the entries alone; the hash table, the list of free blocks and the
// heaps are made from them and can be made again: a process that is killed in
// the middle of a call leaves `dirty` set, and the next call rebuilds.  To that
// end an entry never changes once it is published, its end aside: a new value is
// a new entry with a higher sequence.
//
// Positions are block numbers, never pointers.  Nothing here throws, allocates
// or knows nginx.  Times are milliseconds of one clock that all processes share
// and that never goes back (CLOCK_MONOTONIC).

#pragma once

#include <cstddef>
#include <cstdint>

#include "core/digest.h"
#include "core/store.h"

namespace idempotency {

constexpr std::size_t kZoneBlockSize = 512;
constexpr std::size_t kZoneMinimum = 64 * 1024;

struct ZoneHead;
struct ZoneBlock;
struct ZoneEntry;
struct ZoneHeapNode;

class Zone {
public:
    // The zone lives in [memory, memory + size), aligned to 8 bytes.
    Zone(void *memory, std::size_t size) : memory_(memory), size_(size) {}

    // Makes an empty zone.  False where `size` is under kZoneMinimum.
    bool format();

    // Whether the memory holds a zone of this very layout and size.
    bool valid() const;

    // The value of an entry that a call has found, before the mutex is given back.
    void read(std::uint32_t entry, char *out) const;

    ZoneFigures figures() const;

    std::size_t entries() const;
    std::size_t free_blocks() const;
    std::size_t blocks() const;

    // Whether every block is where it belongs; for tests and for diagnosis.
    bool sound() const;

    // As if a process had been killed within a call; for tests.
    void pretend_killed();

protected:
    class Guard;

    // An entry that is about to be.
    struct New {
        Token token = 0;
        Millis expires = 0;
        Millis confirmed = 0;
        bool running = false;
    };

    ZoneHead *head() const;
    ZoneBlock *block(std::uint32_t index) const;
    ZoneEntry &entry(std::uint32_t index) const;

    // What is under the key and has not expired, or kNone.
    std::uint32_t find(const KeyId &id, Millis now);

    // Writes an entry, for which there has to be room; nobody sees it before it
    // is published.
    std::uint32_t write(const KeyId &id, const New &what, const Pieces &value);
    void publish(std::uint32_t at);
    void remove(std::uint32_t at);
    void set_end(std::uint32_t at, Millis expires);

    // Takes away an entry that has expired; false where there is none.
    bool expire_one(Millis now);
    void expire_some(Millis now);

    // How many entries are running.
    std::size_t running() const;

    // Of those that are not, the one that ends first, or kNone.
    std::uint32_t first_to_end() const;

    static constexpr std::uint32_t kNone = ~std::uint32_t(0);

private:
    enum Heap : unsigned { results, claims };

    std::uint32_t *buckets() const;
    std::uint32_t *bucket_of(const KeyId &id) const;
    std::uint32_t lookup(const KeyId &id) const;
    void unlink_bucket(std::uint32_t at);

    std::uint32_t take_block();
    void free_chain(std::uint32_t first, std::uint32_t last, std::uint32_t count);

    ZoneHeapNode &node(Heap heap, std::uint32_t i) const;
    void place(Heap heap, std::uint32_t i, const ZoneHeapNode &what);
    void sift_up(Heap heap, std::uint32_t i, const ZoneHeapNode &what);
    void sift_down(Heap heap, std::uint32_t i, const ZoneHeapNode &what);
    void heap_insert(std::uint32_t at);
    void heap_remove(std::uint32_t at);
    bool heap_is_sound(Heap heap) const;

    void rebuild();
    bool chain_is_whole(std::uint32_t at) const;

    void *memory_;
    std::size_t size_;
};

}  // namespace idempotency
