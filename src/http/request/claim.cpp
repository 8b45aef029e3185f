// The store is asked for the key; its reply decides what the request comes to.

#include "http/request/claim.h"

#include "http/answer/problem.h"
#include "http/exchange/exchange.h"
#include "http/exchange/guard.h"
#include "http/request/replay.h"

namespace idempotency {

namespace {

constexpr ngx_msec_t kFirstPoll = 10;
constexpr ngx_msec_t kLongestPoll = 250;
constexpr Millis kRetrySoon = 1000;

bool set_fingerprint(Context &context)
{
    ngx_str_t value;
    Fingerprint fingerprint;

    // not before the body was read: $request_body would stay empty for all
    // that come later
    if (ngx_http_complex_value(context.request, context.conf->fingerprint, &value) != NGX_OK) {
        return false;
    }

    Digester &digester = *main_config(context.request)->digester;

    if (!digester.fingerprint(view(value), context.body, fingerprint)) {
        return false;
    }

    context.exchange->set_fingerprint(fingerprint);
    return true;
}

void on_claim_replied(Context &context)
{
    context.stage = Stage::answered;
    resume(context.request);
}

ngx_int_t ask_store(Context &context)
{
    context.store_asked_at = ngx_current_msec;

    if (context.exchange->claim(on_claim_replied)) {
        return handle_claim_reply(context);
    }

    context.stage = Stage::claiming;
    return park(context.request);
}

ngx_int_t execute(Context &context)
{
    ngx_http_request_t *r = context.request;

    context.exchange->keep_lease();
    context.stage = Stage::executing;
    context.status = Status::fresh;

    // the answer that is kept is the application's, whatever this client has
    // in its cache
    r->headers_in.if_modified_since = nullptr;
    r->headers_in.if_unmodified_since = nullptr;
    r->headers_in.if_match = nullptr;
    r->headers_in.if_none_match = nullptr;

    guard_upstream(context);
    return NGX_DECLINED;
}

ngx_int_t store_failed(Context &context, Verdict verdict)
{
    if (verdict == Verdict::full) {
        ngx_log_error(NGX_LOG_ERR, context.request->connection->log, 0,
                      "idempotency: store \"%V\" has no room for another key",
                      &context.conf->store->name);
    }

    if (static_cast<StoreError>(context.conf->store_error) == StoreError::pass) {
        context.stage = Stage::aside;
        context.status = Status::store_error;
        return NGX_DECLINED;
    }

    return refuse(context, Status::store_error, Problem::store_unavailable, kRetrySoon);
}

void on_poll(ngx_event_t *event)
{
    auto *context = static_cast<Context *>(event->data);

    context->store_asked_at = ngx_current_msec;
    context->stage = Stage::claiming;

    if (context->exchange->claim(on_claim_replied)) {
        context->stage = Stage::answered;
        resume(context->request);
    }
}

bool has_waited_enough(Context &context)
{
    if (!context.waits) {
        context.waits = true;
        context.waits_until = ngx_current_msec + context.conf->conflict_wait;
        context.poll_delay = kFirstPoll;
        return false;
    }

    return static_cast<ngx_msec_int_t>(context.waits_until - ngx_current_msec) <= 0;
}

ngx_int_t wait_for_other(Context &context)
{
    auto left = static_cast<ngx_msec_int_t>(context.waits_until - ngx_current_msec);

    context.stage = Stage::waiting;
    start_timer(context, on_poll, ngx_min(context.poll_delay, static_cast<ngx_msec_t>(left)));
    context.poll_delay = ngx_min(context.poll_delay * 2, kLongestPoll);
    return park(context.request);
}

ngx_int_t handle_running(Context &context)
{
    if (static_cast<Conflict>(context.conf->conflict) == Conflict::wait
        && !has_waited_enough(context)) {
        return wait_for_other(context);
    }

    return refuse(context, Status::in_progress, Problem::in_progress, kRetrySoon);
}

ngx_int_t handle_record(Context &context, const Reply &reply)
{
    Record record;
    RecordFault fault = read_record(reply.value, context.exchange->id(), record);

    if (fault != RecordFault::none) {
        char id[kHexLength];

        write_hex(context.conf->store->store->stored_id(context.exchange->id()), id);
        ngx_log_error(NGX_LOG_ERR, context.request->connection->log, 0,
                      "idempotency: the value of key %*s in store \"%V\" %s", kHexLength, id,
                      &context.conf->store->name, describe(fault));
        return refuse(context, Status::store_error, Problem::store_unavailable, kRetrySoon);
    }

    switch (decide_by_record(record, context.exchange->fingerprint())) {
    case Action::reused:
        return refuse(context, Status::reused, Problem::key_reused, 0);
    case Action::in_progress:
        return handle_running(context);
    case Action::outcome_unknown:
        return refuse(context, Status::unknown, Problem::outcome_unknown, reply.remaining);
    case Action::not_kept:
        return refuse(context, Status::not_kept, Problem::response_not_kept, 0);
    case Action::replay:
        break;
    }

    context.age =
        record.head.lifetime > reply.remaining ? record.head.lifetime - reply.remaining : 0;
    return replay(context, record);
}

}  // namespace

ngx_int_t claim_key(Context &context)
{
    return set_fingerprint(context) ? ask_store(context) : NGX_HTTP_INTERNAL_SERVER_ERROR;
}

ngx_int_t handle_claim_reply(Context &context)
{
    const Reply &reply = context.exchange->reply();

    context.store_time += ngx_current_msec - context.store_asked_at;

    switch (reply.verdict) {
    case Verdict::claimed:
        return execute(context);
    case Verdict::found:
        return handle_record(context, reply);
    default:
        return store_failed(context, reply.verdict);
    }
}

}  // namespace idempotency
