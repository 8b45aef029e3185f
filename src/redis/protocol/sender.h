// The sending side of one connection: the commands that wait to be sent, the
// commands in flight, and the bytes that are to be written.
//
// It also holds the state of the connection, which all parts of a pipeline
// need: whether Redis has completed the greeting, and what has gone wrong.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <sys/uio.h>

#include "redis/protocol/command_pool.h"
#include "redis/protocol/encoder.h"
#include "redis/protocol/fetch_index.h"
#include "redis/protocol/output.h"
#include "redis/protocol/replica_wait.h"

namespace idempotency {

class RedisSender {
public:
    // All four outlive this object.
    RedisSender(const RedisScripts &scripts, const RedisPipelineOptions &options,
                RedisCommandPool &pool, RedisReplicaWait &replicas) noexcept
        : options_(options), pool_(pool), replicas_(replicas), encoder_(scripts, options, output_)
    {}

    // A new connection: only the greeting is sent until `greeted`.
    void open() noexcept;

    // The connection is closed.  Returns the commands that were in flight, which are
    // the caller's now.  Commands that were not sent wait for the next connection.
    RedisCommandQueue close() noexcept;

    // Redis has closed the connection; to be called before `close`.  On a connection for large
    // values the commands in flight wait for the next connection, where they are sent one at a
    // time until one has a reply.  A command that was alone in flight when several connections
    // were lost is the reason for that, and is not sent again.  True where the reason may be a
    // command: then it is worth connecting again at once.
    bool take_back(Millis now) noexcept;

    // Redis has completed the greeting.  The caller sends what waits.
    void greeted() noexcept { state_ = State::ready; }

    // From now on calls wait for the next connection.
    void pause() noexcept { paused_ = true; }

    // Why the connection cannot be used any more, or null.  `reason` is a
    // constant.
    const char *fault() const { return fault_; }
    void set_fault(const char *reason) noexcept { fault_ = reason; }
    void set_out_of_memory() noexcept { fault_ = "no memory"; }

    // The fault is that Redis has refused a value, and closes the connection.
    void set_value_refused() noexcept;
    bool value_refused() const { return value_refused_; }

    bool is_greeted() const { return state_ == State::ready; }
    bool ready() const { return is_greeted() && fault_ == nullptr; }

    // Sends a part of the greeting with up to two arguments; an empty one is left
    // out.  False where there is no memory.
    bool send_greeting(RedisCommand::Kind kind, std::string_view first, std::string_view second,
                       Millis now) noexcept;

    // Sends a command at once.  The bytes of its call's value are referred to,
    // not copied: see RedisOutput.
    void send(RedisCommand *command) noexcept;

    // Sends a call's command, or lets it wait for the greeting, for a place
    // among those in flight, or for the next connection.
    void send_or_queue(RedisCommand *command) noexcept;

    // Sends a PING, to find out whether an idle connection still works.
    void send_check(Millis now) noexcept;

    // Redis has replied to a command with a key.
    void has_replied() noexcept { is_cautious_ = false; }

    // Sends what waits, as far as the limit in RedisPipelineOptions allows.
    void send_waiting() noexcept;

    RedisCommandQueue take_waiting() noexcept;
    RedisCommandQueue take_expired_waiting(Millis now) noexcept;

    // Up to `max` pieces of the bytes that are to be written; returns how many.
    // If a WAIT is due, it is sent first, so that it counts for all commands that were
    // started before this call.
    std::size_t output(iovec *out, std::size_t max) noexcept;
    void wrote(std::size_t size) noexcept { output_.wrote(size); }

    // Whether all bytes up to `end` have been written (RedisCommand::end).
    std::uint64_t written() const { return output_.written(); }
    bool is_written(std::uint64_t end) const { return end <= output_.written(); }

    // Whether bytes up to `end` may have been written: of a write that fails the
    // connection does not say how many bytes were.
    bool may_be_written(std::uint64_t end) const { return end <= offered_; }

    // The oldest command in flight: the next reply is for this one.
    RedisCommand *first_in_flight() const { return in_flight_.first(); }
    bool none_in_flight() const { return in_flight_.empty(); }
    std::uint64_t count_in_flight() const noexcept;

    // How many commands were sent, over all connections.
    std::uint64_t sent() const { return sent_; }

    // Takes it out of the queue: it is the caller's now.
    RedisCommand *pop_in_flight() noexcept;

    // The deadline of a command in flight has passed, and its call has ended or
    // is about to: the reply is only read.
    void set_timed_out(RedisCommand &command) noexcept;

    // The reply to a command in flight is late.
    bool stalled() const { return timed_out_ > 0; }

    // All commands in flight have their reply, or have timed out.
    bool drained() const noexcept;

    bool idle() const { return in_flight_.empty() && waiting_.empty(); }

    // The earliest deadline of what waits and of what is in flight and has not
    // timed out, or kNever.
    Millis next_deadline() const noexcept;

private:
    enum class State { closed, greeting, ready };

    bool may_send(const RedisCommand &command) const noexcept;
    void enqueue(RedisCommand *command) noexcept;
    void send_wait() noexcept;

    const RedisPipelineOptions &options_;
    RedisCommandPool &pool_;
    RedisReplicaWait &replicas_;

    State state_ = State::closed;
    const char *fault_ = nullptr;
    bool value_refused_ = false;
    bool paused_ = false;
    RedisOutput output_;
    std::uint64_t offered_ = 0;  // where the last bytes end that `output` has returned
    RedisEncoder encoder_;

    std::uint64_t sent_ = 0;
    RedisCommandQueue in_flight_;  // in the order in which they were sent
    RedisCommandQueue waiting_;
    RedisFetchIndex fetches_;    // of `waiting_`
    std::size_t timed_out_ = 0;  // how many in flight
    std::size_t limited_ = 0;    // how many in flight count against max_in_flight
    bool is_cautious_ =
        false;  // one at a time: the last connection was lost with commands in flight
};

}  // namespace idempotency
