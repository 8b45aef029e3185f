// The answer goes on as it comes, whether or not its client stays.
//
// An upstream ends its exchange when a filter fails, and stops reading where
// what it has sent is not taken.  So once the client has gone nothing fails any
// more and all is taken, up to the end of the answer.

#include "http/answer/pass_through.h"

#include "http/answer/capture.h"
#include "http/answer/deliver.h"

namespace idempotency {

namespace {

// ngx_http_request_handler, which nginx gives no name to
ngx_event_handler_pt request_handler;

bool is_sent(const ngx_buf_t *b) { return ngx_buf_size(b) == 0; }

bool has_end(const ngx_chain_t *in)
{
    for (; in != nullptr; in = in->next) {
        if (in->buf->last_buf) {
            return true;
        }
    }

    return false;
}

void remove_sent(Context &context)
{
    for (ngx_chain_t **link = &context.unsent; *link != nullptr;) {
        ngx_chain_t *taken = *link;

        if (!is_sent(taken->buf)) {
            link = &taken->next;
            continue;
        }

        *link = taken->next;
        ngx_free_chain(context.request->pool, taken);
    }
}

bool is_unsent(const Context &context, const ngx_buf_t *b)
{
    for (ngx_chain_t *link = context.unsent; link != nullptr; link = link->next) {
        if (link->buf == b) {
            return true;
        }
    }

    return false;
}

// The buffers that the filters behind have not taken yet are not lost sight of:
// the chain that they came in is the upstream's.
bool remember_unsent(Context &context, const ngx_chain_t *in)
{
    for (; in != nullptr; in = in->next) {
        if (is_sent(in->buf) || is_unsent(context, in->buf)) {
            continue;
        }

        ngx_chain_t *link = ngx_alloc_chain_link(context.request->pool);

        if (link == nullptr) {
            return false;
        }

        link->buf = in->buf;
        link->next = context.unsent;
        context.unsent = link;
    }

    return true;
}

// Frames of a stream that was reset still go out, as the length of each has been
// told: their bytes must stay.  A connection that is gone has dropped them.
bool is_sending_frames([[maybe_unused]] ngx_http_request_t *r)
{
#if (NGX_HTTP_V2)
    return r->stream != nullptr && r->stream->queued != 0;
#else
    return false;
#endif
}

// An upstream that has failed leaves an answer without an end.
bool has_ended(const Context &context)
{
    return context.response_ended
           || (context.from_upstream && context.request->upstream->cleanup == nullptr);
}

// A stream that waits for its window is not told of frames that have gone out.
void stop_waiting_for_window([[maybe_unused]] ngx_http_request_t *r)
{
#if (NGX_HTTP_V2)
    if (r->stream != nullptr) {
        r->stream->exhausted = 0;
    }
#endif
}

// While the exchange goes on the connection has no error: a subrequest that ends
// would take the request with it (ngx_http_finalize_request), and nothing is sent.
void update_connection_error(const Context &context)
{
    context.request->connection->error = has_ended(context);
}

// In place of ngx_http_block_reading: a stream or connection of HTTP/2 that ends
// is told to the read handler alone.
void on_client_event(ngx_http_request_t *r)
{
    ngx_connection_t *c = r->connection;
    Context *context = find_context(r->main);

    if (c->error && context != nullptr && !(context->client_disconnected && has_ended(*context))) {
        on_client_disconnected(*context);
        ngx_post_event(c->write, &ngx_posted_events);
        return;
    }

    ngx_http_block_reading(r);
}

// In place of ngx_http_request_handler: a client that stops reading for
// `send_timeout` is gone too, and the upstream is not to hear of it.
void on_write_event(ngx_event_t *event)
{
    auto *c = static_cast<ngx_connection_t *>(event->data);
    auto *r = static_cast<ngx_http_request_t *>(c->data);

    bool is_late = event->timedout && !event->delayed;

    if (is_late || c->error) {
        Context *context = find_context(r->main);

        if (context != nullptr && context->stage == Stage::passing) {
            if (is_late) {
                ngx_log_error(NGX_LOG_INFO, c->log, NGX_ETIMEDOUT, "client timed out");
                event->timedout = 0;
            }

            on_client_disconnected(*context);
        }
    }

    request_handler(event);
}

}  // namespace

void consume_all(ngx_chain_t *in)
{
    for (; in != nullptr; in = in->next) {
        consume(in->buf);
    }
}

void watch_client(Context &context)
{
    ngx_http_request_t *r = context.request;
    ngx_connection_t *c = r->connection;

    if (c->write->handler != on_write_event) {
        request_handler = c->write->handler;
        c->write->handler = on_write_event;
    }

    if (r->read_event_handler == ngx_http_block_reading) {
        r->read_event_handler = on_client_event;
    }
}

void on_client_disconnected(Context &context)
{
    ngx_connection_t *c = context.request->connection;

    context.client_disconnected = true;
    update_connection_error(context);

    // nothing has to wait for it any more
    c->write->ready = 1;
    c->write->delayed = 0;
    stop_waiting_for_window(context.request);

    if (c->write->timer_set) {
        ngx_del_timer(c->write);
    }
}

ngx_int_t pass_through(Context &context, ngx_chain_t *in)
{
    context.response_ended |= has_end(in);

    // before and after: what has been taken may come back as another buffer
    remove_sent(context);

    if (!context.client_disconnected) {
        if (!remember_unsent(context, in)) {
            return NGX_ERROR;
        }

        ngx_int_t rc = next_body_filter(context.request, in);

        if (rc != NGX_ERROR) {
            remove_sent(context);
            return rc;
        }

        on_client_disconnected(context);
    }

    if (has_ended(context)) {
        context.request->connection->error = 1;
        return NGX_ERROR;
    }

    consume_all(in);

    if (!is_sending_frames(context.request)) {
        consume_all(context.unsent);
        remove_sent(context);
    }

    return NGX_OK;
}

}  // namespace idempotency
