// nginx ends the exchange with the upstream when a filter fails, and stops reading from it
// when buffers are not sent.  So after the client has disconnected, the filter returns no
// error and marks all buffers as sent, up to the end of the response.

#include "http/answer/pass_through.h"

#include "http/answer/capture.h"
#include "http/answer/deliver.h"
#include "http/exchange/client_close.h"
#include "http/exchange/exchange.h"
#include "http/exchange/unsent_memory.h"
#include "nginx/timer.h"

namespace idempotency {

namespace {

// ngx_http_request_handler, which is static in nginx.
ngx_event_handler_pt request_handler;

bool is_sent(const ngx_buf_t *b) { return ngx_buf_size(b) == 0; }

bool has_last_buffer(const ngx_chain_t *in)
{
    for (; in != nullptr; in = in->next) {
        if (in->buf->last_buf) {
            return true;
        }
    }

    return false;
}

// Takes the end of the response out of the chain.
bool take_end(ngx_chain_t *in)
{
    for (; in != nullptr; in = in->next) {
        if (in->buf->last_buf) {
            in->buf->last_buf = 0;
            in->buf->flush = 1;
            return true;
        }
    }

    return false;
}

void forget_sent_buffers(Context &context)
{
    for (ngx_chain_t **link = &context.unsent; *link != nullptr;) {
        ngx_chain_t *current = *link;

        if (!is_sent(current->buf)) {
            link = &current->next;
            continue;
        }

        *link = current->next;
        ngx_free_chain(context.request->pool, current);
    }
}

// The memory of the held part is free once it is sent, if the response is not kept.
void free_held_part(Context &context)
{
    if (context.held_part_sent || context.stage != Stage::passing_through
        || context.outcome == Outcome::kept)
    {
        return;
    }

    for (ngx_chain_t *link = context.unsent; link != nullptr; link = link->next) {
        if (link->buf->tag == held_tag()) {
            return;
        }
    }

    context.held_part_sent = true;
    context.exchange->response().drop_all();
    unsent_memory(context).remove(context);
}

bool is_remembered(const Context &context, const ngx_buf_t *b)
{
    for (ngx_chain_t *link = context.unsent; link != nullptr; link = link->next) {
        if (link->buf == b) {
            return true;
        }
    }

    return false;
}

// Remembers the buffers that the next filters have not sent yet: the chain links belong to
// the upstream, which may use them again.
bool remember_unsent_buffers(Context &context, const ngx_chain_t *in)
{
    for (; in != nullptr; in = in->next) {
        if (is_sent(in->buf) || is_remembered(context, in->buf)) {
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

// The frames of a reset HTTP/2 stream are still sent, since the header of each frame was
// sent with its length.  Their buffers must not be used again until then.  A closed
// connection has dropped its frames.
bool is_sending_frames([[maybe_unused]] ngx_http_request_t *r)
{
#if (NGX_HTTP_V2)
    return r->stream != nullptr && r->stream->queued != 0;
#else
    return false;
#endif
}

// An upstream that has failed sends no last buffer.
bool has_ended(const Context &context)
{
    return context.response_ended
           || (context.from_upstream && context.request->upstream->cleanup == nullptr);
}

// While an HTTP/2 stream waits for its window (`exhausted`), nginx does not call its write
// handler when frames were sent.
void stop_waiting_for_window([[maybe_unused]] ngx_http_request_t *r)
{
#if (NGX_HTTP_V2)
    if (r->stream != nullptr) {
        r->stream->exhausted = 0;
    }
#endif
}

// What can't be kept any more is not read on for a client that has disconnected.  Subrequests,
// such as those of `mirror`, end first.  A content handler without an upstream may still have work
// to do.
bool ends_with_client(const Context &context)
{
    return context.stage == Stage::passing_through && context.from_upstream
           && context.request->count == 1;
}

// While the exchange runs, the connection must have no error: otherwise the end of a
// subrequest would end the request (ngx_http_finalize_request).  Nothing is sent anyway.
void update_connection_error(const Context &context)
{
    context.request->connection->error = has_ended(context) || ends_with_client(context);
}

// As in ngx_http_test_reading: nothing else reads from an HTTP/1.1 client meanwhile.
bool has_closed(ngx_http_request_t *r)
{
    ngx_connection_t *c = r->connection;
    ngx_event_t *rev = c->read;
    char byte;

    if (c->error) {
        return true;
    }

#if (NGX_HTTP_V2)
    if (r->stream != nullptr) {
        return false;
    }
#endif

    if (r->http_version >= NGX_HTTP_VERSION_20 || c->fd == static_cast<ngx_socket_t>(-1)) {
        return false;
    }

#if (NGX_HAVE_EPOLLRDHUP)
    if ((ngx_event_flags & NGX_USE_EPOLL_EVENT) && ngx_use_epoll_rdhup) {
        return rev->pending_eof;
    }
#endif

    ssize_t n = recv(c->fd, &byte, 1, MSG_PEEK);

    return n == 0 || (n == -1 && ngx_socket_errno != NGX_EAGAIN) || rev->eof;
}

// Ends the request and its exchange with the upstream.
void end_request(Context &context)
{
    ngx_http_request_t *r = context.request;

    ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                  "idempotency: the client has disconnected, and the response is not kept: the "
                  "exchange with the upstream ends");
    terminate_request(r);
}

// nginx's ngx_event_handler_pt: a stream goes on after its client has disconnected
void on_stream_too_long(ngx_event_t *event)
{
    auto *context = static_cast<Context *>(event->data);
    ngx_connection_t *c = context->request->connection;

    ngx_http_set_log_request(c->log, context->request);
    end_request(*context);
    ngx_http_run_posted_requests(c);
}

// In place of ngx_http_block_reading: when an HTTP/2 stream or connection ends, nginx calls
// only the read handler.
void on_client_event(ngx_http_request_t *r)
{
    ngx_connection_t *c = r->connection;
    Context *context = find_context(r->main);

    if (context != nullptr && !context->client_disconnected && has_closed(r)) {
        on_client_disconnected(*context);

        if (ends_with_client(*context) || is_shutdown(r)) {
            end_request(*context);
            return;
        }

        ngx_post_event(c->write, &ngx_posted_events);
        return;
    }

    ngx_http_block_reading(r);
}

// In place of ngx_http_request_handler: a client that does not read for `send_timeout` is
// treated as disconnected too, and the exchange with the upstream continues.
void on_write_event(ngx_event_t *event)
{
    auto *c = static_cast<ngx_connection_t *>(event->data);
    auto *r = static_cast<ngx_http_request_t *>(c->data);

    bool has_timed_out = event->timedout && !event->delayed;

    if (has_timed_out || c->error) {
        Context *context = find_context(r->main);

        if (context != nullptr
            && (context->stage == Stage::passing_through || context->stage == Stage::streaming))
        {
            if (has_timed_out) {
                ngx_log_error(NGX_LOG_INFO, c->log, NGX_ETIMEDOUT, "client timed out");
                event->timedout = 0;
            }

            on_client_disconnected(*context);

            if ((ends_with_client(*context) || is_shutdown(context->request))
                && !has_ended(*context)) {
                end_request(*context);
                ngx_http_run_posted_requests(c);
                return;
            }
        }
    }

    request_handler(event);
}

}  // namespace

void mark_all_sent(ngx_chain_t *in)
{
    for (; in != nullptr; in = in->next) {
        mark_sent(in->buf);
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

    if (context.from_upstream && !context.client_disconnected && !ends_with_client(context)) {
        start_timer(context, on_stream_too_long, context.conf->stream_after);
    }

    context.client_disconnected = true;
    update_connection_error(context);

    // nothing waits for the socket any more
    c->write->ready = 1;
    c->write->delayed = 0;
    stop_waiting_for_window(context.request);

    cancel_timer(*c->write);
}

// Without the end, where it is held.
static ngx_int_t pass_part(Context &context, ngx_chain_t *in)
{
    // before and after the call: the upstream may use a sent buffer again for other data
    forget_sent_buffers(context);

    if (!context.client_disconnected) {
        if (!remember_unsent_buffers(context, in)) {
            return NGX_ERROR;
        }

        ngx_int_t rc = next_body_filter(context.request, in);

        // as without this module: the filter has sent its own response
        if (context.response_replaced) {
            return rc;
        }

        if (rc != NGX_ERROR) {
            forget_sent_buffers(context);
            free_held_part(context);
            return rc;
        }

        on_client_disconnected(context);
    }

    if (has_ended(context) || ends_with_client(context)) {
        context.request->connection->error = 1;
        return NGX_ERROR;
    }

    mark_all_sent(in);

    if (!is_sending_frames(context.request)) {
        mark_all_sent(context.unsent);
        forget_sent_buffers(context);
        free_held_part(context);
    }

    return NGX_OK;
}

ngx_int_t pass_through(Context &context, ngx_chain_t *in)
{
    context.response_ended |= has_last_buffer(in);

    bool held = !context.response_replaced && hold_end(context, in);
    ngx_int_t rc = pass_part(context, in);

    return held && rc != NGX_ERROR ? NGX_AGAIN : rc;
}

bool hold_end(Context &context, ngx_chain_t *in)
{
    if (!context.exchange->is_settling() || !take_end(in)) {
        return false;
    }

    wait_for_store(context);
    return true;
}

}  // namespace idempotency
