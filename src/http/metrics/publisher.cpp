#include "http/metrics/publisher.h"

#include "nginx/timer.h"

namespace idempotency {

namespace {

// In milliseconds.
constexpr ngx_msec_t kInterval = 1000;

}  // namespace

void Publisher::open(Store &store, Counters &counters)
{
    store_ = &store;
    counters_ = &counters;
    prepare_timer(timer_, on_timer, this, ngx_cycle->log);
    publish();
    ngx_add_timer(&timer_, kInterval);
}

void Publisher::close()
{
    cancel_timer(timer_);
    publish();
}

void Publisher::on_timer(ngx_event_t *event)
{
    static_cast<Publisher *>(event->data)->publish();
    ngx_add_timer(event, kInterval);
}

void Publisher::publish()
{
    StoreFigures figures = store_->figures();
    NodeState states[kMaxNodes];
    std::size_t count = store_->nodes(states, kMaxNodes);

    set(counters_->cell().is_down, !figures.up);

    if (count > 0) {
        counters_->put_nodes(states, count);
    }

    if (figures.memory.size > 0) {
        counters_->put_used_memory(figures.memory.used);
    }

    counters_->add(Count::near_evictions, figures.near.evictions - evictions_);
    evictions_ = figures.near.evictions;
}

}  // namespace idempotency
