#include "http/request/claim.h"

#include "core/printable.h"
#include "http/answer/problem.h"
#include "http/exchange/exchange.h"
#include "http/exchange/grpc_request.h"
#include "http/exchange/guard.h"
#include "http/request/quota.h"
#include "http/request/replay.h"
#include "nginx/clock.h"
#include "nginx/log_limit.h"

namespace idempotency {

namespace {

// Milliseconds between two claims of a request that waits for its key.
constexpr ngx_msec_t kFirstClaimDelay = 10;
constexpr ngx_msec_t kLongestClaimDelay = 250;

constexpr Millis kRetryAfter = 1000;

void on_claim_reply(Context &context)
{
    context.stage = Stage::claim_replied;
    resume(context.request);
}

// Asks the store.  True if the reply is there already.
bool ask_store(Context &context)
{
    context.store_call_start = monotonic_micros();

    return take_quota(context) ? context.exchange->claim(on_claim_reply)
                               : context.exchange->look_up(on_claim_reply);
}

ngx_int_t send_claim(Context &context)
{
    if (ask_store(context)) {
        return handle_claim_reply(context);
    }

    context.stage = Stage::claiming;
    return suspend(context.request);
}

ngx_int_t start_execution(Context &context)
{
    ngx_http_request_t *r = context.request;

    context.stage = Stage::executing;
    context.status = Status::fresh;
    context.uri_changes = r->uri_changes;

    // the kept response must be the whole response of the application, whatever this
    // client has in its cache
    r->headers_in.if_modified_since = nullptr;
    r->headers_in.if_unmodified_since = nullptr;
    r->headers_in.if_match = nullptr;
    r->headers_in.if_none_match = nullptr;
    r->headers_in.range = nullptr;  // the slice module would begin in the middle
    r->headers_in.if_range = nullptr;

    hide_grpc_timeout(context);
    guard_upstream(context);
    return NGX_DECLINED;
}

// A client that fills the store must not fill the log.
void log_full_store(const Context &context)
{
    static LogLimit limit;

    if (limit.allows()) {
        ngx_log_error(NGX_LOG_ERR, context.request->connection->log, 0,
                      "idempotency: store \"%V\" is full: a new key was not stored; enlarge the "
                      "store, or limit new keys with \"idempotency_quota\" (%ui more such requests "
                      "since the last message)",
                      &context.conf->store->name, limit.take_suppressed());
    }
}

ngx_int_t handle_store_failure(Context &context, const Reply &reply)
{
    Verdict verdict = reply.verdict;

    if (verdict == Verdict::full) {
        log_full_store(context);
    }

    // a value that can't be read is no outage: the request may have been executed
    if (static_cast<StoreError>(context.conf->store_error) == StoreError::pass
        && verdict != Verdict::unreadable)
    {
        context.stage = Stage::inactive;
        context.status = Status::store_error;
        return NGX_DECLINED;
    }

    // a full store takes a new key when something in it has expired
    return refuse_request(context, Status::store_error,
                          verdict == Verdict::full && reply.remaining > 0 ? reply.remaining
                                                                          : kRetryAfter);
}

void on_claim_timer(ngx_event_t *event)
{
    auto *context = static_cast<Context *>(event->data);

    context->stage = Stage::claiming;

    if (ask_store(*context)) {
        context->stage = Stage::claim_replied;
        resume(context->request);
    }
}

// The first call starts the wait.
bool is_wait_over(Context &context)
{
    if (!context.wait_started) {
        context.wait_started = true;
        context.wait_deadline = ngx_current_msec + context.conf->conflict_wait;
        context.claim_delay = kFirstClaimDelay;
        return false;
    }

    return static_cast<ngx_msec_int_t>(context.wait_deadline - ngx_current_msec) <= 0;
}

ngx_int_t wait_and_claim_again(Context &context)
{
    auto time_left = static_cast<ngx_msec_int_t>(context.wait_deadline - ngx_current_msec);

    context.stage = Stage::waiting_to_claim;
    set_waiting(context, true);
    start_timer(context, on_claim_timer,
                ngx_min(context.claim_delay, static_cast<ngx_msec_t>(time_left)));
    context.claim_delay = ngx_min(context.claim_delay * 2, kLongestClaimDelay);
    return suspend(context.request);
}

ngx_int_t handle_key_in_progress(Context &context)
{
    if (static_cast<Conflict>(context.conf->conflict) == Conflict::wait && !is_wait_over(context)) {
        return wait_and_claim_again(context);
    }

    return refuse_request(context, Status::in_progress, kRetryAfter);
}

// Another program, or an operator, may have written such values to many keys.
void count_corrupt_value(const Context &context)
{
    context.conf->store->counters->failed(Cause::corrupt);
    context.exchange->note(Event::corrupt, Cause::corrupt);
}

void log_unreadable_value(const Context &context, RecordFault fault)
{
    static LogLimits limits;
    LogLimit::Line line = limits.of(describe(fault)).next(NGX_LOG_ERR);
    char id[kHexLength];

    write_hex(context.exchange->stored_id(), id);
    ngx_log_error(line.level, context.request->connection->log, 0,
                  "idempotency: the value of key %*s in store \"%V\" %s: the request is refused; "
                  "if another program uses this \"prefix\", change it; delete the key with "
                  "\"idempotency forget --force\" (%ui more such requests since the last message)",
                  kHexLength, id, &context.conf->store->name, describe(fault), line.suppressed);
}

// Each duplicate finds the expired claim until somebody settles it.
void log_expired_lease(const Context &context, const Record &record)
{
    static LogLimit limit;
    LogLimit::Line line = limit.next(NGX_LOG_ERR);
    char id[kHexLength];
    PrintableText<kLongestHost> host(record.holder.host);

    write_hex(context.exchange->stored_id(), id);
    ngx_log_error(line.level, context.request->connection->log, 0,
                  "idempotency: key %*s in store \"%V\", token %uL: the outcome is unknown: the "
                  "lease has expired, and worker %uD of host \"%*s\" that held the claim has "
                  "ended or does not reach the store; find out in the application whether the "
                  "request was executed, then run \"idempotency settle\" (%ui more such requests "
                  "since the last message)",
                  kHexLength, id, &context.conf->store->name,
                  static_cast<uint64_t>(record.head.token), record.holder.worker, host.size(),
                  host.data(), line.suppressed);
}

ngx_int_t handle_found_record(Context &context, const Reply &reply)
{
    Record record;
    RecordFault fault = read_record(reply.value, context.exchange->id(), record);

    if (fault != RecordFault::none) {
        count_corrupt_value(context);
        log_unreadable_value(context, fault);
        return refuse_request(context, Status::store_error, kRetryAfter);
    }

    switch (decide_by_record(record, reply.remaining, context.exchange->fingerprint())) {
    case Action::reused:
        return refuse_request(context, Status::reused, 0);
    case Action::in_progress:
        return handle_key_in_progress(context);
    case Action::outcome_unknown:
        if (record.head.state == State::running) {
            log_expired_lease(context, record);
        }

        return refuse_request(context, Status::unknown,
                              record.head.tells_hold ? ngx_max(reply.remaining, Millis(1)) : 0);
    case Action::not_kept:
        return refuse_request(context, Status::not_kept, 0);
    case Action::replay:
        break;
    }

    context.since = record.head.since;
    context.age = age_of(record.head, reply.remaining);
    return replay(context, record);
}

}  // namespace

bool compute_fingerprint(Context &context, Fingerprint &fingerprint)
{
    ngx_str_t value;

    // evaluated only after the body was read: nginx caches the value of
    // $request_body, so it would stay empty for later handlers
    if (ngx_http_complex_value(context.request, context.conf->fingerprint, &value) != NGX_OK) {
        return false;
    }

    Digester &digester = *main_config(context.request)->digester;

    return digester.fingerprint(view(value), context.body_digest, fingerprint);
}

ngx_int_t claim_key(Context &context)
{
    Fingerprint fingerprint;

    if (!compute_fingerprint(context, fingerprint) || !evaluate_quota(context)) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    context.exchange->set_fingerprint(fingerprint);
    return send_claim(context);
}

ngx_int_t handle_claim_reply(Context &context)
{
    const Reply &reply = context.exchange->reply();

    set_waiting(context, false);
    context.store_time += monotonic_micros() - context.store_call_start;

    if (reply.verdict != Verdict::claimed) {
        give_quota_back(context);
    }

    switch (reply.verdict) {
    case Verdict::claimed:
        if (!context.exchange->compute_scope_tag(*main_config(context.request)->digester,
                                                 context.scope)) {
            (void) context.exchange->settle(Outcome::released_unsent, 0, nullptr);
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
        return start_execution(context);
    case Verdict::found:
        return handle_found_record(context, reply);
    case Verdict::gone:
        return refuse_request(context, Status::quota, context.quota_wait);
    default:
        return handle_store_failure(context, reply);
    }
}

}  // namespace idempotency
