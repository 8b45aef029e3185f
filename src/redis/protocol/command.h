// A command to Redis, from its creation until the reply has been handled.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "core/deadline_queue.h"
#include "core/store.h"

namespace idempotency {

// Times are in milliseconds.
struct RedisPipelineOptions {
    std::string_view prefix;  // of every key; outlives the pipeline
    Millis timeout = 1000;    // for the reply to a command that the pipeline itself sends

    // Each command renews one key: in a cluster all keys of a command must be in
    // one slot.
    bool single_renewals = false;

    std::size_t inline_limit = 0;  // bytes; a claim returns no larger value; 0: no limit

    // How many commands with `is_limited` may be in flight; the others wait in
    // the pipeline.  This bounds what Redis has to buffer of the replies.
    // 0: no limit.
    std::size_t max_in_flight = 0;

    // How many replicas must have a claim or a result before the call ends, and
    // how long the WAIT for them may take: the deadlines of calls must allow for
    // that time.  0: none.
    unsigned replicas = 0;
    Millis replica_wait = 0;

    // The deadline of a command that the pipeline itself sends: Redis may first
    // have to carry out a WAIT that was sent before.
    Millis own_deadline(Millis now) const
    {
        return now + timeout + (replicas > 0 ? replica_wait : 0);
    }
};

struct RedisCommand {
    enum class Kind { auth, select, role, ping, claim, settle, release, renew, wait, fetch };

    RedisCommand *next = nullptr;  // belongs to the queue that holds the command
    Kind kind = Kind::ping;
    bool as_eval = false;              // sent as EVAL, with the script's text, after NOSCRIPT
    bool timed_out = false;            // its deadline has passed, and its call has ended
    bool asking = false;               // ASKING is sent before it
    bool awaits_asking_reply = false;  // ASKING was sent and has no reply yet
    Call *call = nullptr;              // null: no call waits for the reply
    KeyId id{};
    Token token = 0;
    Millis deadline = 0;
    Millis lease = 0;              // of a claim, in milliseconds
    Millis claim_expires = 0;      // of the release of a late claim: when its lease has expired
    std::uint64_t asking_end = 0;  // where the bytes of ASKING end, as RedisOutput counts them
    std::uint64_t end = 0;         // where the bytes of the command end
    std::unique_ptr<Lease[]> leases;
    std::size_t lease_count = 0;

    // For the log.
    const char *name() const;

    // Part of the greeting: sent before any command with a key.
    bool is_greeting() const { return kind <= Kind::ping; }

    // A replica must have what the command has changed (`wait_replicas`).
    bool changes_key() const { return kind == Kind::claim || kind == Kind::settle; }

    // Counts against RedisPipelineOptions::max_in_flight.
    bool is_limited() const { return changes_key() || kind == Kind::fetch; }

    bool releases_late_claim() const
    {
        return kind == Kind::release && call == nullptr && claim_expires != 0;
    }
};

using RedisCommandQueue = DeadlineQueue<RedisCommand>;

}  // namespace idempotency
