// What a pipeline tells the connection that it belongs to.

#pragma once

#include "core/store.h"
#include "redis/protocol/redirect.h"

namespace idempotency {

// From within these functions the connection may start calls, and nothing else.
class RedisPipelineEvents {
public:
    // Redis has completed the greeting: the calls that waited have been sent.
    virtual void greeted() = 0;

    // Redis replied to the command `what` with an error that begins with `code`.
    // `id` is the key's, or null where a command has no key.  Where too few
    // replicas have a change `what` is "WAIT" and `code` "NOREPLICAS".  `advice`: what to do
    // about it, or null.
    virtual void error_reply(const char *what, const char *code, const KeyId *id,
                             const char *advice) = 0;

    // Another node of the cluster has the key of this call: Redis has not run
    // the command.  The call has not ended, and belongs to the connection again.
    // `redirect` is valid until this returns.
    virtual void redirected(Call &call, Millis deadline, const RedisRedirect &redirect) = 0;

    // The call has not ended, belongs to the connection again and has to be
    // started over another connection: the claim found a value above
    // RedisPipelineOptions::inline_limit, whose size Call::large has now; or such
    // a value was not there any more when it was fetched, and Call::large is 0
    // again.
    virtual void rerouted(Call &call, Millis deadline) = 0;

protected:
    ~RedisPipelineEvents() = default;
};

}  // namespace idempotency
