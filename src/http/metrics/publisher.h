// Publishes what only a worker itself knows of a store, for the status page of any worker: from time
// to time, so that no request has to do it.

#pragma once

#include "nginx/nginx.h"

#include "core/store.h"
#include "http/metrics/counters.h"

namespace idempotency {

class Publisher {
public:
    // In each worker.  Both outlive this object.
    void open(Store &store, Counters &counters);
    void close();

    // At once.
    void publish();

private:
    static void on_timer(ngx_event_t *event);

    Store *store_ = nullptr;
    Counters *counters_ = nullptr;
    std::uint64_t evictions_ = 0;  // that were published
    ngx_event_t timer_{};
};

}  // namespace idempotency
