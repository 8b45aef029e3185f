// Subrequests of a claimed request: what they put into its answer, and their
// own exchanges.
//
// Their part of an answer does not come by this module: a content handler that
// makes one (`echo_location`), or a filter ahead (`slice`), sends it past the
// answer that is held back.  Such an answer is not kept: it goes on as it comes.

#include "http/answer/subrequest.h"

#include "http/answer/capture.h"
#include "http/answer/deliver.h"
#include "http/answer/pass_through.h"

namespace idempotency {

namespace {

bool goes_to_client(const ngx_http_request_t *sub)
{
    return !sub->subrequest_in_memory && !sub->background;
}

}  // namespace

bool has_subrequests(ngx_http_request_t *r) { return r->postponed != nullptr; }

// What is held came before any subrequest was made; the postpone filter would
// let those go first.
ngx_int_t start_pass_through_before_subrequests(Context &context, ngx_chain_t *rest)
{
    ngx_http_request_t *r = context.request;
    ngx_connection_t *c = r->connection;
    ngx_http_postponed_request_t *postponed = r->postponed;
    void *active = c->data;

    r->postponed = nullptr;
    c->data = r;

    ngx_int_t rc = start_pass_through(context, nullptr);

    if (r->postponed == nullptr) {
        c->data = active;
    }

    // a filter behind may have made one of its own
    ngx_http_postponed_request_t **end = &r->postponed;

    while (*end != nullptr) {
        end = &(*end)->next;
    }

    *end = postponed;

    if (rc == NGX_ERROR || rest == nullptr) {
        return rc;
    }

    return pass_through(context, rest);
}

ngx_int_t on_subrequest_body(ngx_http_request_t *r, ngx_chain_t *in)
{
    Context *context = find_context(r->main);

    if (context != nullptr && context->stage == Stage::capturing && goes_to_client(r)
        && start_pass_through_before_subrequests(*context, nullptr) == NGX_ERROR)
    {
        return NGX_ERROR;
    }

    if (context == nullptr || context->stage != Stage::passing || context->response_ended) {
        return next_body_filter(r, in);
    }

    // a client that is gone ends a subrequest no more than the request
    if (!context->client_disconnected) {
        ngx_int_t rc = next_body_filter(r, in);

        if (rc != NGX_ERROR) {
            return rc;
        }

        on_client_disconnected(*context);
    }

    consume_all(in);
    return NGX_OK;
}

}  // namespace idempotency
