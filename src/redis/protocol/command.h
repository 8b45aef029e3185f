// A command to Redis, from its creation until the reply has been handled.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/deadline_queue.h"
#include "core/store.h"

namespace idempotency {

// Times are in milliseconds.
struct RedisPipelineOptions {
    std::string_view prefix;  // of every key; outlives the pipeline
    Millis timeout = 1000;    // for the reply to a command that the pipeline itself sends

    std::size_t inline_limit = 0;  // bytes; a claim returns no larger value; 0: no limit

    // How many commands with `is_limited` may be in flight; the others wait in
    // the pipeline.  This bounds what Redis has to buffer of the replies.
    // 0: no limit.
    std::size_t max_in_flight = 0;

    // This connection is for large values.  Where Redis closes it, what was in flight is sent
    // again over the next connection, one command at a time: see RedisSender::take_back.
    bool is_bulk = false;

    // How many replicas must have a claim or a result before the call ends, and
    // how long the WAIT for them may take: the deadlines of calls must allow for
    // that time.  0: none.
    unsigned replicas = 0;
    Millis replica_wait = 0;

    // The deadline of a WAIT: Redis may first have to carry out another one that
    // was sent before.
    Millis wait_deadline(Millis now) const
    {
        return now + timeout + (replicas > 0 ? replica_wait : 0);
    }
};

struct RedisCommand {
    enum class Kind {
        auth,
        select,
        role,
        ping,
        claim,
        settle,
        release,
        renew,
        replace,
        wait,
        fetch,
        check,
    };

    RedisCommand *next = nullptr;  // belongs to the queue that holds the command
    Kind kind = Kind::ping;
    bool as_eval = false;              // sent as EVAL, with the script's text
    bool timed_out = false;            // its deadline has passed, and its call has ended
    bool asking = false;               // ASKING is sent before it
    bool awaits_asking_reply = false;  // ASKING was sent and has no reply yet
    bool was_sent = false;             // over a connection that was lost since
    bool is_refused = false;           // Redis closes each connection over which it is sent
    unsigned char breaks = 0;          // how many connections were lost while only it was in flight
    Call *call = nullptr;              // null: no call waits for the reply
    KeyId id{};
    Token token = 0;  // of a claim: the token that it has
    Millis deadline = 0;
    std::uint64_t begin = 0;  // where the bytes of the command begin, as RedisOutput counts them
    std::uint64_t end = 0;    // where they end; those of ASKING end at `begin`

    // Of a `fetch`: other commands for the same value, which end with the reply to this one;
    // and its place in RedisFetchIndex.
    RedisCommand *followers = nullptr;
    RedisCommand *next_in_index = nullptr;

    // For the log.
    const char *name() const;

    // Part of the greeting: sent before any command with a key.
    bool is_greeting() const { return kind <= Kind::ping; }

    // A replica must have what the command has changed (`wait_replicas`).
    bool changes_key() const
    {
        return kind == Kind::claim || kind == Kind::settle || kind == Kind::replace;
    }

    // Counts against RedisPipelineOptions::max_in_flight.
    bool is_limited() const { return changes_key() || kind == Kind::fetch; }

    // The result of the call of a command that was sent and whose outcome is not
    // known.
    Reply unknown_result(Cause cause = Cause::connection) const
    {
        Reply result;

        if (is_refused) {
            result.verdict = Verdict::refused;
            return result;
        }

        result.sent = kind != Kind::fetch;  // which changes nothing
        result.cause = cause;
        return result;
    }
};

using RedisCommandQueue = DeadlineQueue<RedisCommand>;

}  // namespace idempotency
