// The filters run in the place of third-party filters (HTTP_AUX_FILTER): after the copy
// filter, before `add_header`, `sub_filter`, SSI and gzip.  So the held response is that
// of the application, and these filters are applied to each replay again.

#include "http/answer/capture.h"

#include "http/answer/deliver.h"
#include "http/answer/fields.h"
#include "http/answer/malformed_body.h"
#include "http/answer/pass_through.h"
#include "http/answer/subrequest.h"
#include "http/exchange/meaning.h"
#include "http/exchange/redirect.h"

namespace idempotency {

ngx_http_output_header_filter_pt next_header_filter;
ngx_http_output_body_filter_pt next_body_filter;

namespace {

Context *main_request_context(ngx_http_request_t *r)
{
    return r == r->main ? find_context(r) : nullptr;
}

// Milliseconds: a gRPC response that has sent one message and does not end within this
// time is taken for a stream.
constexpr ngx_msec_t kStreamIdleTime = 1000;

template <std::size_t N>
bool has_type(ngx_http_request_t *r, const char (&type)[N])
{
    return r->headers_out.content_type.len >= N - 1
           && ngx_strncasecmp(r->headers_out.content_type.data,
                              reinterpret_cast<u_char *>(const_cast<char *>(type)), N - 1)
                  == 0;
}

// A gRPC client that still sends its body may wait for the response before it continues.
bool is_stream(ngx_http_request_t *r, const Context &context)
{
    return has_type(r, "text/event-stream") || (context.is_grpc && r->reading_body);
}

bool is_too_large(ngx_http_request_t *r, const LocationConfig &conf)
{
    return r->headers_out.content_length_n > 0
           && static_cast<size_t>(r->headers_out.content_length_n) > conf.max_body;
}

ResponseFacts collect_response_facts(const Context &context)
{
    ResponseFacts facts;

    facts.origin = origin_of(context);
    facts.unknown = static_cast<UnknownPolicy>(context.conf->unknown);
    facts.retriable = context.meaning.known && context.meaning.retriable;
    facts.word = context.accel_directives;
    return facts;
}

void start_settling(Context &context)
{
    ngx_http_request_t *r = context.request;

    stop_timer(context);

    if (context.settlement == Settlement::keep
        && !write_response_record(r, *context.exchange, *context.conf, context.ttl,
                                  recorded_hops(context)))
    {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "idempotency: no memory for the record of a response, or its headers are "
                      "too large for a record: it is not kept");
        context.settlement = Settlement::not_kept;
    }

