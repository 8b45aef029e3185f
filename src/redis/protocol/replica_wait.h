// What Redis has done and the replicas may not have yet (`wait_replicas`).

#pragma once

#include "redis/protocol/command.h"

namespace idempotency {

// One WAIT is in flight at a time, and is for all changes that were sent before
// it: where replicas are too few each WAIT blocks the connection for its whole
// timeout.
class RedisReplicaWait {
public:
    // A command that changes a key has been sent; its call ends at `deadline`.
    void change_sent(Millis deadline) noexcept;

    // Whether a WAIT is to be sent now.
    bool is_wait_due() const noexcept;

    // It has been sent.  Returns its deadline.
    Millis wait_sent() noexcept;

    // Redis has replied to the WAIT: `are_enough` replicas have all changes that
    // were sent before it, or too few.  The next WAIT has `deadline` at least.
    // Returns the commands that were held, which are the caller's now.
    RedisCommandQueue wait_replied(bool are_enough, Millis deadline) noexcept;

    // Redis has carried out a command; its call is to end when the replicas have
    // the change.
    void hold(RedisCommand *command) noexcept { held_.push(command); }
    bool holds_none() const { return held_.empty(); }

    // Both return commands that were held, which are the caller's now: those whose
    // deadline has passed; or all, as the connection is closed.
    RedisCommandQueue take_expired(Millis now) noexcept { return held_.take_expired(now); }
    RedisCommandQueue close() noexcept;

    // The earliest deadline of what is held, or kNever.
    Millis next_deadline() const noexcept { return held_.next_deadline(); }

private:
    RedisCommandQueue held_;
    bool is_wanted_ = false;  // changes have been sent since the last WAIT
    bool is_in_flight_ = false;
    bool were_enough_ = false;  // as the last WAIT replied
    Millis deadline_ = 0;       // of the next WAIT, at least
};

}  // namespace idempotency
