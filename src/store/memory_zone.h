// The embedded store's zone: one stretch of shared memory that several
// processes use in turn, under a mutex that the caller holds.
//
// Blocks of one size make up everything, so that nothing fragments.  The truth
// lies in the entries alone; the hash table, the list of free blocks and the
// timing wheel are made from them and can be made again: a process that is
// killed in the middle of a call leaves `dirty` set, and the next call rebuilds.
// To that end an entry never changes once it is published: a new value is a
// new entry with a higher sequence, published before the old one goes.
//
// Positions are block numbers, never pointers.  Nothing here throws, allocates
// or knows nginx.  Times are milliseconds of one clock that all processes share
// and that never goes back (CLOCK_MONOTONIC).

#pragma once

#include <cstddef>
#include <cstdint>

#include "core/digest.h"
#include "store/store.h"

namespace idempotency {

constexpr std::size_t kZoneBlockSize = 512;
constexpr std::size_t kZoneMinimum = 64 * 1024;

struct ZoneHead;
struct ZoneBlock;

class MemoryZone {
public:
    // The zone lives in [memory, memory + size), aligned to 8 bytes.
    MemoryZone(void *memory, std::size_t size) : memory_(memory), size_(size) {}

    // Makes an empty zone.  False where `size` is under kZoneMinimum.
    bool format(Millis now);

    // Whether the memory holds a zone of this very layout and size.
    bool valid() const;

    // Claims a free key, or finds what it holds.  `claim` is a record; the
    // token is written into it.  `clock` is the time of day in microseconds:
    // tokens are made from it and grow even where it goes back.
    // On `found` only `value_size` and `remaining` of the value are known; read
    // it with `read` before the mutex is given back.
    struct Found {
        Reply reply;
        std::size_t value_size = 0;
        std::uint32_t entry = 0;
    };

    Found claim(const KeyId &id, std::string_view claim, Millis lease, Millis now,
                std::uint64_t clock);
    void read(std::uint32_t entry, char *out) const;

    // Replaces the value of the claim `token`, or of nobody: a key whose lease
    // has lapsed without a successor takes the late result.
    Verdict settle(const KeyId &id, Token token, const Pieces &value, Millis lifetime, Millis now);

    // Frees the key if the claim `token` still runs.
    Verdict release(const KeyId &id, Token token, Millis now);

    // Gives the claim `token` another lease from now on.
    Verdict renew(const KeyId &id, Token token, Millis lease, Millis now);

    std::size_t entries() const;
    std::size_t free_blocks() const;
    std::size_t blocks() const;

    // Whether every block is where it belongs; for tests and for diagnosis.
    bool sound() const;

    // As if a process had been killed within a call; for tests.
    void pretend_killed();

private:
    class Guard;

    ZoneHead *head() const;
    std::uint32_t *buckets() const;
    ZoneBlock *block(std::uint32_t index) const;

    std::uint32_t *bucket_of(const KeyId &id) const;
    std::uint32_t find(const KeyId &id, Millis now);
    std::uint32_t lookup(const KeyId &id) const;

    std::uint32_t take_block();
    bool make_room(std::size_t blocks, Millis now);
    std::uint32_t write_entry(const KeyId &id, Token token, const Pieces &value, Millis expires,
                              bool running);
    void publish(std::uint32_t entry);
    void remove(std::uint32_t entry);
    void unlink_bucket(std::uint32_t entry);
    void free_chain(std::uint32_t first, std::uint32_t last, std::uint32_t count);

    void wheel_insert(std::uint32_t entry);
    void wheel_remove(std::uint32_t entry);
    void wheel_look_at(std::uint32_t entry, Millis now);
    bool wheel_cascade(unsigned level, std::uint64_t tick, Millis now, unsigned &budget);
    unsigned wheel_advance(Millis now, unsigned budget);

    void rebuild(Millis now);
    bool chain_is_whole(std::uint32_t entry) const;

    void *memory_;
    std::size_t size_;
};

}  // namespace idempotency
