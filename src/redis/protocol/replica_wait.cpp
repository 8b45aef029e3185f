#include "redis/protocol/replica_wait.h"

#include <algorithm>

namespace idempotency {

void RedisReplicaWait::change_sent(Millis deadline) noexcept
{
    is_wanted_ = true;
    deadline_ = std::max(deadline_, deadline);
}

// A WAIT that is sent together with its commands saves a round trip.  Where the
// last WAIT found too few replicas the next one may block the connection for its
// whole timeout: then it is sent only when a key is known to have changed, so
// that a claim which only finds a value does not wait behind it.
bool RedisReplicaWait::is_wait_due() const noexcept
{
    return is_wanted_ && !is_in_flight_ && (were_enough_ || !held_.empty());
}

Millis RedisReplicaWait::wait_sent() noexcept
{
    is_wanted_ = false;
    is_in_flight_ = true;
    return deadline_;
}

RedisCommandQueue RedisReplicaWait::wait_replied(bool are_enough, Millis deadline) noexcept
{
    is_in_flight_ = false;
    were_enough_ = are_enough;
    deadline_ = deadline;
    return held_.take();
}

RedisCommandQueue RedisReplicaWait::close() noexcept
{
    RedisCommandQueue held = held_;

    *this = RedisReplicaWait();
    return held;
}

}  // namespace idempotency
