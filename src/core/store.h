// The interface of a store: one value for each key, with a lifetime, which only the
// holder of the key's claim can replace.
//
// The value is a record (core/record.h), the same in every store, so a decision does not
// depend on where the record is kept.  A store uses only the state, claim, token, lifetime
// and hold of a record (a near cache also checks it); it compares claims, and never clocks
// of different hosts.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/cause.h"
#include "core/digest.h"
#include "core/record.h"

namespace idempotency {

enum class Verdict {
    claimed,      // the key was free and has this claim now; `token` is its token
    found,        // the key has another value: `value` and `remaining`
    done,         // settled, released or renewed
    lost,         // the key has another claim or a result, or is free: nothing was changed
    full,         // the store has no memory for it: nothing was changed
    refused,      // the store will never take this value: nothing was changed
    unreadable,   // the key has a value, and it can't be decrypted
    gone,         // renew, replace, or a claim that only looks up: the key is free: nothing was
                  // changed
    unavailable,  // not reached, no reply in time, or an error: see Reply::sent
};

struct Reply {
    Verdict verdict = Verdict::unavailable;
    Token token = 0;
    std::string_view value;  // in memory that Call::allocate_value gave

    // By the store's clock.  With `found`: of the value's lifetime.  With `full`: until the first
    // lifetime or lease ends; 0: not known.
    Millis remaining = 0;

    // It is not known whether the store has carried out the call, or will do so when it reads
    // it.  With `unavailable`; also with `found` if a near cache has replied with its copy
    // while the store was unavailable.
    bool sent = false;

    // With `found`, for a call with `id_is_stored`: the id of the key, if the store keeps it under
    // another one.  All bytes are 0: it is that of the call.
    KeyId id{};

    // Why the call failed; with `found` if a near cache has replied because the store failed.
    Cause cause = Cause::none;

    // A near cache has replied with its copy.
    bool is_copy = false;
};

// Of a call that has changed nothing.
inline Reply failed_reply(Cause cause)
{
    Reply reply;

    reply.cause = cause;
    return reply;
}

// Why a call failed; `none` if it did not.
inline Cause cause_of(const Reply &reply)
{
    if (reply.cause != Cause::none) {
        return reply.cause;
    }

    switch (reply.verdict) {
    case Verdict::full:
        return Cause::full;
    case Verdict::refused:
        return Cause::refused_value;
    case Verdict::unreadable:
        return Cause::corrupt;
    case Verdict::unavailable:
        return Cause::connection;
    default:
        return Cause::none;
    }
}

// A record in pieces: head and extensions, then the pieces of the body.
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

constexpr Millis kAnyRemaining = ~Millis(0);

// One call to a store.
//
// Ownership: the caller keeps the call, and all that it points to, until the call has
// ended.  A call always ends, at the latest at its deadline.  It can't be cancelled.
//
// Order: calls for one key that a worker starts one after the other reach the store in
// this order as long as the connection lives, except a `settle` with a large value: Redis
// gets it over another connection.  A call that ended as `unavailable` may still reach the
// store later.
struct Call {
    enum class Kind {
        // Claims a free key.  `value` is the record of the claim, `lifetime` lease + hold.
        // Verdicts: claimed, found, full, unreadable, unavailable.
        //
        // With an empty `value` the key is only looked up.  Verdicts: found, gone,
        // unreadable, unavailable.
        claim,

        // Replaces the claim by `value`, kept for `lifetime`; also where the key is free
        // (the claim's lifetime has ended, and no other claim has followed).
        // Verdicts: done, lost, full, refused, unavailable.
        settle,

        // Frees the key if it has this claim, in state `running`.
        // Verdicts: done, lost, unavailable.
        release,

        // Gives the claim, in state `running`, a new lifetime from now on.
        // Verdicts: done, lost, gone, unavailable.
        renew,

        // What an operator has decided.  Replaces the value that the caller has seen by `value`,
        // kept for `lifetime`, or removes it if `value` is empty; see `seen` and `most_remaining`.
        // Verdicts: done, lost (the key has another value now), gone, full, unavailable.
        replace,
    };

    bool only_looks_up() const { return kind == Kind::claim && value.count == 0; }

    Kind kind = Kind::claim;
    KeyId id{};
    ClaimId claim{};
    Token token = 0;  // in `claim`: the token that the claim is to have; 0: a new one
    Pieces value;
    Millis lifetime = 0;

    // An operator looks the key up: `value` is empty, and a near cache does not reply.  With
    // `unreadable` the value is returned as it is.
    bool by_operator = false;

    // In such a claim and in `replace`: `id` is a stored id (Store::stored_id), by any key of the
    // store.  Only the value under this id counts.
    bool id_is_stored = false;

    // In `replace`: state and claim of the value that is replaced (seen_part of the record); empty:
    // whatever is there.  It is replaced only if at most `most_remaining` is left of its lifetime,
    // so that a claim that was renewed meanwhile is not lost.
    std::string_view seen;
    Millis most_remaining = kAnyRemaining;

