// The second half of the life of an exchange: its outcome is recorded in the store, with
// retries, until the store confirms it.  exchange.cpp has the first half.

#include "core/decision.h"
#include "http/exchange/context.h"
#include "http/exchange/exchange.h"
#include "http/exchange/maintenance.h"
#include "http/exchange/request_end.h"
#include "nginx/clock.h"

namespace idempotency {

namespace {

// Milliseconds.
constexpr ngx_msec_t kFirstRetryDelay = 100;
constexpr ngx_msec_t kLongestRetryDelay = 2000;

}  // namespace

void Exchange::write_outcome(State state, Millis lifetime)
{
    RecordWriter writer(small_record_, record_head(state, lifetime));

    writer.add_scope_tag(scope_tag());
    writer.finish(call_.id);
    small_record_piece_ = {reinterpret_cast<char *>(small_record_), writer.size()};
    call_.value = {&small_record_piece_, 1};
    call_.lifetime = lifetime;
}

bool Exchange::settle(Outcome outcome, Millis ttl, ReplyHandler on_reply)
{
    if (phase_ != Phase::claimed) {
        log(NGX_LOG_ALERT, "the outcome of its request is settled twice: report this error");
        return true;
    }

    return start_settling(outcome, ttl, on_reply);
}

bool Exchange::start_settling(Outcome outcome, Millis ttl, ReplyHandler on_reply)
{
    on_reply_ = on_reply;
    phase_ = Phase::settling;
    settlement_ = settlement_of(outcome);
    settled_at_ = monotonic_now();
    call_.kind = Call::Kind::settle;

    // the release of a claim that was not used is no outcome
    if (outcome != Outcome::none) {
        outcome_ = outcome;
        is_untold_ = true;
    }

    switch (settlement_) {
    case Settlement::release:
        call_.kind = Call::Kind::release;
        break;

    case Settlement::unknown:
        write_outcome(State::unknown, hold_);
        break;

    case Settlement::not_kept:
        write_outcome(State::not_kept, ttl);
        break;

    case Settlement::keep:
        call_.lifetime = ttl;

        if (!response_.get_record(call_.value)) {
            outcome_ = Outcome::not_kept_size;
            settlement_ = Settlement::not_kept;
            write_outcome(State::not_kept, ttl);
        }
        break;
    }

    is_settling_ = !start_call() || !handle_settle_reply();
    return !is_settling_;
}

// True if the call has an outcome, false if another call was started.
bool Exchange::handle_settle_reply()
{
    switch (call_.reply.verdict) {
    case Verdict::done:
        if (is_untold_) {
            is_untold_ = false;
            log_unknown_outcome();
            count(count_of(outcome_));

            if (outcome_ == Outcome::kept) {
                count(Count::kept_bytes, call_.value.size());
            } else if (outcome_ == Outcome::unknown) {
                note(Event::unknown);
            }
        }
        end();
        return true;

    case Verdict::lost:
        // a release may have been carried out by an earlier try; the claim may never have been
        // granted
        if (settlement_ != Settlement::release || (!unconfirmed_ && retry_delay_ == 0)) {
            outcome_ = Outcome::lost;
            count(Count::late);
            note(Event::fenced);
            log(NGX_LOG_ERR, "the claim was lost before its request ended: the response is "
                             "delivered and not kept; another request with this key may have been "
                             "executed: find out in the application");
        }
        is_untold_ = false;
        end();
        return true;

    case Verdict::refused:
        if (settlement_ == Settlement::keep) {
            static LogLimit limit;

            log(NGX_LOG_ERR,
                "Redis does not accept a response of this size: it is recorded as not kept; raise "
                "proto-max-bulk-len, client-query-buffer-limit or maxmemory-clients of Redis, or "
                "lower idempotency_max_body",
                &limit);
            return record_not_kept();
        }
        break;

    case Verdict::full:
        // a memory store reserves memory for this with each claim
        if (settlement_ == Settlement::keep) {
            static LogLimit limit;

            log(NGX_LOG_ERR,
                "the store has no memory for the response: it is recorded as not kept; enlarge "
                "\"memory\" of the store, or lower idempotency_ttl or idempotency_max_body",
                &limit);
            return record_not_kept();
        }
        break;

    default:
        break;
    }

    retry_later();
    return true;
}

void Exchange::log_unknown_outcome() const
{
    if (settlement_ == Settlement::unknown) {
        log(NGX_LOG_ERR,
            "the outcome is unknown: the request was sent, and no whole response came; "
            "duplicates are refused; find out in the application whether it was "
            "executed, then run \"idempotency settle\"");
    }
}

bool Exchange::record_not_kept()
{
    note(Event::not_kept, call_.reply.cause);
    outcome_ = Outcome::not_kept_store;
    settlement_ = Settlement::not_kept;
    write_outcome(State::not_kept, call_.lifetime);
    return start_call() && handle_settle_reply();
}

void Exchange::set_pending(bool is_pending)
{
    if (is_pending != is_pending_) {
        is_pending_ = is_pending;
        change(conf_->store->counters->cell().pending, is_pending ? 1 : -1);
    }
}

// The store has confirmed the outcome.  A claim may still be on its way to it over a
// connection that is broken on this side: so its release is repeated once.
void Exchange::end()
{
    conf_->store->maintenance->leases.remove(lease_);
    phase_ = Phase::ended;
    set_pending(false);

    if (settlement_ == Settlement::release && unconfirmed_ && !repeated_ && !ngx_exiting
        && !is_at_exit_)
    {
        repeated_ = true;
        repeat_at_ = monotonic_now() + ngx_min(conf_->lease, kLongestRetryDelay);
        wait_for_retry(ngx_min(conf_->lease, kLongestRetryDelay));
    }
}

// As long as an unknown outcome would be held; the release of a claim that may have been
// granted, without an end; and for one lease after the worker was told to quit.
void Exchange::retry_later()
{
    Millis now = monotonic_now();
    Millis longest = ngx_max(hold_, conf_->lease);

    if (is_at_exit_) {
        end();
        return;
    }

    if (ngx_exiting && exiting_since_ == 0) {
        exiting_since_ = now;
    }

    bool is_unused = unconfirmed_ && settlement_ == Settlement::release;
    bool is_over = (!is_unused && now - settled_at_ >= longest)
                   || (exiting_since_ != 0 && now - exiting_since_ >= conf_->lease);

    if (retry_delay_ == 0) {
        retry_delay_ = kFirstRetryDelay;

        if (!is_unused) {
            set_pending(true);
            log(NGX_LOG_ERR, "the store is unavailable: the outcome of the request is not recorded "
                             "yet; retrying until the store is available again");
        }

        if (settlement_ == Settlement::keep) {
            count(Count::unkept);
            note(Event::unkept, call_.reply.cause);
        }
    }

    if (is_over) {
        log(NGX_LOG_ERR,
            "the outcome of the request was not recorded, and is not retried any more: "
            "the key stays claimed until lease and hold have ended; find out in the "
            "application whether the request was executed, and run \"idempotency settle\" when the "
            "lease has ended");
        count(Count::unrecorded);
        note(Event::unrecorded, call_.reply.cause);
        end();
        return;
    }

    wait_for_retry(retry_delay_);

    // several retries within a lease: an outage shorter than the lease must not lose the
    // claim
    retry_delay_ = ngx_min(retry_delay_ * 2, ngx_min(kLongestRetryDelay, conf_->lease / 8 + 1));
}

void Exchange::wait_for_retry(ngx_msec_t delay)
{
    pending_outcome_.event.handler = on_retry;
    pending_outcome_.event.data = this;
    pending_outcome_.event.log = ngx_cycle->log;
    pending_outcome_.event.cancelable = repeated_;
    add_reference();
    conf_->store->maintenance->retries.add(pending_outcome_, delay);
}

void Exchange::on_retry(ngx_event_t *event)
{
    auto *exchange = static_cast<Exchange *>(event->data);
    Millis now = monotonic_now();

    exchange->conf_->store->maintenance->retries.remove(exchange->pending_outcome_);

    if (exchange->repeated_ && now < exchange->repeat_at_) {
        exchange->wait_for_retry(static_cast<ngx_msec_t>(exchange->repeat_at_ - now));
        exchange->drop_reference();
        return;
    }

    // an outcome that is recorded late holds the key no longer than one recorded at once
    if (exchange->settlement_ == Settlement::unknown) {
        Millis passed = now - exchange->settled_at_;

        exchange->write_outcome(State::unknown,
                                passed < exchange->hold_ ? exchange->hold_ - passed : 1);
    }

    exchange->count(Count::retries);

    if (exchange->start_call()) {
        exchange->handle_settle_reply();
    }

    exchange->drop_reference();
}

void Exchange::settle_at_exit()
{
    Phase phase = phase_;

    is_at_exit_ = true;
    call_.send_only = true;

    if (phase == Phase::claimed) {
        Outcome outcome = context_ != nullptr ? outcome_at_end(*context_) : Outcome::none;

        // a claim in Redis becomes unknown by itself, when its lease expires
        if (settlement_of(outcome) == Settlement::release || conf_->store->is_embedded) {
            settle(outcome, conf_->ttl, nullptr);
        }

    } else if (phase == Phase::claiming) {
        // the claim itself is still on its way: the release needs another call
        renewal_.exchange = this;
        renewal_.kind = Call::Kind::release;
        renewal_.id = call_.id;
        renewal_.claim = call_.claim;
        renewal_.send_only = true;
        renewal_.ended = on_renewal_ended;
        is_renewing_ = true;
        add_reference();

        if (conf_->store->store->start(renewal_)) {
            references_--;
        }
    }
}

}  // namespace idempotency
