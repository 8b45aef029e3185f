// Questions to a server about itself and others: CLUSTER SLOTS, ROLE, SENTINEL,
// SUBSCRIBE.
//
// It does no input or output: bytes come from its owner.  Calls for keys go
// through RedisPipeline instead.

#pragma once

#include <cstddef>
#include <string_view>

#include <sys/uio.h>

#include "redis/protocol/output.h"

struct redisReader;
struct redisReply;

namespace idempotency {

class RedisDialogue {
public:
    class Events {
    public:
        // The next answer or message, never an error.  It is gone when this
        // returns.  From within, the owner may ask on, and nothing else.
        virtual void answered(const redisReply &reply) = 0;

    protected:
        ~Events() = default;
    };

    // `most`: of how many bytes an answer may be.
    RedisDialogue(std::size_t most, Events &events) noexcept : most_(most), events_(events) {}
    ~RedisDialogue();
    RedisDialogue(const RedisDialogue &) = delete;
    RedisDialogue &operator=(const RedisDialogue &) = delete;

    // A fresh connection.  With a password AUTH comes first; its answer is no
    // event.  `user` may be empty.
    void open(std::string_view user, std::string_view password) noexcept;

    void close() noexcept;

    // Sends a command; its words are copied.  The answers come in order.
    void ask(const std::string_view *words, std::size_t count) noexcept;

    // The next bytes to write, and how many of them were written.
    std::size_t output(iovec *out, std::size_t most) const noexcept
    {
        return fault_ == nullptr ? output_.pieces(out, most) : 0;
    }
    void wrote(std::size_t size) noexcept { output_.wrote(size); }

    // Bytes that were read.
    void input(std::string_view bytes) noexcept;

    // Why the connection is of no use any more, or null: it is to be closed.
    // It lasts until `open` or `close`.
    const char *fault() const { return fault_; }

private:
    void take(const redisReply &reply) noexcept;
    void refuse(const redisReply &error) noexcept;
    void end_reader() noexcept;

    std::size_t most_;
    Events &events_;
    RedisOutput output_;
    redisReader *reader_ = nullptr;
    std::size_t read_ = 0;        // bytes of the answer that is not whole yet
    bool authenticates_ = false;  // the next answer is that to AUTH
    const char *fault_ = nullptr;
    char refusal_[96] = "";  // what `fault_` points to where it is no constant
};

}  // namespace idempotency
