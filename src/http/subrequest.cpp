// Subrequests of a claimed request: what they put into its answer, and their
// own exchanges.
//
// Their part of an answer does not come by this module: a content handler that
// makes one (`echo_location`), or a filter ahead (`slice`), sends it past the
// answer that is held back.  Such an answer is not kept: it goes on as it comes.

#include "http/steps.h"

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
ngx_int_t let_pass_ahead(Context &context, ngx_chain_t *rest)
{
    ngx_http_request_t *r = context.request;
    ngx_connection_t *c = r->connection;
    ngx_http_postponed_request_t *postponed = r->postponed;
    void *active = c->data;

    r->postponed = nullptr;
    c->data = r;

    ngx_int_t rc = let_pass(context, nullptr);

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

    return pass(context, rest);
}

ngx_int_t on_subrequest_body(ngx_http_request_t *r, ngx_chain_t *in)
{
    Context *context = find_context(r->main);

    if (context != nullptr && context->stage == Stage::withholding && goes_to_client(r)
        && let_pass_ahead(*context, nullptr) == NGX_ERROR)
    {
        return NGX_ERROR;
    }

    if (context == nullptr || context->stage != Stage::passing || context->answer_ended) {
        return next_body_filter(r, in);
    }

    // a client that is gone ends a subrequest no more than the request
    if (!context->client_gone) {
        ngx_int_t rc = next_body_filter(r, in);

        if (rc != NGX_ERROR) {
            return rc;
        }

        on_client_gone(*context);
    }

    consume_all(in);
    return NGX_OK;
}

}  // namespace idempotency
