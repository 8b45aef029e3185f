// Releases claims that Redis has granted too late: their calls have ended, so no
// request holds such a claim, and its key would be blocked until the lease has
// expired.

#pragma once

#include "redis/protocol/sender.h"

namespace idempotency {

// The release is sent over this connection, or over the next one where this one
// is lost before the reply: whenever that comes, unless the lease has expired
// by then.
class RedisLateClaims {
public:
    // All three outlive this object.
    RedisLateClaims(const RedisPipelineOptions &options, RedisCommandPool &pool,
                    RedisSender &sender) noexcept
        : options_(options), pool_(pool), sender_(sender)
    {}
    ~RedisLateClaims() { pool_.end_all(kept_); }
    RedisLateClaims(const RedisLateClaims &) = delete;
    RedisLateClaims &operator=(const RedisLateClaims &) = delete;

    // Sends the release of a claim that Redis has granted with `token`.  Without
    // memory the claim stays until its lease has expired.
    void release(const RedisCommand &claim, Token token, Millis now) noexcept;

    // Ends commands that were held for the replicas, which were too few or too
    // late: their calls end as `unavailable`, and claims are released.
    void end_held(RedisCommandQueue held, Millis now) noexcept;

    // The same where the connection is closed: the releases wait for the next
    // one.
    void end_held_after_close(RedisCommandQueue held) noexcept;

    // Keeps a command with `releases_late_claim` for the next connection.
    void keep(RedisCommand *release) noexcept;

    // Redis has completed the greeting: sends what was kept.
    void send_kept(Millis now) noexcept;

private:
    const RedisPipelineOptions &options_;
    RedisCommandPool &pool_;
    RedisSender &sender_;
    RedisCommandQueue kept_;
};

}  // namespace idempotency
