#include "http/exchange/context.h"

#include "http/exchange/request_end.h"
#include "nginx/timer.h"

namespace idempotency {

namespace {

void on_pool_destroyed(void *data) { on_request_destroyed(*static_cast<Context *>(data)); }

// Finds the context after r->ctx was cleared, as the realip module does
// (ngx_http_realip_get_module_ctx): the cleanups of the pool are still there.
Context *find_by_cleanup(ngx_http_request_t *r)
{
    for (ngx_pool_cleanup_t *c = r->pool->cleanup; c != nullptr; c = c->next) {
        if (c->handler == on_pool_destroyed) {
            auto *context = static_cast<Context *>(c->data);

            ngx_http_set_ctx(r, context, ngx_http_idempotency_module);
            context->redirected = true;
            context->response_replaced =
                context->stage == Stage::streaming || context->stage == Stage::passing_through;
            return context;
        }
    }

    return nullptr;
}

// The stages of a response, in their order.  A stage may be left out.
bool may_follow(Stage from, Stage to)
{
    switch (from) {
    case Stage::executing:
        return to == Stage::capturing || to == Stage::streaming || to == Stage::settling
               || to == Stage::passing_through || to == Stage::inactive || to == Stage::refused;

    case Stage::capturing:
        return to == Stage::streaming || to == Stage::settling || to == Stage::passing_through;

    case Stage::streaming:
        return to == Stage::settling || to == Stage::passing_through;

    case Stage::settling:
        return to == Stage::passing_through || to == Stage::problem;

    default:
        return false;
    }
}

}  // namespace

bool advance(Context &context, Stage next)
{
    if (!may_follow(context.stage, next)) {
        ngx_log_error(NGX_LOG_ALERT, context.request->connection->log, 0,
                      "idempotency: a response in stage %ui can't go on to stage %ui: report this "
                      "error",
                      static_cast<ngx_uint_t>(context.stage), static_cast<ngx_uint_t>(next));
        return false;
    }

    stop_timer(context);
    context.stage = next;
    return true;
}

Context *find_context(ngx_http_request_t *r)
{
    auto *context = static_cast<Context *>(ngx_http_get_module_ctx(r, ngx_http_idempotency_module));

    // r->ctx is cleared only by an internal redirect, and by
    // ngx_http_filter_finalize_request
    if (context == nullptr && (r->internal || r->filter_finalize) && r == r->main) {
        return find_by_cleanup(r);
    }

    return context;
}

Context *create_context(ngx_http_request_t *r, LocationConfig *conf, Status status)
{
    ngx_pool_cleanup_t *cleanup = ngx_pool_cleanup_add(r->pool, sizeof(Context));

    if (cleanup == nullptr) {
        return nullptr;
    }

    ngx_memzero(cleanup->data, sizeof(Context));

    auto *context = static_cast<Context *>(cleanup->data);

    context->request = r;
    context->conf = conf;
    context->stage = Stage::inactive;
    context->status = status;
    context->meaning.origin = Origin::not_reached;
    context->accel_directives = Word{};
    context->facts = ResponseFacts{};

    cleanup->handler = on_pool_destroyed;
    ngx_http_set_ctx(r, context, ngx_http_idempotency_module);
    return context;
}

ngx_int_t suspend(ngx_http_request_t *r)
{
    r->read_event_handler = ngx_http_test_reading;
    r->write_event_handler = ngx_http_request_empty_handler;

    if (ngx_handle_read_event(r->connection->read, 0) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return NGX_AGAIN;
}

void resume(ngx_http_request_t *r)
{
    ngx_connection_t *c = r->connection;

    ngx_http_set_log_request(c->log, r);
    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_core_run_phases;
    ngx_http_core_run_phases(r);
    ngx_http_run_posted_requests(c);
}

void set_waiting(Context &context, bool is_waiting)
{
    if (is_waiting != context.is_waiting) {
        context.is_waiting = is_waiting;
        change(context.conf->store->counters->cell().waiting, is_waiting ? 1 : -1);
    }
}

void start_timer(Context &context, ngx_event_handler_pt handler, ngx_msec_t delay)
{
    context.timer.handler = handler;
    context.timer.data = &context;
    context.timer.log = context.request->connection->log;
    ngx_add_timer(&context.timer, delay);
}

void stop_timer(Context &context) { cancel_timer(context.timer); }

}  // namespace idempotency
