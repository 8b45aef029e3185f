// What the module needs of a store: one value for each key, with a lifetime,
// replaced only by the holder of its claim.
//
// The value is a record (docs/format.md) in either engine, so that a decision
// never depends on where it is kept.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/digest.h"
#include "core/record.h"

namespace idempotency {

enum class Verdict {
    claimed,      // the key was free; `token` is the claim's
    found,        // the key is taken; `value` and `remaining` tell by what
    done,         // settled or released
    lost,         // another claim holds the key, or none: nothing was changed
    full,         // no room: nothing was changed
    unavailable,  // not reached, too late, or answered with an error
};

struct Reply {
    Verdict verdict = Verdict::unavailable;
    Token token = 0;
    std::string_view value;  // in memory that Call::room gave
    Millis remaining = 0;    // of the value's lifetime, by the store's clock
};

// A record in pieces: the written part, then the pieces of the body.
struct Pieces {
    const std::string_view *first = nullptr;
    std::size_t count = 0;

    std::size_t size() const
    {
        std::size_t sum = 0;

        for (std::size_t i = 0; i < count; i++) {
            sum += first[i].size();
        }

        return sum;
    }
};

// One call to a store.  It belongs to the caller, who keeps it and all that it
// points to until the call has ended; a call always ends, at its deadline at
// the latest.
struct Call {
    enum class Kind {
        claim,    // `value` is the record of the claim, `lifetime` the lease
        settle,   // replaces the claim `token` by `value`, kept for `lifetime`
        release,  // frees the key if the claim `token` still runs
    };

    Kind kind = Kind::claim;
    KeyId id{};
    Token token = 0;  // in a claim: the one that is wanted, 0 for a new one
    Pieces value;
    Millis lifetime = 0;

    // Gives memory for a found value, or null, which ends the call as
    // `unavailable`.  It belongs to the caller.  A large value may be told of
    // before it is fetched, so that this is called again.
    char *(*room)(Call &call, std::size_t size) = nullptr;

    // Called once with `reply` filled in, unless `start` said that it is.
    void (*ended)(Call &call) = nullptr;

    Reply reply;

    // The store's own: how often it was sent on to another node, and whether
    // that does not have the key's slot yet; of a claim that has found a value
    // which is fetched for itself, the size of that and when it ends.
    unsigned redirects = 0;
    bool asking = false;
    std::size_t large = 0;
    Millis large_until = 0;
};

// A claim that is to go on.
struct Lease {
    KeyId id{};
    Token token = 0;
    Millis length = 0;

    // The store's own, as those of a call.
    unsigned redirects = 0;
    bool asking = false;
};

// How full a zone in shared memory is.
struct ZoneFigures {
    std::uint64_t size = 0;  // bytes; 0: there is no such zone
    std::uint64_t used = 0;  // bytes of blocks that are taken
    std::uint64_t free_blocks = 0;
    std::uint64_t keys = 0;  // with those that have expired and were not swept yet
};

// How a store is, for those who look after it.
struct StoreFigures {
    const char *engine = "";
    bool up = true;      // as far as this worker knows
    ZoneFigures memory;  // of an embedded store
    ZoneFigures near;    // of a near cache
};

// Who wants to know when a store answers again.
class StoreWatcher {
public:
    // It was away, or stalled, or lost a connection.  May come more than once
    // for one outage, and from within the store: to be acted on later.
    virtual void store_is_back() = 0;

protected:
    ~StoreWatcher() = default;
};

// A store as one worker sees it.
class Store {
public:
    virtual ~Store() = default;

    // In a worker, before the first call; false where it can't go on.
    virtual bool open() = 0;

    // When the worker ends: closes what an event loop could still see.
    virtual void close() = 0;

    // True where the call has ended already: `reply` is there, and `ended` will
    // not be called.
    virtual bool start(Call &call) = 0;

    // What the store itself knows a key by, for people who look for it there;
    // all 0 where that could not be made out.
    virtual KeyId stored_id(const KeyId &id) const { return id; }

    // Gives each claim its lease anew, from now on.  Best effort: who has lost
    // a claim is told when it is settled.
    virtual void renew(const Lease *leases, std::size_t count) = 0;

    // Before `open`.  `watcher` outlives the store; a store that is never away
    // has nothing to tell it.
    virtual void watch(StoreWatcher *watcher) = 0;

    virtual StoreFigures figures() = 0;
};

}  // namespace idempotency
