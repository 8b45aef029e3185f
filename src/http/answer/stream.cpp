#include "http/answer/stream.h"

#include "http/answer/capture.h"
#include "http/answer/deliver.h"
#include "http/answer/fields.h"
#include "http/answer/pass_through.h"
#include "http/answer/settle.h"
#include "http/answer/subrequest.h"
#include "http/exchange/exchange.h"
#include "nginx/list.h"

namespace idempotency {

namespace {

// Milliseconds: a gRPC response that has no trailers within this time is a stream.
constexpr ngx_msec_t kGrpcTrailersTime = 1000;

bool has_stream_type(ngx_http_request_t *r, const ngx_array_t &types)
{
    std::string_view type = view(r->headers_out.content_type);
    auto *item = static_cast<ngx_str_t *>(types.elts);

    type = type.substr(0, type.find_first_of("; \t"));

    for (ngx_uint_t i = 0; i < types.nelts; i++) {
        if (equal_ignoring_case(type, view(item[i]))) {
            return true;
        }
    }

    return false;
}

// `X-Accel-Buffering: no`, unless `proxy_ignore_headers` names this header.
bool has_buffering_off(const Context &context)
{
    if (!context.from_upstream) {
        return false;
    }

    ngx_http_upstream_t *u = context.request->upstream;

    if ((u->conf->ignore_headers & NGX_HTTP_UPSTREAM_IGN_XA_BUFFERING) != 0) {
        return false;
    }

    ngx_table_elt_t *field = find_field(u->headers_in.headers, "X-Accel-Buffering");

    return field != nullptr && equal_ignoring_case(view(field->value), "no");
}

// nginx would collect the response in its buffers.  It has the same change for
// `X-Accel-Buffering: no` (ngx_http_upstream_process_buffering).
void turn_upstream_buffering_off(const Context &context)
{
    if (!context.from_upstream) {
        return;
    }

    ngx_http_upstream_t *u = context.request->upstream;

#if (NGX_HTTP_CACHE)
    if (u->cacheable) {
        return;
    }
#endif

    if (u->conf->change_buffering && !u->store) {
        u->buffering = 0;
    }
}

enum class Recorded { more, all, broken, too_large };

// The end of the response is taken out of the chain: it is sent when the claim is settled.
Recorded record(Context &context, ngx_chain_t *in)
{
    ResponseBuffer &response = context.exchange->response();

    for (ngx_chain_t *link = in; link != nullptr; link = link->next) {
        ngx_buf_t *b = link->buf;

        if (ngx_buf_in_memory(b)) {
            std::string_view bytes{reinterpret_cast<const char *>(b->pos),
                                   static_cast<size_t>(b->last - b->pos)};

            if (bytes.size() > context.conf->max_body - response.body_size()
                || response.append(bytes) < bytes.size())
            {
                return Recorded::too_large;
            }

            if (context.grpc_kind != GrpcKind::none) {
                context.grpc_messages.feed(bytes);
            }
        }

        if (is_truncated(context, b) || (b->last_buf && has_wrong_length(context))) {
            return Recorded::broken;
        }

        if (b->last_buf) {
            b->last_buf = 0;
            b->flush = 1;
            return Recorded::all;
        }
    }

    return Recorded::more;
}

// nginx's ngx_event_handler_pt
void on_no_grpc_trailers(ngx_event_t *event)
{
    auto *context = static_cast<Context *>(event->data);
    ngx_connection_t *c = context->request->connection;

    ngx_http_set_log_request(c->log, context->request);
    continue_request(context->request, start_stream(*context));
    ngx_http_run_posted_requests(c);
}

}  // namespace

bool is_stream(const Context &context)
{
    ngx_http_request_t *r = context.request;

    // a gRPC client that still sends its body may wait for a message before it continues
    if (context.grpc_kind != GrpcKind::none && r->reading_body) {
        return true;
    }

    return context.conf->stream_types != nullptr
           && (has_stream_type(r, *context.conf->stream_types) || has_buffering_off(context));
}

ngx_int_t start_stream(Context &context)
{
    bool has_held_part = context.stage == Stage::capturing;

    if (!advance(context, Stage::streaming)) {
        return NGX_ERROR;
    }

    context.head = copy_head(context.request);

    if (context.head == nullptr) {
        return NGX_ERROR;
    }

    context.header_sent = true;
    context.exchange->response().share();
    turn_upstream_buffering_off(context);
    start_sending(context);

    if (!has_held_part) {
        return send_held(context, nullptr, true);
    }

    ngx_chain_t *flush = create_flush_buffer(context.request);

    return flush != nullptr ? send_held(context, flush, true) : NGX_ERROR;
}

ngx_int_t stream_body(Context &context, ngx_chain_t *in)
{
    // the output of subrequests of a content handler (`echo_location`) is not recorded
    if (has_subrequests(context.request) && !context.from_upstream) {
        return start_pass_through(context, in, Outcome::not_kept_stream);
    }

    switch (record(context, in)) {
    case Recorded::more:
        return pass_through(context, in);

    case Recorded::broken:
        return start_pass_through(context, in, Outcome::not_kept_stream);

    case Recorded::too_large:
        return start_pass_through(context, in, Outcome::not_kept_size);

    case Recorded::all:
        break;
    }

    ngx_int_t rc = pass_through(context, in);

    if (context.response_replaced) {
        return rc;
    }

    // what has failed fails again when the end of the response is sent
    return settle(context);
}

void await_grpc_trailers(Context &context)
{
    if (context.grpc_kind != GrpcKind::none) {
        start_timer(context, on_no_grpc_trailers, kGrpcTrailersTime);
    }
}

bool is_truncated(const Context &context, const ngx_buf_t *b)
{
    return b->flush && !b->last_buf && context.from_upstream
           && context.request->upstream->cleanup == nullptr;
}

bool has_wrong_length(const Context &context)
{
    const ngx_http_headers_out_t &out =
        context.head != nullptr ? *context.head : context.request->headers_out;

    return out.content_length_n >= 0 && out.status != NGX_HTTP_NO_CONTENT
           && out.status != NGX_HTTP_NOT_MODIFIED
           && static_cast<size_t>(out.content_length_n) != context.exchange->response().body_size();
}

}  // namespace idempotency
