// The receiving side of one connection: reads the replies of Redis and handles them.

#pragma once

#include <string_view>

#include "redis/protocol/interpret_reply.h"
#include "redis/protocol/pipeline_events.h"
#include "redis/protocol/reader.h"
#include "redis/protocol/sender.h"

namespace idempotency {

// A reply ends the call of its command; or the command is sent again (NOSCRIPT),
// held until the replicas have the change, or given to another connection
// (MOVED, ASK, a large value).  A reply that does not fit its command makes the
// connection unusable: RedisSender::fault.
class RedisReplyHandler : private RedisReader::Sink {
public:
    // All of them outlive this object.
    RedisReplyHandler(const RedisPipelineOptions &options, RedisPipelineEvents &events,
                      RedisCommandPool &pool, RedisSender &sender,
                      RedisReplicaWait &replicas) noexcept
        : options_(options), events_(events), pool_(pool), sender_(sender), replicas_(replicas),
          reader_(*this)
    {}

    // A new connection.  False where there is no memory.
    bool open() noexcept { return reader_.restart(); }

    void close() noexcept;

    // Handles all replies in bytes that were read, and sends the commands that wait
    // for one of them.
    void input(std::string_view bytes, Millis now) noexcept;

    // The call that gave the buffer for the value that is being read ends: the rest of the
    // value is read and dropped.
    void drop_value() noexcept { reader_.drop_value(); }

private:
    using Kind = RedisCommand::Kind;

    char *allocate_value(std::size_t size) override;

    void handle(const ServerReply &reply, Millis now) noexcept;
    bool handle_asking(RedisCommand &command, const ServerReply &reply) noexcept;
    void handle_greeting(const RedisCommand &command, const ServerReply &reply) noexcept;
    void handle_wait(RedisCommand *command, const ServerReply &reply, Millis now) noexcept;
    bool handle_no_script(RedisCommand *command, const ServerReply &reply) noexcept;
    bool handle_redirect(RedisCommand *command, const ServerReply &reply) noexcept;
    void handle_too_large(RedisCommand *command, std::size_t size, Millis now) noexcept;
    void handle_fetch(RedisCommand *command, const ServerReply &reply, Millis now) noexcept;
    void handle_result(RedisCommand *command, const ServerReply &reply) noexcept;
    bool hold_for_replicas(RedisCommand *command, const Reply &result) noexcept;
    void end_with_fault(RedisCommand *command) noexcept;

    const RedisPipelineOptions &options_;
    RedisPipelineEvents &events_;
    RedisCommandPool &pool_;
    RedisSender &sender_;
    RedisReplicaWait &replicas_;

    RedisReader reader_;
    RedisValue value_;  // of the reply that is being read
};

}  // namespace idempotency
