// What Redis has done, and what is held until its replicas have it, too: one
// WAIT at a time, which is for all that was sent before it.  With too few
// replicas each blocks the connection for all of its time.

#pragma once

#include "redis/protocol/command.h"

namespace idempotency {

class RedisReplicas {
public:
    // Something is sent that replicas are to have; its call ends at `deadline`.
    void changes(Millis deadline) noexcept;

    // Whether a WAIT is to be sent now; `sent` gives the deadline of it.
    bool is_due() const noexcept;
    Millis sent() noexcept;

    // It is done, but by too few replicas as far as is known.
    void hold(RedisCommand *command) noexcept { held_.push(command); }
    bool holds_none() const { return held_.empty(); }

    // What the WAIT was for.  `are_there`: enough replicas have all of it.  The
    // next one's deadline is `deadline` at least.
    RedisCommandQueue answered(bool are_there, Millis deadline) noexcept;

    // Those for which it was not said in time.
    RedisCommandQueue take_expired(Millis now) noexcept { return held_.take_expired(now); }
    Millis next_deadline() const noexcept { return held_.next_deadline(); }

    // The connection is gone: whether the replicas have what is held will not be
    // known any more.
    RedisCommandQueue close() noexcept;

private:
    RedisCommandQueue held_;
    bool wanted_ = false;
    bool in_flight_ = false;
    bool are_there_ = false;  // as the last one said
    Millis deadline_ = 0;     // that of the next one, at least
};

}  // namespace idempotency
