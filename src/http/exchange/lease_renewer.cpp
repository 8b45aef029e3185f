#include "http/exchange/lease_renewer.h"

#include "nginx/timer.h"

namespace idempotency {

namespace {

// Claims that fall due shortly after go with those that are due.
constexpr ngx_msec_t kTogether = 100;
constexpr std::size_t kBatch = 512;

ngx_msec_t third(Millis length) { return static_cast<ngx_msec_t>(length / 3 + 1); }

bool is_before(ngx_msec_t a, ngx_msec_t b) { return static_cast<ngx_msec_int_t>(a - b) < 0; }

}  // namespace

void LeaseRenewer::keep(RenewedLease &kept)
{
    if (!kept.linked) {
        ngx_queue_insert_tail(&running_, &kept.link);
        kept.linked = true;
    }

    kept.due = ngx_current_msec + third(kept.lease.length);
    set_timer(kept.due);
}

void LeaseRenewer::drop(RenewedLease &kept)
{
    if (!kept.linked) {
        return;
    }

    ngx_queue_remove(&kept.link);
    kept.linked = false;

    if (ngx_queue_empty(&running_)) {
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
    for (ngx_queue_t *q = ngx_queue_head(&running_); q != ngx_queue_sentinel(&running_);
         q = ngx_queue_next(q))
    {
        RenewedLease *kept = ngx_queue_data(q, RenewedLease, link);

        kept->due = ngx_current_msec;
    }

    if (!ngx_queue_empty(&running_)) {
        ngx_post_event(&timer_, &ngx_posted_events);
    }
}

void LeaseRenewer::set_timer(ngx_msec_t due)
{
    timer_.handler = on_timer;
    timer_.data = this;
    timer_.log = ngx_cycle->log;
    timer_.cancelable = 1;  // the exchanges keep a quitting worker, not this

    fire_within(timer_, is_before(ngx_current_msec, due) ? due - ngx_current_msec : 1);
}

void LeaseRenewer::on_timer(ngx_event_t *event)
{
    static_cast<LeaseRenewer *>(event->data)->renew_due();
}

void LeaseRenewer::renew(const Lease *leases, std::size_t count)
{
    store_.renew(leases, count);
    counters_.add(Count::renewals, count);
}

void LeaseRenewer::renew_due()
{
    ngx_msec_t horizon = ngx_current_msec + kTogether;
    ngx_msec_t next = ngx_current_msec + NGX_MAX_INT32_VALUE / 2;
    Lease batch[kBatch];
    std::size_t count = 0;

    for (ngx_queue_t *q = ngx_queue_head(&running_); q != ngx_queue_sentinel(&running_);
         q = ngx_queue_next(q))
    {
        RenewedLease *kept = ngx_queue_data(q, RenewedLease, link);

        if (is_before(kept->due, horizon)) {
            kept->due = ngx_current_msec + third(kept->lease.length);
            batch[count++] = kept->lease;

            if (count == kBatch) {
                renew(batch, count);
                count = 0;
            }
        }

        if (is_before(kept->due, next)) {
            next = kept->due;
        }
    }

    if (count > 0) {
        renew(batch, count);
    }

    if (!ngx_queue_empty(&running_)) {
        set_timer(next);
    }
}

}  // namespace idempotency
