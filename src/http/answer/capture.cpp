// The answer is held back until it is kept.
//
// In the slot of third-party filters (HTTP_AUX_FILTER): behind the copy filter,
// ahead of `add_header`, `sub_filter`, SSI, gzip.  So what is held is the
// application's own answer, and those are applied to each replay anew.

#include "http/answer/capture.h"

#include "http/answer/deliver.h"
#include "http/answer/fields.h"
#include "http/answer/malformed_body.h"
#include "http/answer/pass_through.h"
#include "http/answer/subrequest.h"
#include "http/exchange/guard.h"

namespace idempotency {

ngx_http_output_header_filter_pt next_header_filter;
ngx_http_output_body_filter_pt next_body_filter;

namespace {

Context *context_of(ngx_http_request_t *r) { return r == r->main ? find_context(r) : nullptr; }

// A gRPC answer of which one message is there, and for so long no end, is a stream.
constexpr ngx_msec_t kStreamIdle = 1000;

template <std::size_t N>
bool has_type(ngx_http_request_t *r, const char (&type)[N])
{
    return r->headers_out.content_type.len >= N - 1
           && ngx_strncasecmp(r->headers_out.content_type.data,
                              reinterpret_cast<u_char *>(const_cast<char *>(type)), N - 1)
                  == 0;
}

// A gRPC client that is still sending may wait for an answer before it goes on.
bool is_stream(ngx_http_request_t *r, const Context &context)
{
    return has_type(r, "text/event-stream") || (context.grpc && r->reading_body);
}

bool is_too_large(ngx_http_request_t *r, const LocationConfig &conf)
{
    return r->headers_out.content_length_n > 0
           && static_cast<size_t>(r->headers_out.content_length_n) > conf.max_body;
}

// 'Not acted on' is the application's to say: a file that nginx denies after
// X-Accel-Redirect, or a page of another status, does not undo what it has done.
bool is_retriable(ngx_http_request_t *r, const StatusSet &retriable)
{
    ngx_http_upstream_t *u = r->upstream;

    return retriable.has(r->headers_out.status)
           && (u == nullptr || u->headers_in.status_n == 0
               || retriable.has(u->headers_in.status_n));
}

ResponseFacts response_facts(const Context &context)
{
    ngx_http_request_t *r = context.request;
    ResponseFacts facts;

    // without an upstream it is a file, or a module's own answer, unless there should have been one
    facts.origin = r->upstream == nullptr && context.previous_origin == Origin::not_reached
                           && !context.exchange_failed
                       ? Origin::application
                       : origin_of(context);
    facts.unknown = static_cast<UnknownPolicy>(context.conf->unknown);
    facts.retriable = is_retriable(r, *context.conf->retriable);
    facts.word = context.word;
    return facts;
}

void start_settling(Context &context)
{
    ngx_http_request_t *r = context.request;

    stop_timer(context);

    if (context.settlement == Settlement::keep
        && !write_response_record(r, *context.exchange, *context.conf, context.ttl))
    {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "idempotency: no memory for the record of an answer: it is not kept");
        context.settlement = Settlement::not_kept;
    }

    context.stage = Stage::settling;
    context.store_asked_at = ngx_current_msec;
}

ngx_int_t settle(Context &context)
{
    start_settling(context);

    if (context.exchange->settle(context.settlement, context.ttl, on_settled)) {
        return deliver(context);
    }

    // ngx_http_finalize_request leaves a request alone that has something
    // buffered, and comes back through ngx_http_writer; where the client is gone
    // it ends once nothing blocks it: its log tells how the store took it
    context.request->buffered |= kBuffered;
    context.request->blocked++;
    return NGX_AGAIN;
}

ngx_int_t begin_response(Context &context)
{
    ngx_http_request_t *r = context.request;

    take_word(r, *context.conf, context.word);

    if (!context.word.well_formed) {
        ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                      "idempotency: \"X-Accel-Idempotency\" of the application was not understood: "
                      "\"release\", \"no-store\" or \"ttl=SECONDS\" are expected");
    }

    context.settlement = decide_settlement(response_facts(context));
    context.ttl = context.word.ttl != 0 ? context.word.ttl : context.conf->ttl;
    context.grpc = has_type(r, "application/grpc");
    context.from_upstream = r->upstream != nullptr && r->upstream->cleanup != nullptr;
    r->allow_ranges = 0;

    if (is_stream(r, context) || is_too_large(r, *context.conf)) {
        return start_pass_through(context, nullptr);
    }

    // who sends a head alone (`dav_methods PUT`) sends no end of a body after it
    if (r->header_only) {
        return settle(context);
    }

    context.stage = Stage::capturing;
    watch_for_malformed_body(context);
    r->main_filter_need_in_memory = 1;
    r->filter_need_in_memory = 1;

    if (r->headers_out.content_length_n > 0) {
        context.exchange->expect_length(static_cast<size_t>(r->headers_out.content_length_n));
    }

    return NGX_OK;
}

// A connection that is handed over is no answer, and what goes over it nobody
// can give once more.
void stop_covering(Context &context)
{
    context.stage = Stage::aside;
    context.status = Status::none;
    context.exchange->settle(Settlement::release, 0, on_settled);
}

// nginx's ngx_http_output_header_filter_pt
ngx_int_t on_header(ngx_http_request_t *r)
{
    Context *context = context_of(r);

    if (context == nullptr || context->stage != Stage::executing) {
        return next_header_filter(r);
    }

    if (r->headers_out.status >= NGX_HTTP_OK) {
        return begin_response(*context);
    }

    if (r->headers_out.status == NGX_HTTP_SWITCHING_PROTOCOLS) {
        stop_covering(*context);
    }

    return next_header_filter(r);
}

// An upstream that is done but has sent no end: ngx_http_upstream_finalize_request
// flushes, and that is all.
bool is_truncated(const Context &context, const ngx_buf_t *b)
{
    return b->flush && !b->last_buf && context.from_upstream
           && context.request->upstream->cleanup == nullptr;
}

// FastCGI, SCGI, uwsgi: nginx takes the end of a connection for the end of an
// answer, whatever length the application has told.
bool has_wrong_length(const Context &context)
{
    const ngx_http_headers_out_t &out = context.request->headers_out;

    return out.content_length_n >= 0 && out.status != NGX_HTTP_NO_CONTENT
           && out.status != NGX_HTTP_NOT_MODIFIED
           && static_cast<size_t>(out.content_length_n) != context.exchange->held();
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

            if (bytes.size() > context.conf->max_body - context.exchange->held()) {
                return start_pass_through(context, link);
            }

            if (context.grpc) {
                context.messages.feed(bytes);
            }

            std::size_t held = context.exchange->hold(bytes);

            if (held < bytes.size()) {
                b->pos += held;
                return start_pass_through(context, link);
            }
        }

        bool last = b->last_buf;
        bool broken = is_truncated(context, b) || (last && has_wrong_length(context));

        consume(b);

        if (context.messages.begun > 1) {
            return start_pass_through(context, link->next);
        }

        if (broken) {
            context.broken = true;
            context.settlement = decide_without_answer(
                Origin::broken, static_cast<UnknownPolicy>(context.conf->unknown));
            return settle(context);
        }

        if (last) {
            return settle(context);
        }
    }

    if (context.messages.whole > 0 && !context.timer.timer_set) {
        start_timer(context, on_idle_stream, kStreamIdle);
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
        consume_all(in);
        return NGX_AGAIN;

    case Stage::passing:
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
