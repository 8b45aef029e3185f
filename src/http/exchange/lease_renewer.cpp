#include "http/exchange/lease_renewer.h"

#include "nginx/timer.h"

namespace idempotency {

namespace {

// Milliseconds: leases that are due within this time are renewed in the same call.
constexpr ngx_msec_t kBatchWindow = 100;
constexpr std::size_t kBatch = 512;

ngx_msec_t renewal_interval(Millis length) { return static_cast<ngx_msec_t>(length / 3 + 1); }

bool is_before(ngx_msec_t a, ngx_msec_t b) { return static_cast<ngx_msec_int_t>(a - b) < 0; }

}  // namespace

void LeaseRenewer::add(RenewedLease &renewed)
{
    if (!renewed.queued) {
        ngx_queue_insert_tail(&leases_, &renewed.link);
        renewed.queued = true;
    }

    renewed.renew_at = ngx_current_msec + renewal_interval(renewed.lease.length);
    set_timer(renewed.renew_at);
}

void LeaseRenewer::remove(RenewedLease &renewed)
{
    if (!renewed.queued) {
        return;
    }

    ngx_queue_remove(&renewed.link);
    renewed.queued = false;

    if (ngx_queue_empty(&leases_)) {
        stop();
    }
}

void LeaseRenewer::stop()
{
    if (timer_.timer_set) {
        ngx_del_timer(&timer_);
    }

    if (timer_.posted) {
        ngx_delete_posted_event(&timer_);
    }
}

void LeaseRenewer::renew_all_soon()
{
    for (ngx_queue_t *q = ngx_queue_head(&leases_); q != ngx_queue_sentinel(&leases_);
         q = ngx_queue_next(q))
    {
        RenewedLease *renewed = ngx_queue_data(q, RenewedLease, link);

        renewed->renew_at = ngx_current_msec;
    }

    if (!ngx_queue_empty(&leases_)) {
        ngx_post_event(&timer_, &ngx_posted_events);
    }
}

void LeaseRenewer::set_timer(ngx_msec_t renew_at)
{
    timer_.handler = on_timer;
    timer_.data = this;
    timer_.log = ngx_cycle->log;
    timer_.cancelable = 1;  // the timer does not keep a worker from exiting; running requests do

    fire_within(timer_, is_before(ngx_current_msec, renew_at) ? renew_at - ngx_current_msec : 1);
}

void LeaseRenewer::on_timer(ngx_event_t *event)
{
    static_cast<LeaseRenewer *>(event->data)->renew_due_leases();
}

void LeaseRenewer::renew(const Lease *leases, std::size_t count)
{
    store_.renew(leases, count);
    counters_.add(Count::renewals, count);
}

void LeaseRenewer::renew_due_leases()
{
    ngx_msec_t horizon = ngx_current_msec + kBatchWindow;
    ngx_msec_t next = ngx_current_msec + NGX_MAX_INT32_VALUE / 2;
    Lease batch[kBatch];
    std::size_t count = 0;

    for (ngx_queue_t *q = ngx_queue_head(&leases_); q != ngx_queue_sentinel(&leases_);
         q = ngx_queue_next(q))
    {
        RenewedLease *renewed = ngx_queue_data(q, RenewedLease, link);

        if (is_before(renewed->renew_at, horizon)) {
            renewed->renew_at = ngx_current_msec + renewal_interval(renewed->lease.length);
            batch[count++] = renewed->lease;

            if (count == kBatch) {
                renew(batch, count);
                count = 0;
            }
        }

        if (is_before(renewed->renew_at, next)) {
            next = renewed->renew_at;
        }
    }

    if (count > 0) {
        renew(batch, count);
    }

    if (!ngx_queue_empty(&leases_)) {
        set_timer(next);
    }
}

}  // namespace idempotency
