#include "http/answer/deliver.h"

#include "http/answer/capture.h"
#include "http/answer/fields.h"
#include "http/answer/own_fields.h"
#include "http/answer/pass_through.h"
#include "http/answer/problem.h"
#include "http/answer/settle.h"
#include "http/exchange/client_close.h"
#include "http/exchange/exchange.h"
#include "http/exchange/unsent_memory.h"
#include "nginx/clock.h"

namespace idempotency {

namespace {

ngx_buf_t *create_buffer(ngx_http_request_t *r, std::string_view piece)
{
    ngx_buf_t *b = allocate<ngx_buf_t>(r->pool);

    if (b != nullptr) {
        b->pos = b->start = reinterpret_cast<u_char *>(const_cast<char *>(piece.data()));
        b->last = b->end = b->pos + piece.size();
        b->memory = 1;
        b->tag = held_tag();
    }

    return b;
}

// `chain`: the held part of the body, followed by `rest`.  False if there is no memory.
bool build_held_chain(Context &context, ngx_chain_t *rest, ngx_chain_t *&chain)
{
    ngx_pool_t *pool = context.request->pool;
    auto *piece = static_cast<std::string_view *>(context.exchange->response().body_pieces().elts);
    ngx_chain_t **end = &chain;

    for (ngx_uint_t i = 0; i < context.exchange->response().body_pieces().nelts; i++) {
        ngx_chain_t *link = ngx_alloc_chain_link(pool);

        if (link == nullptr || (link->buf = create_buffer(context.request, piece[i])) == nullptr) {
            return false;
        }

        *end = link;
        end = &link->next;
    }

    *end = rest;
    return true;
}

// A chain link with an empty buffer.  Null if there is no memory.
ngx_chain_t *create_empty_link(ngx_http_request_t *r)
{
    ngx_chain_t *link = ngx_alloc_chain_link(r->pool);

    if (link == nullptr || (link->buf = allocate<ngx_buf_t>(r->pool)) == nullptr) {
        return nullptr;
    }

    link->next = nullptr;
    return link;
}

ngx_chain_t *create_last_buffer(ngx_http_request_t *r)
{
    ngx_chain_t *link = create_empty_link(r);

    if (link != nullptr) {
        link->buf->last_buf = 1;
    }

    return link;
}

void update_status(Context &context)
{
    if (!context.exchange->is_recorded()) {
        context.status = Status::store_error;
    }
}

ngx_int_t send_rest(Context &context)
{
    context.waits_for_store = false;

    if (context.stage != Stage::passing_through) {
        return next_body_filter(context.request, context.held);
    }

    ngx_chain_t *last = create_last_buffer(context.request);

    return last != nullptr ? pass_through(context, last) : NGX_ERROR;
}

void count_unsent(Context &context, ngx_int_t rc)
{
    unsent_memory(context).add_unless_sent(context, rc, context.exchange->response().body_size());
}

// Resumes a request that has waited for the store.
void resume_response(Context &context, ngx_int_t (*send)(Context &))
{
    ngx_http_request_t *r = context.request;
    ngx_connection_t *c = r->connection;

    ngx_http_set_log_request(c->log, r);
    r->buffered &= static_cast<unsigned>(~kBuffered) & 0xf;
    r->blocked--;
    continue_request(r, send(context));
    ngx_http_run_posted_requests(c);
}

}  // namespace

void wait_for_store(Context &context)
{
    if (context.waits_for_store) {
        return;
    }

    // as while a whole response is held: nginx ends no request that has something buffered
    context.request->buffered |= kBuffered;
    context.request->blocked++;
    context.waits_for_store = true;
    context.exchange->notify_settled(on_settled);
}

ngx_chain_t *create_flush_buffer(ngx_http_request_t *r)
{
    ngx_chain_t *link = create_empty_link(r);

    if (link != nullptr) {
        link->buf->flush = 1;
    }

    return link;
}

void continue_request(ngx_http_request_t *r, ngx_int_t rc)
{
    if (rc == NGX_ERROR || rc > NGX_OK) {
        r->connection->error = 1;
    }

    r->write_event_handler(r);
}

ngx_int_t send_held(Context &context, ngx_chain_t *rest, bool more_to_come)
{
    ngx_http_request_t *r = context.request;
    ngx_chain_t *chain = nullptr;
    ngx_int_t rc = next_header_filter(r);

    // notices that the filter has sent its own response: the upstream that led here may be gone
    (void) find_context(r);

    if (rc == NGX_ERROR && more_to_come && !context.response_replaced) {
        on_client_disconnected(context);
        return pass_through(context, rest);
    }

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        mark_all_sent(rest);
        return rc;
    }

    if (!build_held_chain(context, rest, chain)) {
        return NGX_ERROR;
    }

    return chain != nullptr ? pass_through(context, chain) : rc;
}

void mark_sent(ngx_buf_t *b)
{
    b->pos = b->last;
    b->file_pos = b->file_last;
}

void start_sending(Context &context)
{
    apply_stream_reset(context);
    watch_client(context);
}

bool stop_recording(Context &context, Outcome obstacle)
{
    if (!advance(context, Stage::passing_through)) {
        return false;
    }

    give_up_keeping(context, obstacle);
    take_own_fields(context.request->headers_out.trailers, *context.conf, context.accel_directives);

    if (context.exchange->settle(context.outcome, context.ttl, on_settled)) {
        update_status(context);
    }

    if (context.header_sent) {
        context.exchange->response().drop();
    }

    return true;
}

ngx_int_t start_pass_through(Context &context, ngx_chain_t *rest, Outcome obstacle)
{
    if (!stop_recording(context, obstacle)) {
        return NGX_ERROR;
    }

    if (context.header_sent) {
        return pass_through(context, rest);
    }

    context.exchange->response().share();
    start_sending(context);

    ngx_int_t rc = send_held(context, rest, true);

    if (!context.held_part_sent) {
        count_unsent(context, rc);
    }

    return rc;
}

ngx_int_t deliver(Context &context)
{
    ngx_http_request_t *r = context.request;

    apply_stream_reset(context);
    context.store_time += monotonic_micros() - context.store_call_start;

    if (context.outcome_unknown) {
        context.status = Status::unknown;
    }

    update_status(context);

    if (context.incomplete) {
        return send_problem(context, Problem::response_incomplete);
    }

    if (!advance(context, Stage::passing_through)) {
        return NGX_ERROR;
    }

    ngx_chain_t *last = create_last_buffer(r);

    if (last == nullptr) {
        return NGX_ERROR;
    }

    ngx_int_t rc =
        context.header_sent ? pass_through(context, last) : send_held(context, last, false);

    count_unsent(context, rc);
    return rc;
}

void on_settled(Context &context)
{
    switch (context.stage) {
    case Stage::settling:
        resume_response(context, deliver);
        return;

    case Stage::passing_through:
        update_status(context);
        break;

    default:
        break;
    }

    if (context.waits_for_store) {
        resume_response(context, send_rest);
    }
}

}  // namespace idempotency