    context.stage = Stage::settling;
    context.store_call_start = ngx_current_msec;
}

ngx_int_t settle(Context &context)
{
    start_settling(context);

    if (context.exchange->settle(context.settlement, context.ttl, on_settled)) {
        return deliver(context);
    }

    // ngx_http_finalize_request does not end a request that has something buffered: it
    // calls ngx_http_writer later.  After the client has disconnected it ends the request
    // as soon as `blocked` is 0, so that the access log has the final $idempotency_status.
    context.request->buffered |= kBuffered;
    context.request->blocked++;
    return NGX_AGAIN;
}

ngx_int_t begin_response(Context &context)
{
    ngx_http_request_t *r = context.request;

    bool was_known = context.meaning.known;
    Word ignored;

    note_response(context);

    // what an error page says about itself does not count
    take_accel_headers(r, *context.conf, was_known ? ignored : context.accel_directives);

    if (!context.accel_directives.well_formed) {
        ngx_log_error(
            NGX_LOG_WARN, r->connection->log, 0,
            "idempotency: invalid directive in the \"X-Accel-Idempotency\" response header: "
            "it must be \"release\", \"no-store\" or \"ttl=SECONDS\", and is ignored");
    }

    ResponseFacts facts = collect_response_facts(context);

    context.settlement = decide_settlement(facts);

    if (context.settlement == Settlement::keep && !finish_hops(context)) {
        context.settlement = Settlement::not_kept;
    }

    context.outcome_unknown = facts.origin == Origin::broken;
    context.ttl =
        context.accel_directives.ttl != 0 ? context.accel_directives.ttl : context.conf->ttl;

    // `idempotency_unknown store`
    if (facts.origin == Origin::broken && context.settlement == Settlement::keep) {
        context.ttl = context.exchange->hold();
    }

    context.is_grpc = has_type(r, "application/grpc");
    context.from_upstream = r->upstream != nullptr && r->upstream->cleanup != nullptr;
    r->allow_ranges = 0;

    if (is_stream(r, context) || is_too_large(r, *context.conf)) {
        return start_pass_through(context, nullptr);
    }

    // a module that sends a header only (`dav_methods PUT`) does not call the body filter
    if (r->header_only) {
        return settle(context);
    }

    context.stage = Stage::capturing;
    watch_for_malformed_body(context);
    r->main_filter_need_in_memory = 1;
    r->filter_need_in_memory = 1;

    if (r->headers_out.content_length_n > 0) {
        context.exchange->response().expect(static_cast<size_t>(r->headers_out.content_length_n));
    }

    return NGX_OK;
}

// 101 (Switching Protocols): the connection becomes a tunnel, whose data can't be
// replayed.
void stop_covering(Context &context)
{
    context.stage = Stage::inactive;
    context.status = Status::none;
    context.exchange->settle(Settlement::release, 0, on_settled);
}

// nginx's ngx_http_output_header_filter_pt
ngx_int_t on_header(ngx_http_request_t *r)
{
    Context *context = main_request_context(r);

    if (context == nullptr || context->stage != Stage::executing) {
        return next_header_filter(r);
    }

    if (r->headers_out.status >= NGX_HTTP_OK) {
        if (is_refused(*context)) {
            release_refused(*context);
            return next_header_filter(r);
        }

        return begin_response(*context);
    }

    if (r->headers_out.status == NGX_HTTP_SWITCHING_PROTOCOLS) {
        stop_covering(*context);
        return next_header_filter(r);
    }

    // nginx before 1.29 takes an interim response of the application (1xx) for the response,
    // and what follows for its body
    context->settlement = Settlement::not_kept;
    context->ttl = context->conf->ttl;
    return start_pass_through(*context, nullptr);
}

// When an upstream response ends early, ngx_http_upstream_finalize_request sends a flush
// and no last buffer.
bool is_truncated(const Context &context, const ngx_buf_t *b)
{
    return b->flush && !b->last_buf && context.from_upstream
           && context.request->upstream->cleanup == nullptr;
}

// FastCGI, SCGI, uwsgi: nginx takes the end of the connection for the end of the response,
// even if the body is shorter or longer than Content-Length.
bool has_wrong_length(const Context &context)
{
    const ngx_http_headers_out_t &out = context.request->headers_out;

    return out.content_length_n >= 0 && out.status != NGX_HTTP_NO_CONTENT
           && out.status != NGX_HTTP_NOT_MODIFIED
           && static_cast<size_t>(out.content_length_n) != context.exchange->response().body_size();
}

ngx_int_t capture_body(Context &context, ngx_chain_t *in)
{
    ngx_http_request_t *r = context.request;

    if (has_subrequests(r)) {
        return start_pass_through_before_subrequests(context, in);
    }

    for (ngx_chain_t *link = in; link != nullptr; link = link->next) {
        ngx_buf_t *b = link->buf;

        if (ngx_buf_in_memory(b)) {
            std::string_view bytes{reinterpret_cast<const char *>(b->pos),
                                   static_cast<size_t>(b->last - b->pos)};

            if (bytes.size() > context.conf->max_body - context.exchange->response().body_size()) {
                return start_pass_through(context, link);
            }

            if (context.is_grpc) {
                context.grpc_messages.feed(bytes);
            }

            std::size_t appended = context.exchange->response().append(bytes);

            if (appended < bytes.size()) {
                b->pos += appended;
                return start_pass_through(context, link);
            }
        }

        bool last = b->last_buf;
        bool incomplete = is_truncated(context, b) || (last && has_wrong_length(context));

        mark_sent(b);

        if (context.grpc_messages.begun > 1) {
            return start_pass_through(context, link->next);
        }

        if (incomplete) {
            context.incomplete = true;
            context.outcome_unknown = true;
            context.settlement = decide_without_response(
                Origin::broken, static_cast<UnknownPolicy>(context.conf->unknown));
            return settle(context);
        }

        if (last) {
            return settle(context);
        }
    }

    if (context.grpc_messages.whole > 0 && !context.timer.timer_set) {
        start_timer(context, on_idle_stream, kStreamIdleTime);
    }

    return NGX_OK;
}

// nginx's ngx_http_output_body_filter_pt
ngx_int_t on_body(ngx_http_request_t *r, ngx_chain_t *in)
{
    if (r != r->main) {
        return on_subrequest_body(r, in);
    }

    Context *context = find_context(r);

    if (context == nullptr) {
        return next_body_filter(r, in);
    }

    switch (context->stage) {
    case Stage::capturing:
        return capture_body(*context, in);

    case Stage::settling:
        mark_all_sent(in);
        return NGX_AGAIN;

    case Stage::passing_through:
        return pass_through(*context, in);

    default:
        return next_body_filter(r, in);
    }
}

}  // namespace

void install_capture()
{
    next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = on_header;
    next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = on_body;
}

}  // namespace idempotency
