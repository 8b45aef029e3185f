// The commands of one connection to Redis: calls are started here, bytes are
// written and read through here, and each call ends here.
//
// A pipeline does no I/O and has no clock: the connection that owns it passes
// bytes and the time, in milliseconds of any clock that never goes back.
//
// Its parts: RedisSender (what is sent), RedisReplyHandler (what replies mean),
// RedisReplicaWait (what waits for replicas).
//
// Reply::sent of a call that ends as `unavailable`: true once its command was in
// flight, unless Redis has replied that it has changed nothing.  A reply that comes
// after the deadline is read and dropped.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <sys/uio.h>

#include "core/store.h"
#include "redis/protocol/command_pool.h"
#include "redis/protocol/pipeline_events.h"
#include "redis/protocol/replica_wait.h"
#include "redis/protocol/reply_handler.h"
#include "redis/protocol/script.h"
#include "redis/protocol/sender.h"

namespace idempotency {

struct RedisLogin {
    std::string_view user;
    std::string_view password;  // empty: no AUTH is sent
    std::uint32_t database = 0;
    bool master_only = false;  // the greeting fails where the server is no master
};

class RedisPipeline {
public:
    using Events = RedisPipelineEvents;

    // `options` is copied; the others outlive this object.
    RedisPipeline(const RedisScripts &scripts, const RedisPipelineOptions &options,
                  Events &events) noexcept;
    ~RedisPipeline();
    RedisPipeline(const RedisPipeline &) = delete;
    RedisPipeline &operator=(const RedisPipeline &) = delete;

    // A new connection: sends the greeting (AUTH, SELECT, ROLE, PING) before
    // anything else.  `login` is read before this returns.
    void open(const RedisLogin &login, Millis now) noexcept;

    // The connection is closed.  Calls in flight end as `unavailable`, as it is
    // not known whether Redis has run their commands; calls that were not sent
    // yet wait for the next connection.
    void close() noexcept;

    // Redis has closed the connection, or has refused a value; to be called before `close`.
    // See RedisSender::take_back.
    bool take_back(Millis now) noexcept { return sender_.take_back(now); }

    // Ends the calls that wait as `unavailable`: there is no new connection
    // soon.
    void end_waiting(Cause cause = Cause::connection) noexcept;

    // Sends the command of a call, or lets the call wait until Redis has
    // completed the greeting.  True where the call has ended at once, as
    // `unavailable`: the connection has a fault or is stalled, or there is no
    // memory.  `asking`: a node of a cluster has redirected the call with ASK.
    bool start(Call &call, Millis deadline, bool asking = false) noexcept;

    // Sends no further calls over this connection: they wait for the next one.
    void pause() noexcept { sender_.pause(); }

    // All that was sent has a reply, or its deadline has passed.
    bool drained() const noexcept { return sender_.drained() && replicas_.holds_none(); }

    // Up to `max` pieces of the bytes that are to be written; returns how many.
    // To be called before each write, as it may add a WAIT for what has been
    // started; and after `input`, as a reply may make a WAIT due.
    std::size_t output(iovec *out, std::size_t max) noexcept { return sender_.output(out, max); }
    void wrote(std::size_t size) noexcept { sender_.wrote(size); }

    // Bytes that were read.
    void input(std::string_view bytes, Millis now) noexcept;

    // A large value is on its way to Redis, and the host of Redis has taken more of it.
    void progressed(Millis now) noexcept { progress_at_ = now; }

    // Where the large value ends that is being written, as a position in all bytes written over
    // this connection; 0: no large value is the oldest command in flight.
    std::uint64_t large_value_end() const noexcept;
    std::uint64_t written() const { return sender_.written(); }

    // Ends the calls whose deadline has passed: none as long as the last progress is less than a
    // timeout ago.  There may be something to write afterwards.
    void expire(Millis now) noexcept;

    // Sends a PING over an idle connection: where it works, Redis replies.
    void check(Millis now) noexcept { sender_.send_check(now); }

    // When `expire` has something to do next, or kNever.
    Millis next_deadline() const noexcept;

    // Why the connection cannot be used any more and is to be closed, or null.
    const char *fault() const { return sender_.fault(); }

    // The fault is that Redis has refused a value (Verdict::refused): the server is
    // available, and may be connected to at once.
    bool value_refused() const { return sender_.value_refused(); }

    // Redis has completed the greeting, and there is no fault.
    bool ready() const { return sender_.ready(); }

    // A reply is late: `start` ends calls at once.
    bool stalled() const { return sender_.stalled(); }

    // Redis has replied to a command with a key over this connection.
    bool is_proven() const { return is_proven_; }

    // For the metrics: commands without a reply, and all that were sent.
    std::uint64_t in_flight() const noexcept { return sender_.count_in_flight(); }
    std::uint64_t sent() const { return sender_.sent(); }

    // No command is in flight and no call waits.
    bool idle() const { return sender_.idle() && replicas_.holds_none(); }

private:
    Millis quiet_until() const noexcept;
    void expire_in_flight(Millis now) noexcept;
    Millis stall_deadline() const noexcept;

    RedisPipelineOptions options_;
    RedisCommandPool pool_;
    RedisReplicaWait replicas_;
    RedisSender sender_;
    RedisReplyHandler replies_;
    Millis progress_at_ = 0;  // when bytes last came; 0: none since the greeting
    bool is_proven_ = false;
};

}  // namespace idempotency
