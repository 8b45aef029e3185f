// What the log and the metrics say about requests that are only observed.

#pragma once

#include "http/exchange/context.h"
#include "http/observe/observed_response.h"

namespace idempotency {

// Counts a request by what its status would have been.
void observe_status(const LocationConfig &conf, Status status);

// Logs which problem response a request with this status would have got.  `id`: of its key; null
// if it has none.  Returns the code of the problem, a string literal.
const char *observe_refusal(const LocationConfig &conf, Status status, const KeyId *id,
                            ngx_log_t *log);

// Logs how a replay would have differed.  `before` and `now` are the two statuses.
void log_difference(const Difference &difference, unsigned before, unsigned now,
                    const LocationConfig &conf, const KeyId &id, ngx_log_t *log);

}  // namespace idempotency
