#include "http/answer/settle.h"

#include "http/answer/deliver.h"
#include "http/answer/fields.h"
#include "http/answer/own_fields.h"
#include "http/answer/ttl.h"
#include "http/exchange/exchange.h"
#include "http/exchange/meaning.h"
#include "http/exchange/redirect.h"
#include "nginx/clock.h"
#include "nginx/list.h"
#include "nginx/log_limit.h"

namespace idempotency {

namespace {

// Of a response with trailers only, the trailers are the header.
int grpc_status(const Context &context)
{
    ngx_http_headers_out_t &out = context.request->headers_out;
    ngx_table_elt_t *field = find_field(out.trailers, "grpc-status");

    if (field == nullptr) {
        field = find_field(out.headers, "grpc-status");
    }

    return field != nullptr ? parse_grpc_status(view(field->value))
                            : context.grpc_messages.status();
}

// A gRPC status counts instead of the HTTP status.
void read_grpc_status(Context &context)
{
    int status = context.grpc_kind != GrpcKind::none ? grpc_status(context) : kNoGrpcStatus;

    if (status == kNoGrpcStatus) {
        return;
    }

    context.facts.call_given_up = is_unknown_outcome(status);
    context.facts.retriable =
        context.grpc_messages.begun == 0 && context.conf->retriable->has_grpc(status);
}

void decide(Context &context)
{
    const ResponseFacts &facts = context.facts;

    context.outcome = decide_outcome(facts);
    context.outcome_unknown =
        facts.origin == Origin::broken
        || (facts.call_given_up && settlement_of(context.outcome) != Settlement::not_kept
            && !facts.retriable && !facts.word.release);

    // once, when the header is there: its variables are evaluated once
    if (context.ttl == 0 || facts.word.ttl != 0) {
        context.ttl = response_ttl(context);
    }
}

// `idempotency_unknown store` keeps the response as long as it would hold the outcome.
Millis lifetime(const Context &context)
{
    return context.outcome_unknown && context.outcome == Outcome::kept ? context.exchange->hold()
                                                                       : context.ttl;
}

void warn_about_word(const Context &context)
{
    if (!context.facts.word.well_formed) {
        static LogLimit limit;
        LogLimit::Line line = limit.next(NGX_LOG_WARN);

        ngx_log_error(
            line.level, context.request->connection->log, 0,
            "idempotency: invalid directive in the \"X-Accel-Idempotency\" response header: "
            "it must be \"release\", \"no-store\" or \"ttl=SECONDS\", and is ignored; correct the "
            "application (%ui more such requests since the last message)",
            line.suppressed);
    }
}

ngx_int_t start_settling(Context &context)
{
    ngx_http_request_t *r = context.request;

    if (!advance(context, Stage::settling)) {
        return NGX_ERROR;
    }

    if (context.outcome == Outcome::kept
        && !write_response_record(r, context.head != nullptr ? *context.head : r->headers_out,
                                  *context.exchange, *context.conf, lifetime(context),
                                  recorded_hops(context)))
    {
        static LogLimit limit;
        LogLimit::Line line = limit.next(NGX_LOG_ERR);

        ngx_log_error(line.level, r->connection->log, 0,
                      "idempotency: no memory for the record of a response, or its headers are "
                      "too large for a record: it is recorded as not kept; leave headers out "
                      "with \"idempotency_hide_header\" (%ui more such requests since the last "
                      "message)",
                      line.suppressed);
        context.outcome = Outcome::not_kept_size;
    }

    context.store_call_start = monotonic_micros();

    if (context.exchange->settle(context.outcome, lifetime(context), on_settled)) {
        return deliver(context);
    }

    // ngx_http_finalize_request does not end a request that has something buffered: it
    // calls ngx_http_writer later.  After the client has disconnected it ends the request
    // as soon as `blocked` is 0, so that the access log has the final $idempotency_status.
    r->buffered |= kBuffered;
    r->blocked++;
    return NGX_AGAIN;
}

}  // namespace

void read_response_head(Context &context)
{
    ngx_http_request_t *r = context.request;
    ResponseFacts &facts = context.facts;

    Word ignored;
    bool counts = note_response(context);

    take_own_fields(r->headers_out.headers, *context.conf,
                    counts ? context.accel_directives : ignored);

    facts.origin = origin_of(context);
    facts.unknown = static_cast<UnknownPolicy>(context.conf->unknown);
    facts.retriable = context.meaning.known && context.meaning.retriable;
    facts.word = context.accel_directives;
    warn_about_word(context);

    context.grpc_kind = grpc_kind(view(r->headers_out.content_type));
    context.grpc_messages.is_base64 = context.grpc_kind == GrpcKind::web_text;
    context.from_upstream = r->upstream != nullptr && r->upstream->cleanup != nullptr;
    read_grpc_status(context);
    decide(context);

    if (context.outcome == Outcome::kept && !finish_hops(context)) {
        give_up_keeping(context, Outcome::not_kept_size);
    }
}

void read_response_end(Context &context)
{
    bool was_well_formed = context.facts.word.well_formed;

    take_own_fields(context.request->headers_out.trailers, *context.conf, context.accel_directives);
    context.facts.word = context.accel_directives;

    if (was_well_formed) {
        warn_about_word(context);
    }

    read_grpc_status(context);
    decide(context);
}

void give_up_keeping(Context &context, Outcome obstacle)
{
    // the first one counts
    if (context.facts.obstacle == Outcome::none) {
        context.facts.obstacle = obstacle;
    }

    decide(context);
}

ngx_int_t settle(Context &context)
{
    read_response_end(context);
    return start_settling(context);
}

ngx_int_t settle_incomplete(Context &context)
{
    context.incomplete = true;
    context.outcome_unknown = true;
    context.outcome =
        decide_without_response(Origin::broken, static_cast<UnknownPolicy>(context.conf->unknown));
    return start_settling(context);
}

}  // namespace idempotency
