#include "http/exchange/lease_renewer.h"

#include "nginx/timer.h"

namespace idempotency {

namespace {

// Milliseconds: leases that are due within this time are renewed together, so that their
// commands go out with one write.
constexpr ngx_msec_t kBatchWindow = 100;

ngx_msec_t renewal_interval(ngx_msec_t length) { return length / 3 + 1; }

bool is_before(ngx_msec_t a, ngx_msec_t b) { return static_cast<ngx_msec_int_t>(a - b) < 0; }

}  // namespace

void LeaseRenewer::add(RenewedLease &lease)
{
    if (!lease.queued) {
        ngx_queue_insert_tail(&leases_, &lease.link);
        lease.queued = true;
        lease.since = ngx_current_msec;
        show(1);
    }

    lease.renew_at = ngx_current_msec + renewal_interval(lease.length);
    set_timer(lease.renew_at);
}

void LeaseRenewer::remove(RenewedLease &lease)
{
    if (!lease.queued) {
        return;
    }

    ngx_queue_remove(&lease.link);
    lease.queued = false;
    show(-1);

    if (ngx_queue_empty(&leases_)) {
        stop();
    }
}

void LeaseRenewer::show(int change)
{
    ngx_msec_t oldest = 0;

    if (!ngx_queue_empty(&leases_)) {
        RenewedLease *first = ngx_queue_data(ngx_queue_head(&leases_), RenewedLease, link);

        oldest = first->since;
    }

    idempotency::change(cell_->claims, change);
    set(cell_->oldest_claim, oldest);
}

void LeaseRenewer::stop()
{
    cancel_timer(timer_);

    if (timer_.posted) {
        ngx_delete_posted_event(&timer_);
    }
}

void LeaseRenewer::renew_all_soon()
{
    for (ngx_queue_t *q = ngx_queue_head(&leases_); q != ngx_queue_sentinel(&leases_);
         q = ngx_queue_next(q))
    {
        RenewedLease *lease = ngx_queue_data(q, RenewedLease, link);

        lease->renew_at = ngx_current_msec;
    }

    if (!ngx_queue_empty(&leases_)) {
        timer_.handler = on_timer;
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

void LeaseRenewer::renew_due_leases()
{
    ngx_msec_t horizon = ngx_current_msec + kBatchWindow;
    ngx_msec_t next = ngx_current_msec + NGX_MAX_INT32_VALUE / 2;
    ngx_queue_t *following = nullptr;

    for (ngx_queue_t *q = ngx_queue_head(&leases_); q != ngx_queue_sentinel(&leases_);
         q = following) {
        RenewedLease *lease = ngx_queue_data(q, RenewedLease, link);

        following = ngx_queue_next(q);

        if (is_before(lease->renew_at, horizon)) {
            lease->renew_at = ngx_current_msec + renewal_interval(lease->length);
            lease->renew(*lease);
        }

        if (lease->queued && is_before(lease->renew_at, next)) {
            next = lease->renew_at;
        }
    }

    if (!ngx_queue_empty(&leases_)) {
        set_timer(next);
    }
}

}  // namespace idempotency