    // The worker exits: there is time to send the call, and none to handle a reply.
    bool send_only = false;

    // In `release`: the claim may still be on its way.  It is sent behind the claim even if the
    // store does not reply, so that the claim is released whatever happens to this worker.
    bool behind_claim = false;

    // In `claim`: returns memory for a value that was found, or null, which ends the call
    // as `unavailable`.  The memory belongs to the caller.  May be called more than once:
    // the last memory counts.
    char *(*allocate_value)(Call &call, std::size_t size) = nullptr;

    // Called once, from the event loop, with `reply` filled in; not called if `start`
    // returned true.  The call is the caller's again.  From within, the caller may start
    // other calls.
    void (*ended)(Call &call) = nullptr;

    Reply reply;

    // A value up to this size is read whenever it arrives.  For a larger one the store asks for the
    // memory before it fetches the value, which costs Redis something.
    std::size_t fetch_limit = 0;

    // For the Redis store: how often the call was sent to another node, whether the next
    // node needs ASKING, and the size and end of a large value that is fetched with a
    // call of its own.
    unsigned redirects = 0;
    bool asking = false;
    std::size_t large = 0;
    Millis large_until = 0;
};

// One step of a walk over all keys of a store.
//
// A key that has a value from the beginning of the walk to its end is found, maybe more than once;
// with Redis Cluster only if no slots are moved meanwhile.  Steps are made one after the other:
// the caller sets neither `part` nor `position` after the first step.
struct WalkStep {
    // Where the next step begins: of the store.
    std::size_t part = 0;
    std::uint64_t position = 0;

    // Called for each key, from within the step, with the id under which the store keeps it.  No
    // calls may be started from within.
    void (*found)(WalkStep &step, const KeyId &stored_id) = nullptr;

    // Called once when the step has ended, unless `walk` returned true.
    void (*ended)(WalkStep &step) = nullptr;

    bool failed = false;  // the store was unavailable: the step may be made again
    bool is_last = false;
};

// How full a zone in shared memory is.
struct ZoneFigures {
    std::uint64_t size = 0;  // bytes; 0: there is no such zone
    std::uint64_t used = 0;  // bytes of blocks that are taken
    std::uint64_t free_blocks = 0;
    std::uint64_t keys = 0;       // with those that have expired and are not removed yet
    std::uint64_t evictions = 0;  // by this worker, from a near cache that was full
};

// What a Redis server says about itself.
struct NodeInfo {
    bool is_known = false;
    bool evicts = false;  // it may remove records (maxmemory-policy)
    char role[16] = "";   // master, slave
    char version[24] = "";
    char policy[24] = "";  // maxmemory-policy
    std::uint64_t used_memory = 0;
    std::uint64_t maxmemory = 0;  // 0: no limit
    std::uint64_t replicas = 0;   // that are online
    std::uint64_t lag = 0;        // of the slowest one, in seconds
};

// A Redis server as one worker sees it.
struct NodeState {
    std::string_view name;  // valid until the next event of the store
    bool up = true;
    std::uint64_t connections = 0;
    std::uint64_t in_flight = 0;
    std::uint64_t commands = 0;    // since the worker has started
    std::uint64_t reconnects = 0;  // since the worker has started
    NodeInfo info;
};

// The state of a store, as one worker knows it.
struct StoreFigures {
    const char *engine = "";
    bool up = true;
    ZoneFigures memory;  // of an embedded store
    ZoneFigures near;    // of a near cache
};

// Gets a call when a store can be reached again.
class StoreWatcher {
public:
    // The store was unavailable, or has lost a connection.  May be called more than once
    // for one outage, and from within `start`: so act on it later.
    virtual void store_is_back() = 0;

protected:
    ~StoreWatcher() = default;
};

// A store as one worker uses it.  Not for several threads.
class Store {
public:
    virtual ~Store() = default;

    // Called in each worker before the first call.  False if the worker can't go on.
    virtual bool open() = 0;

    // Called when the worker ends.  Ends all calls, and closes connections.
    virtual void close() = 0;

    // Starts a call.  True if it has ended at once: then `reply` is filled in, and `ended`
    // is not called.
    virtual bool start(Call &call) = 0;

    // The id under which the store keeps the key, for people who look for it there.  All
    // bytes are 0 if it can't be computed.
    virtual KeyId stored_id(const KeyId &id) const { return id; }

    // Makes one step of a walk, of bounded size.  True if it has ended at once: then `ended` is
    // not called.  One walk at a time.
    virtual bool walk(WalkStep &step) = 0;

    // Called before `open`.  `watcher` outlives the store.
    virtual void watch(StoreWatcher *watcher) = 0;

    virtual StoreFigures figures() = 0;

    // The servers of the store, at most `max` of them; returns how many.
    virtual std::size_t nodes(NodeState *, std::size_t) { return 0; }
};

}  // namespace idempotency
