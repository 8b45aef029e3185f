#include "redis/protocol/replicas.h"

#include <algorithm>

namespace idempotency {

void RedisReplicas::changes(Millis deadline) noexcept
{
    wanted_ = true;
    deadline_ = std::max(deadline_, deadline);
}

// A WAIT that goes along with its commands saves a round trip.  Where it may
// take all of its time it is sent when something is known to have changed:
// what is only fetched must not stand behind it.
bool RedisReplicas::is_due() const noexcept
{
    return wanted_ && !in_flight_ && (are_there_ || !held_.empty());
}

Millis RedisReplicas::sent() noexcept
{
    wanted_ = false;
    in_flight_ = true;
    return deadline_;
}

RedisCommandQueue RedisReplicas::answered(bool are_there, Millis deadline) noexcept
{
    in_flight_ = false;
    are_there_ = are_there;
    deadline_ = deadline;
    return held_.take();
}

RedisCommandQueue RedisReplicas::close() noexcept
{
    RedisCommandQueue held = held_;

    *this = RedisReplicas();
    return held;
}

}  // namespace idempotency
